"""What a connection may do before a request of it counts: uvicorn's protocol with limits of bytes, time and number.

Without them one client without a key can send a header without an end, hold any number of connections half open, or
send thousands of requests in one piece, and all of it stays in memory.
"""

import asyncio
from collections import Counter, deque
from ipaddress import ip_address
from typing import Any
from weakref import WeakKeyDictionary

from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser, parse_url
from uvicorn._types import ASGI3Application
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from api.cycle import Cycle, begin
from api.middleware import SECURITY_HEADERS
from api.problems import problem
from recsys.settings import load_settings

MAX_HEAD_BYTES = 96 << 10
"""Most bytes of a request line and its headers: a URL of 60,000 characters fits."""
MAX_HEADERS = 100
MAX_PIPELINED = 32
"""Most requests that wait on one connection for the answer to the first."""
MAX_TINY_CHUNKS, TINY_BYTES = 1000, 16
"""Most chunks of a body that have fewer bytes than this on average: each costs as much as a large one."""
HEAD_SECONDS, BODY_SECONDS = 15.0, 60.0
"""Longest time from the first byte of a request (or from the opening of the connection) to the end of its headers, and
to the end of its body."""
READ_SECONDS = 60.0
"""Longest time that a client may let an answer wait without reading any of it."""
SWEEP_SECONDS = 1.0
TICK_SECONDS = 0.05
LATE_SECONDS = 0.02
"""How late the event loop is when the processor cannot keep up. It is not where requests wait for the database."""
MAX_ACTIVE = 64
"""Reads that are worked on at once while the processor cannot keep up. More only take memory and time from each other;
further ones wait as the bytes that came, unparsed."""
MAX_WAITING_BYTES = 8 << 10
"""Most bytes of a request that waits so."""
WAIT_SECONDS = 0.75
"""Longest time that a request waits so; then it is refused. A client that asks again at once waits anew, which costs
little, and what is accepted took less than a second with the work of `MAX_ACTIVE` requests."""
PAUSE_SECONDS = 0.5
"""How long the connection of a request that was refused after it was read is not read: it takes time from others."""
UNLIMITED = (b"/health/", b"/metrics")


class Shed:
    """Counts the requests of this process that were refused unread."""

    def __init__(self) -> None:
        self.n = 0

    def take(self) -> int:
        """Return how many were since the last call."""
        n, self.n = self.n, 0
        return n


SHED = Shed()


def busy_answer() -> bytes:
    """Return the answer to a request that is refused unread, as it is sent."""
    answer = problem(503, "Too many requests", "the server cannot answer more requests in a second: send again later")
    lines = [*answer.raw_headers, *SECURITY_HEADERS]
    return STATUS_LINE[503] + b"".join(b"%b: %b\r\n" % line for line in lines) + b"\r\n" + bytes(answer.body)


