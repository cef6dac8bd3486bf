"""The sequence of changes: what a cache must forget, in the order of commits."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from sqlalchemy import BigInteger, Column, Connection, MetaData, Table, bindparam, delete, insert, select, update

from recsys.database import schema
from recsys.database.engine import stage
from recsys.database.statements import upsert

KEPT = 10_000
"""How many changes are kept at least; a cache that last read an earlier one must forget everything."""
HANDFUL = 100
"""Up to so many rows are sent with the statement; more are staged in a temporary table."""

_NEXT_SEQ = (
    update(schema.change_counter).values(seq=schema.change_counter.c.seq + 1).returning(schema.change_counter.c.seq)
)
_INSERT_CHANGES = insert(schema.changes).returning(schema.changes.c.seq)

_staged_users = Table(
    "staged_users",
    MetaData(),
    Column("user_key", BigInteger, primary_key=True, autoincrement=False),
    prefixes=["TEMPORARY"],
    postgresql_on_commit="DROP",
)


@dataclass(frozen=True, slots=True)
class Changes:
    """What changed since some seq.

    Attributes:
        seq: of the last change.
        everything: whether everything must be read anew; `users` and `items` are empty then.
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
    """Record what caches must forget: these users and items, or everything when none are named.

    The counter's row stays locked until the transaction commits, so the order of `seq` is the order of commits. It must
    come last, as `unit_of_work` sees to: after it, a transaction may lock only rows of `user_changes`, which no
    transaction locks without holding the counter or the user's row.

    Returns:
        The new seq.
    """
    seq = int(connection.execute(_NEXT_SEQ).scalar_one())
    rows = [{"seq": seq, "kind": "user", "key": key} for key in users]
    rows += [{"seq": seq, "kind": "item", "key": key} for key in items]
    seqs = schema.changes.c.seq
    if not rows:
        connection.execute(delete(schema.changes))  # a cache that reads the new one needs no earlier one
        rows = [{"seq": seq, "kind": "all", "key": 0}]
    elif seq % max(1, KEPT // 100) == 0:  # not with every change: a statement less in a post
        connection.execute(delete(schema.changes).where(seqs <= seq - KEPT))
    connection.execute(_INSERT_CHANGES, rows)
    return seq


def mark_users(connection: Connection, user_keys: Sequence[int], seq: int) -> None:
    """Note that the ratings of these users changed at `seq`: a version trained before does not know them as they are.

    Args:
        user_keys: distinct, ascending.
    """
    marks = schema.user_changes
    if len(user_keys) <= HANDFUL:
        rows = [{"user_key": key, "seq": seq} for key in user_keys]
        upsert(connection, marks, rows, key=["user_key"], set_=["seq"], returning=[marks.c.user_key])
        return
    stage(connection, _staged_users, (user_keys,))
    staged = _staged_users.c.user_key
    marked = select(staged, bindparam("seq", type_=BigInteger).label("seq")).order_by(staged)
    upsert(connection, marks, marked, key=["user_key"], set_=["seq"], parameters={"seq": seq})


def changes_since(connection: Connection, seq: int) -> Changes:
    """Return what changed after `seq`; everything, after one below 0."""
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
    """Return the seq of the last committed change; 0 when there was none."""
    return int(connection.execute(select(schema.change_counter.c.seq)).scalar_one())
