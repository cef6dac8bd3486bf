"""What a text file and a Parquet file have in common for those who read them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from recsys.files.archives import Entry


@dataclass(frozen=True, slots=True)
class Block:
    """Some rows of a table, unchecked.

    Attributes:
        columns: the columns that were asked for, n rows each.
        line: (n,) 1-based lines (rows, for Parquet) of the file.
        flaws: (line, reason) of rows that could not be split into columns; they are not among the n.
        n_bytes: bytes of the file these rows took.
    """

    columns: Sequence[pa.Array]
    line: NDArray[np.int64]
    flaws: Sequence[tuple[int, str]]
    n_bytes: int


class Table(Protocol):
    """A file of rows and columns.

    Attributes:
        entry: the file.
        where: the file, and its first line where that means something, as messages start with them.
        header: names of the columns, None where the file has none.
        n_columns: how many there are.
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
        """The columns at positions `wanted` in blocks of bounded size.

        Raises:
            InputError: the file cannot be read to its end.
        """

    def records(self, wanted: Sequence[int]) -> Iterator[tuple[int, list[Any] | str]]:
        """Row by row (line, values at positions `wanted`), or (line, reason) where a row cannot be read.

        Raises:
            InputError: the file cannot be read to its end.
        """
