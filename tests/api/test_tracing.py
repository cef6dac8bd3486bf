"""Traces of requests, read by a collector on a socket."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from sqlalchemy import Engine

from api.tracing import CLOSE_SECONDS
from tests.api.conftest import serving, url_of
from tests.conftest import add_known_model, add_known_rows, publish

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


@contextmanager
def collecting(hangs: bool = False) -> Iterator[tuple[str, list[bytes]]]:
    """A collector: its address, and the bodies that it was sent."""
    bodies: list[bytes] = []
    ended = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            bodies.append(self.rfile.read(int(self.headers["content-length"])))
            if hangs:
                ended.wait(30)
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", bodies
    finally:
        ended.set()
        server.shutdown()
        server.server_close()


@pytest.fixture
def url(sqlite_engine: Engine) -> str:
    add_known_rows(sqlite_engine)
    publish(sqlite_engine, add_known_model(sqlite_engine, "ranking"), "known")
    return url_of(sqlite_engine)


def test_a_span_has_the_route_and_the_status_and_no_user(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with collecting() as (address, bodies):
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", address)
        monkeypatch.setenv("OTEL_SERVICE_NAME", "lists")
        with serving(url, traces=True) as client:
            headers = {"traceparent": f"00-{TRACE}-{PARENT}-01", "x-request-id": "mine"}
            assert client.get("/v1/users/u1/recommendations", headers=headers).status_code == 200
            unsampled = {"traceparent": f"00-{TRACE}-{PARENT}-00"}
            assert client.get("/v1/popular", headers=unsampled).status_code == 200
            assert client.get("/v1/users/somebody/nothing", headers={"traceparent": "damaged"}).status_code == 404
    assert b"u1" not in b"".join(bodies)
    assert b"somebody" not in b"".join(bodies)
    sent = [ExportTraceServiceRequest.FromString(body) for body in bodies]
    found = [part for request in sent for part in request.resource_spans]
    resource = {each.key: each.value.string_value for each in found[0].resource.attributes}
    assert resource["service.name"] == "lists"
    spans = {span.name: span for part in found for scope in part.scope_spans for span in scope.spans}
    assert spans.keys() == {"GET /v1/users/{user_id}/recommendations", "GET none"}
    span = spans["GET /v1/users/{user_id}/recommendations"]
    assert (span.trace_id.hex(), span.parent_span_id.hex()) == (TRACE, PARENT)
    assert 0 < span.end_time_unix_nano - span.start_time_unix_nano < 10 * 10**9
    attributes = {each.key: each.value for each in span.attributes}
    assert attributes["http.response.status_code"].int_value == 200
    assert attributes["recsys.request_id"].string_value == "mine"
    assert spans["GET none"].trace_id.hex() != TRACE


def test_a_collector_that_hangs_delays_no_request_and_no_stop(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with collecting(hangs=True) as (address, _):
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", address)
        monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "10")
        with serving(url, traces=True) as client:
            started = time.monotonic()
            for _ in range(20):
                assert client.get("/v1/popular").status_code == 200
            assert time.monotonic() - started < 5
            started = time.monotonic()
        assert time.monotonic() - started < CLOSE_SECONDS + 5
