"""Promise 6 where the database can be read, but not written: a full disk, a read-only file, a read-only server."""

from pathlib import Path

import httpx
import pytest
from sqlalchemy import Engine, text

from api import state
from api.state import WriteLimiter
from recsys.database import sqlite_file
from recsys.errors import DatabaseError, InputError
from tests.api.asking import check_problem, eventually, ids
from tests.api.conftest import Switch, serving, url_of

RATING = {"ratings": [{"user_id": "u1", "item_id": "b", "rating": 3}]}
WRITES = [
    ("PUT", "/v1/items/a", {"title": "A"}),
    ("POST", "/v1/ratings", RATING),
    ("DELETE", "/v1/users/u2/ratings/a", None),
    ("DELETE", "/v1/users/u1", None),
    ("POST", "/v1/models/1/publish", {"reason": "x"}),
]
READS = [
    "/v1/users/u1/recommendations",
    "/v1/users/u1/recommendations?explain=true",
    "/v1/users/u3/recommendations",
    "/v1/users/u1/ratings",
    "/v1/items/a/similar",
    "/v1/models",
    "/v1/items",
]


def check_only_reads(client: httpx.Client, hidden: list[str], reason: str) -> None:
    """Reads answer, writes are 503, readiness says why, and no text names the database's place."""
    for url in READS:
        assert client.get(url).status_code == 200, url
    for method, url, body in WRITES:
        answer = client.request(method, url, json=body)
        check_problem(answer, 503, "database")
        assert not any(name in answer.text for name in hidden)
    ready = client.get("/health/ready")
    assert (ready.status_code, ready.json()["status"]) == (200, "degraded")
    assert reason in ready.json()["problem"]
    assert not any(name in ready.text for name in hidden)
    assert "recsys_degraded 1.0" in client.get("/metrics").text


