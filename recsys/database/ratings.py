"""Ratings in the database: upsert in bulk, read as arrays."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import (
    BigInteger,
    Column,
    ColumnElement,
    Connection,
    Double,
    Engine,
    Insert,
    MetaData,
    Table,
    and_,
    bindparam,
    case,
    delete,
    func,
    or_,
    select,
)
from sqlalchemy.exc import IntegrityError

from recsys.data.dataset import NO_TIME, Ratings, ratings_from_keys
from recsys.data.encoding import RatingColumns, latest_rows
from recsys.data.keyed import hash_ids, positions
from recsys.database import schema
from recsys.database.changes import UserChange, mark_users, record_change
from recsys.database.counts import add_counts
from recsys.database.engine import (
    fetch_columns,
    insert_or_update,
    is_sqlite,
    stage,
    take_turn,
    write_in_pieces,
    writing,
)
from recsys.database.ids import keys_of

_ATTEMPTS = 20
"""How often ratings are written anew where one of their users is erased meanwhile."""

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
    """What became of the rows: inserted + updated + unchanged = the rows given.

    A row that a later one of the same input supersedes, or that is older than what is stored, is unchanged.

    Attributes:
        users: keys of the users whose ratings were written, where they were recorded one by one, and
        seq: of that change.
    """

    inserted: int
    updated: int
    unchanged: int
    users: tuple[int, ...] = field(default=(), compare=False)
    seq: int = field(default=0, compare=False)


def upsert_ratings(
    engine: Engine,
    columns: RatingColumns,
    *,
    received_at: int | None = None,
    bulk: bool = True,
    on_rows: Callable[[int], None] | None = None,
) -> Upserted:
    """Insert or update ratings; users and items that are not there are made.

    An older `rated_at` never overwrites; with an equal or unknown one the last load wins; the same value
    without `rated_at` is unchanged.

    Args:
        received_at: stands in for an unknown `rated_at` of what is written.
        bulk: record one change of everything, or one for each user.
        on_rows: called with the number of rows just dealt with.
    """
    inserted = updated = seq = 0
    users: list[int] = []
    item_key_of_code = keys_of(engine, schema.items, columns.item_ids)
    written: list[_Written] = []  # by this transaction

    def write(connection: Connection, part: slice) -> None:
        nonlocal inserted, updated, seq
        if not bulk:
            take_turn(connection)  # so that no other one counts the same rating as new
        rows = kept[part]
        times = [None if at == NO_TIME else at for at in columns.rated_at[rows].tolist()]
        ratings = columns.rating[rows].tolist()
        user_key = user_key_of_code[columns.user_code[rows]].tolist()
        item_key = item_key_of_code[columns.item_code[rows]].tolist()
        stage(connection, _staged_ratings, (user_key, item_key, ratings, times))
        if not is_sqlite(engine):
            connection.execute(_LOCK_USERS)
        merged = _merge_staged_ratings(connection, received_at)
        n_new = int(merged.is_new.sum())
        inserted, updated = inserted + n_new, updated + len(merged.user_key) - n_new
        written.append(merged)
        # PostgreSQL writes all pieces in one transaction: others are kept from committing at its end only.
        if is_sqlite(engine) or part.stop == len(kept):
            changed = np.unique(np.concatenate([part.user_key for part in written])).tolist()
            if changed:
                seq = _note(connection, written, changed, bulk)
                users.extend([] if bulk else changed)
            written.clear()

    for attempt in range(_ATTEMPTS):
        user_key_of_code = keys_of(engine, schema.users, columns.user_ids)
        kept = latest_rows(columns, user_key_of_code, item_key_of_code)
        try:
            write_in_pieces(engine, len(kept), write, on_rows)
            break
        except IntegrityError:  # a user was erased since their key was looked up
            if attempt == _ATTEMPTS - 1:
                raise
            written.clear()
            if not is_sqlite(engine):  # on SQLite the pieces before this one are written
                inserted = updated = 0
    return Upserted(inserted, updated, len(columns) - inserted - updated, tuple(users), seq)


def _note(connection: Connection, written: "Sequence[_Written]", users: Sequence[int], bulk: bool) -> int:
    """What follows from ratings that this transaction wrote: the change itself, its users, and the counts of items."""
    seq = record_change(connection, users=() if bulk else users)
    mark_users(connection, users, seq)
    add_counts(
        connection,
        np.concatenate([part.item_key for part in written]),
        np.concatenate([part.is_new for part in written]),
        np.concatenate([part.gain for part in written]),
    )
    return seq


_LOCK_USERS = select(func.count()).select_from(
    select(schema.users.c.user_key)
    .where(schema.users.c.user_key.in_(select(_staged_ratings.c.user_key)))
    .order_by(schema.users.c.user_key)
    .with_for_update(read=True, key_share=True)
    .subquery()
)
"""Whoever erases one of them waits, or has done so already. Before any rating is locked, as erasing does too."""


def delete_rating(engine: Engine, user_id: str, item_id: str) -> UserChange | None:
    """Take a rating back; None where there is none."""
    users, items, rated = schema.users.c, schema.items.c, schema.ratings.c
    if "\0" in user_id + item_id:
        return None  # no id has one, and PostgreSQL takes no text with it
    with writing(engine) as connection:
        take_turn(connection)
        user_key = connection.scalar(
            select(users.user_key).where(users.user_id == user_id).with_for_update(read=True, key_share=True)
        )
        row = connection.execute(
            delete(schema.ratings)
            .where(
                rated.user_key == user_key,
                rated.item_key == select(items.item_key).where(items.item_id == item_id).scalar_subquery(),
            )
            .returning(rated.user_key, rated.item_key, rated.rating)
        ).one_or_none()
        if row is None:
            return None
        seq = record_change(connection, users=[row.user_key])
        mark_users(connection, [row.user_key], seq)
        add_counts(connection, np.array([row.item_key]), np.array([-1]), np.array([-row.rating]))
    return UserChange(row.user_key, seq)


def preview_upsert(connection: Connection, columns: RatingColumns) -> Upserted:
    """What `upsert_ratings` would do, without writing. Reads all stored ratings."""
    stored = schema.ratings.c
    user_key = _stored_keys(connection, schema.users, columns.user_ids)[columns.user_code]
    item_key = _stored_keys(connection, schema.items, columns.item_ids)[columns.item_code]
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
    place = positions(old_user * n_items + old_item, user_key[kept] * n_items + item_key[kept])
    is_old = known & (place >= 0)
    rating, rated_at, place = columns.rating[kept][is_old], columns.rated_at[kept][is_old], place[is_old]
    timeless = (rated_at == NO_TIME) | (old_at[place] == NO_TIME)
    differs = (rating != old_rating[place]) | ((rated_at != NO_TIME) & (rated_at != old_at[place]))
    updated = int((differs & (timeless | (rated_at >= old_at[place]))).sum())
    inserted = len(kept) - int(is_old.sum())
    return Upserted(inserted, updated, len(columns) - inserted - updated)


def _stored_keys(connection: Connection, table: Table, ids: Sequence[str]) -> NDArray[np.int64]:
    """Keys of external ids, −1 where there is none yet."""
    stored = {external_id: key for key, external_id in connection.execute(select(*list(table.columns)[:2]))}
    return np.array([stored.get(external_id, -1) for external_id in ids], np.int64)


@dataclass(frozen=True, slots=True)
class _Written:
    """Ratings that were inserted or updated: (n,) each.

    Attributes:
        user_key, item_key: whose, and of what.
        is_new: 1 where there was none, 0 where there was another.
        gain: by how much the sum of the item's ratings grows.
    """

    user_key: NDArray[np.int64]
    item_key: NDArray[np.int64]
    is_new: NDArray[np.int64]
    gain: NDArray[np.float64]


_JOINED = _staged_ratings.outerjoin(
    schema.ratings,
    and_(
        schema.ratings.c.user_key == _staged_ratings.c.user_key,
        schema.ratings.c.item_key == _staged_ratings.c.item_key,
    ),
)


def _what_is_written() -> tuple[ColumnElement[bool], ColumnElement[bool]]:
    """Whether a joined row is new, and whether it is new or changed."""
    staged, stored = _staged_ratings.c, schema.ratings.c
    is_new = stored.user_key.is_(None)
    not_older = or_(stored.rated_at.is_(None), staged.rated_at.is_(None), staged.rated_at >= stored.rated_at)
    differs = or_(
        staged.rating != stored.rating,
        and_(staged.rated_at.is_not(None), staged.rated_at.is_distinct_from(stored.rated_at)),
    )
    return is_new, or_(is_new, and_(~is_new, not_older, differs))


_IS_NEW, _IS_WRITTEN = _what_is_written()
_WRITTEN = (
    select(
        _staged_ratings.c.user_key,
        _staged_ratings.c.item_key,
        case((_IS_NEW, 1), else_=0),
        _staged_ratings.c.rating - func.coalesce(schema.ratings.c.rating, 0.0),
    )
    .select_from(_JOINED)
    .where(_IS_WRITTEN)
)


@cache
def _merging(dialect: str, in_time: bool) -> Insert:
    """The statement that writes what is new or changed.

    Args:
        in_time: whether unknown times are filled in with the parameter `received_at`.
    """
    staged, stored = _staged_ratings.c, schema.ratings.c
    received_at = bindparam("received_at", type_=BigInteger)
    statement = insert_or_update(dialect, schema.ratings).from_select(
        ["user_key", "item_key", "rating", "rated_at"],
        select(staged.user_key, staged.item_key, staged.rating, func.coalesce(staged.rated_at, received_at))
        .select_from(_JOINED)
        .where(_IS_WRITTEN)
        .order_by(staged.user_key, staged.item_key),
    )
    given = statement.excluded
    # Another writer may have been faster since the join, and have brought a newer rating. Where unknown times were
    # filled in, the join alone decides: such a row is the latest, whatever the clocks say.
    newer = or_(stored.rated_at.is_(None), given.rated_at.is_(None), given.rated_at >= stored.rated_at)
    return statement.on_conflict_do_update(
        index_elements=["user_key", "item_key"],
        set_={"rating": given.rating, "rated_at": func.coalesce(given.rated_at, stored.rated_at)},
        where=None if in_time else newer,
    )


def _merge_staged_ratings(connection: Connection, received_at: int | None) -> _Written:
    """Write what is new or changed of the staged ratings."""
    written = _Written(*fetch_columns(connection, _WRITTEN, (np.int64, np.int64, np.int64, np.float64)))
    if len(written.user_key):
        statement = _merging(connection.dialect.name, received_at is not None)
        connection.execute(statement, {"received_at": received_at})
    return written


def read_ratings(connection: Connection) -> Ratings:
    """All ratings, in the order of their keys."""
    user_key, item_key, rating, rated_at = _read_columns(connection)
    return ratings_from_keys(
        user_key,
        item_key,
        rating,
        rated_at,
        _hash_by_key(connection, schema.users),
        _hash_by_key(connection, schema.items),
    )


def _read_columns(connection: Connection) -> list[NDArray[Any]]:
    """user_key, item_key, rating and rated_at of all ratings, in the order of the keys."""
    stored = schema.ratings.c
    rated_at = func.coalesce(stored.rated_at, NO_TIME)
    statement = select(stored.user_key, stored.item_key, stored.rating, rated_at)
    ordered = statement.order_by(stored.user_key, stored.item_key)
    return fetch_columns(connection, ordered, (np.int64, np.int64, np.float64, np.int64))


def _hash_by_key(connection: Connection, table: Table) -> NDArray[np.uint64]:
    """`hash_ids` of the external ids, looked up by key; zero where there is no such key."""
    rows = connection.execute(select(table.columns[0], table.columns[1])).all()
    hashes = np.zeros(max((key for key, _ in rows), default=-1) + 1, np.uint64)
    hashes[[key for key, _ in rows]] = hash_ids([external_id for _, external_id in rows])
    return hashes
