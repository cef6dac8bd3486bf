"""Parquet files, in batches of rows."""

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from recsys.errors import InputError
from recsys.files.archives import Entry
from recsys.files.table import Block

MAGIC = b"PAR1"
BATCH_ROWS = 250_000


class ParquetTable:
    """A Parquet file. One inside a zip is read into memory, for Parquet is read from its end.

    Raises:
        InputError: it is not Parquet, cut short, damaged, or has no rows.
    """

    def __init__(self, entry: Entry) -> None:
        self.entry = entry
        self.where = entry.name
        if entry.n_bytes == 0:
            raise InputError(f"{entry.name} is empty: expected Parquet; write or copy the file again")
        with self._said_plainly(), self._open() as file:
            self._schema: pa.Schema = file.schema_arrow
            self._n_rows: int = file.metadata.num_rows
        self.header: tuple[str, ...] | None = tuple(self._schema.names)
        self.n_columns = len(self._schema.names)
        twice = [name for name in self._schema.names if self._schema.names.count(name) > 1]
        if twice:
            raise InputError(f"{entry.name}: two columns are called {twice[0]}: expected each name once; rename one")
        if self._n_rows == 0:
            raise InputError(f"{entry.name}: columns and no rows: expected at least one; write the file again")

    def type_of(self, position: int) -> pa.DataType:
        """Type of the column at `position`."""
        return self._schema.field(position).type

    def blocks(self, wanted: Sequence[int]) -> Iterator[Block]:
        """The columns at positions `wanted`, in batches of rows; bytes are shared out evenly over the rows.

        Raises:
            InputError: the file is damaged.
        """
        n_read = 0
        for batch in self._batches(wanted):
            rows = np.arange(n_read + 1, n_read + len(batch) + 1)
            before = self.entry.n_bytes * n_read // self._n_rows
            n_read += len(batch)
            yield Block(batch.columns, rows, [], self.entry.n_bytes * n_read // self._n_rows - before)

    def records(self, wanted: Sequence[int]) -> Iterator[tuple[int, list[Any] | str]]:
        """(row, values at positions `wanted`) of every row, as Python objects.

        Raises:
            InputError: the file is damaged, or text in it is not UTF-8.
        """
        row = 0
        for batch in self._batches(wanted):
            with self._said_plainly():
                batch.validate(full=True)
            for values in zip(*(column.to_pylist() for column in batch.columns), strict=True):
                row += 1
                yield row, list(values)

    def _batches(self, wanted: Sequence[int]) -> Iterator[pa.RecordBatch]:
        names = [self._schema.names[position] for position in wanted]
        with self._said_plainly():
            file = self._open()
        with file:
            batches = file.iter_batches(BATCH_ROWS, columns=names, use_threads=False)
            while True:
                # Only what Parquet raises is translated, not what the caller raises between two batches.
                with self._said_plainly():
                    batch = next(batches, None)
                if batch is None:
                    return
                yield batch.select(names)

    def _open(self) -> pq.ParquetFile:
        if self.entry.member is not None:
            return pq.ParquetFile(io.BytesIO(self.entry.read()))
        # Opened by us, so that a missing right is said like that of any other file.
        with self.entry.open() as stream:
            stream.read(len(MAGIC))
        return pq.ParquetFile(self.entry.path)

    @contextmanager
    def _said_plainly(self) -> Iterator[None]:
        try:
            yield
        except (pa.ArrowException, OSError, ValueError, KeyError) as error:
            reason = str(error).splitlines()[0].rstrip(".") if str(error) else type(error).__name__
            raise InputError(
                f"{self.entry.name} is cut short, damaged or not Parquet ({reason[:120]}): "
                "expected a whole Parquet file; write or copy it again"
            ) from error
