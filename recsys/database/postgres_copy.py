"""Numbers for PostgreSQL's COPY, whole columns at a time, in its binary format."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import BigInteger, Double, Integer, SmallInteger, Table

ROWS_AT_ONCE = 50_000

_HEADER = b"PGCOPY\n\xff\r\n\x00" + bytes(8)  # signature, no flags, no extension
_END = b"\xff\xff"
_TYPES = ((BigInteger, ">i8"), (SmallInteger, ">i2"), (Integer, ">i4"), (Double, ">f8"))


def as_binary(table: Table, columns: Sequence[NDArray[Any]]) -> Iterator[bytes]:
    """Yield columns of numbers, in the order of the table's, as a binary COPY file, in pieces; masked values are NULL.

    A row is the number of its fields, and of each field its length in bytes, −1 for NULL, and its value, all of them
    big-endian.
    """
    types = [next(dtype for kind, dtype in _TYPES if isinstance(column.type, kind)) for column in table.columns]
    fields = [(f"{what}{at}", kind) for at, dtype in enumerate(types) for what, kind in (("size", ">i4"), ("", dtype))]
    record = np.dtype([("n_fields", ">i2"), *fields])
    offsets = [record.fields[f"{at}"][1] for at in range(len(types))] if record.fields is not None else []
    yield _HEADER
    for start in range(0, len(columns[0]), ROWS_AT_ONCE):
        parts = [column[start : start + ROWS_AT_ONCE] for column in columns]
        rows = np.empty(len(parts[0]), record)
        rows["n_fields"] = len(types)
        kept = None  # the bytes of each row that are sent
        for at, (part, dtype) in enumerate(zip(parts, types, strict=True)):
            width = np.dtype(dtype).itemsize
            rows[f"{at}"], rows[f"size{at}"] = np.ma.getdata(part), width
            if np.ma.is_masked(part):
                is_null = np.ma.getmaskarray(part)
                rows[f"size{at}"][is_null] = -1
                kept = np.ones((len(rows), record.itemsize), bool) if kept is None else kept
                kept[is_null, offsets[at] : offsets[at] + width] = False
        yield rows.tobytes() if kept is None else rows.view(np.uint8).reshape(kept.shape)[kept].tobytes()
    yield _END
