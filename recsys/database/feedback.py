"""The rows of posts in the database: what is stored of their pairs, and how they are written."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from sqlalchemy import Connection, Select, bindparam, case, delete, select, update
from sqlalchemy.exc import IntegrityError

from recsys.database import schema
from recsys.database.driver_errors import ConflictError
from recsys.database.statements import sent_rows, sent_table, upsert
from recsys.database.tombstones import SECRET, WHOLE_USER, Hasher
from recsys.database.users import lock_users
from recsys.database.work import Work

Pair = tuple[str, str]
"""A user_id and an item_id."""

PAIR = ("user_key", "item_key", "kind")

_UPDATE_POSTED = (
    update(schema.ratings)
    .where(
        schema.ratings.c.user_key == bindparam("of_user"),
        schema.ratings.c.item_key == bindparam("of_item"),
        schema.ratings.c.kind == schema.EXPLICIT,
        schema.ratings.c.rating == bindparam("old_rating"),
        schema.ratings.c.rated_at.is_not_distinct_from(bindparam("old_rated_at")),
    )
    .values(rating=bindparam("rating"), rated_at=bindparam("rated_at"))
)


@dataclass(frozen=True, slots=True)
class NewRating:
    """One rating or event as a client sent it.

    Attributes:
        rating: `None` for an event.
        rated_at: in Unix milliseconds; `None` for now.
        weight: how much an event counts; `None` for a rating.
    """

    user_id: str
    item_id: str
    rating: float | None
    rated_at: int | None
    weight: float | None = None

    def is_later_than(self, other: "NewRating") -> bool:
        """Return whether this rating replaces an earlier row of the same post. An unknown time is the earliest."""
        return other.rated_at is None or (self.rated_at is not None and self.rated_at >= other.rated_at)

    def changes(self, stored: "StoredPair") -> bool:
        """Return whether this rating replaces a stored one: it differs, and it is not known to be older."""
        if self.rated_at is None:
            return self.rating != stored.rating
        if stored.rated_at is None:
            return True
        return self.rated_at > stored.rated_at or (self.rated_at == stored.rated_at and self.rating != stored.rating)


class StoredPair(NamedTuple):
    """What the database has of a user and an item; `None` for what it does not have.

    Attributes:
        secret: of the hashes of what was withdrawn; `None` if nothing ever was.
    """

    user_key: int | None
    item_key: int | None
    rating: float | None
    rated_at: int | None
    secret: bytes | None


class Written(NamedTuple):
    """The pairs of ratings that were inserted and updated; a pair counts as often as it occurs."""

    inserted: list[Pair]
    updated: list[Pair]


def without_withdrawn(work: Work, rows: Sequence[NewRating], stored: Mapping[Pair, StoredPair]) -> list[NewRating]:
    """Return the rows that are newer than what was withdrawn, and forget the withdrawal of their pairs and users."""
    secret = next((stored[row.user_id, row.item_id].secret for row in rows), None)
    if secret is None:
        return list(rows)
    hasher, buried = Hasher(secret), schema.tombstones.c
    hashes = {
        (row.user_id, row.item_id): (hasher.user(row.user_id), hasher.pair(row.user_id, row.item_id)) for row in rows
    }
    of_users = buried.user_hash.in_({user_hash for user_hash, _ in hashes.values()})
    found = work.connection.execute(select(buried.user_hash, buried.pair_hash, buried.at).where(of_users)).all()
    at = {(row.user_hash, row.pair_hash): row.at for row in found}
    kept: list[NewRating] = []
    raised: set[tuple[str, str]] = set()
    for row in rows:
        user_hash, pair_hash = hashes[row.user_id, row.item_id]
        stones = [stone for stone in ((user_hash, pair_hash), (user_hash, WHOLE_USER)) if stone in at]
        if row.rated_at is None or all(row.rated_at > at[stone] for stone in stones):
            kept.append(row)
            raised.update(stones)
    for user_hash, pair_hash in sorted(raised):
        is_stone = (buried.user_hash == user_hash) & (buried.pair_hash == pair_hash)
        work.connection.execute(delete(schema.tombstones).where(is_stone))
    return kept


def read_pairs(connection: Connection, pairs: Iterable[Pair]) -> dict[Pair, StoredPair]:
    """Return what is stored of pairs of user_id and item_id, in one statement."""
    statement = select_pairs(connection.dialect.name)
    rows = connection.execute(statement, sent_rows(connection, ("user_id", "item_id"), sorted(pairs)))
    return {(user_id, item_id): StoredPair(*rest) for user_id, item_id, *rest in rows}


@cache
def select_pairs(dialect: str) -> Select[Any]:
    """Return the statement of `read_pairs`: it is built once, and its text does not depend on the number of pairs."""
    posted = sent_table(dialect, ("user_id", "item_id"))
    users, items, rated = schema.users.c, schema.items.c, schema.ratings.c
    joined = (
        posted.outerjoin(schema.users, users.user_id == posted.c.user_id)
        .outerjoin(schema.items, items.item_id == posted.c.item_id)
        .outerjoin(
            schema.ratings,
            (rated.user_key == users.user_key) & (rated.item_key == items.item_key) & (rated.kind == schema.EXPLICIT),
        )
    )
    secret = select(schema.secrets.c.value).where(schema.secrets.c.name == SECRET).scalar_subquery()
    known = (users.user_key, items.item_key, rated.rating, rated.rated_at, secret)
    return select(posted.c.user_id, posted.c.item_id, *known).select_from(joined)


def write_posted(work: Work, rows: Sequence[NewRating], stored: Mapping[Pair, StoredPair], received_at: int) -> Written:
    """Insert and update posted ratings; new users are inserted, all items are known.

    What was read of the pairs is not locked. So each write says what it expects to find, and the transaction is run
    again if another writer was faster. The foreign key from a rating to its user makes an erasure wait.

    Args:
        received_at: time in place of an unknown `rated_at`.

    Raises:
        ConflictError: another writer changed one of the pairs or erased one of the users since they were read.
    """
    if not rows:
        return Written([], [])
    latest: dict[Pair, NewRating] = {}
    for row in rows:
        pair = (row.user_id, row.item_id)
        if pair not in latest or row.is_later_than(latest[pair]):
            latest[pair] = row
    unknown = {user_id for user_id, item_id in latest if stored[user_id, item_id].user_key is None}
    new_users = lock_users(work.connection, sorted(unknown)) if unknown else {}
    new: list[dict[str, Any]] = []
    changed: list[dict[str, Any]] = []
    done = Written([], [])
    for pair, row in latest.items():
        before = stored[pair]
        value = {
            "user_key": new_users[row.user_id] if before.user_key is None else before.user_key,
            "item_key": before.item_key,
            "kind": schema.EXPLICIT,
            "rating": row.rating,
            "rated_at": received_at if row.rated_at is None else row.rated_at,
            "gain": (row.rating or 0.0) - (before.rating or 0.0),
        }
        if before.rating is None:
            new.append(value)
            done.inserted.append(pair)
        elif row.changes(before):
            done.updated.append(pair)
            changed.append({**value, "old_rating": before.rating, "old_rated_at": before.rated_at})
    for group, write in ((new, insert_posted), (changed, update_posted)):
        if group:
            write(work.connection, sorted(group, key=lambda row: (row["user_key"], row["item_key"])))
    written = new + changed
    if written:
        work.mark_rated([row["user_key"] for row in written])
        gains = np.array([row["gain"] for row in written])
        work.count(np.array([row["item_key"] for row in written]), [1] * len(new) + [0] * len(changed), gains)
    return done


def write_events(
    work: Work, rows: Sequence[NewRating], stored: Mapping[Pair, StoredPair], received_at: int
) -> list[Pair]:
    """Count events that were not counted yet, and add their weights to those of their pairs.

    Returns:
        The pair of each event that was counted.

    Raises:
        ConflictError: one of the users was erased since they were read.
    """
    if not rows:
        return []
    unknown = {row.user_id for row in rows if stored[row.user_id, row.item_id].user_key is None}
    new_users = lock_users(work.connection, sorted(unknown)) if unknown else {}
    weights: dict[tuple[int, int, int], float] = {}
    ids: dict[tuple[int, int], Pair] = {}
    for row in rows:
        pair = stored[row.user_id, row.item_id]
        user_key = new_users[row.user_id] if pair.user_key is None else pair.user_key
        assert pair.item_key is not None and row.weight is not None  # noqa: PT018
        weights[user_key, pair.item_key, received_at if row.rated_at is None else row.rated_at] = row.weight
        ids[user_key, pair.item_key] = row.user_id, row.item_id
    logged, rated = schema.events.c, schema.ratings.c
    names = ("user_key", "item_key", "at")
    keys = [dict(zip(names, key, strict=True)) for key in sorted(weights)]
    of_pair = (rated.user_key, rated.item_key)
    is_new: set[tuple[int, int]] = set()
    added: dict[tuple[int, int], tuple[float, int]] = {}
    try:
        columns = [logged[name] for name in names]
        counted = upsert(work.connection, schema.events, keys, key=names, returning=columns).all()
        for event in counted:
            weight, latest = added.get((event.user_key, event.item_key), (0.0, event.at))
            weight += weights[event.user_key, event.item_key, event.at]
            added[event.user_key, event.item_key] = (weight, max(latest, event.at))
        if added:
            sums = [
                {"user_key": user, "item_key": item, "kind": schema.IMPLICIT, "rating": weight, "rated_at": latest}
                for (user, item), (weight, latest) in sorted(added.items())
            ]
            new = upsert(work.connection, schema.ratings, sums, key=PAIR, returning=of_pair)
            is_new = {(pair.user_key, pair.item_key) for pair in new}
    except IntegrityError as error:
        raise ConflictError("a user was erased while an event of theirs was stored: try again") from error
    for (user_key, item_key), (weight, latest) in sorted(added.items()):
        if (user_key, item_key) not in is_new:
            is_pair = (rated.user_key == user_key) & (rated.item_key == item_key) & (rated.kind == schema.IMPLICIT)
            latest_at = case((rated.rated_at > latest, rated.rated_at), else_=latest)
            work.connection.execute(
                update(schema.ratings).where(is_pair).values(rating=rated.rating + weight, rated_at=latest_at)
            )
    if added:
        work.mark_rated([user_key for user_key, _ in added])
        n_new = [int(pair in is_new) for pair in added]
        work.count(np.array([item_key for _, item_key in added]), n_new, np.zeros(len(added)), False)
    return [ids[event.user_key, event.item_key] for event in counted]


def insert_posted(connection: Connection, rows: Sequence[Mapping[str, Any]]) -> None:
    """Insert ratings that were not there when they were read.

    Raises:
        ConflictError: one of them is there now, or its user was erased.
    """
    names = schema.ratings.c.keys()
    values = [{name: row[name] for name in names} for row in rows]
    try:
        inserted = upsert(
            connection,
            schema.ratings,
            values,
            key=["user_key", "item_key", "kind"],
            returning=[schema.ratings.c.user_key],
        )
    except IntegrityError as error:
        raise ConflictError("a user was erased while a rating of theirs was stored: try again") from error
    if len(inserted.all()) < len(rows):
        raise ConflictError("another writer stored one of the ratings at the same moment: try again")


def update_posted(connection: Connection, rows: Sequence[Mapping[str, Any]]) -> None:
    """Update ratings that are still as they were when they were read.

    Raises:
        ConflictError: one of them was changed or deleted since.
    """
    names = ("rating", "rated_at", "old_rating", "old_rated_at")
    values = [
        {"of_user": row["user_key"], "of_item": row["item_key"], **{name: row[name] for name in names}} for row in rows
    ]
    if connection.execute(_UPDATE_POSTED, values).rowcount < len(rows):
        raise ConflictError("another writer changed one of the ratings at the same moment: try again")
