"""Parquet files, read in batches of rows."""

import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from recsys.data.checks import is_text
from recsys.data.limits import MAX_COLUMNS, MAX_PARQUET_FOOTER_BYTES, MAX_RECORD_BYTES
from recsys.data.messages import printable, quote_value
from recsys.errors import InputError
from recsys.files.disk import DiskFile, DiskReader
from recsys.files.entries import Entry
from recsys.files.tabular import Block

MAGIC = b"PAR1"
BATCH_ROWS = 250_000
RECORD_ROWS = 8_192
MAX_BATCH_BYTES = 256 << 20


class ParquetFile:
    """A Parquet file. A Parquet file in a zip is copied to a temporary file, because it is read from its end.

    Attributes:
        entry: the file.
        where: its name, as messages begin.
        header: names of the columns.
        n_columns: number of columns.

    Raises:
        InputError: the file is not Parquet, cut short, damaged or too large, or has no rows.
    """

    def __init__(self, entry: Entry) -> None:
        self.entry = entry
        self.where = entry.name
        if entry.n_bytes == 0:
            raise InputError(f"{entry.name} is empty: expected Parquet; write or copy the file again")
        self._bytes = self._seekable()
        self._refuse_large_footer()
        with self._translate_errors(), self._open() as file:
            self._schema: pa.Schema = file.schema_arrow
            self._n_rows: int = file.metadata.num_rows
        self.header: tuple[str, ...] | None = tuple(self._schema.names)
        self.n_columns = len(self._schema.names)
        if self.n_columns > MAX_COLUMNS:
            raise InputError(
                f"{entry.name}: {self.n_columns:,} columns: expected at most {MAX_COLUMNS:,}; "
                "keep only the columns that are needed"
            )
        if len(set(self.header)) < self.n_columns:
            repeated = next(name for name in self.header if self.header.count(name) > 1)
            raise InputError(
                f"{entry.name}: two columns are called {quote_value(repeated)[1:-1]}: "
                "expected each name once; rename one"
            )
        if self._n_rows == 0:
            raise InputError(f"{entry.name}: columns and no rows: expected at least one; write the file again")

    def type_of(self, position: int) -> pa.DataType:
        """Return the type of the column at `position`."""
        return self._schema.field(position).type

    def blocks(self, wanted: Sequence[int]) -> Iterator[Block]:
        """Return the columns at positions `wanted` in batches of rows; bytes are divided evenly among the rows.

        Text is dictionary-encoded: a long value that many rows share is in memory once.

        Raises:
            InputError: the file is damaged, changed meanwhile, or has too large values.
        """
        n_read = 0
        for batch in self._batches(wanted, BATCH_ROWS):
            rows = np.arange(n_read + 1, n_read + len(batch) + 1)
            before = self.entry.n_bytes * n_read // self._n_rows
            n_read += len(batch)
            after = self.entry.n_bytes * n_read // self._n_rows
            yield Block([self._bounded(column) for column in batch.columns], rows, [], after - before)

    def records(self, wanted: Sequence[int]) -> Iterator[tuple[int, list[Any] | str]]:
        """Return (row number, values at positions `wanted`) of each row, as Python objects.

        Raises:
            InputError: the file is damaged, changed meanwhile, or holds text that is not UTF-8.
        """
        row = 0
        for batch in self._batches(wanted, RECORD_ROWS):
            with self._translate_errors():
                batch.validate(full=True)
            columns = [self._bounded(column) for column in batch.columns]
            for values in zip(*(column.to_pylist() for column in columns), strict=True):
                row += 1
                yield row, list(values)

    def _batches(self, wanted: Sequence[int], n_rows: int) -> Iterator[pa.RecordBatch]:
        names = [self._schema.names[position] for position in wanted]
        with self._translate_errors():
            file = self._open([name for name in names if is_text(self._schema.field(name).type)])
        with file:
            batches = file.iter_batches(n_rows, columns=names, use_threads=False)
            while True:
                # Only errors of Parquet are translated, not those of the caller between two batches.
                with self._translate_errors():
                    batch = next(batches, None)
                if batch is None:
                    break
                yield batch.select(names)
        self.entry.file.check_unchanged()

    def _bounded(self, column: pa.Array) -> pa.Array:
        """Refuse a column whose text would take more than `MAX_BATCH_BYTES` without its dictionary."""
        if pa.types.is_dictionary(column.type) and is_text(column.type.value_type):
            lengths = pc.binary_length(column.dictionary).cast(pa.int64())
            n_bytes = pc.sum(lengths.take(column.indices)).as_py() or 0
            longest = pc.max(lengths).as_py() or 0
            if n_bytes > MAX_BATCH_BYTES or longest > MAX_RECORD_BYTES:
                raise InputError(
                    f"{self.entry.name}: a value of {longest:,} bytes, and {n_bytes:,} bytes in {len(column):,} rows: "
                    f"expected at most {MAX_RECORD_BYTES:,} and {MAX_BATCH_BYTES:,}; shorten the values"
                )
        return column

    def _seekable(self) -> DiskReader:
        if self.entry.member is None and self.entry.packing is None:
            return DiskReader(self.entry.file)
        descriptor, path = tempfile.mkstemp(prefix="recsys-", suffix=".parquet")
        try:
            with os.fdopen(descriptor, "wb") as copy, self.entry.open() as stream:
                shutil.copyfileobj(stream, copy, 1 << 20)
            return DiskReader(DiskFile(Path(path), self.entry.name))
        finally:
            os.unlink(path)  # the open descriptor keeps the content

    def _refuse_large_footer(self) -> None:
        """Refuse a footer of more than `MAX_PARQUET_FOOTER_BYTES`: Arrow keeps all of it in memory, several times."""
        self._bytes.seek(max(self._bytes.seek(0, os.SEEK_END) - 8, 0))
        end = self._bytes.read(8)
        n_bytes = int.from_bytes(end[:4], "little")
        if end[4:] == MAGIC and n_bytes > MAX_PARQUET_FOOTER_BYTES:
            raise InputError(
                f"{self.entry.name} has a footer of {n_bytes:,} bytes: expected at most "
                f"{MAX_PARQUET_FOOTER_BYTES:,}; write it with fewer columns and row groups"
            )

    def _open(self, as_dictionary: Sequence[str] = ()) -> pq.ParquetFile:
        return pq.ParquetFile(pa.PythonFile(self._bytes, "r"), read_dictionary=list(as_dictionary))

    @contextmanager
    def _translate_errors(self) -> Iterator[None]:
        try:
            yield
        except MemoryError:
            raise
        except (pa.ArrowException, OSError, ValueError, KeyError) as error:
            reason = printable(str(error).splitlines()[0].rstrip(".")) if str(error) else type(error).__name__
            raise InputError(
                f"{self.entry.name} is cut short, damaged or not Parquet ({reason[:120]}): "
                "expected a whole Parquet file; write or copy it again"
            ) from error
