"""Ratings in the database: upserted in bulk, taken back, previewed, read as arrays."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
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
    Table,
    and_,
    case,
    delete,
    func,
    or_,
    select,
    update,
)

from recsys.data.dataset import NO_TIME, Ratings, ratings_from_keys
from recsys.data.encoding import RatingColumns, latest_rows
from recsys.data.keyed import hash_ids, positions
from recsys.database import schema
from recsys.database.changes import UserChange
from recsys.database.driver_errors import ConflictError
from recsys.database.engine import ATTEMPTS, fetch_columns, retry_on_conflict, stage, upsert, writers_overlap
from recsys.database.ids import keys_of
from recsys.database.users import lock_users
from recsys.database.work import Guard, Work, unit_of_work, write_in_pieces

_PAIR = ("user_key", "item_key")
_staged_ratings = Table(
    "staged_ratings",
    MetaData(),
    Column("user_key", schema.Key, primary_key=True, autoincrement=False),
    Column("item_key", schema.Key, primary_key=True, autoincrement=False),
    Column("rating", Double, nullable=False),
    Column("rated_at", BigInteger),
    prefixes=["TEMPORARY"],
    sqlite_with_rowid=False,
)


@dataclass(frozen=True, slots=True)
class Upserted:
    """Numbers of rows: inserted + updated + unchanged = the rows given.

    A row that a later one of the same input supersedes, or that is older than what is stored, is unchanged.
    """

    inserted: int
    updated: int
    unchanged: int


def upsert_ratings(
    engine: Engine,
    columns: RatingColumns,
    *,
    guard: Guard | None = None,
    on_rows: Callable[[int], None] | None = None,
) -> Upserted:
    """Insert or update ratings in bulk; users and items that are not in the database are inserted.

    An older `rated_at` never overwrites; with an equal or unknown one the last load wins; the same value
    without `rated_at` is unchanged.

    On SQLite every piece of the load is committed by itself, so an interrupted load leaves its first pieces, and the
    next load of the file completes it. One transaction for a file would keep every other writer waiting for its whole
    time: 6 s a million ratings, where the pieces keep the API waiting for some tenths of a second. On PostgreSQL, where
    writers do not wait for each other, the load is one transaction.

    Args:
        guard: called in every transaction before it commits.
        on_rows: called with the number of rows just written.

    Raises:
        RecsysError: whatever `guard` raises.
    """
    item_keys = keys_of(engine, schema.items, columns.item_ids, guard)
    user_keys = keys_of(engine, schema.users, columns.user_ids, guard)
    kept = latest_rows(columns, user_keys, item_keys)
    n_inserted = n_updated = 0

    def write(work: Work, part: slice) -> None:
        nonlocal n_inserted, n_updated
        rows = kept[part]
        times = [None if at == NO_TIME else at for at in columns.rated_at[rows].tolist()]
        users, items = user_keys[columns.user_code[rows]].tolist(), item_keys[columns.item_code[rows]].tolist()
        stage(work.connection, _staged_ratings, (users, items, columns.rating[rows].tolist(), times))
        for key in lock_staged_users(work.connection):
            # Erased since the keys were looked up: the user is inserted again.
            code = int(np.flatnonzero(user_keys == key)[0])
            user_keys[code] = lock_users(work.connection, [columns.user_ids[code]])[columns.user_ids[code]]
            staged = _staged_ratings.c.user_key
            work.connection.execute(update(_staged_ratings).where(staged == key).values(user_key=int(user_keys[code])))
        written, n_new = write_staged_ratings(work)
        n_inserted, n_updated = n_inserted + n_new, n_updated + written - n_new

    def write_all() -> None:
        nonlocal n_inserted, n_updated
        n_inserted = n_updated = 0
        write_in_pieces(engine, len(kept), write, on_rows, guard)

    retry_on_conflict(write_all)
    return Upserted(n_inserted, n_updated, len(columns) - n_inserted - n_updated)


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
_SAME_PAIR = and_(_STORED.user_key == _STAGED.user_key, _STORED.item_key == _STAGED.item_key)
_IS_NEW = _STORED.user_key.is_(None)
_IS_CHANGED = and_(
    _STORED.user_key.is_not(None),
    or_(_STORED.rated_at.is_(None), _STAGED.rated_at.is_(None), _STAGED.rated_at >= _STORED.rated_at),
    or_(
        _STAGED.rating != _STORED.rating,
        and_(_STAGED.rated_at.is_not(None), _STAGED.rated_at.is_distinct_from(_STORED.rated_at)),
    ),
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
        _STAGED.rating,
        func.coalesce(_STAGED.rated_at, _STORED.rated_at).label("rated_at"),
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


def write_staged_ratings(work: Work) -> tuple[int, int]:
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
        work.count(item_key, is_new, gain)
    return len(user_key), n_new


def delete_rating(engine: Engine, user_id: str, item_id: str) -> UserChange | None:
    """Delete a rating; return `None` if there is none."""
    users, items, rated = schema.users.c, schema.items.c, schema.ratings.c
    if "\0" in user_id + item_id:
        return None  # no id has one, and PostgreSQL takes no text with it

    def write() -> UserChange | None:
        with unit_of_work(engine) as work:
            user_key = work.connection.scalar(
                select(users.user_key).where(users.user_id == user_id).with_for_update(read=True, key_share=True)
            )
            row = work.connection.execute(
                delete(schema.ratings)
                .where(
                    rated.user_key == user_key,
                    rated.item_key == select(items.item_key).where(items.item_id == item_id).scalar_subquery(),
                )
                .returning(rated.user_key, rated.item_key, rated.rating)
            ).one_or_none()
            if row is None:
                return None
            work.mark_rated([row.user_key])
            work.count(np.array([row.item_key]), [-1], np.array([-row.rating]))
        return UserChange(row.user_key, work.seq)

    return retry_on_conflict(write)


def preview_upsert(connection: Connection, columns: RatingColumns) -> Upserted:
    """Return what `upsert_ratings` would do, without writing. It reads all stored ratings."""
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
        select(stored.user_key, stored.item_key, stored.rating, func.coalesce(stored.rated_at, NO_TIME)).order_by(
            stored.user_key, stored.item_key
        ),
        (np.int64, np.int64, np.float64, np.int64),
    )
    known = (user_key[kept] >= 0) & (item_key[kept] >= 0)
    stored_row = positions(old_user * n_items + old_item, user_key[kept] * n_items + item_key[kept])
    is_old = known & (stored_row >= 0)
    rating, rated_at, stored_row = columns.rating[kept][is_old], columns.rated_at[kept][is_old], stored_row[is_old]
    timeless = (rated_at == NO_TIME) | (old_at[stored_row] == NO_TIME)
    differs = (rating != old_rating[stored_row]) | ((rated_at != NO_TIME) & (rated_at != old_at[stored_row]))
    updated = int((differs & (timeless | (rated_at >= old_at[stored_row]))).sum())
    inserted = len(kept) - int(is_old.sum())
    return Upserted(inserted, updated, len(columns) - inserted - updated)


def read_ratings(connection: Connection) -> Ratings:
    """Return all ratings, in the order of their keys."""
    stored = schema.ratings.c
    rated_at = func.coalesce(stored.rated_at, NO_TIME)
    statement = select(stored.user_key, stored.item_key, stored.rating, rated_at)
    ordered = statement.order_by(stored.user_key, stored.item_key)
    user_key, item_key, rating, times = fetch_columns(connection, ordered, (np.int64, np.int64, np.float64, np.int64))
    hashes = [hashes_by_key(connection, table) for table in (schema.users, schema.items)]
    return ratings_from_keys(user_key, item_key, rating, times, *hashes)


def hashes_by_key(connection: Connection, table: Table) -> NDArray[np.uint64]:
    """Return `hash_ids` of the external ids, indexed by key; zero where there is no such key."""
    rows = connection.execute(select(table.columns[0], table.columns[1])).all()
    hashes = np.zeros(max((key for key, _ in rows), default=-1) + 1, np.uint64)
    hashes[[key for key, _ in rows]] = hash_ids([external_id for _, external_id in rows])
    return hashes
