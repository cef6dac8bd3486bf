"""Stored ratings as arrays, by the fastest road of each database, in pieces of bounded size."""

import sqlite3
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar, cast

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection, func, select

from recsys.data.ahead import ahead
from recsys.data.dataset import NO_TIME
from recsys.data.encoding import GrowingArray
from recsys.database import schema
from recsys.database.engine import fetch_columns, is_sqlite
from recsys.database.sqlite_image import decode_table, read_image

if TYPE_CHECKING:
    import psycopg

ROWS_AT_ONCE = 100_000
"""Ratings that are aimed at with the next range of users."""
FIRST_USERS = 100
"""Users of the first range."""
_COLUMN_TYPES = (np.int64, np.int64, np.int64, np.float64, np.int64)


class StoredRatings(NamedTuple):
    """Ratings and weights of events, (n,) each, in the order of their keys.

    Attributes:
        kind: `schema.EXPLICIT` or `schema.IMPLICIT`.
        rated_at: Unix milliseconds, `NO_TIME` if unknown.
    """

    users: NDArray[np.int64]
    items: NDArray[np.int64]
    kind: NDArray[np.int64]
    rating: NDArray[np.float64]
    rated_at: NDArray[np.int64]

    def where(self, rows: NDArray[np.bool_] | NDArray[np.int64] | slice) -> "StoredRatings":
        """Return some of the rows."""
        return StoredRatings(
            self.users[rows], self.items[rows], self.kind[rows], self.rating[rows], self.rated_at[rows]
        )


Part = TypeVar("Part", StoredRatings, NDArray[Any])


def stream_stored(connection: Connection) -> Iterator[StoredRatings]:
    """Yield all ratings and weights of events, in the order of users, items and kinds."""
    image = None
    if is_sqlite(connection.engine):
        image = read_image(cast(sqlite3.Connection, connection.connection.dbapi_connection))
    if image is None:
        user = schema.ratings.c.user_key
        first, last = connection.execute(select(func.min(user), func.max(user))).one()
        if first is not None:
            yield from stream_ranges(connection, first, last)
        return
    root = connection.exec_driver_sql("SELECT rootpage FROM sqlite_master WHERE name = 'ratings'").scalar_one()
    for columns in decode_table(image, int(root), _COLUMN_TYPES, NO_TIME):
        yield StoredRatings(*columns)


def stream_ranges(connection: Connection, first: int, last: int) -> Iterator[StoredRatings]:
    """Yield the ratings of the users with keys from `first` to `last`, of one range after the other."""
    if is_sqlite(connection.engine):
        yield from _read_ranges(lambda first, last: read_range(connection, first, last), first, last)
        return
    # PostgreSQL packs the next range while the last one is worked on.
    for packed in ahead(_read_ranges(lambda first, last: read_packed(connection, first, last), first, last)):
        yield unpack(packed)


def _read_ranges(read: Callable[[int, int], Part], first: int, last: int) -> Iterator[Part]:
    """Yield what `read` returns for one range of users after the other, without ranges that have no ratings."""
    n_users = FIRST_USERS
    while first <= last:
        part = read(first, min(first + n_users - 1, last))
        n_ratings = len(part.users) if isinstance(part, StoredRatings) else len(part)
        first += n_users
        n_users = max(1, min(n_users * 8, n_users * ROWS_AT_ONCE // max(n_ratings, 1)))
        if n_ratings:
            yield part


def read_range(connection: Connection, first: int, last: int) -> StoredRatings:
    """Return the ratings of the users with keys from `first` to `last`, in the order of users, items and kinds."""
    stored = schema.ratings.c
    statement = (
        select(stored.user_key, stored.item_key, stored.kind, stored.rating, func.coalesce(stored.rated_at, NO_TIME))
        .where(stored.user_key.between(first, last))
        .order_by(stored.user_key, stored.item_key, stored.kind)
    )
    return StoredRatings(*fetch_columns(connection, statement, _COLUMN_TYPES))


def read_packed(connection: Connection, first: int, last: int) -> NDArray[Any]:
    """Return the ratings of a range of users, packed by PostgreSQL into one value: rows take the driver 1 µs each.

    Returns:
        (n,) records as `_PACKED`, in any order.
    """
    postgres = cast("psycopg.Connection[Any]", connection.connection.dbapi_connection)
    with postgres.cursor(binary=True) as cursor:
        cursor.execute(
            "SELECT string_agg(int8send(user_key) || int8send(item_key * 2 + kind) || float8send(rating)"
            " || int8send(coalesce(rated_at, %s)), '') FROM ratings WHERE user_key BETWEEN %s AND %s",
            (NO_TIME, first, last),
        )
        row = cursor.fetchone()
    return np.frombuffer(b"" if row is None or row[0] is None else row[0], _PACKED)


def unpack(packed: NDArray[Any]) -> StoredRatings:
    """Return packed ratings in the order of users, items and kinds."""
    users, pairs = packed["user"].astype(np.int64), packed["pair"].astype(np.int64)
    found = StoredRatings(
        users, pairs >> 1, pairs & 1, packed["rating"].astype(np.float64), packed["at"].astype(np.int64)
    )
    step = np.diff(users)
    if ((step > 0) | ((step == 0) & (np.diff(pairs) > 0))).all():  # as they were loaded
        return found
    return found.where(np.lexsort((pairs, users)))


_PACKED = np.dtype([("user", ">i8"), ("pair", ">i8"), ("rating", ">f8"), ("at", ">i8")])


def read_stored_ratings(connection: Connection) -> StoredRatings:
    """Return all ratings and weights of events, in the order of users, items and kinds."""
    users, items, kind = GrowingArray(np.int64), GrowingArray(np.int64), GrowingArray(np.int64)
    rating, rated_at = GrowingArray(np.float64), GrowingArray(np.int64)
    for part in stream_stored(connection):
        users.append(part.users)
        items.append(part.items)
        kind.append(part.kind)
        rating.append(part.rating)
        rated_at.append(part.rated_at)
    return StoredRatings(users.finish(), items.finish(), kind.finish(), rating.finish(), rated_at.finish())
