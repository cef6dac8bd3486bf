"""Rating and item files → checked Arrow batches, and the rows that were set aside with line and reason."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class RatingBatch:
    """Checked ratings as they stood in a file.

    Attributes:
        user_ids, item_ids: external ids, byte for byte, never null or blank.
        rating: (n,) float64, finite.
        rated_at: (n,) int64, Unix milliseconds in UTC, `NO_TIME` where the file has none.
        line: (n,) int64, 1-based line (row, for Parquet) of the file.
    """

    user_ids: pa.StringArray
    item_ids: pa.StringArray
    rating: NDArray[np.float64]
    rated_at: NDArray[np.int64]
    line: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class ItemRow:
    """What a file says of one item."""

    item_id: str
    title: str | None
    categories: tuple[str, ...]
    year: int | None


@dataclass(frozen=True, slots=True)
class Rejected:
    """One row that was set aside."""

    file: str
    line: int
    reason: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.reason}"
