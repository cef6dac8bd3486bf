"""The sequence of changes: what a cache must forget, in the order of commits."""

from collections.abc import Sequence

from sqlalchemy import Connection, delete, func, insert, select, update

from recsys.data import schema

KEPT = 10_000
"""How many changes are kept; whoever was last told of an earlier one must forget everything."""


def record_change(connection: Connection, *, users: Sequence[int] = (), items: Sequence[int] = ()) -> int:
    """Note what caches must forget: these users and items, or everything when none are named.

    Must be the last thing that a transaction does: the counter's row stays locked until it commits, so the
    order of `seq` is the order of commits.

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


def rows_changed_seq(connection: Connection) -> int:
    """The seq of the last change of items, or of everything, that is still known."""
    changed = schema.changes.c
    seq = connection.scalar(select(func.max(changed.seq)).where(changed.kind.in_(("item", "all"))))
    return int(seq or 0)


def current_seq(connection: Connection) -> int:
    """The seq of the last committed change; 0 when there was none."""
    return int(connection.execute(select(schema.change_counter.c.seq)).scalar_one())
