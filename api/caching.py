"""JSON answers, answers that a client may keep (a list that did not change is 304), and those that are kept here."""

import gzip
from collections.abc import Mapping
from hashlib import blake2b

from fastapi import Request
from starlette.responses import Response

_REVALIDATE = (b"cache-control", b"private, no-cache")
"""A client may keep the answer, and asks whether it is still true before it uses it."""
_JSON = (b"content-type", b"application/json")


class JsonResponse(Response):
    """An answer of JSON that is already bytes. Its headers are built at once, and not one by one as those of others.

    Args:
        content: JSON.
        etag: see `etag_of`.
    """

    def __init__(self, content: bytes, etag: bytes | None = None) -> None:
        self.body, self.status_code, self.background = content, 200, None
        self.raw_headers = [(b"content-length", b"%d" % len(content)), _JSON]
        if etag is not None:
            self.raw_headers += [(b"etag", etag), _REVALIDATE]


def etag_of(content: bytes) -> bytes:
    """Return the ETag of an answer: a hash of the content, so that all server processes give the same one.

    It is weak, since the answer may be compressed on its way.
    """
    return b'W/"%b"' % blake2b(content, digest_size=12).hexdigest().encode()


def with_etag(request: Request, content: bytes, etag: bytes | None = None) -> Response:
    """Return the answer with its ETag, or 304 if the request names it in `If-None-Match`.

    Args:
        etag: of the content; by default `etag_of`.
    """
    etag = etag or etag_of(content)
    for name, value in request.scope["headers"]:
        if name == b"if-none-match" and (value.strip() == b"*" or etag in [each.strip() for each in value.split(b",")]):
            return Response(status_code=304, headers={"etag": etag.decode(), "cache-control": _REVALIDATE[1].decode()})
    return JsonResponse(content, etag)


class KeptAnswer:
    """An answer that is the same for all, as bytes: who asks for it needs no key, so it must cost next to nothing.

    All connections that are slow to read it share the bytes.

    Args:
        headers: more than its type.
    """

    def __init__(self, content: bytes, media_type: str, headers: Mapping[str, str] | None = None) -> None:
        self._plain, self._packed = content, gzip.compress(content, mtime=0)
        self._headers = {**(headers or {}), "content-type": media_type, "vary": "accept-encoding"}

    def answer(self, request: Request) -> Response:
        """Return the answer, compressed for who takes it."""
        if "gzip" not in request.headers.get("accept-encoding", ""):
            return Response(self._plain, headers=self._headers)
        return Response(self._packed, headers={**self._headers, "content-encoding": "gzip"})
