"""What a posted rating costs: one transaction of a few statements, and no tables that come and go."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
from sqlalchemy import Engine, event

from recsys.database import schema
from recsys.database.feedback import NewRating
from recsys.database.ids import keys_of
from recsys.database.posts import rate

MAX_STATEMENTS = 8


@contextmanager
def watched(engine: Engine) -> Iterator[tuple[list[str], list[str]]]:
    """Collect the statements sent to the database, and how its transactions begin and end."""
    statements: list[str] = []
    transactions: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if statement.split()[0] not in ("BEGIN", "PRAGMA"):  # how the engine begins on SQLite
            statements.append(statement)

    listeners = [("before_cursor_execute", note)]
    listeners += [(name, lambda *_, name=name: transactions.append(name)) for name in ("begin", "commit", "rollback")]
    for name, listener in listeners:
        event.listen(engine, name, listener)
    try:
        yield statements, transactions
    finally:
        for name, listener in listeners:
            event.remove(engine, name, listener)


def posts() -> list[Sequence[NewRating]]:
    def rating(user: str, item: str, value: float) -> NewRating:
        return NewRating(user, item, value, None)

    return [
        [rating("new user", "a", 4.0)],
        [rating("new user", "b", 4.0)],
        [rating("new user", "b", 2.0)],
        [rating("new user", "b", 2.0)],  # nothing changes
        [rating(f"user {at % 7}", "ab"[at % 2], 1.0 + at % 5) for at in range(100)],
    ]


def test_a_post_is_one_transaction_of_at_most_eight_statements(engine: Engine) -> None:
    keys_of(engine, schema.items, ["a", "b"])
    for rows in posts():
        with watched(engine) as (statements, transactions):
            rate(engine, rows, None, lambda _users, _seq: None)
        assert transactions == ["begin", "commit"]
        assert len(statements) <= MAX_STATEMENTS, "\n".join(statements)
        # A temporary table leaves dead rows in PostgreSQL's catalogue with every post.
        assert {statement.split()[0] for statement in statements} <= {"WITH", "SELECT", "INSERT", "UPDATE", "DELETE"}


@pytest.mark.postgres
def test_a_post_takes_no_lock_that_all_writers_wait_for(postgres_engine: Engine) -> None:
    keys_of(postgres_engine, schema.items, ["a"])
    with watched(postgres_engine) as (statements, _):
        rate(postgres_engine, posts()[0], None, lambda _users, _seq: None)
    assert not [statement for statement in statements if "advisory" in statement]
    # All writers wait for the counter of changes: it comes after everything but the record of the change itself.
    [counter] = [at for at, statement in enumerate(statements) if statement.startswith("UPDATE change_counter")]
    assert len(statements) - counter <= 3
