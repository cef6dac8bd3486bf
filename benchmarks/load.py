"""A client that asks again as soon as it is answered: raw sockets, keep-alive, one process.

It costs some 15 µs a request. Every answer's status is looked at; everything but 200 is an error.
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

PATIENCE_SECONDS = 60.0
"""How long an answer may take before its connection is given up."""

NO_ANSWER = 0
"""Stands for the status where the connection was refused or lost."""

OnAnswer = Callable[[bytes, int, bytes], None]
"""Called with request, status and body of every answer."""


@dataclass(slots=True)
class Load:
    """What came of a run.

    Attributes:
        seconds: from the first request to the last answer.
        statuses: how often each came; `NO_ANSWER` among them.
        latencies_ms: of the answers with 200, in the order in which they came.
        complaint: status and body of the first answer that was an error.
    """

    seconds: float = 0.0
    statuses: Counter[int] = field(default_factory=Counter)
    latencies_ms: "array[float]" = field(default_factory=lambda: array("d"))
    complaint: str = ""

    @property
    def answered(self) -> int:
        """Answers with 200."""
        return self.statuses[200]

    @property
    def errors(self) -> int:
        return self.statuses.total() - self.answered

    @property
    def per_second(self) -> float:
        """Answers with 200 in a second."""
        return self.answered / self.seconds if self.seconds else 0.0

    def percentile(self, percent: float) -> float:
        """Milliseconds within which so many per cent of the answers with 200 came; NaN where there is none."""
        return float(np.percentile(self.latencies_ms, percent)) if self.latencies_ms else float("nan")

    def figures(self) -> dict[str, object]:
        """The figures as JSON has them."""
        p50, p95, p99 = (round(self.percentile(percent), 3) if self.answered else None for percent in (50, 95, 99))
        return {
            "requests_per_second": round(self.per_second, 1),
            "p50_ms": p50,
            "p95_ms": p95,
            "p99_ms": p99,
            "p99_to_p50": round(p99 / p50, 2) if p50 and p99 else None,
            "answered": self.answered,
            "errors": self.errors,
            "statuses": {str(status): count for status, count in sorted(self.statuses.items())},
            "complaint": self.complaint or None,
            "seconds": round(self.seconds, 3),
        }


def get(path: str) -> bytes:
    """A GET request; what the path holds must be percent-encoded already."""
    return f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode()


def post(path: str, content: object) -> bytes:
    """A POST request with a body of JSON."""
    body = json.dumps(content).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
    return head.encode() + b"\r\n\r\n" + body


def drive(
    port: int,
    requests: Iterable[bytes],
    *,
    n_connections: int = 16,
    seconds: float | None = None,
    on_answer: OnAnswer | None = None,
) -> Load:
    """Ask 127.0.0.1 over so many connections until the requests run out, or until so many seconds are over.

    What was asked before the end is waited for. A connection that is lost counts as an error and is made anew.
    """
    run = _Run(port, iter(requests), seconds, on_answer)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run.over(n_connections))
    return run.load


class _Run:
    """What all connections of a run share."""

    def __init__(self, port: int, requests: Iterator[bytes], seconds: float | None, on_answer: OnAnswer | None) -> None:
        self.load = Load()
        self.done = False
        self._port, self._requests, self._on_answer = port, requests, on_answer
        self._started = time.perf_counter()
        self._ends_at = self._started + seconds if seconds is not None else float("inf")

    def next_request(self) -> bytes | None:
        request = None if self.done or time.perf_counter() >= self._ends_at else next(self._requests, None)
        self.done = request is None
        return request

    def note(self, request: bytes, status: int, body: bytes, asked_at: float) -> None:
        now = time.perf_counter()
        load = self.load
        load.seconds = now - self._started
        load.statuses[status] += 1
        if status == 200:
            load.latencies_ms.append((now - asked_at) * 1000)
        elif not load.complaint:
            load.complaint = f"{status or 'no answer'}: {body[:300].decode(errors='replace')}".rstrip(": ")
        if self._on_answer is not None:
            self._on_answer(request, status, body)

    async def over(self, n_connections: int) -> None:
        await asyncio.gather(*(self._keep_asking() for _ in range(n_connections)))

    async def _keep_asking(self) -> None:
        loop = asyncio.get_running_loop()
        while not self.done:
            try:
                transport, connection = await loop.create_connection(lambda: _Connection(self), "127.0.0.1", self._port)
            except OSError as error:
                self.note(b"", NO_ANSWER, str(error).encode(), time.perf_counter())
                return
            while not connection.closed.done():
                await asyncio.wait([connection.closed], timeout=1)
                if time.perf_counter() - connection.asked_at > PATIENCE_SECONDS:
                    transport.abort()


class _Connection(asyncio.Protocol):
    """One connection: the next request goes out as soon as the answer to the last one is complete."""

    def __init__(self, run: _Run) -> None:
        self.closed = asyncio.get_running_loop().create_future()
        self.asked_at = time.perf_counter()
        self._run = run
        self._request: bytes | None = None
        self._buffer = bytearray()
        self._end_of_head = self._end = 0  # of the answer in the buffer; 0: its head is not complete

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is no subclass of it
        self._ask()

    def data_received(self, data: bytes) -> None:
        buffer = self._buffer
        buffer += data
        if not self._end:
            end_of_head = buffer.find(b"\r\n\r\n")
            if end_of_head < 0:
                return
            length = _content_length(buffer[:end_of_head])
            if length is None:
                self._transport.abort()  # and the request counts as not answered
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
        self._run.note(request or b"", status, body, self.asked_at)
        self._ask()

    def connection_lost(self, error: Exception | None) -> None:
        if self._request is not None:
            self._run.note(self._request, NO_ANSWER, str(error or "closed").encode(), self.asked_at)
        if not self.closed.done():
            self.closed.set_result(None)

    def _ask(self) -> None:
        self._request = self._run.next_request()
        if self._request is None:
            self._transport.close()
            return
        self.asked_at = time.perf_counter()
        self._transport.write(self._request)


def _content_length(head: bytearray) -> int | None:
    """Of the body that follows; None where the head does not say."""
    _, colon, rest = head.lower().partition(b"\r\ncontent-length:")
    return int(rest.split(b"\r\n", 1)[0]) if colon else None
