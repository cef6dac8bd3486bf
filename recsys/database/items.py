"""Items in the database: described in bulk, put one by one, read."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from sqlalchemy import Connection, Engine, Text, cast, select, update

from recsys.data.rows import ItemRow
from recsys.database import schema
from recsys.database.audit import record
from recsys.database.descriptions import Description, upsert_descriptions
from recsys.database.engine import fetch_rows, retry_on_conflict
from recsys.database.statements import upsert
from recsys.database.work import Guard, Work, unit_of_work


class StoredItem(NamedTuple):
    """An item as it is stored; the fields are columns of `items`."""

    item_key: int
    item_id: str
    title: str | None
    categories: Sequence[str]
    attributes: Mapping[str, object]
    hidden: bool


def upsert_items(engine: Engine, rows: Sequence[ItemRow], guard: Guard | None = None) -> int:
    """Insert or update items by the rows of a file; return the number of items inserted or changed.

    What the file does not know (a missing title, no categories) stays as it is. Of two rows of one item the last wins.
    """
    described = {row.item_id: Description(row.title, row.categories, row.attributes) for row in rows}
    return upsert_descriptions(engine, schema.items, described, guard)


def put_item(engine: Engine, item_id: str, given: Mapping[str, object], *, actor: str) -> tuple[StoredItem, bool]:
    """Insert an item, or change what is given of it; putting the same again changes nothing.

    Args:
        given: any of title, categories, attributes, year and hidden; what is left out stays as it is. The year is kept
            with the attributes, and stays where these are replaced.
        actor: who asked, for the audit log.

    Returns:
        The item as it is now, and whether it is new.
    """

    def write() -> tuple[StoredItem, bool]:
        with unit_of_work(engine) as work:
            put = _put(work, {item_id: given})
            if item_id in put.changed:
                detail = {"item_id": item_id, "changed": put.changed[item_id]}
                record(work.connection, actor, "put item", detail)
        return put.items[item_id], item_id in put.new

    return retry_on_conflict(write)


class PutItems(NamedTuple):
    """What became of items that were put.

    Attributes:
        items: item id → the item as it is now.
        new: ids of the items that were inserted.
        changed: item id → names of the columns that were set, for each item that was inserted or changed.
    """

    items: Mapping[str, StoredItem]
    new: frozenset[str]
    changed: Mapping[str, list[str]]


def put_items(engine: Engine, rows: Mapping[str, Mapping[str, object]], *, actor: str) -> PutItems:
    """Insert or change items in one transaction; see `put_item`.

    Args:
        rows: item id → what is given of the item.
        actor: who asked, for the audit log.
    """

    def write() -> PutItems:
        with unit_of_work(engine) as work:
            put = _put(work, rows)
            if put.changed:
                record(work.connection, actor, "put items", {"item_ids": sorted(put.changed)})
        return put

    return retry_on_conflict(write)


def _put(work: Work, rows: Mapping[str, Mapping[str, object]]) -> PutItems:
    """Insert or change items, in the order of their ids, so that two writers do not deadlock."""
    stored = [schema.items.c[name] for name in StoredItem._fields]
    empty: dict[str, object] = {"title": None, "categories": [], "attributes": {}, "hidden": False}
    ordered = dict(sorted(rows.items()))
    values = [{"item_id": item_id, **empty, **_columns(given, {})} for item_id, given in ordered.items()]
    inserted = upsert(work.connection, schema.items, values, key=["item_id"], returning=stored).all()
    items = {row.item_id: StoredItem._make(tuple(row)) for row in inserted}
    new = frozenset(items)
    changed = {item_id: sorted(_columns(ordered[item_id], {})) for item_id in new}
    others = [item_id for item_id in ordered if item_id not in new]
    if others:
        there = select(*stored).where(schema.items.c.item_id.in_(others)).order_by(schema.items.c.item_id)
        for row in work.connection.execute(there.with_for_update(key_share=True)).all():
            columns = _columns(ordered[row.item_id], row.attributes)
            differing = {name: value for name, value in columns.items() if getattr(row, name) != value}
            item = StoredItem._make(tuple(row))
            if differing:
                statement = update(schema.items).where(schema.items.c.item_key == item.item_key).values(differing)
                item = StoredItem._make(tuple(work.connection.execute(statement.returning(*stored)).one()))
                changed[item.item_id] = sorted(differing)
            items[item.item_id] = item
    if changed:
        work.change(items=[items[item_id].item_key for item_id in changed])
    return PutItems(items, new, changed)


def _columns(given: Mapping[str, object], known: Mapping[str, object]) -> dict[str, object]:
    """Return what is given of an item as columns of the table.

    Args:
        known: the attributes that the item has.
    """
    columns = {name: value for name, value in given.items() if name != "year"}
    if "year" in given or "attributes" in given:
        attributes = given.get("attributes", known)
        assert isinstance(attributes, Mapping)
        year = given.get("year", attributes.get("year", known.get("year")))
        others = {name: value for name, value in attributes.items() if name != "year"}
        columns["attributes"] = others if year is None else {**others, "year": year}
    return columns


def read_items(connection: Connection, item_keys: Sequence[int] | None = None) -> list[StoredItem]:
    """Return items by their keys, in the order of the keys; `None` returns all items."""
    items = schema.items.c
    # JSON as text: most items share their categories, and what is equal is read once, and is in memory once.
    as_text = (cast(items.categories, Text), cast(items.attributes, Text))
    statement = select(items.item_key, items.item_id, items.title, *as_text, items.hidden).order_by(items.item_key)
    rows: Iterable[Any] = fetch_rows(connection, statement) if item_keys is None else ()
    if item_keys is not None:  # a statement that SQLAlchemy compiles once
        rows = connection.execute(statement.where(items.item_key.in_(item_keys)))
    read: Callable[[str], Any] = lru_cache(maxsize=None)(json.loads)
    return [
        StoredItem(key, item_id, title, read(categories), read(attributes), bool(hidden))
        for key, item_id, title, categories, attributes, hidden in rows
    ]


def known_items(connection: Connection, item_ids: set[str]) -> set[str]:
    """Return those of the ids that are in the database; for a handful, not for a load."""
    item_id = schema.items.c.item_id
    return set(connection.scalars(select(item_id).where(item_id.in_(item_ids))))
