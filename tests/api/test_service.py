"""What holds for every endpoint: health, problems, limits, request ids, packing, metrics, overload, a lost database."""

import contextlib
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import Engine

from recsys.database.engine import connect, writing
from tests.api.asking import as_json, check_problem, eventually, ids
from tests.api.conftest import Many, serving, url_of
from tests.conftest import add_known_rows

RATING = {"ratings": [{"user_id": "u1", "item_id": "b", "rating": 3}]}
BODY_ENDPOINTS = [
    ("POST", "/v1/ratings"),
    ("POST", "/v1/recommendations"),
    ("POST", "/v1/items/similar"),
    ("POST", "/v1/items"),
    ("PUT", "/v1/items/a"),
    ("POST", "/v1/models/1/publish"),
    ("POST", "/v1/models/rollback"),
]


def test_health(reader: httpx.Client) -> None:
    assert reader.get("/health/live").json() == {"status": "ok"}
    ready = {"status": "ready", "models": {"ranking": 1, "rating": 2}, "problem": None}
    assert reader.get("/health/ready").json() == ready


def test_unknown_paths_and_methods_are_problems_too(reader: httpx.Client) -> None:
    assert check_problem(reader.get("/v1/nothing"), 404, "/v1/nothing")["title"] == "Not found"
    check_problem(reader.get("/redoc"), 404, "/docs")
    check_problem(reader.get("/v1/popular/"), 404, "/v1/popular/")
    answer = reader.put("/v1/popular")
    check_problem(answer, 405, "PUT /v1/popular")
    assert answer.headers["allow"] == "GET, HEAD"
    assert reader.get("/v1/recommendations").headers["allow"] == "POST"


@pytest.mark.parametrize(
    "path",
    [
        "/health/live",
        "/health/ready",
        "/metrics",
        "/openapi.json",
        "/docs",
        "/v1/popular?by=count",
        "/v1/items",
        "/v1/items/a",
        "/v1/items/a/similar",
        "/v1/items/zzz",
        "/v1/models",
        "/v1/models/1",
        "/v1/users/s%2F1%20%C3%BC/recommendations",
        "/v1/users/u1/ratings",
        "/v1/users/u1/predictions?item_id=a",
        "/v1/nothing",
        "/v1/popular?n=0",
        "/v1/recommendations",
    ],
)
def test_head_is_answered_wherever_get_is(reader: httpx.Client, path: str) -> None:
    """The same status and headers, without the body; and the connection stays usable."""
    plain = {"accept-encoding": "identity"}
    got, head = reader.get(path, headers=plain), reader.head(path, headers=plain)
    assert head.content == b""
    assert head.status_code == got.status_code
    for name in ("content-type", "content-length", "allow", "retry-after"):
        if name != "content-length" or not path.startswith("/metrics"):
            assert head.headers.get(name) == got.headers.get(name)
    assert reader.get("/health/live").json() == {"status": "ok"}


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory, migrated_sqlite: Path) -> Iterator[httpx.Client]:
    """A server that reads bodies of 1 KiB at most."""
    path = tmp_path_factory.mktemp("small") / "small.db"
    path.write_bytes(migrated_sqlite.read_bytes())
    engine = connect(f"sqlite:///{path}")
    add_known_rows(engine)
    engine.dispose()
    with serving(f"sqlite:///{path}", max_body_kib=1) as client:
        yield client