class Door:
    """The connections of one server process."""

    def __init__(self, state: ServerState, loop: asyncio.AbstractEventLoop) -> None:
        self._connections, self._loop = state.connections, loop
        settings = load_settings()
        self._max_per_address, self._max_requests = settings.max_connections, settings.max_requests
        self._n_of: Counter[str] = Counter()
        self._tasks = state.tasks
        self._late, self._due = 0.0, loop.time()
        self._n_blocked = (
            0  # tasks that wait for their clients to read, and so take no time; brought up to date by ticks
        )
        self._waiting: deque[tuple[float, DoorProtocol]] = deque()  # the one that came first is first
        self.busy_answer = busy_answer()
        self._sweep()
        self._tick()

    @property
    def is_full(self) -> bool:
        """Whether further reads wait: others wait already, or the processor cannot keep up."""
        n = len(self._tasks) - self._n_blocked
        return bool(self._waiting) or (n >= MAX_ACTIVE and (self._late > LATE_SECONDS or n >= self._max_requests))

    def wait(self, connection: "DoorProtocol") -> None:
        """Let a connection wait until its request is worked on, or refused."""
        self._waiting.append((self._loop.time(), connection))

    def let_in(self) -> None:
        """Work on the requests that wait, the first one first, while there is room; refuse those that wait too long."""
        most = MAX_ACTIVE if self._late > LATE_SECONDS else self._max_requests
        n_started = 0  # many are answered at once, and take no place: but no answer may keep the loop for long
        while self._waiting and len(self._tasks) - self._n_blocked < most:
            if n_started == MAX_ACTIVE:
                self._loop.call_soon(self.let_in)
                break
            came_at, connection = self._waiting.popleft()
            connection.go_on(is_late=self._loop.time() - came_at > WAIT_SECONDS)
            n_started += 1
        while self._waiting and self._loop.time() - self._waiting[0][0] > WAIT_SECONDS:
            self._waiting.popleft()[1].go_on(is_late=True)

    def _tick(self) -> None:
        """Measure how late the loop is."""
        self._loop.call_later(TICK_SECONDS, self._tick)  # first, so that no error ends it
        now = self._loop.time()
        self._late += 0.3 * (now - self._due - self._late)
        self._due = now + TICK_SECONDS
        self._n_blocked = 0
        if len(self._tasks) >= MAX_ACTIVE:
            self._n_blocked = sum(each.is_blocked for each in self._connections if isinstance(each, DoorProtocol))
        self.let_in()

    def admit(self, address: str) -> bool:
        """Count a connection, and return whether its address may have it."""
        self._n_of[address] += 1
        return self._n_of[address] <= self._max_per_address or ip_address(address).is_loopback

    def leave(self, address: str) -> None:
        """Count a connection no more."""
        self._n_of[address] -= 1
        if not self._n_of[address]:
            del self._n_of[address]

    def _sweep(self) -> None:
        self._loop.call_later(SWEEP_SECONDS, self._sweep)  # first, so that no error ends it
        now = self._loop.time()
        for connection in list(self._connections):
            if isinstance(connection, DoorProtocol):
                connection.close_if_late(now)


_doors: "WeakKeyDictionary[ServerState, Door]" = WeakKeyDictionary()


