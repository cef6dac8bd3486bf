"""One request and its answer under uvicorn: begun without a task of its own, and sent in one piece.

Most lists are answered without waiting for anything. A task for each of them, and a call of the system for the head of
an answer and one for its body, took longer than making the list.
"""

import asyncio
import re
import types
from collections.abc import Coroutine, Generator
from typing import Any

from uvicorn._types import ASGISendEvent
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, RequestResponseCycle

SMALL_BYTES = 64 << 10
"""Longest first part of a body that is copied behind the head."""

MAX_LINES = 256
"""Most header lines that are kept. Every answer has the same few."""

_VARYING = frozenset(
    (b"content-length", b"x-request-id", b"etag", b"ratelimit", b"retry-after", b"set-cookie", b"location")
)
"""Headers whose lines are not kept: their values differ from answer to answer, or are secret."""

_NAME = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_VALUE = re.compile(rb"[^\x00-\x08\x0a-\x1f\x7f]*")
_lines: dict[tuple[bytes, bytes], bytes] = {}


class Cycle(RequestResponseCycle):
    """uvicorn's cycle, which sends the head of an answer together with the first part of its body."""

    _head: bytes | None = None  # until it is sent

    async def send(self, message: ASGISendEvent) -> None:
        if self.flow.write_paused and not self.disconnected:
            await self.flow.drain()
        if self.disconnected:
            return
        if message["type"] == "http.response.start" and not self.response_started:
            self._head = self._make_head(message["status"], [*self.default_headers, *message.get("headers", ())])
            self.response_started, self.waiting_for_100_continue = True, False
        elif message["type"] == "http.response.body" and self.response_started and not self.response_complete:
            self._send_body(message.get("body", b""), more_body=message.get("more_body", False))
        else:
            raise RuntimeError(f"unexpected message {message['type']!r}: an answer has one start, then its body")

    def _make_head(self, status: int, headers: list[tuple[bytes, bytes]]) -> bytes:
        """Return the status line and the headers, as they are sent."""
        lines = [STATUS_LINE[status]]
        self.chunked_encoding, says_close = None, False
        for header in headers:
            line = _lines.get(header)
            lines.append(line if line is not None else line_of(header))
            name, value = header
            if name == b"content-length" and self.chunked_encoding is None:
                self.expected_content_length, self.chunked_encoding = int(value), False
            elif name == b"transfer-encoding" and value.lower() == b"chunked":
                self.expected_content_length, self.chunked_encoding = 0, True
            elif name == b"connection" and b"close" in value.lower():
                self.keep_alive, says_close = False, True
        if not self.keep_alive and not says_close:
            lines.append(b"connection: close\r\n")
        if self.chunked_encoding is None and self.scope["method"] != "HEAD" and status not in (204, 304):
            self.chunked_encoding = True
            lines.append(b"transfer-encoding: chunked\r\n")
        lines.append(b"\r\n")
        return b"".join(lines)

    def _send_body(self, body: bytes, *, more_body: bool) -> None:
        """Send a part of the body, with the head before it if that is not sent yet."""
        if self.scope["method"] == "HEAD":
            self.expected_content_length, body = 0, b""
        elif self.chunked_encoding:
            body = b"%x\r\n%b\r\n" % (len(body), body) if body else b""
            if not more_body:
                body += b"0\r\n\r\n"
        else:
            self.expected_content_length -= len(body)
            if self.expected_content_length < 0:
                raise RuntimeError("the body is longer than its content-length")
        head, self._head = self._head, None
        if head is not None and len(body) <= SMALL_BYTES:
            body = head + body
        elif head is not None:
            self.transport.write(head)
        if body:
            self.transport.write(body)
        if more_body:
            return
        if self.expected_content_length:
            raise RuntimeError("the body is shorter than its content-length")
        self.response_complete = True
        self.message_event.set()
        if not self.keep_alive:
            self.transport.close()
        self.on_response()


def line_of(header: tuple[bytes, bytes]) -> bytes:
    """Return a header as it is sent, and keep the line if answers are likely to have it again.

    Raises:
        RuntimeError: name or value have a character that a header must not have.
    """
    name, value = header
    if not _NAME.fullmatch(name) or not _VALUE.fullmatch(value):
        raise RuntimeError(f"the header {name!r} has a character that no header may have")
    line = b"%b: %b\r\n" % (name, value)
    if name not in _VARYING:
        if len(_lines) >= MAX_LINES:
            _lines.clear()  # most are dates
        _lines[name, value] = line
    return line


def begin(coroutine: Coroutine[Any, Any, None]) -> Coroutine[Any, Any, None] | None:
    """Run a coroutine until it waits for something; return the rest of it, to be run by a task, or `None` if it ended.

    Until it waits it runs outside of any task. So it must not use what needs one (`asyncio.timeout`, anyio) before.
    """
    try:
        waited = coroutine.send(None)
    except StopIteration:
        return None
    return _finish(coroutine, waited)


async def in_task() -> None:
    """Go on in a task, if this was begun outside of any."""
    if asyncio.current_task() is None:
        await asyncio.sleep(0)


async def _finish(coroutine: Coroutine[Any, Any, None], waited: Any) -> None:
    await _steps(coroutine, waited)


@types.coroutine
def _steps(coroutine: Coroutine[Any, Any, None], waited: Any) -> Generator[Any, Any, None]:
    """Pass on what a coroutine waits for, and what comes back."""
    try:
        while True:
            try:
                result = yield waited
            except BaseException as error:
                waited = coroutine.throw(error)
            else:
                waited = coroutine.send(result)
    except StopIteration:
        return
