"""Numbers for PostgreSQL's COPY, whole columns at a time."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

ROWS_AT_ONCE = 50_000


def as_csv(columns: Sequence[NDArray[Any]]) -> Iterator[bytes]:
    """Yield columns of numbers as the lines of a CSV file, in pieces; masked values are empty, which is NULL."""
    import pyarrow as pa
    from pyarrow.csv import WriteOptions, write_csv

    options = WriteOptions(include_header=False)
    for start in range(0, len(columns[0]), ROWS_AT_ONCE):
        parts = [column[start : start + ROWS_AT_ONCE] for column in columns]
        arrays = [
            pa.array(part.data, mask=np.ma.getmaskarray(part))
            if isinstance(part, np.ma.MaskedArray)
            else pa.array(part)
            for part in parts
        ]
        text = pa.BufferOutputStream()
        write_csv(pa.RecordBatch.from_arrays(arrays, [str(i) for i in range(len(arrays))]), text, options)
        yield text.getvalue().to_pybytes()