class DoorProtocol(HttpToolsProtocol):
    """uvicorn's protocol, with the limits of this module.

    Attributes:
        since: when the request that is being received began; `None` while none is.
        in_head: whether its headers are not complete.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.since: float | None = None
        self.in_head = True
        self._head_bytes = self._body_bytes = self._n_chunks = 0
        self._has_other_bytes = False  # whether the piece that is read has bytes of the request before
        self._unread, self._unread_since = 0, 0.0  # bytes of the answer that wait, and since when they are as many
        self._refusal = 400
        self._has_ended = False  # whether the client sends no more
        self._waiting, self._is_one_read = b"", False  # the bytes of a request that waits; see `Door.wait`
        self._is_offer = False  # whether the request offers another protocol
        self._to_start: deque[RequestResponseCycle] = deque()  # requests that are parsed, and not worked on yet
        self._is_busy = False  # parsing, or working on a request
        self.ws_protocol_class = None  # none is taken: a WebSocket would leave the limits of this module
        self._door = _doors.get(self.server_state) or _doors.setdefault(
            self.server_state, Door(self.server_state, self.loop)
        )

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.since = self.loop.time()
        if self.client is not None and not self._door.admit(self.client[0]):
            transport.abort()

    def connection_lost(self, error: Exception | None) -> None:
        if self.client is not None:
            self._door.leave(self.client[0])
        super().connection_lost(error)

    def eof_received(self) -> bool:  # type: ignore[override]
        """Keep the connection open for the answer, if a client sends no more and one is due."""
        self._has_ended = True
        if self._waiting:
            return True
        is_due = self.cycle is not None and not self.cycle.response_complete and not self.cycle.more_body
        if is_due:
            self.cycle.keep_alive = False
        return is_due

    def data_received(self, data: bytes) -> None:
        if self._waiting:
            # More came while a request waits: it keeps its place.
            self._waiting += data
            self._is_one_read = False
            if len(self._waiting) > MAX_WAITING_BYTES:
                self.go_on(is_late=False)
            return
        if self._door.is_full and self._is_whole_read(data):
            self.since = None
            self._unset_keepalive_if_required()
            if len(data) > MAX_WAITING_BYTES:
                self._shed()
                self.pause()
                return
            self._waiting, self._is_one_read = data, True
            self._door.wait(self)
            return
        self._receive(data)

    @property
    def is_blocked(self) -> bool:
        """Whether the answer that is being sent waits for the client to read it."""
        return self.flow.write_paused and self.cycle is not None and not self.cycle.response_complete

    def go_on(self, *, is_late: bool) -> None:
        """Work on the request that waits, or refuse it; do nothing if it does not wait any more."""
        data, self._waiting = self._waiting, b""
        if not data or self.transport.is_closing():
            return
        if is_late and self._is_one_read:
            self._shed()
        else:
            self._receive(data)
            if self._has_ended and not self.eof_received():
                self.transport.close()

    def _shed(self) -> None:
        """Refuse a request unread."""
        SHED.n += 1
        self.transport.write(self._door.busy_answer)
        if self._has_ended:
            self.transport.close()
            return
        self.timeout_keep_alive_task = self.loop.call_later(self.timeout_keep_alive, self.timeout_keep_alive_handler)

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        """Work on a request: at once, or when the bytes that are being parsed and the request before it are done."""
        self._to_start.append(cycle)
        if not self._is_busy:
            self._start_waiting()

    def _start_waiting(self) -> None:
        self._is_busy = True  # an answer that is complete starts the next request of the pipeline
        try:
            is_in_task = asyncio.current_task(self.loop) is not None
            while self._to_start and not self.transport.is_closing():
                work = self._to_start.popleft().run_asgi(self.app)
                rest = work if is_in_task else begin(work)
                if rest is not None:
                    task = self.loop.create_task(rest)
                    task.add_done_callback(self._end_task)
                    self.tasks.add(task)
        finally:
            self._is_busy = False

    def _end_task(self, task: asyncio.Task[None]) -> None:
        self.tasks.discard(task)
        self._door.let_in()  # not before: a task that is not over would take the place of the next one

    def shutdown(self) -> None:
        self.go_on(is_late=False)
        super().shutdown()

    def _receive(self, data: bytes) -> None:
        if self.since is None:
            self.since, self.in_head, self._head_bytes = self.loop.time(), True, 0
        self._has_other_bytes = False
        self._unset_keepalive_if_required()
        self._is_busy = True
        try:
            is_valid = self._parse(data)
        finally:
            self._is_busy = False
        if self._to_start:
            self._start_waiting()
        if not is_valid:
            self._refuse(self._refusal)
        if self.in_head:
            if not self._has_other_bytes:
                self._head_bytes += len(data)
            if self._head_bytes > MAX_HEAD_BYTES or len(self.headers or ()) > MAX_HEADERS:
                self._refuse(431)

    def _parse(self, data: bytes) -> bool:
        """Parse bytes that came, and return whether they are valid."""
        while True:
            try:
                self.parser.feed_data(data)
            except HttpParserUpgrade as offer:
                if self._is_offer:
                    # The client offers another protocol, as Java's does with h2c. The parser would leave out the body.
                    data = self._head_without_offer() + data[offer.args[0] :]
                    self.parser = HttpRequestParser(self)
                    self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn's own
                    continue
            except HttpParserError:
                return False
            return True

    def _head_without_offer(self) -> bytes:
        """Return the head of the present request as of a client that offers no other protocol."""
        lines = [b"%b %b HTTP/%b" % (self.parser.get_method(), self.url, self.parser.get_http_version().encode())]
        for name, value in self.headers:
            if name == b"connection":
                value = b", ".join(each for each in value.split(b",") if each.strip().lower() != b"upgrade")
            if name != b"upgrade":
                lines.append(name + b": " + value)
        return b"\r\n".join(lines) + b"\r\n\r\n"

    def on_message_begin(self) -> None:
        if self.since is None:  # it came in one piece with the end of the request before
            self.since = self.loop.time()
        self.in_head, self._head_bytes = True, 0
        self._n_chunks = self._body_bytes = 0
        self._unset_keepalive_if_required()
        super().on_message_begin()
        self.scope["recsys.pause"] = self.pause  # type: ignore[typeddict-unknown-key]

    def on_headers_complete(self) -> None:
        self.in_head = False
        if len(self.headers) > MAX_HEADERS:
            self._refusal = 431
            raise HttpParserError(f"more than {MAX_HEADERS} headers")
        if len(self.pipeline) + len(self._to_start) >= MAX_PIPELINED:
            raise HttpParserError(f"more than {MAX_PIPELINED} requests at once")
        self._is_offer = self.parser.should_upgrade() and any(name == b"upgrade" for name, _ in self.headers)
        if self._is_offer:
            return
        scope, http_version = self.scope, self.parser.get_http_version()
        scope["method"] = self.parser.get_method().decode("ascii")
        if http_version != "1.1":
            scope["http_version"] = http_version
        url = parse_url(self.url)
        scope["raw_path"], scope["path"] = url.path, url.path.decode("ascii")  # `RequestMiddleware` decodes it
        scope["query_string"] = url.query or b""
        before = self.cycle
        self.cycle = Cycle(
            scope=scope,
            transport=self.transport,
            flow=self.flow,
            logger=self.logger,
            access_logger=self.access_logger,
            access_log=False,  # `RequestMiddleware` logs
            default_headers=self.server_state.default_headers,
            message_event=asyncio.Event(),
            expect_100_continue=self.expect_100_continue,
            keep_alive=http_version != "1.0" and self.parser.should_keep_alive(),
            on_response=self.on_response_complete,
        )
        if before is None or before.response_complete:
            self._start_asgi_task(self.cycle, self.app)
        else:
            self.flow.pause_reading()
            self.pipeline.appendleft((self.cycle, self.app))

    def on_body(self, body: bytes) -> None:
        self._n_chunks += 1
        self._body_bytes += len(body)
        if self._n_chunks > MAX_TINY_CHUNKS and self._body_bytes < TINY_BYTES * self._n_chunks:
            raise HttpParserError(f"more than {MAX_TINY_CHUNKS} chunks of less than {TINY_BYTES} bytes")
        super().on_body(body)

    def on_message_complete(self) -> None:
        if self._is_offer:
            return
        self.since, self._has_other_bytes = None, True
        super().on_message_complete()
        if self.cycle is not None and self.cycle.response_complete and self.timeout_keep_alive_task is None:
            # The answer came before the end of the body, which ended uvicorn's timer: the connection would stay.
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )

    def close_if_late(self, now: float) -> None:
        """Close the connection if its request takes too long to arrive, or its answer too long to be read."""
        if self.since is not None and now - self.since > (HEAD_SECONDS if self.in_head else BODY_SECONDS):
            self._refuse(408)
            return
        unread = self.transport.get_write_buffer_size() if self.flow.write_paused else 0
        if not unread or unread != self._unread:  # a slow client reads too
            self._unread, self._unread_since = unread, now
        elif now - self._unread_since > READ_SECONDS:
            self.transport.abort()

    def _is_whole_read(self, data: bytes) -> bool:
        """Return whether the bytes are one whole request that only reads, on a connection that waits for nothing."""
        is_idle = self.cycle is None or self.cycle.response_complete
        if not is_idle or (self.since is not None and self._head_bytes):  # a part of a request came before
            return False
        if not (data.startswith(b"GET ") and data.endswith(b"\r\n\r\n") and data.count(b"\r\n\r\n") == 1):
            return False
        path, head = data[: data.find(b"\r\n")].partition(b"?")[0], data.lower()
        if b"\r\ncontent-length" in head or b"\r\ntransfer-encoding" in head:
            return False
        return not any(each in path for each in UNLIMITED)

    def pause(self) -> None:
        """Do not read the connection for some time: the client was told to wait, and gets no answer before."""
        if not self.transport.is_closing():
            self.flow.pause_reading()
            self.loop.call_later(PAUSE_SECONDS, self.flow.resume_reading)

    def _refuse(self, status: int) -> None:
        """Answer with a status and nothing else, if no answer has begun, and close the connection."""
        if self.transport.is_closing():
            return
        if self.cycle is not None and not self.cycle.response_complete:
            self.transport.abort()
            return
        self.transport.write(STATUS_LINE[status] + b"content-length: 0\r\nconnection: close\r\n\r\n")
        self.transport.close()
