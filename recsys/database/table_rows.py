"""Whole tables in and out as Arrow batches, the same from both databases."""

import json
from collections.abc import Iterable, Iterator
from functools import lru_cache
from hashlib import sha256
from itertools import islice
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Connection,
    Double,
    Float,
    Integer,
    LargeBinary,
    MetaData,
    Select,
    Table,
    Text,
    cast,
    select,
    text,
)

from recsys.database import schema
from recsys.database.engine import copy_in, fetch_rows

BATCH_ROWS = 50_000
"""Rows of a batch. Digests of a table depend on it."""


def arrow_schema(table: Table) -> pa.Schema:
    """Return the columns of a table. JSON is text; the fields say so, and which ones are the primary key."""
    return pa.schema(
        [
            pa.field(
                column.name,
                arrow_type(column.type),
                metadata={"json": str(int(is_json(column))), "key": str(int(column.primary_key))},
            )
            for column in table.columns
        ]
    )


def arrow_type(kind: Any) -> pa.DataType:
    """Return the Arrow type of a column's values."""
    for sql_type, arrow in ((Integer, pa.int64()), (Boolean, pa.bool_()), (LargeBinary, pa.large_binary())):
        if isinstance(kind, sql_type):
            return arrow
    return pa.float64() if isinstance(kind, Float) else pa.large_string()


def table_of(name: str, columns: pa.Schema) -> Table:
    """Return a table with the columns that `arrow_schema` returned, perhaps of an earlier schema."""
    types = {pa.int64(): BigInteger, pa.bool_(): Boolean, pa.large_binary(): LargeBinary, pa.float64(): Double}
    return Table(
        name,
        MetaData(),
        *(
            Column(
                field.name,
                JSON if field.metadata[b"json"] == b"1" else types.get(field.type, Text),
                primary_key=field.metadata[b"key"] == b"1",
            )
            for field in columns
        ),
    )


def read_batches(connection: Connection, table: Table) -> Iterator[pa.RecordBatch]:
    """Yield the rows of a table in the order of its primary key, `BATCH_ROWS` at a time."""
    columns = [cast(column, Text).label(column.name) if is_json(column) else column for column in table.columns]
    statement: Select[Any] = select(*columns).order_by(*table.primary_key.columns)
    columns_of = arrow_schema(table)
    rows = fetch_rows(connection, statement)
    while chunk := list(islice(rows, BATCH_ROWS)):
        arrays = [
            pa.array(map(bool, values) if pa.types.is_boolean(kind) else values, kind)
            for values, kind in zip(zip(*chunk, strict=True), columns_of.types, strict=True)
        ]
        yield pa.RecordBatch.from_arrays(arrays, schema=columns_of)


def write_batches(connection: Connection, table: Table, batches: Iterable[pa.RecordBatch]) -> int:
    """Append rows to a table; return their number.

    Args:
        batches: columns named as the table's, in its order.
    """
    n_rows = 0
    for batch in batches:
        copy_in(connection, table, [column.to_pylist() for column in batch.columns])
        n_rows += len(batch)
    return n_rows


class TableDigest:
    """The SHA-256 of a table's rows, the same on both databases: PostgreSQL writes JSON in another way."""

    def __init__(self, table: Table) -> None:
        self._is_json = [is_json(column) for column in table.columns]
        self._total = sha256()
        self.n_rows = 0

    def update(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """Add some rows; return them."""
        self.n_rows += len(batch)
        for holds_json, values in zip(self._is_json, batch.columns, strict=True):
            if holds_json:
                values = pa.array(map(canonical_json, values.to_pylist()), pa.large_string())
            self._total.update(values.is_valid().to_numpy(zero_copy_only=False).tobytes())
            known = values.drop_null()
            if pa.types.is_large_string(known.type) or pa.types.is_large_binary(known.type):
                self._total.update(pc.binary_length(known).to_numpy().astype("<i8").tobytes())
                self._total.update(b"".join(known.cast(pa.large_binary()).to_pylist()))
            else:
                self._total.update(np.ascontiguousarray(known.to_numpy(zero_copy_only=False)).tobytes())
        return batch

    def hexdigest(self) -> str:
        """Return the digest of the rows so far."""
        return self._total.hexdigest()


def is_json(column: Any) -> bool:
    """Return whether a column holds JSON."""
    return isinstance(column.type, JSON)


@lru_cache(maxsize=100_000)
def canonical_json(value: str | None) -> str | None:
    """Return JSON with its names in order; numbers that are equal are written alike."""
    if value is None:
        return None
    return json.dumps(as_whole(json.loads(value)), sort_keys=True, ensure_ascii=False)


def as_whole(value: Any) -> Any:
    """Return a JSON value in which whole numbers are integers."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, dict):
        return {name: as_whole(each) for name, each in value.items()}
    return [as_whole(each) for each in value] if isinstance(value, list) else value


def read_last_keys(connection: Connection) -> dict[str, int]:
    """Return the largest key that each table ever handed out, so that none is handed out again."""
    last: dict[str, int] = {}
    for table in schema.metadata.sorted_tables:
        column = table.autoincrement_column
        if column is None:
            continue
        if connection.dialect.name == "sqlite":
            found = connection.scalar(text("SELECT seq FROM sqlite_sequence WHERE name = :name"), {"name": table.name})
        else:
            sequence = connection.scalar(
                text("SELECT pg_get_serial_sequence(:t, :c)"), {"t": table.name, "c": column.name}
            )
            row = connection.execute(text(f"SELECT last_value, is_called FROM {sequence}")).one()
            found = row.last_value if row.is_called else None
        if found is not None:
            last[table.name] = int(found)
    return last


def set_last_keys(connection: Connection, last: dict[str, int]) -> None:
    """Make tables hand out only keys that are larger than these."""
    for table in schema.metadata.sorted_tables:
        column, seq = table.autoincrement_column, last.get(table.name)
        if column is None or seq is None:
            continue
        if connection.dialect.name == "sqlite":
            connection.execute(text("DELETE FROM sqlite_sequence WHERE name = :name"), {"name": table.name})
            values = {"name": table.name, "seq": seq}
            connection.execute(text("INSERT INTO sqlite_sequence (name, seq) VALUES (:name, :seq)"), values)
        else:
            values = {"t": table.name, "c": column.name, "seq": seq}
            connection.execute(text("SELECT setval(pg_get_serial_sequence(:t, :c), :seq)"), values)
