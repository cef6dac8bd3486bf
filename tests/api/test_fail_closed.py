"""Promise 9, access fails closed: before the keys are read, while the database is away, and when it was replaced."""

import random
import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import Connection, Engine, text

from api import access
from api.access import DatabaseWatch
from api.app import create_app
from recsys.database.clock import now_ms
from recsys.database.engine import connect, reading
from recsys.database.keys import KeyRing, create_key, read_keyring
from recsys.errors import DatabaseError
from recsys.settings import Settings
from tests.api.asking import check_problem, eventually
from tests.api.conftest import Switch, serving, url_of
from tests.conftest import add_known_model, add_known_rows

REQUESTS = [
    ("GET", "/v1/popular?by=count"),
    ("GET", "/v1/users/u1/recommendations"),
    ("GET", "/v1/models"),
    ("GET", "/metrics"),
    ("GET", "/openapi.json"),
    ("GET", "/nothing"),
    ("PUT", "/v1/items/a"),
    ("DELETE", "/v1/users/u1"),
    ("POST", "/v1/models/1/publish"),
    ("POST", "/v1/ratings"),
    ("POST", "/v1/items"),
    ("POST", "/v1/recommendations"),
    ("POST", "/v1/models/rollback"),
]
DASHBOARD = [("GET", "/dashboard/"), ("GET", "/dashboard/models")]
ADMIN = [(method, path) for method, path in REQUESTS if path.startswith("/v1/")]
BODIES = {"PUT": {"title": "x"}, "POST": {"reason": "x"}, "GET": None, "DELETE": None}


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


ORDERS = ["there", "comes later", "goes and comes back", "comes, goes and comes back"]


@pytest.mark.parametrize(
    "starts", [range(5), pytest.param(range(8, 48), marks=pytest.mark.long)], ids=["short", "long"]
)
def test_promise_9_no_request_without_a_key_passes_in_any_order_of_starts(
    switch: Switch, monkeypatch: pytest.MonkeyPatch, starts: range
) -> None:
    """Server and database start in every order, and requests arrive all the time. With its key a request passes."""
    _, key = create_key(switch.engine, "ops", ["admin"], actor="test")
    monkeypatch.setattr(access, "START_SECONDS", 0.05)
    passed = []
    for start in starts:
        draw, order = random.Random(start), ORDERS[start % len(ORDERS)]
        steps = {
            "there": [],
            "comes later": [switch.on],
            "goes and comes back": [switch.off, switch.on],
            "comes, goes and comes back": [switch.on, switch.off, switch.on],
        }[order]
        if len(steps) % 2:
            switch.off()
        with serving(url_of(switch.engine), refresh_seconds=0.02) as client:

            def change(steps: list[Callable[[], None]] = steps, draw: random.Random = draw) -> None:
                for step in steps:
                    time.sleep(draw.uniform(0.0, 0.1))
                    step()

            changing = threading.Thread(target=change)
            changing.start()
            n_left = 20
            while n_left or changing.is_alive():
                method, path = draw.choice(REQUESTS)
                answer = client.request(method, path, json=BODIES[method])
                allowed = {401, 503} if path.startswith(("/v1/", "/metrics")) else {200, 404, 503}
                if answer.status_code not in allowed:
                    passed.append((start, order, method, path, answer.status_code))
                n_left = max(n_left - 1, 0)
            changing.join()
            assert client.get("/health/live").status_code == 200
            url = "/v1/popular?by=count"
            eventually(lambda: client.get(url, headers=bearer(key)).status_code == 200, 10)  # noqa: B023
            check_problem(client.get(url), 401, "key")
    assert passed == []


def test_promise_9_before_the_keys_are_read_everything_but_health_is_503(switch: Switch) -> None:
    _, key = create_key(switch.engine, "ops", ["admin"], actor="test")
    switch.off()
    with serving(url_of(switch.engine)) as client:
        for method, path in REQUESTS + DASHBOARD:
            for headers in ({}, bearer(key)):
                answer = client.request(method, path, json=BODIES[method], headers=headers)
                check_problem(answer, 503, "database")
        assert client.get("/health/live").status_code == 200
        check_problem(client.get("/health/ready"), 503, "database")
        switch.on()
        eventually(lambda: client.get("/v1/popular?by=count", headers=bearer(key)).status_code == 200, 10)
        check_problem(client.get("/v1/popular?by=count"), 401, "key")


