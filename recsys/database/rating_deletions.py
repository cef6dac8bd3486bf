"""Feedback that rows of a file take back."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection, Engine, Table, delete, exists, or_, select

from recsys.data.dataset import NO_TIME
from recsys.data.encoding import RatingColumns
from recsys.data.keyed import positions
from recsys.database import schema
from recsys.database.clock import now_ms
from recsys.database.engine import reading, retry_on_conflict, writers_overlap
from recsys.database.rating_reads import stream_stored
from recsys.database.rating_writes import (
    SAME_PAIR,
    Rows,
    lock_users,
    read_stored,
    stage_ratings,
    staged_ratings,
)
from recsys.database.statements import upsert
from recsys.database.tombstones import make_hasher
from recsys.database.work import Guard, Work, write_in_pieces

IDS_AT_ONCE = 1000


def delete_ratings(
    engine: Engine,
    columns: RatingColumns,
    *,
    implicit: bool = False,
    guard: Guard | None = None,
    on_rows: Callable[[int], None] | None = None,
) -> int:
    """Delete the feedback of some pairs that is not newer, and let no row that is not newer bring it back.

    Args:
        columns: each pair once; `rated_at` is when it was taken back, `NO_TIME`: now, where what is stored has no time.
        implicit: the pairs are of events.
        guard: called in every transaction before it commits.
        on_rows: called with the number of pairs just looked at.

    Returns:
        Number of ratings (or weights of events) that were deleted.

    Raises:
        RecsysError: whatever `guard` raises.
    """
    kind = schema.IMPLICIT if implicit else schema.EXPLICIT
    with reading(engine) as connection:
        users = known_keys(connection, schema.users, columns.user_ids)[columns.user_code]
        items = known_keys(connection, schema.items, columns.item_ids)[columns.item_code]
    order = np.lexsort((items, users))  # pairs that are not known first
    n_deleted = 0

    def write(work: Work, part: slice) -> None:
        nonlocal n_deleted
        rows = order[part]
        known = rows[(users[rows] >= 0) & (items[rows] >= 0)]
        pairs = Rows(users[known], items[known], np.zeros(len(known)), columns.rated_at[known])
        n_deleted += delete_pairs(work, kind, pairs)
        bury_pairs(work.connection, columns, rows)

    def write_all() -> None:
        nonlocal n_deleted
        n_deleted = 0
        write_in_pieces(engine, len(order), write, on_rows, guard)

    retry_on_conflict(write_all)
    return n_deleted


def preview_deletions(connection: Connection, columns: RatingColumns, *, implicit: bool = False) -> int:
    """Return how many ratings `delete_ratings` would delete, without writing. It reads all stored ratings."""
    kind = schema.IMPLICIT if implicit else schema.EXPLICIT
    users = known_keys(connection, schema.users, columns.user_ids)[columns.user_code]
    items = known_keys(connection, schema.items, columns.item_ids)[columns.item_code]
    known = (users >= 0) & (items >= 0)
    users, items, taken_back_at = users[known], items[known], columns.rated_at[known]
    n_deleted = 0
    for part in stream_stored(connection):
        part = part.where(part.kind == kind)
        width = np.int64(max(items.max(initial=0), part.items.max(initial=0)) + 1)
        at = positions(part.users * width + part.items, users * width + items)
        n_deleted += int(((at >= 0) & (taken_back_at >= np.append(part.rated_at, NO_TIME)[at])).sum())
    return n_deleted


def known_keys(connection: Connection, table: Table, ids: list[str]) -> NDArray[np.int64]:
    """Return the keys of external ids, (n,); −1 where there is none."""
    key, external_id = list(table.columns)[:2]
    found: dict[str, int] = {}
    for start in range(0, len(ids), IDS_AT_ONCE):
        part = select(external_id, key).where(external_id.in_(ids[start : start + IDS_AT_ONCE]))
        found.update((row[0], row[1]) for row in connection.execute(part))
    return np.array([found.get(each, -1) for each in ids], np.int64)


def delete_pairs(work: Work, kind: int, rows: Rows) -> int:
    """Delete what is stored of some pairs and not newer; return how many there were."""
    connection, stored, staged = work.connection, schema.ratings.c, staged_ratings.c
    there, _, rated_at = read_stored(connection, kind, rows.users, rows.items)
    rows = rows.where(there & (rows.rated_at >= rated_at))
    if not len(rows.users):
        return 0
    stage_ratings(connection, kind, rows)
    if writers_overlap(connection):
        lock_users(connection, rows.users)
    not_newer = or_(stored.rated_at.is_(None), staged.rated_at >= stored.rated_at)
    first, last = int(rows.users[0]), int(rows.users[-1])
    deleted = connection.execute(
        delete(schema.ratings)
        .where(stored.user_key.between(first, last), exists().where(SAME_PAIR, not_newer))
        .returning(stored.user_key, stored.item_key, stored.rating)
    ).all()
    if deleted:
        work.change_everything()
        work.mark_rated(np.unique([row[0] for row in deleted]))
        gains = -np.array([row[2] for row in deleted], np.float64)
        counts = np.full(len(deleted), -1)
        work.count(np.array([row[1] for row in deleted]), counts, gains, kind == schema.EXPLICIT)
    return len(deleted)


def bury_pairs(connection: Connection, columns: RatingColumns, rows: NDArray[np.int64]) -> None:
    """Remember when some pairs of a file were taken back."""
    hasher, now = make_hasher(connection), now_ms()
    stones = []
    for row in rows.tolist():
        user_id, item_id = columns.user_ids[columns.user_code[row]], columns.item_ids[columns.item_code[row]]
        at = int(columns.rated_at[row])
        stones.append(
            {
                "user_hash": hasher.user(user_id),
                "pair_hash": hasher.pair(user_id, item_id),
                "at": now if at == NO_TIME else at,
            }
        )
    stones.sort(key=lambda stone: (str(stone["user_hash"]), str(stone["pair_hash"])))
    buried = schema.tombstones
    for start in range(0, len(stones), IDS_AT_ONCE):
        upsert(
            connection,
            buried,
            stones[start : start + IDS_AT_ONCE],
            key=["user_hash", "pair_hash"],
            set_=["at"],
            where=lambda new: buried.c.at < new["at"],
            returning=[buried.c.at],
        )
