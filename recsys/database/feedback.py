"""Ratings that are posted: checked row by row, the good ones written in one transaction."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from sqlalchemy import Connection, Engine, Text, bindparam, column, select, update, values
from sqlalchemy.exc import IntegrityError

from recsys.data.limits import EARLIEST_MS, MAX_RATING, id_problem
from recsys.database import schema
from recsys.database.clock import now_ms
from recsys.database.driver_errors import ConflictError
from recsys.database.engine import retry_on_conflict, upsert
from recsys.database.users import lock_users
from recsys.database.work import Work, unit_of_work
from recsys.results import RateReport, RowError

CLOCK_SKEW_MS = 300_000
"""How far in the future a rating's time may lie, because the client's clock is fast."""


@dataclass(frozen=True, slots=True)
class NewRating:
    """One rating as a client sent it; `rated_at` in Unix milliseconds."""

    user_id: str
    item_id: str
    rating: float
    rated_at: int | None

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
    """What the database has of a user and an item; `None` for what it does not have."""

    user_key: int | None
    item_key: int | None
    rating: float | None
    rated_at: int | None


class Written(NamedTuple):
    """Numbers of ratings inserted and updated."""

    inserted: int
    updated: int


def rate(
    engine: Engine,
    rows: Sequence[NewRating],
    scale: tuple[float, float] | None,
    on_change: Callable[[Sequence[int], int], None],
) -> RateReport:
    """Store ratings; a bad row is reported, and the others are kept.

    A rating without a time is taken as given now; sending the same one again changes nothing.

    Args:
        scale: lowest and highest rating; `None` if it is not known yet.
        on_change: called after the commit with the keys of the users whose ratings changed, and the seq of the change.
    """
    now = now_ms()
    errors: list[RowError] = []
    plausible: list[tuple[int, NewRating]] = []
    for index, row in enumerate(rows):
        problem = row_problem(row, scale, now)
        if problem is None:
            plausible.append((index, row))
        else:
            errors.append(RowError(index=index, message=problem))
    if not plausible:
        return report(errors, 0, Written(0, 0))

    def write() -> tuple[list[RowError], Written, Work]:
        with unit_of_work(engine) as work:
            stored = read_pairs(work.connection, {(row.user_id, row.item_id) for _, row in plausible})
            unknown, good = [], []
            for index, row in plausible:
                if stored[row.user_id, row.item_id].item_key is None:
                    message = f"there is no item {row.item_id[:80]!r}: search by title with GET /v1/items?title=…"
                    unknown.append(RowError(index=index, message=message))
                else:
                    good.append(row)
            return unknown, write_posted(work, good, stored, now), work

    unknown, written, work = retry_on_conflict(write)
    if work.seq:
        on_change(work.rated_users, work.seq)
    errors = sorted(errors + unknown, key=lambda error: error.index)
    return report(errors, len(rows) - len(errors), written)


def report(errors: list[RowError], n_good: int, written: Written) -> RateReport:
    """Return the report of a post."""
    return RateReport(
        inserted=written.inserted,
        updated=written.updated,
        unchanged=n_good - written.inserted - written.updated,
        rejected=len(errors),
        errors=errors,
    )


def row_problem(row: NewRating, scale: tuple[float, float] | None, now: int) -> str | None:
    """Return why a row cannot be kept, whatever is stored; `None` if it can."""
    problem = id_problem(row.user_id, "user_id", fix="send another id")
    if problem is not None:
        return problem
    if id_problem(row.item_id, "item_id") is not None:
        return f"there is no item {row.item_id[:80]!r}: search by title with GET /v1/items?title=…"
    low, high = scale or (-MAX_RATING, MAX_RATING)
    if not low <= row.rating <= high:
        return f"rating {row.rating:g} is outside the scale: expected {low:g} to {high:g}"
    if row.rated_at is not None and not EARLIEST_MS <= row.rated_at <= now + CLOCK_SKEW_MS:
        return "rated_at lies before 1900 or in the future: leave it out, or send the time of the rating in UTC"
    return None


def read_pairs(connection: Connection, pairs: Iterable[tuple[str, str]]) -> dict[tuple[str, str], StoredPair]:
    """Return what is stored of pairs of user_id and item_id, in one statement."""
    posted = values(column("user_id", Text), column("item_id", Text), name="posted").data(sorted(pairs)).cte()
    users, items, rated = schema.users.c, schema.items.c, schema.ratings.c
    joined = (
        posted.outerjoin(schema.users, users.user_id == posted.c.user_id)
        .outerjoin(schema.items, items.item_id == posted.c.item_id)
        .outerjoin(schema.ratings, (rated.user_key == users.user_key) & (rated.item_key == items.item_key))
    )
    known = (users.user_key, items.item_key, rated.rating, rated.rated_at)
    rows = connection.execute(select(posted.c.user_id, posted.c.item_id, *known).select_from(joined))
    return {(user_id, item_id): StoredPair(*rest) for user_id, item_id, *rest in rows}


def write_posted(
    work: Work, rows: Sequence[NewRating], stored: Mapping[tuple[str, str], StoredPair], received_at: int
) -> Written:
    """Insert and update posted ratings; new users are inserted, all items are known.

    What was read of the pairs is not locked. So each write says what it expects to find, and the transaction is run
    again if another writer was faster. The foreign key from a rating to its user makes an erasure wait.

    Args:
        received_at: time in place of an unknown `rated_at`.

    Raises:
        ConflictError: another writer changed one of the pairs or erased one of the users since they were read.
    """
    latest: dict[tuple[str, str], NewRating] = {}
    for row in rows:
        pair = (row.user_id, row.item_id)
        if pair not in latest or row.is_later_than(latest[pair]):
            latest[pair] = row
    unknown = {user_id for user_id, item_id in latest if stored[user_id, item_id].user_key is None}
    new_users = lock_users(work.connection, sorted(unknown)) if unknown else {}
    new: list[dict[str, Any]] = []
    changed: list[dict[str, Any]] = []
    for pair, row in latest.items():
        before = stored[pair]
        value = {
            "user_key": new_users[row.user_id] if before.user_key is None else before.user_key,
            "item_key": before.item_key,
            "rating": row.rating,
            "rated_at": received_at if row.rated_at is None else row.rated_at,
            "gain": row.rating - (before.rating or 0.0),
        }
        if before.rating is None:
            new.append(value)
        elif row.changes(before):
            changed.append({**value, "old_rating": before.rating, "old_rated_at": before.rated_at})
    for group, write in ((new, insert_posted), (changed, update_posted)):
        if group:
            write(work.connection, sorted(group, key=lambda row: (row["user_key"], row["item_key"])))
    written = new + changed
    if written:
        work.mark_rated([row["user_key"] for row in written])
        gains = np.array([row["gain"] for row in written])
        work.count(np.array([row["item_key"] for row in written]), [1] * len(new) + [0] * len(changed), gains)
    return Written(len(new), len(changed))


def insert_posted(connection: Connection, rows: Sequence[Mapping[str, Any]]) -> None:
    """Insert ratings that were not there when they were read.

    Raises:
        ConflictError: one of them is there now, or its user was erased.
    """
    names = schema.ratings.c.keys()
    values = [{name: row[name] for name in names} for row in rows]
    try:
        inserted = upsert(
            connection, schema.ratings, values, key=["user_key", "item_key"], returning=[schema.ratings.c.user_key]
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
    rated = schema.ratings.c
    statement = (
        update(schema.ratings)
        .where(
            rated.user_key == bindparam("of_user"),
            rated.item_key == bindparam("of_item"),
            rated.rating == bindparam("old_rating"),
            rated.rated_at.is_not_distinct_from(bindparam("old_rated_at")),
        )
        .values(rating=bindparam("rating"), rated_at=bindparam("rated_at"))
    )
    names = ("rating", "rated_at", "old_rating", "old_rated_at")
    values = [
        {"of_user": row["user_key"], "of_item": row["item_key"], **{name: row[name] for name in names}} for row in rows
    ]
    if connection.execute(statement, values).rowcount < len(rows):
        raise ConflictError("another writer changed one of the ratings at the same moment: try again")