class TestBodies:
    @pytest.mark.parametrize(("method", "url"), BODY_ENDPOINTS)
    def test_too_large(self, small: httpx.Client, method: str, url: str) -> None:
        check_problem(small.request(method, url, **as_json(b" " * 1025)), 413, "1,024 bytes")
        in_pieces = (b" " * 100 for _ in range(11))
        streamed = small.request(method, url, content=in_pieces, headers={"content-type": "application/json"})
        check_problem(streamed, 413, "1,024 bytes")

    def test_as_large_as_may_be(self, small: httpx.Client) -> None:
        content = b'{"ratings": [{"user_id": "u1", "item_id": "b", "rating": 3}]}'
        assert small.post("/v1/ratings", **as_json(content.ljust(1024))).status_code == 200

    @pytest.mark.parametrize(("method", "url"), BODY_ENDPOINTS)
    @pytest.mark.parametrize("kind", ["text/plain", "application/xml", "application/x-www-form-urlencoded", "json", ""])
    def test_wrong_content_type(self, reader: httpx.Client, method: str, url: str, kind: str) -> None:
        answer = reader.request(method, url, content=b"{}", headers={"content-type": kind} if kind else {})
        check_problem(answer, 415, "application/json")

    @pytest.mark.parametrize(
        "kind", ["application/json", "Application/JSON; charset=utf-8", "application/vnd.recsys+json"]
    )
    def test_content_types_of_json(self, reader: httpx.Client, kind: str) -> None:
        answer = reader.post("/v1/recommendations", content=b'{"users": [{}]}', headers={"content-type": kind})
        assert answer.status_code == 200

    @pytest.mark.parametrize(("method", "url"), BODY_ENDPOINTS)
    @pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"{'a': 1}", b"{} {}", b"[" * 50_000])
    def test_wrong_json(self, reader: httpx.Client, method: str, url: str, content: bytes) -> None:
        body = check_problem(reader.request(method, url, **as_json(content)), 422, "not JSON")
        assert [error["where"] for error in body["errors"]] == ["body"]


class TestRequestIds:
    @pytest.mark.parametrize("given", ["abc-123", "a" * 128, "01J:x/y+z=._-"])
    def test_a_clients_own_is_sent_back(self, reader: httpx.Client, given: str) -> None:
        for url in ("/v1/popular", "/v1/nothing", "/health/live"):
            assert reader.get(url, headers={"x-request-id": given}).headers["x-request-id"] == given

    @pytest.mark.parametrize("given", [b"", b"a b", b"a" * 129, "ü".encode(), b"{}", b'"', b"a\tb"])
    def test_an_odd_one_is_replaced(self, reader: httpx.Client, given: bytes) -> None:
        sent_back = reader.get("/v1/popular", headers=[(b"x-request-id", given)]).headers["x-request-id"]
        assert sent_back.encode() != given
        assert sent_back

    def test_each_has_its_own(self, reader: httpx.Client) -> None:
        answers = [reader.get("/v1/popular") for _ in range(20)] + [reader.get("/v1/nothing")]
        assert len({answer.headers["x-request-id"] for answer in answers}) == 21


class TestPacking:
    URL = "/v1/popular?by=count&n=1000"

    def test_for_who_takes_it(self, many: Many) -> None:
        packed = many.client.get(self.URL, headers={"accept-encoding": "gzip"})
        plain = many.client.get(self.URL, headers={"accept-encoding": "identity"})
        assert packed.headers["content-encoding"] == "gzip"
        assert "content-encoding" not in plain.headers
        assert packed.json() == plain.json()
        assert int(packed.headers["content-length"]) < len(plain.content) / 2
        assert "accept-encoding" in packed.headers["vary"].lower()

    def test_what_is_short_stays_as_it_is(self, many: Many) -> None:
        answer = many.client.get("/health/live", headers={"accept-encoding": "gzip"})
        assert "content-encoding" not in answer.headers


