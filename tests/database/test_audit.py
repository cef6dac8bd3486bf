"""The chain of the audit log: what was removed or changed shows. On both databases."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, delete, insert, update

from recsys.database import migration, schema
from recsys.database.audit import AuditCheck, entries, hash_of_entry, record, verify
from recsys.database.engine import reading, writing

LOG, HEAD = schema.audit_log, schema.audit_head


def write(engine: Engine, *numbers: int) -> None:
    for number in numbers:
        with writing(engine) as connection:
            record(connection, f"ana {number % 2}", "publish", {"number": number, "reason": "ä ½", "at": [1.5, None]})


def check(engine: Engine, known: str | None = None) -> AuditCheck:
    with reading(engine) as connection:
        return verify(connection, known)


def test_a_chain_can_be_worked_out_by_hand() -> None:
    # printf '\n%s' '{"action":"a","actor":"b","at":1,"detail":{"x":2,"y":"\u00e4"}}' | sha256sum
    expected = "a12ab09b285fbf96412a13b61e77df9034961b99f871c0d26621687f8b9301f1"
    assert hash_of_entry("", 1, "b", "a", {"y": "ä", "x": 2}) == expected


def test_what_was_written_verifies(engine: Engine) -> None:
    assert check(engine) == AuditCheck(0, 0, "", None)
    write(engine, 1, 2)
    noted = check(engine)
    assert (noted.n_entries, noted.problem) == (2, None)
    write(engine, 3)
    assert check(engine, noted.hash).problem is None
    assert check(engine).hash != noted.hash
    with reading(engine) as connection:
        assert [entry.detail["number"] for entry in entries(connection, actor="ana 1")] == [3, 1]
        assert entries(connection, action="prune") == []
        assert len(entries(connection, 2)) == 2
        at = entries(connection)[0].at
        assert entries(connection, since=at)[0].at == at
        assert entries(connection, since=at + 1) == []


FORGERIES: dict[str, tuple[Callable[[Connection], Any], str]] = {
    "first removed": (lambda c: c.execute(delete(LOG).where(LOG.c.entry_key == 1)), "entry 2 does not follow"),
    "one removed": (lambda c: c.execute(delete(LOG).where(LOG.c.entry_key == 2)), "entry 3 does not follow"),
    "last removed": (lambda c: c.execute(delete(LOG).where(LOG.c.entry_key == 4)), "the last ones were removed"),
    "all removed": (lambda c: c.execute(delete(LOG)), "the last ones were removed"),
    "detail": (
        lambda c: c.execute(update(LOG).where(LOG.c.entry_key == 2).values(detail={"number": 3})),
        "entry 2 is not as it was written",
    ),
    "actor": (
        lambda c: c.execute(update(LOG).where(LOG.c.entry_key == 3).values(actor="eve")),
        "entry 3 is not as it was written",
    ),
    "without hashes": (lambda c: c.execute(update(LOG).values(hash=None)), "the last ones were removed"),
    "one without": (
        lambda c: c.execute(update(LOG).where(LOG.c.entry_key == 3).values(hash=None)),
        "entry 3 is not as it was written",
    ),
    "one added": (
        lambda c: c.execute(insert(LOG).values(at=1, actor="eve", action="publish", detail={})),
        "entry 5 does not follow",
    ),
}


@pytest.mark.parametrize("forgery", FORGERIES)
def test_what_was_removed_or_changed_shows(engine: Engine, forgery: str) -> None:
    write(engine, 1, 2, 3, 4)
    change, said = FORGERIES[forgery]
    with writing(engine) as connection:
        change(connection)
    assert said in (check(engine).problem or "")


def test_a_log_that_was_written_anew_shows_beside_a_noted_hash(engine: Engine) -> None:
    write(engine, 1, 2)
    noted = check(engine).hash
    with writing(engine) as connection:
        connection.execute(delete(LOG))
        connection.execute(delete(HEAD))
    write(engine, 1)
    assert check(engine).problem is None
    assert "written anew" in (check(engine, noted).problem or "")


def test_writers_at_once_make_one_chain(engine: Engine) -> None:
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda number: write(engine, number), range(20)))
    assert (check(engine).n_entries, check(engine).problem) == (20, None)


def test_entries_of_an_earlier_version_have_no_hash(empty_engine: Engine) -> None:
    migration.upgrade(empty_engine, "0010")
    with writing(empty_engine) as connection:
        connection.exec_driver_sql(
            "INSERT INTO audit_log (at, actor, action, detail) VALUES (1, 'ana', 'publish', '{}')"
        )
    migration.upgrade(empty_engine)
    write(empty_engine, 1)
    found = check(empty_engine)
    assert (found.n_entries, found.n_unchained, found.problem) == (1, 1, None)
