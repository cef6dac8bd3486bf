"""Items in the database, in bulk."""

import json
from collections.abc import Sequence

from sqlalchemy import BigInteger, Column, Connection, Engine, MetaData, Table, Text, select, true

from recsys.data import schema
from recsys.data.changes import record_change
from recsys.data.database import insert_or_update, stage, write_in_pieces
from recsys.data.files import ItemRow
from recsys.data.ids import staged_ids

_staged_items = Table(
    "staged_items",
    MetaData(),
    Column("place", BigInteger, primary_key=True, autoincrement=False),
    Column("item_id", Text, nullable=False),
    Column("title", Text),
    Column("categories", schema.Json, nullable=False),
    Column("attributes", schema.Json, nullable=False),
    prefixes=["TEMPORARY"],
)


def upsert_items(engine: Engine, rows: Sequence[ItemRow]) -> int:
    """Insert or update items by what a file says of them; returns how many were inserted or changed.

    What the file does not know (a missing title, no categories) stays as it is.
    """
    by_id = {row.item_id: row for row in rows}  # the last line of a file wins
    given = list(by_id.values())
    written = 0

    def write(connection: Connection, part: slice) -> None:
        nonlocal written
        changed = _changed_items(connection, given[part])
        if not changed:
            return
        stage(connection, _staged_items, tuple(zip(*changed, strict=True)))
        staged = _staged_items.c
        statement = insert_or_update(connection, schema.items).from_select(
            ["item_id", "title", "categories", "attributes"],
            select(staged.item_id, staged.title, staged.categories, staged.attributes)
            .where(true())  # SQLite cannot tell ON CONFLICT from a join's ON without it
            .order_by(staged.place),
        )
        excluded = statement.excluded
        connection.execute(
            statement.on_conflict_do_update(
                index_elements=["item_id"],
                set_={name: excluded[name] for name in ("title", "categories", "attributes")},
            )
        )
        record_change(connection)
        written += len(changed)

    write_in_pieces(engine, len(given), write)
    return written


def _changed_items(connection: Connection, rows: Sequence[ItemRow]) -> list[tuple[int, str, str | None, str, str]]:
    """Rows for `staged_items`: those that are new, or say something else than what is stored."""
    stage(connection, staged_ids, (range(len(rows)), [row.item_id for row in rows]))
    items = schema.items.c
    found = connection.execute(
        select(items.item_id, items.title, items.categories, items.attributes).select_from(
            staged_ids.join(schema.items, items.item_id == staged_ids.c.external_id)
        )
    )
    stored = {item_id: (title, categories, attributes) for item_id, title, categories, attributes in found}
    changed = []
    for place, row in enumerate(rows):
        before = stored.get(row.item_id)
        title, categories, attributes = before or (None, [], {})
        merged = (
            row.title or title,
            list(row.categories) or categories,
            attributes if row.year is None else {**attributes, "year": row.year},
        )
        if merged != before:
            as_text = (json.dumps(merged[1], ensure_ascii=False), json.dumps(merged[2], ensure_ascii=False))
            changed.append((place, row.item_id, merged[0], *as_text))
    return changed


def known_items(connection: Connection, item_ids: set[str]) -> set[str]:
    """Those of the ids that are in the database; for a handful, not for a load."""
    item_id = schema.items.c.item_id
    return set(connection.scalars(select(item_id).where(item_id.in_(item_ids))))