def test_promise_9_with_the_database_gone_the_last_keys_serve_reads_for_ten_minutes(
    switch: Switch, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, key = create_key(switch.engine, "ops", ["admin"], actor="test")
    with serving(url_of(switch.engine)) as client:
        url = "/v1/popular?by=count"
        assert client.get(url, headers=bearer(key)).status_code == 200
        switch.off()
        eventually(lambda: client.get("/health/ready").json()["status"] == "degraded", 10)
        assert client.get(url, headers=bearer(key)).status_code == 200
        check_problem(client.get(url), 401, "key")
        check_problem(client.put("/v1/items/a", json={}, headers=bearer(key)), 503, "database")
        check_problem(client.delete("/v1/users/u1", headers=bearer(key)), 503, "database")
        real = time.monotonic
        monkeypatch.setattr(access.time, "monotonic", lambda: real() + 590)
        assert client.get(url, headers=bearer(key)).status_code == 200
        check_problem(client.put("/v1/items/a", json={}, headers=bearer(key)), 503, "cannot be checked")
        monkeypatch.setattr(access.time, "monotonic", lambda: real() + 601)
        check_problem(client.get(url, headers=bearer(key)), 503, "cannot be checked")
        check_problem(client.get("/v1/users/u1/recommendations"), 503, "cannot be checked")
        monkeypatch.undo()
        switch.on()
        eventually(lambda: client.put("/v1/items/a", json={}, headers=bearer(key)).status_code == 200, 10)


def test_promise_9_a_key_expires_on_time_while_the_database_is_gone(
    switch: Switch, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, key = create_key(switch.engine, "ops", ["read"], actor="test")
    expires_at = now_ms() + 2000

    def with_expiry(connection: Connection) -> KeyRing:
        ring = read_keyring(connection)
        return replace(
            ring, by_hash={text: replace(known, expires_at=expires_at) for text, known in ring.by_hash.items()}
        )

    monkeypatch.setattr(access, "read_keyring", with_expiry)
    with serving(url_of(switch.engine)) as client:
        assert client.get("/v1/popular?by=count", headers=bearer(key)).status_code == 200
        switch.off()
        eventually(lambda: client.get("/health/ready").json()["status"] == "degraded", 10)
        eventually(lambda: client.get("/v1/popular?by=count", headers=bearer(key)).status_code == 401, 10)
        assert now_ms() >= expires_at


@pytest.mark.parametrize("engine", ["sqlite"], indirect=True)
def test_a_service_that_needed_keys_does_not_open_with_another_database(
    switch: Switch, migrated_sqlite: Path, tmp_path: Path
) -> None:
    create_key(switch.engine, "ops", ["admin"], actor="test")
    path, other = Path(str(switch.engine.url.database)), tmp_path / "other.db"
    shutil.copy(migrated_sqlite, other)
    engine = connect(f"sqlite:///{other}")
    add_known_rows(engine)
    add_known_model(engine, "ranking")
    engine.dispose()
    with serving(f"sqlite:///{path}") as client:
        check_problem(client.get("/v1/popular?by=count"), 401, "key")
        switch.off()
        other.rename(path)
        eventually(lambda: client.get("/health/ready").status_code == 503, 10)  # it has no live version
        for _ in range(20):
            check_problem(client.get("/v1/popular?by=count"), 401, "key")
            check_problem(client.delete("/v1/users/u1"), 401, "key")
            time.sleep(0.02)
        path.unlink()


@pytest.mark.parametrize("engine", ["sqlite"], indirect=True)
def test_no_request_creates_the_database_file(tmp_path: Path, engine: Engine) -> None:
    path = tmp_path / "missing.db"
    with serving(f"sqlite:///{path}") as client:
        for method, url in REQUESTS:
            check_problem(client.request(method, url, json=BODIES[method]), 503, "recsys init")
        check_problem(client.get("/health/ready"), 503, "recsys init")
        time.sleep(0.2)
        assert not path.exists()
        shutil.copy(str(engine.url.database), path)
        eventually(lambda: client.get("/v1/popular?by=count").status_code == 200, 10)


@pytest.mark.parametrize("engine", ["sqlite"], indirect=True)
@pytest.mark.parametrize("first", [0, 10, 100, 4096, 5000, 20_480, -4096, -1])
def test_a_database_file_that_is_copied_slowly(tmp_path: Path, engine: Engine, first: int) -> None:
    # The server opens the file while it is empty or half there. It writes nothing into it, and keeps no page of it.
    engine.dispose()  # the last connection moves the log into the file
    content = Path(str(engine.url.database)).read_bytes()
    path = tmp_path / "missing.db"
    with serving(f"sqlite:///{path}") as client:
        with path.open("wb", buffering=0) as copy:
            for piece in (content[:first], content[first:]):
                copy.write(piece)
                written = copy.tell()
                deadline = time.monotonic() + 0.3
                while written < len(content) and time.monotonic() < deadline:
                    client.get("/v1/popular?by=count")
                    assert path.read_bytes() == content[:written]
                    time.sleep(0.01)
        eventually(lambda: client.get("/v1/popular?by=count").status_code == 200, 10)
        assert path.read_bytes() == content


class TestWatch:
    def test_a_database_that_hangs_does_not_hold_up_the_start(
        self, known_engine: Engine, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        released = threading.Event()

        def hanging(*_: object) -> None:
            released.wait(10)
            raise DatabaseError("it hung")

        monkeypatch.setattr(access, "read_keyring", hanging)
        monkeypatch.setattr(access, "START_SECONDS", 0.1)
        started = time.monotonic()
        with serving(url_of(known_engine)) as client:
            assert time.monotonic() - started < 5
            check_problem(client.get("/v1/popular?by=count"), 503, "not read yet")
            assert client.get("/health/live").status_code == 200
            monkeypatch.setattr(access, "read_keyring", read_keyring)
            released.set()
            eventually(lambda: client.get("/v1/popular?by=count").status_code == 200)

    def test_a_database_that_falls_silent_is_a_problem(
        self, known_engine: Engine, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        watch = DatabaseWatch(known_engine, 0.5)
        watch.refresh()
        assert watch.problem() is None
        real = time.monotonic
        monkeypatch.setattr(access.time, "monotonic", lambda: real() + 11)
        assert watch.problem() == "the database does not answer"
        watch.stop()

    def test_a_damaged_row_of_a_key_opens_nothing(self, known_engine: Engine) -> None:
        _, key = create_key(known_engine, "ops", ["read"], actor="test")
        with serving(url_of(known_engine)) as client:
            assert client.get("/v1/popular?by=count", headers=bearer(key)).status_code == 200
            with known_engine.connect() as connection, connection.begin():
                connection.execute(text("UPDATE api_keys SET scopes = 'null'"))
            eventually(lambda: client.get("/health/ready").json()["status"] == "degraded")
            for method, path in ADMIN:
                if method != "GET" and path != "/v1/recommendations":  # which reads
                    answer = client.request(method, path, json=BODIES[method], headers=bearer(key))
                    assert answer.status_code in (401, 403, 503)
                check_problem(client.request(method, path, json=BODIES[method]), 401, "key")

    def test_nothing_is_read_when_the_application_is_made(self, tmp_path: Path) -> None:
        create_app(Settings(database_url=f"sqlite:///{tmp_path / 'none.db'}"))
        assert list(tmp_path.iterdir()) == []


def test_a_key_ring_remembers_that_a_key_was_made(known_engine: Engine) -> None:
    create_key(known_engine, "ops", ["admin"], actor="test")
    with reading(known_engine) as connection:
        assert read_keyring(connection).any_ever
