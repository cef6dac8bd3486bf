"""What serving knows of one user: read from the database, so that the last rating counts at once."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection, select

from recsys.data import schema
from recsys.registry import load_user
from recsys.results import UserRating, UserRatings, as_time


@dataclass(frozen=True, slots=True)
class UserState:
    """A user as the database has them now.

    Attributes:
        seen_keys: (n,) int64, keys of the items they have rated.
        vector: (n_factors,) float32 in the version asked for; None where it does not know them.
        bias: their bias in that version.
    """

    seen_keys: NDArray[np.int64]
    vector: NDArray[np.float32] | None
    bias: float


NOBODY = UserState(seen_keys=np.empty(0, np.int64), vector=None, bias=0.0)


def read_user(connection: Connection, user_id: str, number: int | None) -> UserState:
    """The state of a user for one version; of a user nobody knows, a state without ratings or vector."""
    user_key = _user_key(connection, user_id)
    if user_key is None:
        return NOBODY
    seen = connection.scalars(select(schema.ratings.c.item_key).where(schema.ratings.c.user_key == user_key)).all()
    known = None if number is None else load_user(connection, number, user_key)
    bias, vector = known if known is not None else (0.0, None)
    return UserState(seen_keys=np.array(seen, np.int64), vector=vector, bias=bias)


def read_user_ratings(connection: Connection, user_id: str) -> UserRatings:
    """A user's ratings, the latest first; of a user nobody knows, none."""
    rated, items = schema.ratings.c, schema.items.c
    rows = connection.execute(
        select(items.item_id, items.title, rated.rating, rated.rated_at)
        .select_from(schema.ratings.join(schema.items, items.item_key == rated.item_key))
        .where(rated.user_key == _user_key(connection, user_id))
        .order_by(rated.rated_at.desc().nulls_last(), rated.item_key)
    )
    return UserRatings(
        user_id=user_id,
        ratings=[
            UserRating(
                item_id=row.item_id,
                title=row.title,
                rating=row.rating,
                rated_at=None if row.rated_at is None else as_time(row.rated_at),
            )
            for row in rows
        ],
    )


def _user_key(connection: Connection, user_id: str) -> int | None:
    if "\0" in user_id:
        return None  # no id has one, and PostgreSQL takes no text with it
    return connection.scalar(select(schema.users.c.user_key).where(schema.users.c.user_id == user_id))
