"""Items in the database: described in bulk, or changed one by one."""

import json
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from sqlalchemy import Connection, Engine, Text, cast, select, update

from recsys.data.rows import ItemRow
from recsys.database import schema
from recsys.database.audit import record
from recsys.database.changes import record_change
from recsys.database.descriptions import Description, upsert_descriptions
from recsys.database.engine import fetch_rows, insert_or_update, writing


class StoredItem(NamedTuple):
    """An item as the database has it."""

    item_key: int
    item_id: str
    title: str | None
    categories: Sequence[str]
    attributes: Mapping[str, object]
    hidden: bool


def upsert_items(engine: Engine, rows: Sequence[ItemRow]) -> int:
    """Insert or update items by what a file says of them; returns how many were inserted or changed.

    What the file does not know (a missing title, no categories) stays as it is. Of two rows of one item the last wins.
    """
    described = {row.item_id: Description(row.title, row.categories, row.attributes) for row in rows}
    return upsert_descriptions(engine, schema.items, described)


def put_item(engine: Engine, item_id: str, given: Mapping[str, object], *, actor: str) -> tuple[StoredItem, bool]:
    """Insert an item, or change what is given of it; putting the same again changes nothing.

    Args:
        given: any of title, categories, attributes, year and hidden; what is left out stays as it is. The year is kept
            with the attributes, and stays where these are replaced.
        actor: who asked, for the audit log.

    Returns:
        The item as it is now, and whether it is new.
    """
    items = schema.items.c
    with writing(engine) as connection:
        inserted = connection.execute(
            insert_or_update(connection.dialect.name, schema.items)
            .values(item_id=item_id, **_as_columns(given, {}))
            .on_conflict_do_nothing(index_elements=["item_id"])
            .returning(items.item_key)
        ).scalar_one_or_none()
        before = connection.execute(select(schema.items).where(items.item_id == item_id).with_for_update()).one()
        values = _as_columns(given, before.attributes)
        changed = {name: value for name, value in values.items() if getattr(before, name) != value}
        if changed:
            connection.execute(update(schema.items).where(items.item_key == before.item_key).values(changed))
        if changed or inserted is not None:
            record(connection, actor, "put item", {"item_id": item_id, "changed": sorted(changed or values)})
            record_change(connection, items=[before.item_key])
        (item,) = read_items(connection, [before.item_key])
    return item, inserted is not None


def _as_columns(given: Mapping[str, object], known: Mapping[str, object]) -> dict[str, object]:
    """What is given of an item of which some attributes are known, as columns of the table."""
    columns = {name: value for name, value in given.items() if name != "year"}
    if "year" in given or "attributes" in given:
        attributes = given.get("attributes", known)
        assert isinstance(attributes, Mapping)
        year = given.get("year", attributes.get("year", known.get("year")))
        others = {name: value for name, value in attributes.items() if name != "year"}
        columns["attributes"] = others if year is None else {**others, "year": year}
    return columns


def read_items(connection: Connection, item_keys: Sequence[int] | None = None) -> list[StoredItem]:
    """Items by their keys, in the order of the keys; None: all items."""
    items = schema.items.c
    # JSON as text: most items share their categories, and what is equal is read once, and is in memory once.
    as_text = (cast(items.categories, Text), cast(items.attributes, Text))
    statement = select(items.item_key, items.item_id, items.title, *as_text, items.hidden).order_by(items.item_key)
    if item_keys is not None:
        statement = statement.where(items.item_key.in_(item_keys))
    read: Callable[[str], Any] = lru_cache(maxsize=None)(json.loads)
    return [
        StoredItem(key, item_id, title, read(categories), read(attributes), bool(hidden))
        for key, item_id, title, categories, attributes, hidden in fetch_rows(connection, statement)
    ]


def known_items(connection: Connection, item_ids: set[str]) -> set[str]:
    """Those of the ids that are in the database; for a handful, not for a load."""
    item_id = schema.items.c.item_id
    return set(connection.scalars(select(item_id).where(item_id.in_(item_ids))))
