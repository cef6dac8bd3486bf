"""Ratings in the database: upserted in bulk, taken back, previewed, read as arrays."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice, repeat
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    Double,
    Engine,
    MetaData,
    SmallInteger,
    Table,
    and_,
    case,
    delete,
    func,
    or_,
    select,
)

from recsys.data.dataset import NO_TIME, Ratings, ratings_from_keys
from recsys.data.encoding import RatingColumns, latest_rows, sum_pairs
from recsys.data.keyed import hash_ids, positions
from recsys.database import schema
from recsys.database.changes import UserChange
from recsys.database.driver_errors import ConflictError
from recsys.database.engine import (
    ATTEMPTS,
    fetch_columns,
    fetch_rows,
    reading,
    retry_on_conflict,
    stage,
    upsert,
    writers_overlap,
)
from recsys.database.ids import keys_of
from recsys.database.tombstones import bury_pair, raise_users, read_buried, without_buried
from recsys.database.work import Guard, Work, unit_of_work, write_in_pieces

_PAIR = ("user_key", "item_key", "kind")
_staged_ratings = Table(
    "staged_ratings",
    MetaData(),
    Column("user_key", schema.Key, primary_key=True, autoincrement=False),
    Column("item_key", schema.Key, primary_key=True, autoincrement=False),
    Column("kind", SmallInteger, nullable=False),
    Column("rating", Double, nullable=False),
    Column("rated_at", BigInteger),
    prefixes=["TEMPORARY"],
    sqlite_with_rowid=False,
)


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
    kind = schema.IMPLICIT if implicit else schema.EXPLICIT
    n_inserted = n_updated = n_erased = 0

    def write(work: Work, part: slice) -> None:
        nonlocal n_inserted, n_updated, n_erased
        rows = kept[part]
        users, items = user_keys[columns.user_code[rows]], item_keys[columns.item_code[rows]]
        rating, rated_at = columns.rating[rows], columns.rated_at[rows]
        if append:
            rating, rated_at, is_later = add_later_events(work.connection, events, columns, rows, users, items)
            users, items = users[is_later], items[is_later]
        times = [None if at == NO_TIME else at for at in rated_at.tolist()]
        kinds = repeat(kind, len(users))
        stage(work.connection, _staged_ratings, (users.tolist(), items.tolist(), kinds, rating.tolist(), times))
        gone = lock_staged_users(work.connection)
        if gone:  # erased since the keys were looked up
            staged = _staged_ratings.c.user_key
            n_erased += work.connection.execute(delete(_staged_ratings).where(staged.in_(gone))).rowcount
        written, n_new = write_staged_ratings(work, is_explicit=not implicit)
        n_inserted, n_updated = n_inserted + n_new, n_updated + written - n_new

    def write_all() -> None:
        nonlocal n_inserted, n_updated, n_erased
        n_inserted = n_updated = n_erased = 0
        write_in_pieces(engine, len(kept), write, on_rows, guard)

    retry_on_conflict(write_all)
    n_withdrawn += n_erased
    return Upserted(n_inserted, n_updated, n_given - n_inserted - n_updated - n_withdrawn, n_withdrawn)


def add_later_events(
    connection: Connection,
    events: RatingColumns,
    pairs: RatingColumns,
    rows: NDArray[np.int64],
    users: NDArray[np.int64],
    items: NDArray[np.int64],
) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.bool_]]:
    """Return what pairs weigh with the events that are later than the latest counted one, (n,) each.

    Args:
        events: all events of the file.
        pairs: one row for each pair of `events`.
        rows: (n_pairs,) the rows of `pairs` to look at, with their keys.

    Returns:
        The new weights, the times of the latest events, and the mask (n_pairs,) of the pairs that have later events.
    """
    kinds, nothing = repeat(schema.IMPLICIT, len(users)), repeat(None, len(users))
    stage(connection, _staged_ratings, (users.tolist(), items.tolist(), kinds, repeat(0.0, len(users)), nothing))
    found = fetch_columns(
        connection,
        select(
            _STAGED.user_key, _STAGED.item_key, _STORED.rating, func.coalesce(_STORED.rated_at, NO_TIME)
        ).select_from(_staged_ratings.join(schema.ratings, _SAME_PAIR)),
        (np.int64, np.int64, np.float64, np.int64),
    )
    width = np.int64(max(items.max(initial=0), 0) + 1)
    order = np.argsort(found[0] * width + found[1])
    at = positions((found[0] * width + found[1])[order], users * width + items)
    before = np.where(at >= 0, np.append(found[2][order], 0.0)[at], 0.0)
    latest = np.where(at >= 0, np.append(found[3][order], NO_TIME)[at], NO_TIME)
    # The pair of each event, among `rows`.
    n_items = np.int64(len(pairs.item_ids) + 1)
    code = pairs.user_code[rows].astype(np.int64) * n_items + pairs.item_code[rows]
    by_code = np.argsort(code)
    pair = positions(code[by_code], events.user_code.astype(np.int64) * n_items + events.item_code)
    pair = np.where(pair >= 0, by_code[pair], -1)
    is_later = (pair >= 0) & (events.rated_at > np.append(latest, np.iinfo(np.int64).max)[pair])
    added = np.bincount(pair[is_later], events.rating[is_later], len(rows))
    times = latest.copy()
    np.maximum.at(times, pair[is_later], events.rated_at[is_later])
    has_later = np.bincount(pair[is_later], minlength=len(rows)) > 0
    return (before + added)[has_later].astype(np.float64), times[has_later], has_later


def lock_staged_users(connection: Connection) -> Sequence[int]:
    """Lock the users of the staged ratings, before any rating, so that an erasure of one waits for this transaction.

    Returns:
        Keys of staged users that were erased already.
    """
    users, staged = schema.users.c, _staged_ratings.c
    if writers_overlap(connection):
        locked = (
            select(users.user_key)
            .where(users.user_key.in_(select(staged.user_key)))
            .order_by(users.user_key)
            .with_for_update(read=True, key_share=True)
        )
        connection.execute(select(func.count()).select_from(locked.subquery()))
    some = select(staged.user_key).distinct().subquery()
    joined = some.outerjoin(schema.users, users.user_key == some.c.user_key)
    return connection.scalars(select(some.c.user_key).select_from(joined).where(users.user_key.is_(None))).all()


_STAGED, _STORED = _staged_ratings.c, schema.ratings.c
_SAME_PAIR = and_(
    _STORED.user_key == _STAGED.user_key, _STORED.item_key == _STAGED.item_key, _STORED.kind == _STAGED.kind
)
_IS_NEW = _STORED.user_key.is_(None)
_IS_CHANGED = and_(
    _STORED.user_key.is_not(None),
    or_(_STORED.rated_at.is_(None), _STAGED.rated_at >= _STORED.rated_at),
    or_(_STAGED.rating != _STORED.rating, _STAGED.rated_at.is_distinct_from(_STORED.rated_at)),
)
_NEW = (
    select(_staged_ratings)
    .select_from(_staged_ratings.outerjoin(schema.ratings, _SAME_PAIR))
    .where(_IS_NEW)
    .order_by(_STAGED.user_key, _STAGED.item_key)
)
_CHANGED = (
    select(
        _STAGED.user_key,
        _STAGED.item_key,
        _STAGED.kind,
        _STAGED.rating,
        _STAGED.rated_at,
    )
    .select_from(_staged_ratings.join(schema.ratings, _SAME_PAIR))
    .where(_IS_CHANGED)
    .order_by(_STAGED.user_key, _STAGED.item_key)
)


def read_staged_changes(connection: Connection) -> list[NDArray[Any]]:
    """Return what of the staged ratings is to be written, (n,) each.

    Returns:
        User keys; item keys; 1 for a rating that is new, 0 for a changed one; the change of the sum of the item.
    """
    joined = _staged_ratings.outerjoin(schema.ratings, _SAME_PAIR)
    gain = _STAGED.rating - func.coalesce(_STORED.rating, 0.0)
    statement = select(_STAGED.user_key, _STAGED.item_key, case((_IS_NEW, 1), else_=0), gain).select_from(joined)
    types = (np.int64, np.int64, np.int64, np.float64)
    return fetch_columns(connection, statement.where(or_(_IS_NEW, _IS_CHANGED)), types)


def write_staged_ratings(work: Work, *, is_explicit: bool) -> tuple[int, int]:
    """Insert and update the staged ratings that are new or changed.

    A pair that another writer inserts at the same moment is counted once, by the writer that inserted it.

    Returns:
        Number of rows written, and how many of them are new.
    """
    connection = work.connection
    for _ in range(ATTEMPTS):
        user_key, item_key, is_new, gain = read_staged_changes(connection)
        n_new = int(is_new.sum())
        n_changed = len(is_new) - n_new
        if n_changed and writers_overlap(connection):
            locked = _CHANGED.with_for_update(of=schema.ratings).subquery()
            n_changed = connection.scalar(select(func.count()).select_from(locked)) or 0
            user_key, item_key, is_new, gain = read_staged_changes(connection)
            n_new = int(is_new.sum())
            if n_changed != len(is_new) - n_new:
                continue  # another writer changed one more rating after these were locked
        savepoint = connection.begin_nested()
        inserted = upsert(connection, schema.ratings, _NEW, key=_PAIR).rowcount if n_new else 0
        updated = 0
        if n_changed:
            updated = upsert(connection, schema.ratings, _CHANGED, key=_PAIR, set_=["rating", "rated_at"]).rowcount
        if (inserted, updated) == (n_new, n_changed):
            savepoint.commit()
            break
        savepoint.rollback()  # another writer stored one of the new ratings, so now it is there to be updated
    else:
        raise ConflictError("other writers kept storing the same ratings: try again")
    if len(user_key):
        work.change_everything()
        work.mark_rated(np.unique(user_key))
        work.count(item_key, is_new, gain, is_explicit)
    return len(user_key), n_new


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
    old_user, old_item, old_rating, old_at = fetch_columns(
        connection,
        select(stored.user_key, stored.item_key, stored.rating, func.coalesce(stored.rated_at, NO_TIME))
        .where(stored.kind == (schema.IMPLICIT if implicit else schema.EXPLICIT))
        .order_by(stored.user_key, stored.item_key),
        (np.int64, np.int64, np.float64, np.int64),
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
    stored = schema.ratings.c
    rated_at = func.coalesce(stored.rated_at, NO_TIME)
    statement = select(stored.user_key, stored.item_key, stored.rating, rated_at, stored.kind)
    ordered = statement.order_by(stored.user_key, stored.item_key, stored.kind)
    types = (np.int64, np.int64, np.float64, np.int64, np.int8)
    user_key, item_key, rating, times, kind = fetch_columns(connection, ordered, types)
    hashes = [hashes_by_key(connection, table) for table in (schema.users, schema.items)]
    found = ratings_from_keys(user_key, item_key, rating, times, *hashes)
    return replace(found, is_implicit=kind == schema.IMPLICIT) if kind.any() else found


def count_kinds(connection: Connection) -> tuple[int, int]:
    """Return how many ratings and how many weights of events there are."""
    kind = schema.ratings.c.kind
    found = {row[0]: int(row[1]) for row in connection.execute(select(kind, func.count()).group_by(kind))}
    return found.get(schema.EXPLICIT, 0), found.get(schema.IMPLICIT, 0)


def stream_ratings(connection: Connection, *, is_event: bool, n_rows: int) -> Iterator[list[NDArray[Any]]]:
    """Yield user keys, item keys, ratings (or weights of events) and times, up to `n_rows` at once, in key order."""
    stored = schema.ratings.c
    rated_at = func.coalesce(stored.rated_at, NO_TIME)
    statement = (
        select(stored.user_key, stored.item_key, stored.rating, rated_at)
        .where(stored.kind == (schema.IMPLICIT if is_event else schema.EXPLICIT))
        .order_by(stored.user_key, stored.item_key)
    )
    record = np.dtype([("user", np.int64), ("item", np.int64), ("rating", np.float64), ("at", np.int64)])
    rows = fetch_rows(connection, statement)
    while len(part := np.fromiter(islice(rows, n_rows), record)):
        yield [np.ascontiguousarray(part[name]) for name in record.names or ()]


def hashes_by_key(connection: Connection, table: Table) -> NDArray[np.uint64]:
    """Return `hash_ids` of the external ids, indexed by key; zero where there is no such key."""
    rows = connection.execute(select(table.columns[0], table.columns[1])).all()
    hashes = np.zeros(max((key for key, _ in rows), default=-1) + 1, np.uint64)
    hashes[[key for key, _ in rows]] = hash_ids([external_id for _, external_id in rows])
    return hashes
