"""What caches are told: changes since a seq, users marked, items put, ratings taken back; and users erased whole."""

import base64
import json
from collections.abc import Iterable

import numpy as np
import pytest
from sqlalchemy import Engine, func, select

from recsys.data.rows import UserRow
from recsys.database import changes, schema
from recsys.database.changes import Changes, changes_since, current_seq, record_change
from recsys.database.engine import reading, writing
from recsys.database.items import put_item
from recsys.database.ratings import delete_rating
from recsys.database.users import erase_user, upsert_users
from tests.conftest import add_known_model, add_known_rows
from tests.database.made import post, write


def since(engine: Engine, seq: int) -> Changes:
    with reading(engine) as connection:
        return changes_since(connection, seq)


def now(engine: Engine) -> int:
    with reading(engine) as connection:
        return current_seq(connection)


def key_of(engine: Engine, user_id: str) -> int:
    users = schema.users.c
    with reading(engine) as connection:
        return int(connection.scalar(select(users.user_key).where(users.user_id == user_id)) or 0)


def marks(engine: Engine) -> dict[str, int]:
    """User → seq of their last change."""
    joined = schema.user_changes.join(schema.users)
    with reading(engine) as connection:
        rows = connection.execute(select(schema.users.c.user_id, schema.user_changes.c.seq).select_from(joined)).all()
    return {row.user_id: row.seq for row in rows}


