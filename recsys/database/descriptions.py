"""What files say of users and of items, merged into the database in bulk."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import BigInteger, Column, Connection, Engine, MetaData, Table, Text, select, true

from recsys.database import schema
from recsys.database.changes import record_change
from recsys.database.engine import insert_or_update, stage, write_in_pieces
from recsys.database.ids import staged_ids

_staged_descriptions = Table(
    "staged_descriptions",
    MetaData(),
    Column("place", BigInteger, primary_key=True, autoincrement=False),
    Column("external_id", Text, nullable=False),
    Column("title", Text),
    Column("categories", schema.Json, nullable=False),
    Column("attributes", schema.Json, nullable=False),
    prefixes=["TEMPORARY"],
)


@dataclass(frozen=True, slots=True)
class Description:
    """What is known of one user or item; a title of None, no categories and missing attributes are not known."""

    title: str | None
    categories: Sequence[str]
    attributes: Mapping[str, object]


def upsert_descriptions(engine: Engine, table: Table, described: Mapping[str, Description]) -> int:
    """Insert or update users or items, in the order given; returns how many were inserted or changed.

    What is not known stays as it is.

    Args:
        table: `schema.users` or `schema.items`.
        described: external id → what is known of it; a title is kept of items only.
    """
    given = list(described.items())
    external_id = table.columns[1].name
    updated = [name for name in ("title", "categories", "attributes") if name in table.c]
    written = 0

    def write(connection: Connection, part: slice) -> None:
        nonlocal written
        changed = _changed(connection, table, given[part])
        if not changed:
            return
        stage(connection, _staged_descriptions, tuple(zip(*changed, strict=True)))
        staged = _staged_descriptions.c
        statement = insert_or_update(connection.dialect.name, table).from_select(
            [external_id, *updated],
            select(staged.external_id, *(staged[name] for name in updated))
            .where(true())  # SQLite cannot tell ON CONFLICT from a join's ON without it
            .order_by(staged.place),
        )
        connection.execute(
            statement.on_conflict_do_update(
                index_elements=[external_id], set_={name: statement.excluded[name] for name in updated}
            )
        )
        record_change(connection)
        written += len(changed)

    write_in_pieces(engine, len(given), write)
    return written


def _changed(
    connection: Connection, table: Table, rows: Sequence[tuple[str, Description]]
) -> list[tuple[int, str, str | None, str, str]]:
    """Rows for `staged_descriptions`: those that are new, or say something else than what is stored."""
    stage(connection, staged_ids, (range(len(rows)), [external_id for external_id, _ in rows]))
    stored_id = table.columns[1]
    has_title = "title" in table.c
    found = connection.execute(
        select(stored_id, table.c.categories, table.c.attributes, *([table.c.title] if has_title else [])).select_from(
            staged_ids.join(table, stored_id == staged_ids.c.external_id)
        )
    )
    stored = {row[0]: Description(row[3] if has_title else None, row[1], row[2]) for row in found}
    changed = []
    for place, (external_id, said) in enumerate(rows):
        before = stored.get(external_id)
        merged = _merged(before or Description(None, [], {}), said)
        if merged != before:
            as_text = (_text(merged.categories), _text(merged.attributes))
            changed.append((place, external_id, merged.title, *as_text))
    return changed


def _merged(before: Description, said: Description) -> Description:
    return Description(
        said.title or before.title,
        list(said.categories) or before.categories,
        {**before.attributes, **said.attributes},
    )


def _text(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)
