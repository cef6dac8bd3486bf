"""External ids to keys, in bulk."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import BigInteger, Column, Connection, Engine, MetaData, Table, Text, select

from recsys.data.database import fetch_columns, insert_or_update, stage, write_in_pieces

staged_ids = Table(
    "staged_ids",
    MetaData(),
    Column("code", BigInteger, primary_key=True, autoincrement=False),
    Column("external_id", Text, nullable=False),
    prefixes=["TEMPORARY"],
)


def keys_of(engine: Engine, table: Table, ids: Sequence[str]) -> NDArray[np.int64]:
    """The keys of external ids, in their order; ids that are not there are given one."""
    key, external_id = table.columns[0], table.columns[1]
    keys = np.full(len(ids), -1, np.int64)
    known = select(staged_ids.c.code, key).select_from(staged_ids.join(table, external_id == staged_ids.c.external_id))

    def look_up(connection: Connection, rows: slice) -> None:
        stage(connection, staged_ids, (range(rows.start, rows.stop), ids[rows]))
        codes, found = fetch_columns(connection, known, (np.int64, np.int64))
        if len(codes) < rows.stop - rows.start:
            connection.execute(
                insert_or_update(connection, table)
                .from_select(
                    [external_id.name],
                    select(staged_ids.c.external_id)
                    .select_from(staged_ids.outerjoin(table, external_id == staged_ids.c.external_id))
                    .where(key.is_(None))
                    .order_by(staged_ids.c.code),
                )
                .on_conflict_do_nothing()
            )
            codes, found = fetch_columns(connection, known, (np.int64, np.int64))
        keys[codes] = found

    write_in_pieces(engine, len(ids), look_up)
    return keys
