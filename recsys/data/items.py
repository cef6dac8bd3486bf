"""Items in the database, in bulk."""

from collections.abc import Sequence

from sqlalchemy import Connection, Engine, select

from recsys.data import schema
from recsys.data.descriptions import Description, upsert_descriptions
from recsys.data.rows import ItemRow


def upsert_items(engine: Engine, rows: Sequence[ItemRow]) -> int:
    """Insert or update items by what a file says of them; returns how many were inserted or changed.

    What the file does not know (a missing title, no categories) stays as it is. Of two rows of one item the last wins.
    """
    described = {row.item_id: Description(row.title, row.categories, row.attributes) for row in rows}
    return upsert_descriptions(engine, schema.items, described)


def known_items(connection: Connection, item_ids: set[str]) -> set[str]:
    """Those of the ids that are in the database; for a handful, not for a load."""
    item_id = schema.items.c.item_id
    return set(connection.scalars(select(item_id).where(item_id.in_(item_ids))))
