"""Writing ratings in bulk: what is there already is compared as arrays, and only what differs is written."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import (
    ARRAY,
    BigInteger,
    Column,
    Connection,
    Double,
    MetaData,
    SmallInteger,
    Table,
    and_,
    any_,
    bindparam,
    case,
    func,
    or_,
    select,
)

from recsys.data.dataset import NO_TIME
from recsys.data.encoding import RatingColumns
from recsys.data.keyed import positions
from recsys.database import schema
from recsys.database.driver_errors import ConflictError, driver_errors, is_duplicate
from recsys.database.engine import ATTEMPTS, copy_in, fetch_columns, insert_values, stage, writers_overlap
from recsys.database.rating_reads import stream_ranges, stream_stored
from recsys.database.statements import upsert
from recsys.database.work import Work

MAX_READ_PER_USER = 4
"""Keys in the range of some users, for each of them, up to which the ratings of the whole range are read."""

_PAIR = ("user_key", "item_key", "kind")
staged_ratings = Table(
    "staged_ratings",
    MetaData(),
    Column("user_key", schema.Key, primary_key=True, autoincrement=False),
    Column("item_key", schema.Key, primary_key=True, autoincrement=False),
    Column("kind", SmallInteger, nullable=False),
    Column("rating", Double, nullable=False),
    Column("rated_at", BigInteger),
    prefixes=["TEMPORARY"],
    postgresql_on_commit="DROP",
    sqlite_with_rowid=False,
)


class Rows(NamedTuple):
    """Ratings of one kind, (n,) each, each pair once.

    Attributes:
        users, items: keys, ascending.
        rated_at: Unix milliseconds, `NO_TIME` if unknown.
    """

    users: NDArray[np.int64]
    items: NDArray[np.int64]
    rating: NDArray[np.float64]
    rated_at: NDArray[np.int64]

    @classmethod
    def of_pairs(cls, users: NDArray[np.int64], items: NDArray[np.int64]) -> "Rows":
        """Return rows of some pairs without ratings or times."""
        return cls(users, items, np.zeros(len(users)), np.full(len(users), NO_TIME))

    def where(self, mask: NDArray[np.bool_]) -> "Rows":
        """Return the rows of a mask."""
        return Rows(self.users[mask], self.items[mask], self.rating[mask], self.rated_at[mask])


def write_ratings(work: Work, kind: int, rows: Rows, values: list[Any] | None = None) -> tuple[int, int, int]:
    """Insert and update ratings of one kind, as `upsert_ratings` says, in a transaction.

    A row that changes nothing is left out after one look. Where writers overlap, another one may change what is stored
    right after it: that is as if the row had come before that change.

    Args:
        values: `interleave` of the rows' columns, if it is at hand.

    Returns:
        Number of rows inserted, of rows updated, and of rows left out because their user was erased meanwhile.
    """
    connection = work.connection
    exists, old, old_at = read_stored(connection, kind, rows.users, rows.items)
    is_changed = exists & changes(rows.rating, rows.rated_at, old, old_at)
    kept = ~exists | is_changed
    if not kept.any():
        work.only_read = True
        return 0, 0, 0
    rows = rows.where(kept)
    exists, old = exists[kept], old[kept]
    if writers_overlap(connection):
        there = lock_users(connection, rows.users)
        n_erased = int((~there).sum())
        rows, exists = rows.where(there), exists[there]
        is_left = exists if insert_new(work, kind, rows.where(~exists)) else np.ones(len(exists), bool)
        n_new = int((~is_left).sum())
        if not is_left.any():
            return n_new, 0, n_erased
        stage_ratings(connection, kind, rows.where(is_left))
        written, n_inserted = write_staged_ratings(work, is_explicit=kind == schema.EXPLICIT)
        return n_new + n_inserted, written - n_inserted, n_erased
    # No other writer can change anything before this transaction ends: what was read is still so.
    is_new, gain = ~exists, rows.rating - np.where(exists, old, 0.0)
    there = are_users(connection, rows.users)
    n_erased = int((~there).sum())
    if n_erased:
        rows, is_new, gain = rows.where(there), is_new[there], gain[there]
    if values is not None and len(values) == len(staged_ratings.columns) * len(is_new) and is_new.all():
        insert_values(connection, schema.ratings, values)
    else:
        insert_rows(connection, kind, rows.where(is_new))
    update_rows(connection, kind, rows.where(~is_new))
    note_changes(work, rows.users, rows.items, is_new.astype(np.int64), gain, is_explicit=kind == schema.EXPLICIT)
    n_new = int(is_new.sum())
    return n_new, len(rows.users) - n_new, n_erased


def changes(
    rating: NDArray[np.float64], rated_at: NDArray[np.int64], old: NDArray[np.float64], old_at: NDArray[np.int64]
) -> NDArray[np.bool_]:
    """Return which ratings differ from what is stored of their pairs, and are not older: (n,) each."""
    # No time is the smallest number: it is newer than none, and older than any other.
    differs: NDArray[np.bool_] = (rated_at >= old_at) & ((rating != old) | (rated_at != old_at))
    return differs


def find_unchanged(connection: Connection, kind: int, rows: Rows) -> NDArray[np.bool_]:
    """Return which rows, (n,), would change nothing of what is stored. It reads all ratings."""
    unchanged = np.zeros(len(rows.users), bool)
    for part in stream_stored(connection):
        part = part.where(part.kind == kind)
        if not len(part.users):
            continue
        first = np.searchsorted(rows.users, part.users[0])
        among = slice(first, np.searchsorted(rows.users, part.users[-1], "right"))
        items = rows.items[among]
        width = max(int(items.max(initial=0)), int(part.items.max())) + 1
        codes: NDArray[np.int64] = part.users * width + part.items
        at = positions(codes, rows.users[among] * width + items)
        differs = changes(rows.rating[among], rows.rated_at[among], part.rating[at], part.rated_at[at])
        unchanged[among] |= (at >= 0) & ~differs
    return unchanged


def read_stored(
    connection: Connection, kind: int, users: NDArray[np.int64], items: NDArray[np.int64]
) -> tuple[NDArray[np.bool_], NDArray[np.float64], NDArray[np.int64]]:
    """Return what is stored of some pairs: whether there is any, the rating, and the time; (n,) each.

    Args:
        users, items: (n,) keys, ascending.
    """
    stored = schema.ratings.c
    columns = (stored.user_key, stored.item_key, stored.rating, func.coalesce(stored.rated_at, NO_TIME))
    if covers_range(users):
        parts = [Rows.of_pairs(np.empty(0, np.int64), np.empty(0, np.int64))]
        for part in stream_ranges(connection, int(users[0]), int(users[-1])):
            part = part.where((part.kind == kind) & (positions(users, part.users) >= 0))
            parts.append(Rows(part.users, part.items, part.rating, part.rated_at))
        found = [np.concatenate(column) for column in zip(*parts, strict=True)]
    else:
        stage_ratings(connection, kind, Rows.of_pairs(users, items))
        statement = select(*columns).select_from(staged_ratings.join(schema.ratings, SAME_PAIR))
        found = fetch_columns(connection, statement, (np.int64, np.int64, np.float64, np.int64))
    width = np.int64(max(items.max(initial=0), found[1].max(initial=0)) + 1)
    code: NDArray[np.int64] = found[0] * width + found[1]
    if (np.diff(code) < 0).any():
        order = np.argsort(code)
        code, found = code[order], [each[order] for each in found]
    at = positions(code, users * width + items)
    exists = at >= 0
    return exists, np.append(found[2], 0.0)[at], np.append(found[3], NO_TIME)[at]


def covers_range(users: NDArray[np.int64]) -> bool:
    """Return whether the keys of users, ascending, are a large part of all keys between the first and the last."""
    if not len(users):
        return False
    n_users = 1 + np.count_nonzero(np.diff(users))
    return bool(users[-1] - users[0] < MAX_READ_PER_USER * n_users)


def are_users(connection: Connection, users: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Return which keys, ascending, are those of users: (n,)."""
    keys = np.unique(users)
    known, stored = staged_ratings.c.user_key, schema.users.c.user_key
    if covers_range(users):
        statement = select(stored).where(stored.between(int(keys[0]), int(keys[-1]))).order_by(stored)
    else:
        stage_ratings(connection, schema.EXPLICIT, Rows.of_pairs(keys, np.zeros(len(keys), np.int64)))
        statement = select(stored).join_from(staged_ratings, schema.users, known == stored).order_by(stored)
    (found,) = fetch_columns(connection, statement, (np.int64,))
    there: NDArray[np.bool_] = positions(found, users) >= 0
    return there


