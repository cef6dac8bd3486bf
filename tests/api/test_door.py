"""What a connection may do before a request of it counts: slow, half-open, endless and too many."""

import asyncio
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import httpx
import pytest
import uvicorn
from sqlalchemy import Engine
from uvicorn.server import ServerState

from api import body, door
from api.door import (
    MAX_HEAD_BYTES,
    MAX_HEADERS,
    MAX_PIPELINED,
    MAX_WAITING_BYTES,
    READ_SECONDS,
    WAIT_SECONDS,
    Door,
    DoorProtocol,
)
from tests.api.asking import check_problem
from tests.api.conftest import serving, url_of

pytestmark = pytest.mark.parametrize("engine", ["sqlite"], indirect=True)

GET = b"GET /v1/popular HTTP/1.1\r\nhost: localhost\r\n"
POST = b"POST /v1/ratings HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
RATING = b'{"ratings":[{"user_id":"u1","item_id":"b","rating":3}]}'


@pytest.fixture
def service(known_engine: Engine, monkeypatch: pytest.MonkeyPatch) -> Iterator[httpx.Client]:
    """A service of two places that is soon tired of waiting."""
    monkeypatch.setattr(door, "SWEEP_SECONDS", 0.05)
    with serving(url_of(known_engine), max_requests=2) as client:
        yield client


def connected(client: httpx.Client, sent: bytes = b"") -> socket.socket:
    connection = socket.create_connection((client.base_url.host, client.base_url.port or 80), timeout=5)
    connection.sendall(sent)
    return connection


def connected_that_sends(client: httpx.Client, sent: bytes) -> socket.socket:
    """A connection over which as much was sent as the service took."""
    connection = connected(client)
    with suppress(ConnectionError):
        connection.sendall(sent)
    return connection


def all_of(connection: socket.socket) -> bytes:
    """All that the service sends until it closes the connection."""
    received = b""
    with suppress(ConnectionError):
        while part := connection.recv(65536):
            received += part
    connection.close()
    return received