class TestMetrics:
    def samples(self, client: httpx.Client) -> dict[tuple[str, tuple[str, ...]], float]:
        answer = client.get("/metrics")
        assert answer.headers["content-type"].startswith("text/plain")
        families = list(text_string_to_metric_families(answer.text))
        assert {family.name for family in families} >= {"recsys_requests", "recsys_request_seconds"}
        return {
            (sample.name, tuple(sample.labels.values())): sample.value
            for family in families
            for sample in family.samples
        }

    def test_requests_are_counted_by_route_and_status(self, client: httpx.Client) -> None:
        route = "/v1/users/{user_id}/recommendations"
        for user_id in ("u1", "u2", "x%2Fy"):
            client.get(f"/v1/users/{user_id}/recommendations")
        client.get("/v1/users/u1/recommendations?n=0")
        client.get("/v1/nothing")
        client.post("/v1/ratings", json=RATING)
        found = self.samples(client)
        counted = {labels: n for (name, labels), n in found.items() if name == "recsys_requests_total"}
        assert counted["GET", route, "200"] == 3
        assert counted["GET", route, "422"] == 1
        assert counted["GET", "none", "404"] == 1
        assert counted["POST", "/v1/ratings", "200"] == 1
        assert not any("u1" in label for labels in counted for label in labels)  # ids would be numbers without end
        assert found["recsys_request_seconds_count", ("GET", route)] == 4
        assert found["recsys_model_version", ("ranking",)] == 1
        assert found["recsys_model_version", ("rating",)] == 2
        assert found["recsys_degraded", ()] == 0
        assert found["recsys_requests_in_progress", ()] == 1  # this one

    def test_they_grow(self, client: httpx.Client) -> None:
        key = ("recsys_requests_total", ("GET", "/metrics", "200"))
        first = self.samples(client).get(key, 0)
        assert self.samples(client)[key] == first + 1


@pytest.mark.parametrize("engine", ["sqlite"], indirect=True)
def test_overload_is_told_at_once(known_engine: Engine) -> None:
    """One request at a time: while a post waits for another writer, all others are told to come back."""
    with serving(url_of(known_engine), max_requests=1) as client, ThreadPoolExecutor(1) as pool:
        url = str(client.base_url)
        with writing(known_engine):
            waiting = pool.submit(httpx.post, f"{url}/v1/ratings", json=RATING, timeout=30)
            eventually(lambda: httpx.get(f"{url}/v1/popular").status_code == 503)
            started = time.monotonic()
            answer = client.get("/v1/users/u1/recommendations")
            assert time.monotonic() - started < 0.5
            assert client.get("/health/live").status_code == 200  # answered once the connection is read again
            assert time.monotonic() - started > 0.3
            check_problem(answer, 503, "the server is handling 1 requests")
            assert int(answer.headers["retry-after"]) > 0
            assert answer.headers["x-request-id"]
            assert client.get("/health/live").status_code == 200
            assert client.get("/health/ready").status_code == 200
            assert client.get("/metrics").status_code == 200
        assert waiting.result().status_code == 200  # what was begun is ended
        assert ids(client.get("/v1/users/u1/recommendations"))


@pytest.mark.parametrize("engine", ["sqlite"], indirect=True)
def test_clients_that_hang_up_leave_nothing_behind(known_engine: Engine) -> None:
    with serving(url_of(known_engine), max_requests=4) as client:
        url = str(client.base_url)

        def hang_up() -> None:
            for _ in range(10):
                with contextlib.suppress(httpx.HTTPError):
                    httpx.get(f"{url}/v1/users/u1/recommendations", timeout=0.001)

        threads = [threading.Thread(target=hang_up) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        eventually(lambda: client.get("/v1/users/u1/recommendations").status_code == 200)
        eventually(lambda: "recsys_requests_in_progress 1.0" in client.get("/metrics").text)


@pytest.mark.parametrize("engine", ["sqlite"], indirect=True)
def test_promise_6_a_file_that_was_removed_is_noticed(known_engine: Engine) -> None:
    path = Path(str(known_engine.url.database))
    with serving(f"sqlite:///{path}") as client:
        assert client.get("/health/ready").json()["status"] == "ready"
        path.rename(path.with_suffix(".away"))
        eventually(lambda: client.get("/health/ready").json()["status"] == "degraded", 5)
        problem = client.get("/health/ready").json()["problem"]
        assert "recsys init" in problem
        assert str(path.parent) not in problem
        assert "recsys_degraded 1.0" in client.get("/metrics").text
        assert ids(client.get("/v1/items/a/similar", params={"n": 1})) == ["b"]
