"""A client that sends the next request as soon as it has an answer: raw sockets, keep-alive, one process.

It takes about 15 µs per request. It checks the status of every answer; any status but 200 and 201 is an error.
"""

import asyncio
import json
import time
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import cast

import numpy as np
import uvloop

ANSWER_TIMEOUT_SECONDS = 60.0
"""Time after which the connection of a request without an answer is closed."""

SUCCESSES = (200, 201)

NO_ANSWER = 0
"""Status of a request whose connection was refused or lost."""

OnAnswer = Callable[[bytes, int, bytes], None]
"""Called with the request, the status and the body of every answer."""


@dataclass(slots=True)
class Load:
    """Result of a run.

    Attributes:
        seconds: from the first request to the last answer.
        statuses: number of answers of each status, `NO_ANSWER` included.
        latencies_ms: latencies of the successful answers, in the order of arrival.
        first_error: status and body of the first answer that was an error; empty without errors.
        processor_seconds: time that the server's processes took of the processor; 0 where it was not measured.
    """

    seconds: float = 0.0
    statuses: Counter[int] = field(default_factory=Counter)
    latencies_ms: "array[float]" = field(default_factory=lambda: array("d"))
    first_error: str = ""
    processor_seconds: float = 0.0

    @property
    def answered(self) -> int:
        """Number of successful answers."""
        return sum(self.statuses[status] for status in SUCCESSES)

    @property
    def errors(self) -> int:
        """Number of all other answers."""
        return self.statuses.total() - self.answered

    @property
    def per_second(self) -> float:
        """Successful answers per second."""
        return self.answered / self.seconds if self.seconds else 0.0

    @property
    def processor_us(self) -> float:
        """Microseconds of the server's processor for each successful answer."""
        return 1e6 * self.processor_seconds / self.answered if self.answered else float("nan")

    def percentile(self, percent: float) -> float:
        """Return a percentile of the latencies in milliseconds; NaN without an answer."""
        return float(np.percentile(self.latencies_ms, percent)) if self.latencies_ms else float("nan")

    def figures(self) -> dict[str, object]:
        """Return the figures for a JSON file."""
        p50, p95, p99 = (round(self.percentile(percent), 3) if self.answered else None for percent in (50, 95, 99))
        return {
            "requests_per_second": round(self.per_second, 1),
            "p50_ms": p50,
            "p95_ms": p95,
            "p99_ms": p99,
            "p99_to_p50": round(p99 / p50, 2) if p50 and p99 else None,
            "processor_us": round(self.processor_us, 1) if self.answered else None,
            "answered": self.answered,
            "errors": self.errors,
            "statuses": {str(status): count for status, count in sorted(self.statuses.items())},
            "first_error": self.first_error or None,
            "seconds": round(self.seconds, 3),
        }


def get(path: str) -> bytes:
    """Return a GET request for a percent-encoded path."""
    return f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode()


def post(path: str, content: object) -> bytes:
    """Return a POST request with a JSON body."""
    return with_body("POST", path, content)


def put(path: str, content: object) -> bytes:
    """Return a PUT request with a JSON body."""
    return with_body("PUT", path, content)


def with_body(method: str, path: str, content: object) -> bytes:
    """Return a request with a JSON body."""
    body = json.dumps(content).encode()
    head = (
        f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
    )
    return head.encode() + b"\r\n\r\n" + body


def drive(
    port: int,
    requests: Iterable[bytes],
    *,
    n_connections: int = 16,
    seconds: float | None = None,
    on_answer: OnAnswer | None = None,
) -> Load:
    """Send requests to 127.0.0.1 until they run out, or until a time is over, and wait for the last answers.

    A lost connection counts as an error and is opened again.

    Args:
        port: of the server.
        requests: sent in this order.
        n_connections: number of connections that are used at the same time.
        seconds: length of the run; None sends all requests.
        on_answer: called for every answer.
    """
    run = LoadRun(port, iter(requests), seconds, on_answer)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run.run_connections(n_connections))
    return run.load