@pytest.mark.parametrize("engine", ["sqlite"], indirect=True)
def test_promise_6_a_read_only_file_is_served(known_engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """`tests/database/test_sqlite_file.py` has the same with permissions of the system."""
    path = Path(str(known_engine.url.database))
    known_engine.dispose()
    content = path.read_bytes()
    monkeypatch.setattr(sqlite_file, "is_read_only", lambda _: True)
    with serving(url_of(known_engine)) as client:
        check_only_reads(client, [str(path.parent), path.name], "read-only")
    assert path.read_bytes() == content


@pytest.mark.parametrize("engine", ["sqlite"], indirect=True)
def test_promise_6_a_full_disk_is_said_and_reads_go_on(known_engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """SQLite itself refuses to grow the file, as it does on a full disk."""
    path = Path(str(known_engine.url.database))
    known_engine.dispose()
    monkeypatch.setattr(sqlite_file, "WRITER_PRAGMAS", (*sqlite_file.WRITER_PRAGMAS, "max_page_count=1"))
    monkeypatch.setattr(sqlite_file, "MIN_FREE_BYTES", 1 << 62)
    with serving(url_of(known_engine)) as client:
        eventually(lambda: client.get("/health/ready").json()["problem"] is not None)
        assert "full" in client.get("/health/ready").json()["problem"]
        many = [{"user_id": f"user {n}" * 50, "item_id": "b", "rating": 3} for n in range(500)]
        answer = client.post("/v1/ratings", json={"ratings": many})
        check_problem(answer, 503, "database")
        assert str(path) not in answer.text
        for url in READS:
            assert client.get(url).status_code == 200, url
        monkeypatch.setattr(sqlite_file, "MIN_FREE_BYTES", 0)
        assert client.post("/v1/ratings", json=RATING).status_code == 200  # a row that needs no new page
        eventually(lambda: client.get("/health/ready").json()["status"] == "ready")


@pytest.mark.postgres
@pytest.mark.parametrize("engine", ["postgres"], indirect=True)
def test_promise_6_a_read_only_server_is_served(known_engine: Engine) -> None:
    name = str(known_engine.url.database)
    with known_engine.connect() as connection, connection.begin():
        connection.execute(text(f"ALTER DATABASE {name} SET default_transaction_read_only = on"))
    known_engine.dispose()
    with serving(url_of(known_engine)) as client:
        client.post("/v1/ratings", json=RATING)
        check_only_reads(client, [name], "database")


def test_promise_6_with_the_database_gone_the_model_in_memory_still_answers(switch: Switch) -> None:
    url, explain = "/v1/users/u1/recommendations", {"explain": True}
    with serving(url_of(switch.engine)) as client:
        assert client.get("/health/ready").json()["status"] == "ready"
        known, explained = client.get(url).json(), client.get(url, params=explain).json()
        assert explained["items"][0]["explanation"] is not None
        switch.off()
        eventually(lambda: client.get("/health/ready").json()["status"] == "degraded", 10)
        database = str(switch.engine.url.database)
        assert "database" in client.get("/health/ready").json()["problem"]
        assert database not in client.get("/health/ready").text
        assert ids(client.get("/v1/items/a/similar", params={"n": 1})) == ["b"]
        degraded = {**known, "degraded": True}
        # In the cache. Readiness may have heard of it first: lists ask the database by another connection.
        eventually(lambda: client.get(url).json() == degraded, 10)
        unread = client.get("/v1/users/u2/recommendations", params={"n": 1}).json()
        assert (unread["source"], unread["items"][0]["item_id"]) == ("popularity", "a")

        # The same lists without explanations, which need the user's ratings.
        answer = client.get(url, params=explain).json()
        assert [ignored["where"] for ignored in answer.pop("ignored")] == ["explain"]
        assert answer == degraded
        assert client.get("/v1/users/u2/recommendations", params=explain).json()["source"] == "popularity"
        rated = [{"item_id": "a", "rating": 5}]
        users = [{"user_id": "u1"}, {"user_id": "u2"}, {"ratings": rated}, {"user_id": "u1", "ratings": rated}]
        many = client.post("/v1/recommendations", json={"users": users, **explain})
        assert many.status_code == 200, many.text
        lists = many.json()["lists"]
        assert [each["source"] for each in lists] == ["model", "popularity", "fold_in", "fold_in"]
        are_explained = [each["items"][0].get("explanation") is not None for each in lists]
        assert are_explained == [False, False, True, False]
        assert [ignored["where"] for ignored in many.json()["ignored"]] == ["users.3.user_id", "explain"]

        for method, path, body in WRITES:
            answer = client.request(method, path, json=body)
            check_problem(answer, 503, "database")
            assert database not in answer.text


class TestWriteLimiter:
    def test_the_last_write_decides(self) -> None:
        writers = WriteLimiter(1)
        assert writers.problem() is None
        with pytest.raises(DatabaseError), writers:
            raise DatabaseError("x", public="full")
        assert writers.problem() == "full"
        with pytest.raises(InputError), writers:
            raise InputError("a bad row says nothing about the database")
        assert writers.problem() == "full"
        with writers:
            pass
        assert writers.problem() is None

    def test_a_problem_is_forgotten_after_a_while(self, monkeypatch: pytest.MonkeyPatch) -> None:
        writers = WriteLimiter(1)
        with pytest.raises(DatabaseError), writers:
            raise DatabaseError("x", public="full")
        monkeypatch.setattr(state, "PROBLEM_SECONDS", -1.0)
        assert writers.problem() is None


def test_a_missing_database_is_named_nowhere(tmp_path: Path) -> None:
    urls = [f"sqlite:///{tmp_path}/secret-name.db", "postgresql://secret-user:secret-word@127.0.0.1:1/secret-name"]
    notes = tmp_path / "secret-notes.db"
    notes.write_text("these are notes, and long enough to be taken for the header of a database file\n" * 20)
    for url in [*urls, f"sqlite:///{notes}"]:
        with serving(url) as client:
            for path in ("/health/ready", "/v1/popular", "/v1/models", "/metrics"):
                answer = client.get(path)
                check_problem(answer, 503, "database")
                for hidden in ("secret", "127.0.0.1", str(tmp_path), "sqlite:///"):
                    assert hidden not in answer.text
