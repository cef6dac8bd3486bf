"""What a server reads about users: their row in a version, what they rated, their metadata."""

import base64
import json
import logging
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection, String, bindparam, cast, func, select

from recsys.database import schema
from recsys.database.checksums import row_checksum
from recsys.database.users import user_key_of
from recsys.errors import InputError
from recsys.results import UserRating, UserRatings, as_time

_log = logging.getLogger(__name__)


class StoredUser(NamedTuple):
    """A user as one query finds them.

    Attributes:
        changed_seq: seq of the last change of their ratings; `None` if there was none.
        bias, vector: of the version that was asked for; `None` if it does not know the user.
        rated: the keys of the items that they rated, with commas between them; `None` if there are none.
        now: the seq of the last change of anything, when this was read.
    """

    user_id: str
    user_key: int
    changed_seq: int | None
    bias: float | None
    vector: bytes | None
    rated: str | None
    now: int


class UserMetadata(NamedTuple):
    """Categories and attributes of a user."""

    categories: Sequence[str]
    attributes: Mapping[str, object]


_RATED_KEYS = (
    select(func.aggregate_strings(cast(schema.ratings.c.item_key, String), ","))
    .where(schema.ratings.c.user_key == schema.users.c.user_key)
    .correlate(schema.users)
    .scalar_subquery()
)
_USERS = (
    select(
        schema.users.c.user_id,
        schema.users.c.user_key,
        schema.user_changes.c.seq,
        schema.user_factors.c.bias,
        schema.user_factors.c.vector,
        schema.user_factors.c.checksum,
        _RATED_KEYS,
        select(schema.change_counter.c.seq).scalar_subquery(),
    )
    .select_from(
        schema.users.outerjoin(
            schema.user_changes, schema.user_changes.c.user_key == schema.users.c.user_key
        ).outerjoin(
            schema.user_factors,
            (schema.user_factors.c.user_key == schema.users.c.user_key)
            & (schema.user_factors.c.number == bindparam("number")),
        )
    )
    .where(schema.users.c.user_id.in_(bindparam("user_ids", expanding=True)))
)
_METADATA = select(schema.users.c.user_key, schema.users.c.categories, schema.users.c.attributes).where(
    schema.users.c.user_key.in_(bindparam("user_keys", expanding=True))
)
_RATINGS = (
    select(schema.ratings.c.user_key, schema.ratings.c.item_key, schema.ratings.c.rating, schema.ratings.c.kind)
    .where(schema.ratings.c.user_key.in_(bindparam("user_keys", expanding=True)))
    .order_by(schema.ratings.c.user_key, schema.ratings.c.item_key, schema.ratings.c.kind)
)


def read_users(connection: Connection, user_ids: Sequence[str], number: int | None) -> list[StoredUser]:
    """Return the users that exist, each once, in any order.

    Args:
        number: of the version whose rows to read; `None`: of no version.
    """
    rows = connection.execute(_USERS, {"user_ids": _possible(user_ids), "number": number})
    return [_checked(*row) for row in rows]


def _checked(
    user_id: str,
    user_key: int,
    changed_seq: int | None,
    bias: float | None,
    vector: bytes | None,
    checksum: int | None,
    rated: str | None,
    now: int,
) -> StoredUser:
    """Return a user without the row of the version if the row is damaged: the user is then folded in."""
    if vector is not None and checksum is not None and row_checksum(user_key, bias or 0.0, vector) != checksum:
        _log.warning("a user's row is damaged", extra={"user_key": user_key})
        bias = vector = None
    return StoredUser(user_id, user_key, changed_seq, bias, vector, rated, now)


def read_user_metadata(connection: Connection, user_keys: Sequence[int]) -> dict[int, UserMetadata]:
    """Return the metadata of users by key."""
    rows = connection.execute(_METADATA, {"user_keys": list(user_keys)})
    return {row.user_key: UserMetadata(row.categories, row.attributes) for row in rows}


