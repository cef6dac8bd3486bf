"""The sequence of changes: what a cache must forget, in the order of commits."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    Insert,
    MetaData,
    Table,
    bindparam,
    delete,
    insert,
    select,
    true,
    update,
)

from recsys.database import schema
from recsys.database.engine import insert_or_update, stage

KEPT = 10_000
"""How many changes are kept; whoever was last told of an earlier one must forget everything."""

_staged_users = Table(
    "staged_users",
    MetaData(),
    Column("user_key", BigInteger, primary_key=True, autoincrement=False),
    prefixes=["TEMPORARY"],
)


@dataclass(frozen=True, slots=True)
class Changes:
    """What was changed since some seq.

    Attributes:
        seq: of the last change there is.
        everything: whether all must be read anew; the keys then say nothing.
        users, items: keys of those that changed.
    """

    seq: int
    everything: bool
    users: tuple[int, ...] = ()
    items: tuple[int, ...] = ()


class UserChange(NamedTuple):
    """A change of one user, and its seq."""

    user_key: int
    seq: int


def record_change(connection: Connection, *, users: Sequence[int] = (), items: Sequence[int] = ()) -> int:
    """Note what caches must forget: these users and items, or everything when none are named.

    The counter's row stays locked until the transaction commits, so the order of `seq` is the order of commits. It must
    come last: what comes after it may lock only rows that nobody locks without it, which are those of `item_counts` and
    `user_changes`. So writers never wait for each other in circles: they lock users, then ratings, then the counter.

    Returns:
        The new seq.
    """
    counter = schema.change_counter
    seq = connection.execute(update(counter).values(seq=counter.c.seq + 1).returning(counter.c.seq)).scalar_one()
    rows = [{"seq": seq, "kind": "user", "key": key} for key in users]
    rows += [{"seq": seq, "kind": "item", "key": key} for key in items]
    seqs = schema.changes.c.seq
    if rows:
        connection.execute(delete(schema.changes).where(seqs <= seq - KEPT))
    else:
        connection.execute(delete(schema.changes))  # whoever learns of this one needs no earlier one
        rows = [{"seq": seq, "kind": "all", "key": 0}]
    connection.execute(insert(schema.changes), rows)
    return int(seq)


def mark_users(connection: Connection, user_keys: Sequence[int], seq: int) -> None:
    """Note that the ratings of these users changed at `seq`: a version trained before does not know them as they are.

    Args:
        user_keys: distinct.
    """
    stage(connection, _staged_users, (user_keys,))
    connection.execute(_marking(connection.dialect.name), {"seq": seq})


@cache
def _marking(dialect: str) -> Insert:
    statement = insert_or_update(dialect, schema.user_changes).from_select(
        ["user_key", "seq"],
        select(_staged_users.c.user_key, bindparam("seq", type_=BigInteger))
        .where(true())
        .order_by(_staged_users.c.user_key),
    )
    return statement.on_conflict_do_update(index_elements=["user_key"], set_={"seq": statement.excluded.seq})


def changes_since(connection: Connection, seq: int) -> Changes:
    """What was changed after `seq`; everything, after one below 0."""
    now = current_seq(connection)
    if now == seq:
        return Changes(now, everything=False)
    changed = schema.changes.c
    rows = connection.execute(select(changed.kind, changed.key).where(changed.seq > seq)).all()
    if now < seq or seq < 0 or seq <= now - KEPT or any(kind == "all" for kind, _ in rows):
        return Changes(now, everything=True)
    users = tuple({key for kind, key in rows if kind == "user"})
    return Changes(now, False, users, tuple({key for kind, key in rows if kind == "item"}))


def current_seq(connection: Connection) -> int:
    """The seq of the last committed change; 0 when there was none."""
    return int(connection.execute(select(schema.change_counter.c.seq)).scalar_one())