class LoadRun:
    """State that all connections of a run share."""

    def __init__(self, port: int, requests: Iterator[bytes], seconds: float | None, on_answer: OnAnswer | None) -> None:
        self.load = Load()
        self.done = False
        self._port, self._requests, self._on_answer = port, requests, on_answer
        self._started = time.perf_counter()
        self._ends_at = self._started + seconds if seconds is not None else float("inf")

    def next_request(self) -> bytes | None:
        """Return the next request, or None at the end of the run."""
        request = None if self.done or time.perf_counter() >= self._ends_at else next(self._requests, None)
        self.done = request is None
        return request

    def record(self, request: bytes, status: int, body: bytes, sent_at: float) -> None:
        """Count an answer."""
        now = time.perf_counter()
        load = self.load
        load.seconds = now - self._started
        load.statuses[status] += 1
        if status in SUCCESSES:
            load.latencies_ms.append((now - sent_at) * 1000)
        elif not load.first_error:
            load.first_error = f"{status or 'no answer'}: {body[:300].decode(errors='replace')}".rstrip(": ")
        if self._on_answer is not None:
            self._on_answer(request, status, body)

    async def run_connections(self, n_connections: int) -> None:
        """Send requests over connections until the run ends."""
        await asyncio.gather(*(self._run_connection() for _ in range(n_connections)))

    async def _run_connection(self) -> None:
        loop = asyncio.get_running_loop()
        while not self.done:
            try:
                transport, connection = await loop.create_connection(lambda: Connection(self), "127.0.0.1", self._port)
            except OSError as error:
                self.record(b"", NO_ANSWER, str(error).encode(), time.perf_counter())
                return
            while not connection.closed.done():
                await asyncio.wait([connection.closed], timeout=1)
                if time.perf_counter() - connection.sent_at > ANSWER_TIMEOUT_SECONDS:
                    transport.abort()


class Connection(asyncio.Protocol):
    """A connection that sends the next request as soon as the answer to the last one is complete."""

    def __init__(self, run: LoadRun) -> None:
        self.closed = asyncio.get_running_loop().create_future()
        self.sent_at = time.perf_counter()
        self._run = run
        self._request: bytes | None = None
        self._buffer = bytearray()
        self._end_of_head = self._end = 0  # of the answer in the buffer; 0 while its head is incomplete

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's transport is no subclass of it
        self._send_next()

    def data_received(self, data: bytes) -> None:
        buffer = self._buffer
        buffer += data
        if not self._end:
            end_of_head = buffer.find(b"\r\n\r\n")
            if end_of_head < 0:
                return
            length = content_length(buffer[:end_of_head])
            if length is None:
                self._transport.abort()  # so that the request counts as not answered
                return
            self._end_of_head = end_of_head + 4
            self._end = self._end_of_head + length
        if len(buffer) < self._end:
            return
        body = bytes(buffer[self._end_of_head : self._end])
        status = int(buffer[9:12])
        del buffer[: self._end]
        self._end = 0
        request, self._request = self._request, None
        self._run.record(request or b"", status, body, self.sent_at)
        self._send_next()

    def connection_lost(self, error: Exception | None) -> None:
        if self._request is not None:
            self._run.record(self._request, NO_ANSWER, str(error or "closed").encode(), self.sent_at)
        if not self.closed.done():
            self.closed.set_result(None)

    def _send_next(self) -> None:
        self._request = self._run.next_request()
        if self._request is None:
            self._transport.close()
            return
        self.sent_at = time.perf_counter()
        self._transport.write(self._request)


def content_length(head: bytes | bytearray) -> int | None:
    """Return the length of the body after a head, or None if the head does not give it."""
    _, colon, rest = head.lower().partition(b"\r\ncontent-length:")
    return int(rest.split(b"\r\n", 1)[0]) if colon else None
