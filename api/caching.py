"""Answers that a client may keep: a list that did not change is answered with 304 and no body."""

from hashlib import blake2b

from fastapi import Request
from starlette.responses import Response


def with_etag(request: Request, content: bytes) -> Response:
    """Return the answer with its ETag, or 304 if the request names it in `If-None-Match`.

    The ETag is a hash of the content, so that all server processes give the same one. It is weak, since the answer may
    be compressed on its way.
    """
    etag = f'W/"{blake2b(content, digest_size=12).hexdigest()}"'
    known = request.headers.get("if-none-match")
    if known is not None and (known.strip() == "*" or etag in [each.strip() for each in known.split(",")]):
        return Response(status_code=304, headers={"etag": etag})
    return Response(content, media_type="application/json", headers={"etag": etag})
