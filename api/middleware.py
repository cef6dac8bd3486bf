"""What every request passes first: its path as it was sent, its id, the limit of what is worked on, and its notes."""

import logging
import re
import secrets
import time
from collections.abc import Callable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.metrics import Metrics
from api.problems import problem

SLOW_SECONDS = 1.0
"""Requests that take longer are logged, whatever came of them."""

_REQUEST_ID = re.compile(rb"[A-Za-z0-9._:/+=-]{1,128}")
_UNLIMITED = (b"/health/", b"/metrics")

_log = logging.getLogger("recsys.requests")


class Load:
    """How many requests a process works on."""

    def __init__(self) -> None:
        self.n_busy = 0


class Front:
    """The outermost layer.

    Routes on the path as it was sent, so that `a%2Fb` is one segment; gives every request an id, the client's own
    (`X-Request-ID`) or a new one, and sends it back; says 503 to what is more than `most` at once; counts; and logs
    what changed something, failed or took long (at the level DEBUG everything).
    """

    def __init__(self, app: ASGIApp, metrics: Metrics, load: Load, most: int, is_draining: Callable[[], bool]) -> None:
        self._app, self._metrics, self._load, self._most, self._is_draining = app, metrics, load, most, is_draining
        self._prefix, self._count = secrets.token_hex(6), 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        raw_path: bytes = scope.get("raw_path") or scope["path"].encode()
        scope["path"] = raw_path.partition(b"?")[0].decode("latin-1")
        request_id = scope["request_id"] = self._request_id(scope)
        status = 500

        async def noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = list(message.get("headers", ()))
                headers.append((b"x-request-id", request_id))
                if self._is_draining():
                    headers.append((b"connection", b"close"))
                message["headers"] = headers
            await send(message)

        self._load.n_busy += 1
        try:
            if self._load.n_busy > self._most and not raw_path.startswith(_UNLIMITED):
                detail = f"{self._most} requests are being worked on: send this one again in a moment"
                await problem(503, "Too much to do", detail)(scope, receive, noted)
            else:
                await self._app(scope, receive, noted)
        finally:
            self._load.n_busy -= 1
            self._note(scope, status, time.perf_counter() - started)

    def _request_id(self, scope: Scope) -> bytes:
        for name, value in scope["headers"]:
            if name == b"x-request-id" and _REQUEST_ID.fullmatch(value):
                given: bytes = value
                return given
        self._count += 1
        return b"%b-%x" % (self._prefix.encode(), self._count)

    def _note(self, scope: Scope, status: int, seconds: float) -> None:
        method, route = scope["method"], getattr(scope.get("route"), "path", "none")
        self._metrics.answered(method, route, status, seconds)
        worth_a_line = status >= 500 or seconds > SLOW_SECONDS or (method not in ("GET", "HEAD") and status < 400)
        level = logging.INFO if worth_a_line else logging.DEBUG
        if _log.isEnabledFor(level):
            extra = {
                "method": method,
                "path": scope["path"][:200],
                "status": status,
                "ms": round(seconds * 1000, 1),
                "request_id": scope["request_id"].decode(),
            }
            if "actor" in scope:
                extra["actor"] = scope["actor"]
            _log.log(level, "request", extra=extra)
