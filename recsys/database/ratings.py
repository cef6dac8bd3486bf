"""Ratings in the database: upserted in bulk, taken back, previewed, read as arrays."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import (
    Connection,
    Engine,
    Table,
    delete,
    func,
    select,
)

from recsys.data.ahead import ahead
from recsys.data.dataset import Ratings, ratings_from_keys
from recsys.data.encoding import RatingColumns, latest_rows, sum_pairs
from recsys.data.keyed import hash_ids, positions
from recsys.database import schema
from recsys.database.changes import UserChange
from recsys.database.engine import interleave, is_sqlite, reading, retry_on_conflict, writing
from recsys.database.ids import keys_of
from recsys.database.rating_reads import StoredRatings, read_stored_ratings, stream_stored
from recsys.database.rating_writes import Rows, add_later_events, as_columns, find_unchanged, write_ratings
from recsys.database.tombstones import bury_pair, raise_users, read_buried, without_buried
from recsys.database.work import Guard, Work, unit_of_work, write_prepared

MAX_READ_PER_ROW = 4
"""Stored ratings, for each one of a file, up to which all of them are read before any is written."""


@dataclass(frozen=True, slots=True)
class Upserted:
    """Numbers of rows: inserted + updated + unchanged + withdrawn = the rows given.

    A row that a later one of the same input supersedes, or that is older than what is stored, is unchanged. Withdrawn
    are rows of erased users, and rows that are not newer than when their rating was taken back.
    """

    inserted: int
    updated: int
    unchanged: int
    withdrawn: int = 0


def upsert_ratings(
    engine: Engine,
    columns: RatingColumns,
    *,
    implicit: bool = False,
    append: bool = False,
    allow_erased: bool = False,
    guard: Guard | None = None,
    on_rows: Callable[[int], None] | None = None,
) -> Upserted:
    """Insert or update ratings, or sums of events, in bulk; users and items that are not in the database are inserted.

    An older `rated_at` never overwrites, and none never overwrites a known one; with equal or without times the last
    load wins. What was taken back, and users that were erased, stay away (`recsys.database.tombstones`).

    On SQLite every piece of the load is committed by itself, so an interrupted load leaves its first pieces, and the
    next load of the file completes it. One transaction for a file would keep every other writer waiting for its whole
    time: 6 s a million ratings, where the pieces keep the API waiting for some tenths of a second. On PostgreSQL, where
    writers do not wait for each other, the load is one transaction.

    Args:
        implicit: the rows are events: the sum of a pair's weights replaces its stored weight.
        append: only events later than the latest one that is counted for their pair are counted, and added.
        allow_erased: store rows of erased users too.
        guard: called in every transaction before it commits.
        on_rows: called with the number of rows just written.

    Raises:
        RecsysError: whatever `guard` raises.
    """
    n_given = len(columns)
    with reading(engine) as connection:
        buried = read_buried(connection)
    columns, n_withdrawn = without_buried(columns, buried, allow_erased=allow_erased)
    if allow_erased and buried is not None:
        with unit_of_work(engine, guard) as work:
            raise_users(work.connection, columns.user_ids)
    item_keys = keys_of(engine, schema.items, columns.item_ids, guard)
    user_keys = keys_of(engine, schema.users, columns.user_ids, guard)
    events = columns
    if implicit:
        columns = sum_pairs(columns)
    kept = latest_rows(columns, user_keys, item_keys)
    n_pairs = len(kept)
    kind = schema.IMPLICIT if implicit else schema.EXPLICIT
    if not append:
        kept = without_unchanged(engine, kind, columns, kept, user_keys, item_keys)
        if on_rows:
            on_rows(n_pairs - len(kept))
        if guard is not None and not len(kept):  # a load that lost its lease fails, even with nothing to write
            with writing(engine) as connection:
                guard(connection)
    n_inserted = n_updated = n_erased = 0

    def prepare(part: slice) -> tuple[NDArray[np.int64], Rows, list[Any] | None]:
        rows = kept[part]
        users, items = user_keys[columns.user_code[rows]], item_keys[columns.item_code[rows]]
        prepared = Rows(users, items, columns.rating[rows], columns.rated_at[rows])
        # What SQLite takes if all of them are new.
        return rows, prepared, interleave(as_columns(kind, prepared)) if is_sqlite(engine) and not append else None

    def write(work: Work, piece: tuple[NDArray[np.int64], Rows, list[Any] | None]) -> None:
        nonlocal n_inserted, n_updated, n_erased
        rows, prepared, values = piece
        if append:
            prepared = add_later_events(work.connection, events, columns, rows, prepared)
        done = write_ratings(work, kind, prepared, values)
        n_inserted, n_updated, n_erased = n_inserted + done[0], n_updated + done[1], n_erased + done[2]

    def write_all() -> None:
        nonlocal n_inserted, n_updated, n_erased
        n_inserted = n_updated = n_erased = 0
        # The next piece is prepared while one is written. Writing looks up the users itself.
        write_prepared(
            engine,
            len(kept),
            lambda parts: ahead(map(prepare, parts)),
            write,
            on_rows,
            guard,
            check_keys=False,
        )

    retry_on_conflict(write_all)
    n_withdrawn += n_erased
    return Upserted(n_inserted, n_updated, n_given - n_inserted - n_updated - n_withdrawn, n_withdrawn)


def without_unchanged(
    engine: Engine,
    kind: int,
    columns: RatingColumns,
    kept: NDArray[np.int64],
    user_keys: NDArray[np.int64],
    item_keys: NDArray[np.int64],
) -> NDArray[np.int64]:
    """Return the rows of a file without those that would change nothing, if it has a large part of what is stored.

    So a file that is loaded again is compared in one reading. A rating that another writer changes meanwhile is as if
    that writer had come after the load.

    Args:
        kept: (n,) positions of the rows, in the order of their keys.
        user_keys, item_keys: the key of each id of `columns`.
    """
    with reading(engine) as connection:
        n_stored = connection.scalar(select(func.sum(schema.item_counts.c.n_ratings))) or 0
        if not 0 < n_stored <= MAX_READ_PER_ROW * len(kept):
            return kept
        users, items = user_keys[columns.user_code[kept]], item_keys[columns.item_code[kept]]
        rows = Rows(users, items, columns.rating[kept], columns.rated_at[kept])
        return kept[~find_unchanged(connection, kind, rows)]


def delete_rating(engine: Engine, user_id: str, item_id: str) -> UserChange | None:
    """Delete what a user told of an item, of both kinds; return `None` if there is nothing.

    No file that is not newer brings it back.
    """
    users, items, rated = schema.users.c, schema.items.c, schema.ratings.c
    if "\0" in user_id + item_id:
        return None  # no id has one, and PostgreSQL takes no text with it

    def write() -> UserChange | None:
        with unit_of_work(engine) as work:
            user_key = work.connection.scalar(
                select(users.user_key).where(users.user_id == user_id).with_for_update(read=True, key_share=True)
            )
            rows = work.connection.execute(
                delete(schema.ratings)
                .where(
                    rated.user_key == user_key,
                    rated.item_key == select(items.item_key).where(items.item_id == item_id).scalar_subquery(),
                )
                .returning(rated.item_key, rated.rating, rated.kind)
            ).all()
            if user_key is None or not rows:
                return None
            bury_pair(work.connection, user_id, item_id)
            work.mark_rated([user_key])
            is_explicit = np.array([row.kind for row in rows]) == schema.EXPLICIT
            gains = -np.array([row.rating for row in rows], np.float64)
            work.count(np.array([row.item_key for row in rows]), [-1] * len(rows), gains, is_explicit)
        return UserChange(user_key, work.seq)

    return retry_on_conflict(write)


def preview_upsert(
    connection: Connection, columns: RatingColumns, *, implicit: bool = False, allow_erased: bool = False
) -> Upserted:
    """Return what `upsert_ratings` would do, without writing. It reads all stored ratings."""
    n_given = len(columns)
    columns, n_withdrawn = without_buried(columns, read_buried(connection), allow_erased=allow_erased)
    if implicit:
        columns = sum_pairs(columns)
    stored = schema.ratings.c
    keys = []
    for table, ids in ((schema.users, columns.user_ids), (schema.items, columns.item_ids)):
        known_keys = {external_id: key for key, external_id in connection.execute(select(*list(table.columns)[:2]))}
        keys.append(np.array([known_keys.get(external_id, -1) for external_id in ids], np.int64))
    user_key, item_key = keys[0][columns.user_code], keys[1][columns.item_code]
    kept = latest_rows(columns, np.arange(len(columns.user_ids)), np.arange(len(columns.item_ids)))
    n_items = np.int64(max(item_key.max(initial=0), connection.scalar(select(func.max(stored.item_key))) or 0) + 1)
    all_kinds = read_stored_ratings(connection)
    old_user, old_item, _, old_rating, old_at = all_kinds.where(
        all_kinds.kind == (schema.IMPLICIT if implicit else schema.EXPLICIT)
    )
    known = (user_key[kept] >= 0) & (item_key[kept] >= 0)
    stored_row = positions(old_user * n_items + old_item, user_key[kept] * n_items + item_key[kept])
    is_old = known & (stored_row >= 0)
    rating, rated_at, stored_row = columns.rating[kept][is_old], columns.rated_at[kept][is_old], stored_row[is_old]
    differs = (rating != old_rating[stored_row]) | (rated_at != old_at[stored_row])
    updated = int((differs & (rated_at >= old_at[stored_row])).sum())  # no time is the smallest number
    inserted = len(kept) - int(is_old.sum())
    return Upserted(inserted, updated, n_given - inserted - updated - n_withdrawn, n_withdrawn)


def has_explicit_ratings(connection: Connection) -> bool:
    """Return whether any rating says how much."""
    first = select(schema.ratings.c.user_key).where(schema.ratings.c.kind == schema.EXPLICIT).limit(1)
    return connection.scalar(first) is not None


def read_ratings(connection: Connection) -> Ratings:
    """Return all ratings and weights of events, in the order of their keys."""
    user_key, item_key, kind, rating, times = read_stored_ratings(connection)
    hashes = [hashes_by_key(connection, table) for table in (schema.users, schema.items)]
    found = ratings_from_keys(user_key, item_key, rating, times, *hashes)
    return replace(found, is_implicit=kind == schema.IMPLICIT) if kind.any() else found


def count_kinds(connection: Connection) -> tuple[int, int]:
    """Return how many ratings and how many weights of events there are."""
    kind = schema.ratings.c.kind
    found = {row[0]: int(row[1]) for row in connection.execute(select(kind, func.count()).group_by(kind))}
    return found.get(schema.EXPLICIT, 0), found.get(schema.IMPLICIT, 0)


def stream_ratings(connection: Connection, *, is_event: bool, n_rows: int) -> Iterator[list[NDArray[Any]]]:
    """Yield user keys, item keys, ratings (or weights of events) and times, `n_rows` at once, in key order."""
    kind = schema.IMPLICIT if is_event else schema.EXPLICIT
    parts: list[StoredRatings] = []
    n_held = 0

    def join() -> list[NDArray[Any]]:
        users, items, _, rating, rated_at = (np.concatenate(column) for column in zip(*parts, strict=True))
        return [users, items, rating, rated_at]

    for part in stream_stored(connection):
        part = part.where(part.kind == kind)
        while n_held + len(part.users) >= n_rows:
            parts.append(part.where(slice(0, n_rows - n_held)))
            part = part.where(slice(n_rows - n_held, None))
            yield join()
            parts, n_held = [], 0
        parts.append(part)
        n_held += len(part.users)
    if n_held:
        yield join()


def hashes_by_key(connection: Connection, table: Table) -> NDArray[np.uint64]:
    """Return `hash_ids` of the external ids, indexed by key; zero where there is no such key."""
    rows = connection.execute(select(table.columns[0], table.columns[1])).all()
    hashes = np.zeros(max((key for key, _ in rows), default=-1) + 1, np.uint64)
    hashes[[key for key, _ in rows]] = hash_ids([external_id for _, external_id in rows])
    return hashes
