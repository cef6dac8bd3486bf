"""Metadata of users and of items from files, merged into the database in bulk."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import BigInteger, Column, Connection, Engine, MetaData, Table, Text, select

from recsys.database import schema
from recsys.database.engine import retry_on_conflict, stage
from recsys.database.ids import staged_ids
from recsys.database.statements import upsert
from recsys.database.work import Guard, Work, write_in_pieces

_staged_descriptions = Table(
    "staged_descriptions",
    MetaData(),
    Column("position", BigInteger, primary_key=True, autoincrement=False),
    Column("external_id", Text, nullable=False),
    Column("title", Text),
    Column("categories", schema.Json, nullable=False),
    Column("attributes", schema.Json, nullable=False),
    prefixes=["TEMPORARY"],
    postgresql_on_commit="DROP",
)


@dataclass(frozen=True, slots=True)
class Description:
    """Metadata of one user or item. A title of None, no categories and missing attributes mean: not known."""

    title: str | None
    categories: Sequence[str]
    attributes: Mapping[str, object]

    def updated(self, new: "Description") -> "Description":
        """Return these metadata with what `new` knows in place of them."""
        return Description(
            new.title or self.title,
            list(new.categories) or self.categories,
            {**self.attributes, **new.attributes},
        )


def upsert_descriptions(
    engine: Engine, table: Table, described: Mapping[str, Description], guard: Guard | None = None
) -> int:
    """Insert or update users or items, in the order given; return the number of rows inserted or changed.

    Args:
        table: `schema.users` or `schema.items`.
        described: external id → metadata; a title is kept of items only.
        guard: called in every transaction before it commits.
    """
    given = list(described.items())
    external_id = table.columns[1].name
    names = [name for name in ("title", "categories", "attributes") if name in table.c]
    staged = _staged_descriptions.c
    rows = select(staged.external_id.label(external_id), *(staged[name] for name in names)).order_by(staged.position)
    n_written = 0

    def write(work: Work, part: slice) -> None:
        nonlocal n_written
        changed = changed_descriptions(work.connection, table, given[part])
        if changed:
            stage(work.connection, _staged_descriptions, tuple(zip(*changed, strict=True)))
            upsert(work.connection, table, rows, key=[external_id], set_=names)
            work.change_everything()
            n_written += len(changed)

    def write_all() -> int:
        nonlocal n_written
        n_written = 0
        write_in_pieces(engine, len(given), write, guard=guard)
        return n_written

    return retry_on_conflict(write_all)


def changed_descriptions(
    connection: Connection, table: Table, rows: Sequence[tuple[str, Description]]
) -> list[tuple[int, str, str | None, str, str]]:
    """Return rows for `staged_descriptions`: of the users or items that are new, or whose metadata changes.

    The rows that are there are locked until the transaction ends, so that a change by another writer is not undone.
    """
    stage(connection, staged_ids, (range(len(rows)), [external_id for external_id, _ in rows]))
    stored_id = table.columns[1]
    has_title = "title" in table.c
    found = connection.execute(
        select(stored_id, table.c.categories, table.c.attributes, *([table.c.title] if has_title else []))
        .select_from(staged_ids.join(table, stored_id == staged_ids.c.external_id))
        .order_by(staged_ids.c.position)
        .with_for_update(of=table, key_share=True)
    )
    stored = {row[0]: Description(row[3] if has_title else None, row[1], row[2]) for row in found}
    changed = []
    for position, (external_id, new) in enumerate(rows):
        before = stored.get(external_id)
        after = (before or Description(None, [], {})).updated(new)
        if after != before:
            categories, attributes = (
                json.dumps(value, ensure_ascii=False) for value in (after.categories, after.attributes)
            )
            changed.append((position, external_id, after.title, categories, attributes))
    return changed