def stage_ratings(connection: Connection, kind: int, rows: Rows) -> None:
    """Replace the content of the temporary table of ratings."""
    stage(connection, staged_ratings, as_columns(kind, rows))


def as_columns(kind: int, rows: Rows) -> tuple[NDArray[Any], ...]:
    """Return the columns of the table of ratings; a time that is not known is masked."""
    times = np.ma.masked_equal(rows.rated_at, NO_TIME)
    return rows.users, rows.items, np.full(len(rows.users), kind, np.int16), rows.rating, times


def insert_rows(connection: Connection, kind: int, rows: Rows) -> None:
    """Insert ratings that are known not to be there."""
    if len(rows.users):
        copy_in(connection, schema.ratings, as_columns(kind, rows))


def update_rows(connection: Connection, kind: int, rows: Rows) -> None:
    """Update ratings that are known to be there."""
    if not len(rows.users):
        return
    stage_ratings(connection, kind, rows)
    upsert(
        connection,
        schema.ratings,
        select(staged_ratings).order_by(_STAGED.user_key, _STAGED.item_key),
        key=_PAIR,
        set_=["rating", "rated_at"],
    )


def add_later_events(
    connection: Connection,
    events: RatingColumns,
    pairs: RatingColumns,
    rows: NDArray[np.int64],
    keys: Rows,
) -> Rows:
    """Return what pairs weigh with the events that are later than the latest counted one, if there are such.

    Args:
        events: all events of the file.
        pairs: one row for each pair of `events`.
        rows: (n_pairs,) the rows of `pairs` to look at.
        keys: their users and items.

    Returns:
        The new weights, and the times of the latest events, of the pairs that have later events.
    """
    exists, stored, stored_at = read_stored(connection, schema.IMPLICIT, keys.users, keys.items)
    before, latest = np.where(exists, stored, 0.0), np.where(exists, stored_at, NO_TIME)
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
    return Rows(keys.users, keys.items, (before + added).astype(np.float64), times).where(has_later)