def read_ratings_of(
    connection: Connection, user_keys: Sequence[int]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32], NDArray[np.bool_]]:
    """Return user_key, item_key, rating or weight, and whether it is a weight, of all feedback of some users.

    Returns:
        (n_ratings,) each, ordered by both keys.
    """
    rows: list[Any] = connection.execute(_RATINGS, {"user_keys": list(user_keys)}).all()  # type: ignore[assignment]
    table = np.array([tuple(row) for row in rows], np.float64).reshape(len(rows), 4)
    user_key, item_key = table[:, 0].astype(np.int64), table[:, 1].astype(np.int64)
    return user_key, item_key, table[:, 2].astype(np.float32), table[:, 3] == schema.IMPLICIT


def user_keys_of(connection: Connection, user_ids: Sequence[str]) -> dict[str, int]:
    """Return the keys of the users that exist, by id."""
    users = schema.users.c
    rows = connection.execute(select(users.user_id, users.user_key).where(users.user_id.in_(_possible(user_ids))))
    return {row.user_id: row.user_key for row in rows}


def read_user_ratings(
    connection: Connection, user_id: str, limit: int | None = None, cursor: str | None = None
) -> UserRatings:
    """Return a user's ratings, the latest first; none if the user does not exist.

    Args:
        limit: most ratings to return; `None`: all.
        cursor: `next_cursor` of the page before.

    Raises:
        InputError: the cursor is not valid.
    """
    rated, items = schema.ratings.c, schema.items.c
    place = rated.item_key * 2 + rated.kind
    statement = (
        select(items.item_id, items.title, rated.rating, rated.rated_at, rated.kind, place.label("place"))
        .select_from(schema.ratings.join(schema.items, items.item_key == rated.item_key))
        .where(rated.user_key == user_key_of(connection, user_id))
        .order_by(rated.rated_at.desc().nulls_last(), place)
    )
    if cursor:
        rated_at, after = _read_cursor(cursor)
        later_key = place > after
        if rated_at is None:
            statement = statement.where(rated.rated_at.is_(None) & later_key)
        else:
            same_time = (rated.rated_at == rated_at) & later_key
            statement = statement.where((rated.rated_at < rated_at) | rated.rated_at.is_(None) | same_time)
    rows: Sequence[Any] = connection.execute(statement if limit is None else statement.limit(limit + 1)).all()
    next_cursor = None
    if limit is not None and len(rows) > limit:
        rows = rows[:limit]
        last = json.dumps([rows[-1].rated_at, rows[-1].place])
        next_cursor = base64.urlsafe_b64encode(last.encode()).decode()
    return UserRatings(
        user_id=user_id,
        ratings=[
            UserRating(
                item_id=row.item_id,
                title=row.title,
                rating=row.rating if row.kind == schema.EXPLICIT else None,
                weight=None if row.kind == schema.EXPLICIT else row.rating,
                rated_at=None if row.rated_at is None else as_time(row.rated_at),
            )
            for row in rows
        ],
        next_cursor=next_cursor,
    )


def _read_cursor(cursor: str) -> tuple[int | None, int]:
    """Return time and item key of the last rating of a page."""
    try:
        rated_at, item_key = json.loads(base64.b64decode(cursor.encode(), b"-_", validate=True))
        given = [item_key] if rated_at is None else [rated_at, item_key]
        if all(type(value) is int and abs(value) < 2**63 for value in given):
            return rated_at, item_key
    except (ValueError, TypeError, RecursionError):
        pass
    raise InputError(f"cursor {cursor[:80]!r} is not the next_cursor of a page: start without a cursor")


def _possible(user_ids: Sequence[str]) -> list[str]:
    """Return distinct ids without those that contain NUL: no stored id does, and PostgreSQL rejects them."""
    return [user_id for user_id in dict.fromkeys(user_ids) if "\0" not in user_id]
