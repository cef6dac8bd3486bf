"""Users in the database: described in bulk, erased one by one."""

from collections.abc import Sequence

import numpy as np
from sqlalchemy import Connection, Engine, delete, select

from recsys.data.rows import UserRow
from recsys.database import schema
from recsys.database.audit import record
from recsys.database.changes import UserChange, record_change
from recsys.database.counts import add_counts
from recsys.database.descriptions import Description, upsert_descriptions
from recsys.database.engine import writing


def upsert_users(engine: Engine, rows: Sequence[UserRow]) -> int:
    """Insert or update users by what a file says of them; returns how many were inserted or changed.

    What the file does not know (no categories, a missing attribute) stays as it is.
    """
    # In the order of the ids, as `keys_of` inserts them, so that two writers of the same ones do not wait for each
    # other; of two rows of one user the last wins.
    by_id = sorted(rows, key=lambda row: row.user_id)
    described = {row.user_id: Description(None, row.categories, row.attributes) for row in by_id}
    return upsert_descriptions(engine, schema.users, described)


def user_key_of(connection: Connection, user_id: str) -> int | None:
    """Key of a user; None where nobody has this id."""
    if "\0" in user_id:
        return None  # no id has one, and PostgreSQL takes no text with it
    return connection.scalar(select(schema.users.c.user_key).where(schema.users.c.user_id == user_id))


def erase_user(engine: Engine, user_id: str, *, actor: str) -> UserChange | None:
    """Remove a user with all their ratings, and from every stored version; None where nobody has this id.

    Args:
        actor: who asked, for the audit log, which keeps the user's key and not the id.
    """
    users, rated = schema.users.c, schema.ratings.c
    if "\0" in user_id:
        return None
    with writing(engine) as connection:
        # Users, their ratings, and then a number: the order in which all writers lock.
        user_key = connection.scalar(select(users.user_key).where(users.user_id == user_id).with_for_update())
        if user_key is None:
            return None
        rows = connection.execute(
            delete(schema.ratings).where(rated.user_key == user_key).returning(rated.item_key, rated.rating)
        ).all()
        seq = record_change(connection, users=[user_key])
        if rows:
            item_key, rating = zip(*rows, strict=True)
            add_counts(connection, np.array(item_key), np.full(len(rows), -1), -np.array(rating, np.float64))
        # Factors of every version and the mark of the last change go with the row.
        connection.execute(delete(schema.users).where(users.user_key == user_key))
        record(connection, actor, "erase user", {"user_key": user_key, "n_ratings": len(rows)})
    return UserChange(user_key, seq)


def first_known_user(connection: Connection) -> str:
    """Return the id of the first user whom a stored model version knows."""
    user_id: str = connection.scalars(
        select(schema.users.c.user_id)
        .join(schema.user_factors, schema.user_factors.c.user_key == schema.users.c.user_key)
        .order_by(schema.users.c.user_key)
        .limit(1)
    ).one()
    return user_id


def read_user_ids(connection: Connection) -> dict[int, str]:
    """Return the external id of every user, by key."""
    rows = connection.execute(select(schema.users.c.user_key, schema.users.c.user_id))
    return {row.user_key: row.user_id for row in rows}