def insert_new(work: Work, kind: int, rows: Rows) -> bool:
    """Insert ratings that were not there when they were read, where other writers may be at work too.

    Returns:
        Whether they are inserted; none is, if another writer inserted one of them meanwhile.
    """
    if not len(rows.users):
        return True
    try:
        with work.connection.begin_nested():
            insert_rows(work.connection, kind, rows)
    except driver_errors() as error:
        if is_duplicate(error):
            return False
        raise
    is_new = np.ones(len(rows.users), np.int64)
    note_changes(work, rows.users, rows.items, is_new, rows.rating, is_explicit=kind == schema.EXPLICIT)
    return True


def lock_users(connection: Connection, keys: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Lock users, before any of their ratings, so that an erasure of one waits for this transaction.

    Args:
        keys: (n,) ascending, perhaps with the same user several times.

    Returns:
        (n,) which of them are there; the others were erased already.
    """
    user_key = schema.users.c.user_key
    given = bindparam("keys", np.unique(keys).tolist(), type_=ARRAY(BigInteger))
    statement = select(user_key).where(user_key == any_(given)).order_by(user_key)
    found = connection.scalars(statement.with_for_update(read=True, key_share=True)).all()
    there: NDArray[np.bool_] = positions(np.array(found, np.int64), keys) >= 0
    return there


_STAGED, _STORED = staged_ratings.c, schema.ratings.c
SAME_PAIR = and_(
    _STORED.user_key == _STAGED.user_key, _STORED.item_key == _STAGED.item_key, _STORED.kind == _STAGED.kind
)
_IS_NEW = _STORED.user_key.is_(None)
_IS_CHANGED = and_(
    _STORED.user_key.is_not(None),
    or_(_STORED.rated_at.is_(None), _STAGED.rated_at >= _STORED.rated_at),
    or_(_STAGED.rating != _STORED.rating, _STAGED.rated_at.is_distinct_from(_STORED.rated_at)),
)
_NEW = (
    select(staged_ratings)
    .select_from(staged_ratings.outerjoin(schema.ratings, SAME_PAIR))
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
    .select_from(staged_ratings.join(schema.ratings, SAME_PAIR))
    .where(_IS_CHANGED)
    .order_by(_STAGED.user_key, _STAGED.item_key)
)


def read_staged_changes(connection: Connection) -> list[NDArray[Any]]:
    """Return what of the staged ratings is to be written, (n,) each.

    Returns:
        User keys; item keys; 1 for a rating that is new, 0 for a changed one; the change of the sum of the item.
    """
    joined = staged_ratings.outerjoin(schema.ratings, SAME_PAIR)
    gain = _STAGED.rating - func.coalesce(_STORED.rating, 0.0)
    statement = select(_STAGED.user_key, _STAGED.item_key, case((_IS_NEW, 1), else_=0), gain).select_from(joined)
    types = (np.int64, np.int64, np.int64, np.float64)
    return fetch_columns(connection, statement.where(or_(_IS_NEW, _IS_CHANGED)), types)


def write_staged_ratings(work: Work, *, is_explicit: bool) -> tuple[int, int]:
    """Insert and update the staged ratings that are new or changed, where other writers may be at work too.

    A pair that another writer inserts at the same moment is counted once, by the writer that inserted it.

    Returns:
        Number of rows written, and how many of them are new.
    """
    connection = work.connection
    for _ in range(ATTEMPTS):
        user_key, item_key, is_new, gain = read_staged_changes(connection)
        n_new = int(is_new.sum())
        n_changed = len(is_new) - n_new
        if n_changed:
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
    note_changes(work, user_key, item_key, is_new, gain, is_explicit=is_explicit)
    return len(user_key), n_new


def note_changes(
    work: Work,
    users: NDArray[np.int64],
    items: NDArray[np.int64],
    is_new: NDArray[np.int64],
    gain: NDArray[np.float64],
    *,
    is_explicit: bool,
) -> None:
    """Record which users and items the written ratings changed: (n,) each.

    Args:
        is_new: 1 for a rating that was not there, 0 for a changed one.
        gain: change of the sum of the item.
    """
    if len(users):
        work.change_everything()
        work.mark_rated(np.unique(users))
        work.count(items, is_new, gain, is_explicit)
