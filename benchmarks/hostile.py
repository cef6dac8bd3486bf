"""Measure the memory of the service while clients without a key send what no honest client sends.

    python -m benchmarks.hostile [--seconds 60] [--only endless-header,half-open] [--json FILE]

One worker of `recsys serve` that needs keys, and one kind of input after another. A kind passes if the worker's memory
stays within 50 MiB of what it was after ordinary requests, and an honest client is answered meanwhile. It ends with 1
if one does not.
"""

import argparse
import json
import os
import random
import shutil
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from pathlib import Path

from benchmarks.report import describe_machine
from benchmarks.served import Server, serve_recsys
from benchmarks.serving_data import Size, build
from recsys.database.engine import connect
from recsys.database.keys import create_key

MAX_MIB = 50.0
MAX_SECONDS = 10.0
"""Longest time that an honest client may wait for its answer while the machine is flooded by a process that takes as
much of the processor as it gets."""
SIZE = Size("hostile", 500, 2_000, 20_000)
POST = "POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {n}\r\n\r\n"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one kind.

    Attributes:
        grown: most MiB above the memory before.
        slowest: longest time in seconds that an honest client waited; infinite: it got no answer.
        n_sent: pieces that were sent.
    """

    kind: str
    grown: float
    slowest: float
    n_sent: int

    @property
    def passes(self) -> bool:
        return self.grown <= MAX_MIB and self.slowest <= MAX_SECONDS


class Sender:
    """Opens connections and sends over them, until its time is over."""

    def __init__(self, port: int, seconds: float, seed: int) -> None:
        self.random = random.Random(seed)
        self.n_sent = 0
        self._port, self._end = port, time.monotonic() + seconds
        self._open: list[socket.socket] = []

    @property
    def goes_on(self) -> bool:
        return time.monotonic() < self._end

    def connect(self, *, is_narrow: bool = False) -> socket.socket:
        """Open a connection that is closed at the end; a narrow one takes hardly anything without being read."""
        connection = socket.socket()
        if is_narrow:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        connection.settimeout(1)
        connection.connect(("127.0.0.1", self._port))
        self._open.append(connection)
        return connection

    def close(self) -> None:
        """Close all connections."""
        for connection in self._open:
            connection.close()
        self._open.clear()

    def flood(self, first: bytes, pieces: Iterator[bytes], n: int = 8) -> None:
        """Send pieces over some connections as fast as they are taken; a connection that is closed is opened again."""
        connections: list[socket.socket | None] = [None] * n
        while self.goes_on:
            for place, connection in enumerate(connections):
                try:
                    if connection is None:
                        connection = connections[place] = self.connect()
                        connection.sendall(first)
                    connection.sendall(next(pieces))
                    self.n_sent += 1
                except OSError:
                    if connection is not None:
                        connection.close()
                        self._open.remove(connection)
                    connections[place] = None

    def hold(self, first: bytes, n: int, then: bytes = b"", every: float = 0.5, *, reads: bool = True) -> None:
        """Hold connections open, and send a little over each from time to time; open those again that are closed."""
        connections: list[socket.socket] = []
        while self.goes_on:
            with suppress(OSError):
                while len(connections) < n and self.goes_on:
                    connections.append(self.connect(is_narrow=not reads))
                    connections[-1].sendall(first)
                    self.n_sent += 1
            for connection in list(connections):
                try:
                    connection.setblocking(False)
                    if then:
                        connection.send(then)
                    if reads and connection.recv(1 << 16) == b"":
                        raise OSError("closed")
                except BlockingIOError:
                    pass
                except OSError:
                    connections.remove(connection)
                    connection.close()
            time.sleep(every)

    def ask(self, requests: Iterator[bytes], n: int = 8, *, reads: bool = True) -> None:
        """Send whole requests over some connections, and read what comes back, or nothing of it."""
        connections: list[socket.socket | None] = [None] * n
        while self.goes_on:
            for place, connection in enumerate(connections):
                try:
                    if connection is None:
                        connection = connections[place] = self.connect()
                        if not reads:
                            connection.setblocking(False)
                    connection.sendall(next(requests))
                    self.n_sent += 1
                    if reads and not connection.recv(1 << 20):
                        raise OSError("closed")
                except BlockingIOError:
                    time.sleep(0.01)
                except OSError:
                    if connection is not None:
                        connection.close()
                        self._open.remove(connection)
                    connections[place] = None


def forever(make: Callable[[int], bytes]) -> Iterator[bytes]:
    """Yield `make(0)`, `make(1)` …"""
    n = 0
    while True:
        yield make(n)
        n += 1


def get(path: str, *headers: str) -> bytes:
    """Return a GET request."""
    return "\r\n".join([f"GET {path} HTTP/1.1", "Host: x", *headers, "", ""]).encode()


def churn(sender: Sender) -> None:
    """Open connections, send a request and close at once."""
    while sender.goes_on:
        with suppress(OSError):
            connection = socket.create_connection(("127.0.0.1", sender._port), timeout=1)
            connection.sendall(get("/v1/popular"))
            connection.close()
            sender.n_sent += 1


A, KIB = b"a", 1 << 10
KINDS: dict[str, Callable[[Sender], None]] = {
    "endless-header": lambda s: s.flood(b"GET / HTTP/1.1\r\nx: ", forever(lambda _: A * 64 * KIB)),
    "endless-headers": lambda s: s.flood(b"GET / HTTP/1.1\r\n", forever(lambda n: b"x-%d: 1\r\n" % n * 500)),
    "endless-url": lambda s: s.flood(b"GET /", forever(lambda _: A * 64 * KIB)),
    "half-open": lambda s: s.hold(b"", 800),
    "slow-headers": lambda s: s.hold(b"GET / HTTP/1.1\r\nx: ", 500, A),
    "bodies-that-never-come": lambda s: s.hold(POST.format(path="/v1/ratings", n=4_000_000).encode(), 800),
    "slow-bodies": lambda s: s.hold(POST.format(path="/v1/ratings", n=4_000_000).encode(), 300, A * KIB),
    "bodies-at-full-speed": lambda s: s.flood(
        POST.format(path="/v1/ratings", n=10**9).encode(), forever(lambda _: A * 64 * KIB)
    ),
    "endless-chunks": lambda s: s.flood(
        b"POST /v1/ratings HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n",
        forever(lambda _: b"10000\r\n" + A * 64 * KIB + b"\r\n"),
    ),
    "tiny-chunks": lambda s: s.flood(
        b"POST /v1/items HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n",
        forever(lambda _: b"1\r\na\r\n" * 5000),
    ),
    "pipelined": lambda s: s.flood(b"", forever(lambda _: get("/v1/popular") * 1000)),
    "pipelined-bodies": lambda s: s.flood(
        b"", forever(lambda _: (POST.format(path="/v1/ratings", n=1000).encode() + A * 1000) * 200)
    ),
    "many-users": lambda s: s.ask(forever(lambda n: get(f"/v1/users/{s.random.random()}/recommendations?n={n}"))),
    "many-queries": lambda s: s.ask(forever(lambda n: get(f"/v1/popular?category={n}{'c' * 4000}"))),
    "many-keys": lambda s: s.ask(
        forever(lambda n: get("/v1/popular", f"Authorization: Bearer recsys_{n}{'k' * 4000}"))
    ),
    "many-tokens": lambda s: s.ask(forever(lambda n: get("/v1/popular", f"Authorization: Bearer a{n}.{'b' * 3000}.c"))),
    "many-names": lambda s: s.ask(
        forever(
            lambda n: get(f"/{n}{'p' * 2000}", f"X-Request-ID: {n}", f"User-Agent: {n}", f"X-Forwarded-For: 10.{n}")
        )
    ),
    "answers-not-read": lambda s: s.ask(forever(lambda _: get("/openapi.json") * 8), 200, reads=False),
    "slow-readers": lambda s: s.hold(get("/docs/swagger-ui-bundle.js") * 4, 800, reads=False),
    "compressed-answers": lambda s: s.ask(forever(lambda _: get("/openapi.json", "Accept-Encoding: gzip"))),
    "garbage": lambda s: s.flood(b"", forever(lambda _: s.random.randbytes(4 * KIB))),
    "offers": lambda s: s.ask(
        forever(lambda n: get("/v1/popular", "Connection: Upgrade", f"Upgrade: {('h2c', 'websocket')[n % 2]}"))
    ),
    "methods": lambda s: s.ask(
        forever(lambda n: b"%b /v1/%d HTTP/1.1\r\nHost: x\r\n\r\n" % ((b"OPTIONS", b"PROPFIND", b"HEAD")[n % 3], n))
    ),
    "sign-in": lambda s: s.ask(
        forever(lambda n: POST.format(path="/dashboard/sign-in", n=20_000).encode() + b"%020000d" % n)
    ),
    "churn": churn,
}


class Watch(threading.Thread):
    """Notes the largest memory of a server, and how long an honest client waits."""

    def __init__(self, server: Server, key: str) -> None:
        super().__init__(daemon=True)
        self.most, self.slowest = 0.0, 0.0
        self._server, self._key, self._stop_it = server, key, threading.Event()

    def run(self) -> None:
        while not self._stop_it.wait(0.1):
            self.most = max(self.most, self._server.memory().rss)
            started = time.monotonic()
            connection = HTTPConnection("127.0.0.1", self._server.port, timeout=10)
            try:
                connection.request("GET", "/v1/popular", headers={"Authorization": f"Bearer {self._key}"})
                if connection.getresponse().status not in (200, 503):  # it may be told to come later
                    self.slowest = float("inf")
            except (OSError, HTTPException):
                self.slowest = float("inf")
            finally:
                connection.close()
            self.slowest = max(self.slowest, time.monotonic() - started)

    def stop(self) -> None:
        """End the thread."""
        self._stop_it.set()
        self.join()


def measure(server: Server, key: str, kind: str, seconds: float, before: float) -> Outcome:
    """Send one kind of input for some time; `before` is the memory after ordinary requests."""
    watch, sender = Watch(server, key), Sender(server.port, seconds, seed=len(kind))
    watch.start()
    try:
        KINDS[kind](sender)
    finally:
        watch.stop()
        sender.close()
    return Outcome(kind, watch.most - before, watch.slowest, sender.n_sent)


def warm_up(server: Server, key: str) -> None:
    """Send ordinary requests, so that what they need is in memory."""
    connection = HTTPConnection("127.0.0.1", server.port, timeout=10)
    for n in range(500):
        path = ("/v1/popular", f"/v1/users/u{n + 1:07}/recommendations", "/openapi.json", "/v1/none")[n % 4]
        connection.request("GET", path, headers={"Authorization": f"Bearer {key}"})
        connection.getresponse().read()
    connection.close()


def run(folder: Path, kinds: Sequence[str], seconds: float) -> list[Outcome]:
    """Measure some kinds on one server, one after another."""
    url = f"sqlite:///{folder / 'hostile.db'}"
    build(url, SIZE)
    engine = connect(url)
    _, key = create_key(engine, "honest", ["read"], actor="benchmark")
    engine.dispose()
    outcomes = []
    with serve_recsys(url, folder / "serve.log", {"RECSYS_RATE_LIMIT": "100000/second"}) as server:
        warm_up(server, key)
        before = server.memory().rss
        for kind in kinds:
            outcomes.append(measure(server, key, kind, seconds, before))
            one = outcomes[-1]
            line = f"{kind}: {one.grown:+.1f} MiB, honest client {one.slowest:.2f} s, {one.n_sent:,} pieces"
            sys.stdout.write(f"{line}{'' if one.passes else ', TOO MUCH'}\n")
            sys.stdout.flush()
            time.sleep(1)
    return outcomes


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the kinds of the command line and print what became of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0, help="of each kind")
    parser.add_argument("--only", metavar="KINDS", help=f"separated by commas: {', '.join(KINDS)}")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures to this file")
    options = parser.parse_args(arguments)
    kinds = options.only.split(",") if options.only else list(KINDS)
    if unknown := [kind for kind in kinds if kind not in KINDS]:
        parser.error(f"there is no kind {unknown[0]!r}")
    os.environ.pop("RECSYS_RATE_LIMIT", None)
    folder = Path(tempfile.mkdtemp(prefix="recsys-hostile-"))
    sys.stdout.write(f"{describe_machine()}; {options.seconds:g} s for each kind\n")
    try:
        outcomes = run(folder, kinds, options.seconds)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    worst = max(outcomes, key=lambda one: one.grown)
    sys.stdout.write(f"{len(outcomes)} kinds, at most {worst.grown:+.1f} MiB ({worst.kind})\n")
    if options.json:
        record = {one.kind: {"mib": round(one.grown, 1), "slowest": round(one.slowest, 3)} for one in outcomes}
        options.json.write_text(json.dumps(record, indent=1) + "\n")
    sys.exit(0 if all(one.passes for one in outcomes) else 1)


if __name__ == "__main__":
    main()
