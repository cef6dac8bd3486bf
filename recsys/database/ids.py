"""External ids to keys, in bulk."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import BigInteger, Column, Connection, Engine, MetaData, Table, Text, select

from recsys.database.engine import fetch_columns, insert_or_update, reading, stage, write_in_pieces

_HANDFUL = 1000
"""So many ids are looked up in one statement."""

staged_ids = Table(
    "staged_ids",
    MetaData(),
    Column("place", BigInteger, primary_key=True, autoincrement=False),
    Column("external_id", Text, nullable=False),
    prefixes=["TEMPORARY"],
)


def keys_of(engine: Engine, table: Table, ids: Sequence[str]) -> NDArray[np.int64]:
    """The keys of external ids, in their order; ids that are not there are given one."""
    key, external_id = table.columns[0], table.columns[1]
    keys = np.full(len(ids), -1, np.int64)
    if len(ids) <= _HANDFUL:
        with reading(engine) as connection:
            found = connection.execute(select(external_id, key).where(external_id.in_(ids))).all()
        by_id = {row[0]: row[1] for row in found}
        if len(by_id) == len(ids):  # nothing to write, so no other writer to wait for
            return np.array([by_id[given] for given in ids], np.int64)
    # Always inserted in the order of the ids, so that two writers of the same ones do not wait for each other.
    order = sorted(range(len(ids)), key=ids.__getitem__)
    known = select(staged_ids.c.place, key).select_from(staged_ids.join(table, external_id == staged_ids.c.external_id))

    def look_up(connection: Connection, rows: slice) -> None:
        stage(connection, staged_ids, (range(rows.start, rows.stop), [ids[code] for code in order[rows]]))
        places, found = fetch_columns(connection, known, (np.int64, np.int64))
        if len(places) < rows.stop - rows.start:
            connection.execute(
                insert_or_update(connection.dialect.name, table)
                .from_select(
                    [external_id.name],
                    select(staged_ids.c.external_id)
                    .select_from(staged_ids.outerjoin(table, external_id == staged_ids.c.external_id))
                    .where(key.is_(None))
                    .order_by(staged_ids.c.place),
                )
                .on_conflict_do_nothing()
            )
            places, found = fetch_columns(connection, known, (np.int64, np.int64))
        keys[np.array(order)[places]] = found

    write_in_pieces(engine, len(ids), look_up)
    return keys
