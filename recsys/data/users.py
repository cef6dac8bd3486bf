"""Users in the database, in bulk."""

from collections.abc import Sequence

from sqlalchemy import Engine

from recsys.data import schema
from recsys.data.descriptions import Description, upsert_descriptions
from recsys.data.rows import UserRow


def upsert_users(engine: Engine, rows: Sequence[UserRow]) -> int:
    """Insert or update users by what a file says of them; returns how many were inserted or changed.

    What the file does not know (no categories, a missing attribute) stays as it is.
    """
    # In the order of the ids, as `keys_of` inserts them, so that two writers of the same ones do not wait for each
    # other; of two rows of one user the last wins.
    by_id = sorted(rows, key=lambda row: row.user_id)
    described = {row.user_id: Description(None, row.categories, row.attributes) for row in by_id}
    return upsert_descriptions(engine, schema.users, described)
