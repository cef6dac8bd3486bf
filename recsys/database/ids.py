"""External ids to keys, in bulk."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import BigInteger, Column, Engine, MetaData, Table, Text, select

from recsys.database import schema
from recsys.database.engine import fetch_columns, reading, retry_on_conflict, stage
from recsys.database.statements import upsert
from recsys.database.work import Guard, Work, write_in_pieces

HANDFUL = 1000
"""Up to so many ids are looked up in one statement."""

staged_ids = Table(
    "staged_ids",
    MetaData(),
    Column("position", BigInteger, primary_key=True, autoincrement=False),
    Column("external_id", Text, nullable=False),
    prefixes=["TEMPORARY"],
    postgresql_on_commit="DROP",
)


def keys_of(engine: Engine, table: Table, ids: Sequence[str], guard: Guard | None = None) -> NDArray[np.int64]:
    """Return the keys of external ids, in their order; ids that are not in the table are inserted.

    Args:
        table: `schema.users` or `schema.items`.
        guard: called in every transaction before it commits.
    """
    key, external_id = table.columns[0], table.columns[1]
    keys = np.full(len(ids), -1, np.int64)
    if len(ids) <= HANDFUL:
        with reading(engine) as connection:
            found = connection.execute(select(external_id, key).where(external_id.in_(ids))).all()
        by_id = {row[0]: row[1] for row in found}
        if len(by_id) == len(ids):  # nothing to write, so no other writer to wait for
            return np.array([by_id[given] for given in ids], np.int64)
    # Always inserted in the order of the ids, so that two writers of the same ids do not wait for each other.
    order = sorted(range(len(ids)), key=ids.__getitem__)
    known = select(staged_ids.c.position, key).select_from(
        staged_ids.join(table, external_id == staged_ids.c.external_id)
    )
    missing = (
        select(staged_ids.c.external_id.label(external_id.name))
        .select_from(staged_ids.outerjoin(table, external_id == staged_ids.c.external_id))
        .where(key.is_(None))
        .order_by(staged_ids.c.position)
    )

    def look_up(work: Work, rows: slice) -> None:
        connection = work.connection
        stage(connection, staged_ids, (range(rows.start, rows.stop), [ids[code] for code in order[rows]]))
        positions_found, found = fetch_columns(connection, known, (np.int64, np.int64))
        if len(positions_found) < rows.stop - rows.start:
            upsert(connection, table, missing, key=[external_id.name])
            positions_found, found = fetch_columns(connection, known, (np.int64, np.int64))
        keys[np.array(order)[positions_found]] = found

    retry_on_conflict(lambda: write_in_pieces(engine, len(ids), look_up, guard=guard))
    return keys


def user_keys(engine: Engine, user_ids: Sequence[str]) -> NDArray[np.int64]:
    """Return the keys of users by external id; see `keys_of`."""
    return keys_of(engine, schema.users, user_ids)


def item_keys(engine: Engine, item_ids: Sequence[str]) -> NDArray[np.int64]:
    """Return the keys of items by external id; see `keys_of`."""
    return keys_of(engine, schema.items, item_ids)
