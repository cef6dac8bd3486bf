"""Users in the database: described in bulk, locked, erased."""

import json
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from sqlalchemy import Connection, Engine, Text, cast, delete, select, update

from recsys.data.rows import UserRow
from recsys.database import schema
from recsys.database.audit import record
from recsys.database.descriptions import Description, upsert_descriptions
from recsys.database.engine import fetch_rows, retry_on_conflict
from recsys.database.statements import upsert
from recsys.database.tombstones import bury_user
from recsys.database.work import Guard, Work, unit_of_work


def upsert_users(engine: Engine, rows: Sequence[UserRow], guard: Guard | None = None) -> int:
    """Insert or update users by the rows of a file; return the number of users inserted or changed.

    What the file does not know (no categories, a missing attribute) stays as it is.
    """
    # In the order of the ids, as `keys_of` inserts them, so that two writers of the same users do not wait for each
    # other; of two rows of one user the last wins.
    by_id = sorted(rows, key=lambda row: row.user_id)
    described = {row.user_id: Description(None, row.categories, row.attributes) for row in by_id}
    return upsert_descriptions(engine, schema.users, described, guard)


def user_key_of(connection: Connection, user_id: str) -> int | None:
    """Return the key of a user; `None` if no user has this id."""
    if "\0" in user_id:
        return None  # no id has one, and PostgreSQL takes no text with it
    return connection.scalar(select(schema.users.c.user_key).where(schema.users.c.user_id == user_id))


def lock_users(connection: Connection, user_ids: Sequence[str]) -> dict[str, int]:
    """Insert the users that are missing, and lock them all: an erasure of one waits until this transaction ends.

    Returns:
        Their keys by their ids.
    """
    users = schema.users.c
    known = [users.user_id, users.user_key]
    keys: dict[str, int] = {}
    while missing := sorted(set(user_ids) - keys.keys()):
        rows = [{"user_id": user_id} for user_id in missing]
        inserted = upsert(connection, schema.users, rows, key=["user_id"], returning=known)
        keys |= {row.user_id: row.user_key for row in inserted}
        there = sorted(set(missing) - keys.keys())
        if there:  # one that is erased before it is locked is inserted in the next round
            lock = select(*known).where(users.user_id.in_(there)).order_by(users.user_key)
            found = connection.execute(lock.with_for_update(read=True, key_share=True))
            keys |= {row.user_id: row.user_key for row in found}
    return keys


def erase_user(
    engine: Engine, user_id: str, *, actor: str, on_erased: Callable[[str, int], None] | None = None
) -> "ErasedUser | None":
    """Erase a user with all their ratings, and from every stored version; return `None` if no user has this id.

    Args:
        actor: who asked, for the audit log, which keeps the user's key and not the id.
        on_erased: called before the transaction commits with the hash of the user and the time of their tombstone, as
            the journal of erasures wants them. Where it raises, nothing is erased.
    """
    if "\0" in user_id:
        return None

    def write() -> ErasedUser | None:
        with unit_of_work(engine) as work:
            erased = erase_within(work, user_id, actor=actor)
            if erased is None:
                return None
            if on_erased is not None:
                on_erased(erased.user_hash, erased.at)
        return erased._replace(seq=work.seq)

    return retry_on_conflict(write)


class ErasedUser(NamedTuple):
    """A user who was erased.

    Attributes:
        user_hash: of their id, keyed with the secret of the database.
        at: Unix milliseconds.
        n_ratings: rows of ratings and of sums of events.
        n_events: events over HTTP that were remembered, so that each is counted once.
        n_withdrawals: ratings that they took back, which were remembered by their hashes.
        numbers: of the versions that had a row of theirs; of a twin the negative number.
        seq: of the change, once it is recorded.
    """

    user_key: int
    user_hash: str
    at: int
    n_ratings: int
    n_events: int
    n_withdrawals: int
    numbers: tuple[int, ...]
    seq: int = 0


def erase_within(work: Work, user_id: str, *, actor: str) -> ErasedUser | None:
    """Erase a user as part of a transaction; see `erase_user`."""
    users, rated = schema.users.c, schema.ratings.c
    connection = work.connection
    user_key = connection.scalar(select(users.user_key).where(users.user_id == user_id).with_for_update())
    if user_key is None:
        return None
    rows = connection.execute(
        delete(schema.ratings).where(rated.user_key == user_key).returning(rated.item_key, rated.rating, rated.kind)
    ).all()
    if rows:
        item_key, rating, kind = zip(*rows, strict=True)
        is_explicit = np.array(kind) == schema.EXPLICIT
        work.count(np.array(item_key), [-1] * len(rows), -np.array(rating, np.float64), is_explicit)
    stored = schema.user_factors.c
    numbers = connection.scalars(select(stored.number).where(stored.user_key == user_key).order_by(stored.number)).all()
    # Counted out of every version, so that a row that is missing otherwise shows.
    connection.execute(
        update(schema.models).where(schema.models.c.number.in_(numbers)).values(n_users=schema.models.c.n_users - 1)
    )
    events = schema.events
    n_events = connection.execute(delete(events).where(events.c.user_key == user_key)).rowcount
    # Factors of every version and the mark of the last change go with the row.
    connection.execute(delete(schema.users).where(users.user_key == user_key))
    user_hash, at, n_withdrawals = bury_user(connection, user_id)
    record(connection, actor, "erase user", {"user_key": user_key, "n_ratings": len(rows)})
    work.change(users=[user_key])
    return ErasedUser(user_key, user_hash, at, len(rows), n_events, n_withdrawals, tuple(numbers))


def some_user_ids(connection: Connection, n: int) -> list[str]:
    """Return the ids of the first users by key, up to `n` of them."""
    users = schema.users.c
    return list(connection.scalars(select(users.user_id).order_by(users.user_key).limit(n)))


def first_known_user(connection: Connection) -> str:
    """Return the id of the first user whom a stored model version knows."""
    user_id: str = connection.scalars(
        select(schema.users.c.user_id)
        .join(schema.user_factors, schema.user_factors.c.user_key == schema.users.c.user_key)
        .order_by(schema.users.c.user_key)
        .limit(1)
    ).one()
    return user_id


def read_user_ids(connection: Connection, among: Sequence[int] | None = None) -> dict[int, str]:
    """Return the external id of every user, by key.

    Args:
        among: only the users with these keys, at most some thousand.
    """
    statement = select(schema.users.c.user_key, schema.users.c.user_id)
    rows = connection.execute(statement if among is None else statement.where(schema.users.c.user_key.in_(among)))
    return {row.user_key: row.user_id for row in rows}


def stream_users(connection: Connection) -> Iterator[tuple[str, list[str], dict[str, object]]]:
    """Yield id, categories and attributes of each user, by key."""
    users = schema.users.c
    statement = select(users.user_id, cast(users.categories, Text), cast(users.attributes, Text))
    read = lru_cache(maxsize=10_000)(json.loads)
    for user_id, categories, attributes in fetch_rows(connection, statement.order_by(users.user_key)):
        yield user_id, read(categories), read(attributes)