def test_a_header_without_end_is_cut_off(service: httpx.Client) -> None:
    connection = connected(service, GET + b"x: ")
    n_sent = 0
    with suppress(ConnectionError):
        while n_sent < 50 * MAX_HEAD_BYTES:
            n_sent += connection.send(b"x" * 4096)
    assert n_sent < 50 * MAX_HEAD_BYTES  # what the system holds on its way included
    connection.close()
    long = b"x: " + b"x" * (MAX_HEAD_BYTES + 1000)
    assert all_of(connected(service, GET + long)).startswith(b"HTTP/1.1 431 ")
    fits = b"x: " + b"x" * (MAX_HEAD_BYTES // 2) + b"\r\nconnection: close\r\n\r\n"
    assert all_of(connected(service, GET + fits)).startswith(b"HTTP/1.1 200 ")


def test_headers_are_counted(service: httpx.Client) -> None:
    headers = b"".join(b"x-%d: 1\r\n" % n for n in range(MAX_HEADERS))
    assert all_of(connected(service, GET + headers + b"\r\n")).startswith(b"HTTP/1.1 431 ")
    assert all_of(connected(service, GET + headers + b"y: 1\r\nz: 1\r\n")).startswith(
        b"HTTP/1.1 431 "
    )  # before their end comes


def test_half_open_connections_are_closed(service: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(door, "HEAD_SECONDS", 0.3)
    for has_asked, sent in [(False, b""), (False, b"G"), (False, GET), (False, b"\r\n"), (True, b"\r\n"), (True, GET)]:
        connection = connected(service)
        if has_asked:
            connection.sendall(GET + b"\r\n")
            while not connection.recv(65536).endswith(b"}"):  # the answer's last byte
                pass
        started = time.monotonic()
        connection.sendall(sent)
        assert all_of(connection).startswith(b"HTTP/1.1 408 "), (has_asked, sent)
        assert time.monotonic() - started < 4


def test_bodies_that_do_not_come_hold_no_place(service: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    waiting = [connected(service, POST % 100) for _ in range(10)]
    slow = connected(service, POST % len(RATING) + RATING[:20])
    time.sleep(0.1)
    for _ in range(5):
        assert service.get("/v1/popular").status_code == 200
    slow.sendall(RATING[20:])
    assert slow.recv(65536).startswith(b"HTTP/1.1 200 ")
    slow.close()
    monkeypatch.setattr(door, "BODY_SECONDS", 0.1)
    for connection in waiting:
        assert b" 200 " not in all_of(connection)


def test_answers_that_are_not_read_hold_no_place(service: httpx.Client) -> None:
    file = GET.replace(b"/v1/popular", b"/docs/swagger-ui-bundle.js") + b"\r\n"
    holding = []
    for _ in range(5):
        connection = socket.socket()
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        connection.connect((service.base_url.host, service.base_url.port))
        connection.sendall(file * 8)
        holding.append(connection)
    time.sleep(0.3)
    for _ in range(5):
        assert service.get("/v1/popular").status_code == 200
    for connection in holding:
        connection.close()


def test_open_answers_are_made_once(service: httpx.Client) -> None:
    """Who asks for them needs no key: written and compressed for each request they would take the processor."""
    for path in ("/openapi.json", "/docs/swagger-ui-bundle.js", "/docs/start.js"):
        plain, packed = (service.get(path, headers={"accept-encoding": each}) for each in ("identity", "gzip"))
        assert plain.content == packed.content
        assert ("content-encoding" in plain.headers, packed.headers["content-encoding"]) == (False, "gzip")
        assert plain.headers["vary"] == packed.headers["vary"] == "accept-encoding"
        assert int(packed.headers["content-length"]) <= len(plain.content) + 30
        started = time.process_time()
        for _ in range(20):
            assert service.get(path, headers={"accept-encoding": "gzip"}).status_code == 200
        assert time.process_time() - started < 1


def test_bodies_that_are_coming_are_bounded_together(service: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(body, "MAX_BODIES_BYTES", 0)
    part = b'{"ratings":[' + b" " * 60_000
    size = 4 << 20
    holding = []
    for _ in range(69):
        holding.append(connected(service, POST % size + part))
    time.sleep(0.3)
    refused = connected(service, POST % size + part)
    assert refused.recv(65536).startswith(b"HTTP/1.1 503 ")
    for connection in [*holding, refused]:
        connection.close()
    deadline = time.monotonic() + 3
    while service.post("/v1/ratings", content=RATING, headers={"content-type": "application/json"}).status_code != 200:
        assert time.monotonic() < deadline


def test_requests_in_one_piece_are_bounded(service: httpx.Client) -> None:
    few = (GET + b"\r\n") * (MAX_PIPELINED - 1) + GET + b"connection: close\r\n\r\n"
    assert all_of(connected(service, few)).count(b"HTTP/1.1 200 ") == MAX_PIPELINED
    assert all_of(connected(service, (GET + b"\r\n") * 2000)).count(b"HTTP/1.1 200 ") <= MAX_PIPELINED
    assert service.get("/v1/popular").status_code == 200


def test_connections_of_one_address_are_counted(monkeypatch: pytest.MonkeyPatch, engine: Engine) -> None:
    monkeypatch.setenv("RECSYS_MAX_CONNECTIONS", "2")
    loop = asyncio.new_event_loop()
    counted = Door(ServerState(), loop)
    assert [counted.admit("10.0.0.1") for _ in range(3)] == [True, True, False]
    assert counted.admit("10.0.0.2")
    assert all(counted.admit("127.0.0.1") for _ in range(5))
    counted.leave("10.0.0.1")
    counted.leave("10.0.0.1")
    assert counted.admit("10.0.0.1")
    loop.close()


class Wire(asyncio.Transport):
    """A transport that notes what is written and whether it was closed."""

    def __init__(self) -> None:
        super().__init__()
        self.written, self.n_unread, self.is_closed = b"", 0, False

    def write(self, data: Any) -> None:
        self.written += bytes(data)

    def get_write_buffer_size(self) -> int:
        return self.n_unread

    def is_closing(self) -> bool:
        return self.is_closed

    def close(self) -> None:
        self.is_closed = True

    abort = close

    def pause_reading(self) -> None:
        pass

    resume_reading = pause_reading


@contextmanager
def protocol_on(wire: Wire) -> Iterator[DoorProtocol]:
    """A connection whose requests are answered at once, before their bodies are read."""

    async def app(_scope: Any, _receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 401, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body", "body": b""})

    loop = asyncio.new_event_loop()
    config = uvicorn.Config(app, log_config=None, timeout_keep_alive=0)
    protocol = DoorProtocol(config, ServerState(), {}, loop)
    protocol.connection_made(wire)
    yield protocol
    loop.run_until_complete(asyncio.sleep(0.02))
    loop.close()


def test_a_connection_that_was_answered_before_its_body_came_is_closed_when_idle(engine: Engine) -> None:
    wire = Wire()
    with protocol_on(wire) as protocol:
        protocol.timeout_keep_alive = 1000
        protocol.data_received(POST % 3)
        protocol.loop.run_until_complete(asyncio.sleep(0.02))
        assert wire.written.startswith(b"HTTP/1.1 401 ")
        protocol.timeout_keep_alive = 0
        protocol.data_received(b"abc")
        assert not wire.is_closed
    assert wire.is_closed


def test_bytes_of_the_request_before_are_not_of_a_head(engine: Engine) -> None:
    wire = Wire()
    with protocol_on(wire) as protocol:
        protocol.data_received(POST % (2 * MAX_HEAD_BYTES) + b" " * (2 * MAX_HEAD_BYTES) + GET)
        assert not wire.is_closed
        protocol.data_received(b"x: " + b"x" * MAX_HEAD_BYTES)
        assert wire.is_closed


def test_a_client_that_reads_slowly_gets_all_of_its_answer(engine: Engine) -> None:
    wire = Wire()
    with protocol_on(wire) as protocol:
        protocol.since = None
        protocol.pause_writing()
        for now, wire.n_unread in [(1.0, 900_000), (1.0 + READ_SECONDS, 700_000), (2.0 + READ_SECONDS, 700_000)]:
            protocol.close_if_late(now)
        protocol.close_if_late(0.5 + 2 * READ_SECONDS)
        assert not wire.is_closed
        protocol.close_if_late(1.5 + 2 * READ_SECONDS)
        assert wire.is_closed


def test_an_offer_of_another_protocol_is_declined_and_the_request_is_whole(service: httpx.Client) -> None:
    offer = b"host: localhost\r\nUpgrade: %b\r\nConnection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AAMAAABk"
    for protocol in (b"h2c", b"websocket"):
        first = POST.replace(b"host: localhost", offer % protocol) % len(RATING) + RATING
        last = GET.replace(b"host: localhost", offer % protocol) + b"\r\n" + GET + b"connection: close\r\n\r\n"
        assert all_of(connected(service, first + last)).count(b"HTTP/1.1 200 ") == 3
        chunked = first.replace(b"content-length: %d" % len(RATING), b"transfer-encoding: chunked")
        head, body = chunked.split(b"\r\n\r\n")
        connection = connected(service, head + b"\r\n\r\n")
        time.sleep(0.05)
        connection.sendall(b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body) + last)
        assert all_of(connection).count(b"HTTP/1.1 200 ") == 3
    assert all_of(connected(service, b"CONNECT localhost:80 HTTP/1.1\r\nhost: localhost\r\n\r\n")).startswith(
        b"HTTP/1.1 4"
    )


def test_reads_are_refused_unread_while_the_processor_is_busy(
    known_engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(url_of(known_engine)) as client:
        assert client.get("/v1/popular").status_code == 200
        with monkeypatch.context() as patched:
            patched.setattr(door, "LATE_SECONDS", -1.0)
            patched.setattr(door, "MAX_ACTIVE", 0)
            started = time.monotonic()
            answer = client.get("/v1/popular")
            check_problem(answer, 503, "cannot answer more requests")
            assert WAIT_SECONDS < time.monotonic() - started < WAIT_SECONDS + 0.5
            assert answer.headers["x-content-type-options"] == "nosniff"
            with httpx.Client(base_url=client.base_url) as other:
                started = time.monotonic()
                assert other.get("/health/ready").status_code == 200
                posted = {"ratings": [{"user_id": "u1", "item_id": "b", "rating": 3}]}
                assert other.post("/v1/ratings", json=posted).status_code == 200
                metrics = other.get("/metrics").text
                assert time.monotonic() - started < WAIT_SECONDS
        assert "recsys_requests_shed_total 1.0" in metrics
        assert 'recsys_lists_total{source="popularity"} 1.0' in metrics
        assert "recsys_breaker_open 0.0" in metrics
        assert client.get("/v1/popular").status_code == 200  # the connection goes on


def test_reads_that_wait_are_answered_in_their_order_when_there_is_room(engine: Engine) -> None:
    answered: list[bytes] = []

    async def app(scope: Any, _receive: Any, send: Any) -> None:
        answered.append(scope["raw_path"])
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body", "body": b""})

    loop, state, wires = asyncio.new_event_loop(), ServerState(), [Wire() for _ in range(6)]
    config = uvicorn.Config(app, log_config=None)
    protocols = [DoorProtocol(config, state, {}, loop) for _ in wires]
    for protocol, wire in zip(protocols, wires, strict=True):
        protocol.connection_made(wire)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(door, "LATE_SECONDS", -1.0)
        patched.setattr(door, "MAX_ACTIVE", 0)
        for n, protocol in enumerate(protocols):
            protocol.data_received(GET.replace(b"popular", b"%d?x=/health/" % n) + b"\r\n")
        protocols[1].data_received(GET.replace(b"popular", b"1b") + b"\r\n")  # it keeps its place
        protocols[2].data_received(b"x" * MAX_WAITING_BYTES)  # too much to wait
        wires[3].close()
        protocols[3].connection_lost(None)
        protocols[5].shutdown()  # a server that stops answers what it has
        loop.run_until_complete(asyncio.sleep(0.1))
        assert answered == [b"/v1/2", b"/v1/5"]
        assert wires[5].is_closed
        patched.setattr(door, "MAX_ACTIVE", 1)
        loop.run_until_complete(asyncio.sleep(0.2))
    assert answered == [b"/v1/2", b"/v1/5", b"/v1/0", b"/v1/1", b"/v1/1b", b"/v1/4"]
    for protocol in protocols:
        if protocol.timeout_keep_alive_task is not None:
            protocol.timeout_keep_alive_task.cancel()
    loop.close()


def test_bodies_of_tiny_chunks_are_refused(service: httpx.Client) -> None:
    """Each byte of such a body takes as long as a large chunk: one client kept all others waiting for seconds."""
    head = POST.replace(b"content-length: %d", b"transfer-encoding: chunked")
    sent = head + b"1\r\n \r\n" * 100_000
    answer = all_of(connected_that_sends(service, sent))
    assert b" 200 " not in answer
    few = head + b"".join(b"%x\r\n%b\r\n" % (1, RATING[n : n + 1]) for n in range(len(RATING))) + b"0\r\n\r\n"
    long = head + b"20\r\n" + b" " * 32 + b"\r\n"
    long += (b"20\r\n" + b" " * 32 + b"\r\n") * 5000 + b"%x\r\n%b\r\n0\r\n\r\n" % (len(RATING), RATING)
    for sent in (few, long):
        assert all_of(connected(service, sent + GET + b"connection: close\r\n\r\n")).count(b"HTTP/1.1 200 ") == 2


def test_a_client_that_sends_no_more_gets_its_answers(service: httpx.Client) -> None:
    """It ends its side of the connection after the request, as `nc` and some health checks do."""
    post = POST % len(RATING) + RATING
    for sent, n_answers in [(GET + b"\r\n", 1), (post, 1), (post + GET + b"\r\n", 2), (post[:-1], 0), (GET, 0)]:
        connection = connected(service, sent)
        connection.shutdown(socket.SHUT_WR)
        started = time.monotonic()
        assert all_of(connection).count(b"HTTP/1.1 200 ") == n_answers, sent
        assert time.monotonic() - started < 4


def test_a_connection_that_was_refused_is_closed_when_idle(engine: Engine) -> None:
    wire = Wire()
    with protocol_on(wire) as protocol, pytest.MonkeyPatch.context() as patched:
        patched.setattr(door, "LATE_SECONDS", -1.0)
        patched.setattr(door, "MAX_ACTIVE", 0)
        patched.setattr(door, "WAIT_SECONDS", 0.01)
        protocol.data_received(GET + b"\r\n")
        protocol.loop.run_until_complete(asyncio.sleep(0.1))
        assert wire.written.startswith(b"HTTP/1.1 503 ")
    assert wire.is_closed