class TestChangesSince:
    def test_nothing_changed(self, engine: Engine) -> None:
        assert since(engine, now(engine)) == Changes(now(engine), everything=False)

    def test_users_and_items_each_once(self, engine: Engine) -> None:
        start = now(engine)
        with writing(engine) as connection:
            record_change(connection, users=[3, 1])
        with writing(engine) as connection:
            record_change(connection, items=[7])
        with writing(engine) as connection:
            record_change(connection, users=[3], items=[8])
        found = since(engine, start)
        assert (found.seq, found.everything) == (start + 3, False)
        assert (sorted(found.users), sorted(found.items)) == ([1, 3], [7, 8])
        assert since(engine, start + 2) == Changes(start + 3, False, (3,), (8,))

    def test_everything(self, engine: Engine) -> None:
        start = now(engine)
        with writing(engine) as connection:
            record_change(connection, users=[1])
        with writing(engine) as connection:
            record_change(connection)
        with writing(engine) as connection:
            record_change(connection, users=[2])
        assert since(engine, start).everything
        assert since(engine, start + 1).everything
        assert since(engine, start + 2) == Changes(start + 3, False, (2,))

    def test_what_was_dropped_is_everything(self, engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(changes, "KEPT", 3)
        start = now(engine)
        for user_key in range(1, 6):
            with writing(engine) as connection:
                record_change(connection, users=[user_key])
        for behind in range(1, 6):
            found = since(engine, start + 5 - behind)
            assert found.everything == (behind >= 3)
            if not found.everything:
                assert sorted(found.users) == list(range(6 - behind, 6))

    @pytest.mark.parametrize("seq", [-1, 10**12])
    def test_a_seq_of_another_database_is_everything(self, engine: Engine, seq: int) -> None:
        assert since(engine, seq).everything


class TestMarks:
    def test_of_loads_posts_and_deletions(self, engine: Engine) -> None:
        write(engine, ("u", "a", 4.0), ("v", "a", 1.0))
        first = now(engine)
        assert marks(engine) == {"u": first, "v": first}
        posted = post(engine, ("u", "b", 4.0), ("v", "a", 1.0))  # of v nothing changes
        assert marks(engine) == {"u": first + 1, "v": first}
        assert (posted.users, posted.seq) == ((key_of(engine, "u"),), first + 1)
        change = delete_rating(engine, "v", "a")
        assert change is not None
        assert (change.user_key, change.seq) == (key_of(engine, "v"), first + 2)
        assert marks(engine) == {"u": first + 1, "v": first + 2}
        assert since(engine, first) == Changes(first + 2, False, since(engine, first).users)
        assert sorted(since(engine, first).users) == sorted(key_of(engine, user_id) for user_id in "uv")

    def test_nothing_written_is_no_change(self, engine: Engine) -> None:
        write(engine, ("u", "a", 4.0))
        before = now(engine)
        posted = post(engine, ("u", "a", 4.0))
        assert (posted.users, posted.seq, now(engine)) == ((), 0, before)


class TestDeleteRating:
    @pytest.mark.parametrize("pair", [("u", "b"), ("w", "a"), ("u", "zzz"), ("u\0", "a"), ("u", "a\0"), ("U", "a")])
    def test_what_is_not_there(self, engine: Engine, pair: tuple[str, str]) -> None:
        write(engine, ("u", "a", 4.0), ("v", "b", 4.0))
        before = now(engine)
        assert delete_rating(engine, *pair) is None
        assert now(engine) == before
        with reading(engine) as connection:
            assert connection.scalar(select(func.count()).select_from(schema.ratings)) == 2


class TestPutItem:
    def test_a_new_one(self, engine: Engine) -> None:
        start = now(engine)
        item, is_new = put_item(engine, "é/1", {"title": "T", "categories": ["A"], "year": 1999}, actor="me")
        assert is_new
        assert item._replace(item_key=0) == (0, "é/1", "T", ["A"], {"year": 1999}, False)
        assert since(engine, start) == Changes(start + 1, False, (), (item.item_key,))
        again, is_new = put_item(engine, "é/1", {"title": "T", "categories": ["A"], "year": 1999}, actor="me")
        assert (again, is_new) == (item, False)
        assert now(engine) == start + 1  # nothing changed, so no cache need forget

    def test_what_is_left_out_stays(self, engine: Engine) -> None:
        first, _ = put_item(engine, "a", {"title": "T", "categories": ["A"], "attributes": {"k": 1}}, actor="me")
        hidden, is_new = put_item(engine, "a", {"hidden": True}, actor="me")
        assert (hidden, is_new) == (first._replace(hidden=True), False)
        untitled, _ = put_item(engine, "a", {"title": None, "categories": []}, actor="me")
        assert untitled == hidden._replace(title=None, categories=[])

    def test_who_did_what_is_recorded(self, engine: Engine) -> None:
        put_item(engine, "a", {"title": "T"}, actor="me")
        put_item(engine, "a", {"title": "T"}, actor="you")
        put_item(engine, "a", {"title": "U", "hidden": False}, actor="you")
        with reading(engine) as connection:
            log = connection.execute(select(schema.audit_log).order_by(schema.audit_log.c.entry_key)).all()
        assert [(entry.actor, entry.action, entry.detail) for entry in log] == [
            ("me", "put item", {"item_id": "a", "changed": ["title"]}),
            ("you", "put item", {"item_id": "a", "changed": ["title"]}),
        ]

    def test_ids_are_kept_byte_for_byte(self, engine: Engine) -> None:
        for item_id in ("A", "a", "007", "7", "e\u0301", "é"):
            assert put_item(engine, item_id, {}, actor="me")[1]


def everything(engine: Engine) -> Iterable[str]:
    """All values of all tables as text, bytes too."""
    with reading(engine) as connection:
        for table in schema.metadata.sorted_tables:
            for row in connection.execute(select(table)):
                for value in row:
                    if isinstance(value, bytes):
                        yield value.decode("latin-1")
                        yield base64.b64encode(value).decode()
                    else:
                        yield value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


class TestErase:
    ID = "Erika/Mustermann ü"

    def test_nothing_of_the_user_is_left_anywhere(self, engine: Engine) -> None:
        """Promise 8: ratings, rows in stored versions, marks; and the id in no text of any table."""
        add_known_rows(engine)
        for user_id in (self.ID, "u1"):
            post(engine, (user_id, "a", 5.0), (user_id, "c", 1.0))
        upsert_users(engine, [UserRow(self.ID, ("secret category",), {"mail": "erika@example.org"})])
        for objective in ("ranking", "rating"):
            add_known_model(engine, objective)  # type: ignore[arg-type]
        key = key_of(engine, self.ID)
        with writing(engine) as connection:
            for number in (1, 2):
                row = {"number": number, "user_key": key, "bias": 0.5, "vector": b"\x07\x07\x07\x07\x07\x07\x07\x07"}
                connection.execute(schema.user_factors.insert().values(row))
        assert any(self.ID in text for text in everything(engine))
        start = now(engine)
        change = erase_user(engine, self.ID, actor="me")
        assert change is not None
        assert (change.user_key, change.seq) == (key, start + 1)
        assert since(engine, start) == Changes(start + 1, False, (key,))
        left = list(everything(engine))
        for trace in (self.ID, "Erika", "Mustermann", "secret category", "erika@example.org", "\x07" * 4):
            assert not any(trace in text for text in left), trace
        with reading(engine) as connection:
            for table in (schema.ratings, schema.user_factors, schema.user_changes, schema.users):
                rows = connection.execute(select(table).where(table.c.user_key == key)).all()
                assert rows == [], table.name
        assert "u1" in marks(engine)
        assert key_of(engine, "u1") != 0

    def test_the_audit_log_keeps_the_key_and_not_the_id(self, engine: Engine) -> None:
        write(engine, (self.ID, "a", 5.0))
        key = key_of(engine, self.ID)
        erase_user(engine, self.ID, actor="me")
        with reading(engine) as connection:
            (entry,) = connection.execute(select(schema.audit_log)).all()
        assert (entry.actor, entry.action, entry.detail) == ("me", "erase user", {"user_key": key, "n_ratings": 1})

    def test_a_key_is_never_given_twice(self, engine: Engine) -> None:
        write(engine, (self.ID, "a", 5.0))
        key = key_of(engine, self.ID)
        erase_user(engine, self.ID, actor="me")
        post(engine, (self.ID, "a", 5.0))
        assert key_of(engine, self.ID) > key

    @pytest.mark.parametrize("user_id", ["nobody", "", "u\0", "U"])
    def test_nobody(self, engine: Engine, user_id: str) -> None:
        write(engine, ("u", "a", 5.0))
        before = now(engine)
        assert erase_user(engine, user_id, actor="me") is None
        assert now(engine) == before

    def test_one_without_ratings(self, engine: Engine) -> None:
        upsert_users(engine, [UserRow("u", (), {"age": 7})])
        assert erase_user(engine, "u", actor="me") is not None
        assert np.isclose(key_of(engine, "u"), 0)
