"""The interface that delimited text files and Parquet files share."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from recsys.files.entries import Entry


@dataclass(frozen=True, slots=True)
class Block:
    """Some rows of a file, unchecked.

    Attributes:
        columns: the requested columns, n rows each.
        line: (n,) 1-based lines of the file (row numbers in Parquet).
        flaws: (line, reason) of rows that could not be split into columns; they are not among the n.
        n_bytes: bytes of the file that these rows took.
        name: of the file, if it is one of several.
    """

    columns: Sequence[pa.Array]
    line: NDArray[np.int64]
    flaws: Sequence[tuple[int, str]]
    n_bytes: int
    name: str | None = None


class TabularFile(Protocol):
    """A file of rows and columns.

    Attributes:
        entry: the file.
        where: the file, and its first line in text, as messages begin.
        header: names of the columns, `None` if the file has none.
        n_columns: number of columns.
    """

    @property
    def entry(self) -> Entry: ...
    @property
    def where(self) -> str: ...
    @property
    def header(self) -> tuple[str, ...] | None: ...
    @property
    def n_columns(self) -> int: ...

    def blocks(self, wanted: Sequence[int]) -> Iterator[Block]:
        """Return the columns at positions `wanted` in blocks of bounded size.

        Raises:
            InputError: the file cannot be read to its end, or changed meanwhile.
        """

    def records(self, wanted: Sequence[int]) -> Iterator[tuple[int, list[Any] | str]]:
        """Return (line, values at positions `wanted`) of each row, or (line, reason) if a row cannot be read.

        Raises:
            InputError: the file cannot be read to its end, or changed meanwhile.
        """
