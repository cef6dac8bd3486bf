"""Middleware around every request: its raw path, its id, the limit of concurrent requests, metrics and log."""

import logging
import re
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from starlette.middleware.gzip import GZipMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.hosts import DETAIL, HostRule
from api.metrics import Metrics
from api.problems import problem, route_of
from recsys.errors import DatabaseError

SLOW_SECONDS = 1.0
"""Requests that take longer are logged, whatever their status."""

_REQUEST_ID = re.compile(rb"[A-Za-z0-9._:/+=-]{1,128}")
_ALWAYS_OPEN = b"/health/"
_UNLIMITED = (_ALWAYS_OPEN, b"/metrics")

SECURITY_HEADERS = [
    (b"x-content-type-options", b"nosniff"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"referrer-policy", b"no-referrer"),
    (b"cache-control", b"no-store"),
]
"""Headers of every answer that does not set them itself: an answer of JSON is no page, and is not kept."""

Trace = Callable[[Scope, str, str, int, float], None]
"""Called with each request that was answered: scope, method, template of the path, status and seconds."""

_log = logging.getLogger("recsys.requests")


class GZipIfAccepted(GZipMiddleware):
    """Compresses long answers for clients that accept it; all other requests bypass it."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            for name, value in scope["headers"]:
                if name == b"accept-encoding" and b"gzip" in value:
                    await super().__call__(scope, receive, send)
                    return
        await self.app(scope, receive, send)


class InFlight:
    """What this process is working on.

    Attributes:
        n_requests: requests; those whose body is still coming, or whose answer is being sent, are not among them.
        n_body_bytes: bytes of the bodies that are still coming.
    """

    def __init__(self) -> None:
        self.n_requests = 0
        self.n_body_bytes = 0

    @contextmanager
    def waiting_for_body(self) -> Iterator[None]:
        """Do not count a request in the block, so that bodies that do not come leave the places to others."""
        self.n_requests -= 1
        try:
            yield
        finally:
            self.n_requests += 1


class RequestMiddleware:
    """The outermost middleware.

    - Routes by the raw path, so that `a%2Fb` is one segment.
    - Answers HEAD as GET, without the body.
    - Gives every request an id, the client's own (`X-Request-ID`) or a new one, and sends it back.
    - Answers 421 under a name that is not the service's; see `api.hosts`.
    - Adds the headers that keep browsers from misusing an answer.
    - Answers 503 if more than `max_requests` are in flight. `api.door` refuses most of them before.
    - Answers 503 to everything but `/health/` until the API keys are read.
    - Counts requests, and logs those that changed something, failed or were slow (at the level DEBUG, all of them).
    """

    def __init__(
        self,
        app: ASGIApp,
        with_cors: Callable[[ASGIApp], ASGIApp],
        metrics: Metrics,
        in_flight: InFlight,
        max_requests: int,
        root_path: bytes,
        hosts: HostRule,
        is_draining: Callable[[], bool],
        reason_to_refuse: Callable[[], str | None],
        trace: Trace | None = None,
    ) -> None:
        self._app, self._metrics, self._in_flight = app, metrics, in_flight
        self._with_cors = with_cors  # scripts of allowed origins may read why they are refused
        self._max_requests, self._is_draining = max_requests, is_draining
        self._reason_to_refuse, self._root_path = reason_to_refuse, root_path
        self._hosts, self._trace = hosts, trace
        detail = f"the server is handling {max_requests} requests: send this one again in a moment"
        self._busy = with_cors(problem(503, "Too many requests", detail))  # made once, since refusing must be cheap
        self._prefix, self._count = secrets.token_hex(6).encode(), 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, method = time.perf_counter(), scope["method"]
        if method == "HEAD":
            scope = {**scope, "method": "GET"}  # a copy, since the server reads the method too
        raw_path: bytes = (scope.get("raw_path") or scope["path"].encode()).partition(b"?")[0]
        if self._root_path:
            scope["root_path"] = self._root_path.decode()
            if (raw_path + b"/").startswith(self._root_path + b"/"):  # the proxy may keep the prefix
                raw_path = raw_path[len(self._root_path) :] or b"/"
        scope["path"] = raw_path.decode("latin-1")
        request_id, host = b"", b""
        for name, value in scope["headers"]:
            if name == b"host":
                host = value
            elif name == b"x-request-id" and _REQUEST_ID.fullmatch(value):
                request_id = value  # the client's own, if it is a plain one
        if not request_id:
            self._count += 1
            request_id = b"%b-%x" % (self._prefix, self._count)
        scope["request_id"] = request_id
        status = 0  # until the response starts

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                if not status:  # what is left may wait for the client to read it, and must hold no place
                    self._in_flight.n_requests -= 1
                status = message["status"]
                headers = list(message.get("headers", ()))
                present = {name for name, _ in headers}
                headers += [header for header in SECURITY_HEADERS if header[0] not in present]
                headers.append((b"x-request-id", request_id))
                if "rate" in scope:
                    headers += scope["rate"]
                if self._is_draining():
                    headers.append((b"connection", b"close"))
                message["headers"] = headers
            elif method == "HEAD":
                message = {**message, "body": b""}
            await send(message)

        self._in_flight.n_requests += 1
        try:
            if not self._hosts.allows(scope, host) and not raw_path.startswith(_ALWAYS_OPEN):
                await self._with_cors(problem(421, "Unknown host", DETAIL))(scope, receive, send_with_id)
            elif self._in_flight.n_requests > self._max_requests and not raw_path.startswith(_UNLIMITED):
                await self._busy(scope, receive, send_with_id)
                if "recsys.pause" in scope:
                    scope["recsys.pause"]()
            elif (reason := self._reason_to_refuse()) is not None and not raw_path.startswith(_ALWAYS_OPEN):
                await self._with_cors(problem(503, DatabaseError.title, reason))(scope, receive, send_with_id)
            else:
                await self._app(scope, receive, send_with_id)
        finally:
            if not status:
                self._in_flight.n_requests -= 1
            self._note(scope, method, status or 500, time.perf_counter() - started)

    def _note(self, scope: Scope, method: str, status: int, seconds: float) -> None:
        """Count a request, and log it if it is worth a line."""
        route = route_of(scope)
        self._metrics.count_request(method, route, status, seconds)
        if self._trace is not None:
            self._trace(scope, method, route, status, seconds)
        is_notable = status >= 500 or seconds > SLOW_SECONDS or (method not in ("GET", "HEAD") and status < 400)
        level = logging.INFO if is_notable else logging.DEBUG
        if _log.isEnabledFor(level):
            extra = {
                "method": method,
                "route": route,  # a path has ids of users
                "status": status,
                "ms": round(seconds * 1000, 1),
                "request_id": scope["request_id"].decode(),
            }
            extra |= {name: scope[name] for name in ("actor", "key", "user_hash") if name in scope}
            _log.log(level, "request", extra=extra)
