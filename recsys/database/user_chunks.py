"""Users in chunks, for lists of all users: few bulk queries in place of one query for each user."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection, func, select

from recsys.data.keyed import positions
from recsys.database import schema
from recsys.database.checksums import row_checksum
from recsys.database.engine import fetch_columns


class UserChunk(NamedTuple):
    """Some users in the order of their keys: keys (n,), and their external ids."""

    keys: NDArray[np.int64]
    user_ids: list[str]


class TrainedRows(NamedTuple):
    """Rows of a version for users of a chunk.

    Attributes:
        position: (n,) positions of the users in the chunk.
        vectors: (n, width) float32.
        bias: (n,).
    """

    position: list[int]
    vectors: NDArray[np.float32]
    bias: list[float]


def count_users(connection: Connection) -> int:
    """Return the number of users."""
    return connection.scalar(select(func.count()).select_from(schema.users)) or 0


def last_user_key(connection: Connection) -> int:
    """Return the largest key of a user; 0 without users."""
    return connection.scalar(select(func.max(schema.users.c.user_key))) or 0


def read_chunks(connection: Connection, size: int, after: int = 0, last_key: int | None = None) -> Iterator[UserChunk]:
    """Read all users, or those with keys above `after` and up to `last_key`, `size` at a time."""
    users, last = schema.users.c, after
    while True:
        statement = select(users.user_key, users.user_id).where(users.user_key > last)
        if last_key is not None:
            statement = statement.where(users.user_key <= last_key)
        rows = connection.execute(statement.order_by(users.user_key).limit(size)).all()
        if not rows:
            return
        last = rows[-1].user_key
        yield UserChunk(np.array([row.user_key for row in rows], np.int64), [row.user_id for row in rows])


def read_trained_rows(
    connection: Connection, chunk: UserChunk, number: int, trained_seq: int, n_factors: int
) -> TrainedRows:
    """Read the rows of a version, of users whose ratings did not change since `trained_seq`.

    Damaged rows are left out.
    """
    first, last = int(chunk.keys[0]), int(chunk.keys[-1])
    changed, stored = schema.user_changes.c, schema.user_factors.c
    changed_keys = connection.scalars(
        select(changed.user_key).where(changed.user_key.between(first, last), changed.seq > trained_seq)
    )
    rows = connection.execute(
        select(stored.user_key, stored.bias, stored.vector, stored.checksum)
        .where(stored.number == number, stored.user_key.between(first, last))
        .order_by(stored.user_key)
    ).all()
    position = positions(chunk.keys, np.array([row.user_key for row in rows], np.int64))
    is_changed = np.isin(position, positions(chunk.keys, np.array(changed_keys.all(), np.int64)))
    intact = [row.checksum is None or row_checksum(row.user_key, row.bias, row.vector) == row.checksum for row in rows]
    kept = ~is_changed & (position >= 0) & np.array(intact, bool)
    kept_rows = [row for row, is_kept in zip(rows, kept, strict=True) if is_kept]
    vectors = np.frombuffer(b"".join(row.vector for row in kept_rows), "<f4")
    return TrainedRows(
        position[kept].tolist(), vectors.reshape(len(kept_rows), n_factors), [row.bias for row in kept_rows]
    )


def read_rated_pairs(connection: Connection, chunk: UserChunk) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return user_key and item_key of all ratings of a chunk, (n_ratings,) each, ordered by user."""
    rated = schema.ratings.c
    user_key, item_key = fetch_columns(
        connection,
        select(rated.user_key, rated.item_key)
        .where(rated.user_key.between(int(chunk.keys[0]), int(chunk.keys[-1])))
        .order_by(rated.user_key),
        (np.int64, np.int64),
    )
    return user_key, item_key
