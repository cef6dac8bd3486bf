"""Rows that the file readers return: checked ratings in batches, items, users and rejected rows."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:  # the server imports this module but reads no files
    import pyarrow as pa


DELETION = np.nan
"""Rating of a row that takes the feedback of its pair back: no rating that was read is NaN."""


@dataclass(frozen=True, slots=True)
class RatingBatch:
    """Checked ratings in the order of a file.

    Attributes:
        user_ids, item_ids: external ids, byte for byte, never null or blank: strings, or a dictionary of such.
        rating: (n,) float64, at most `limits.MAX_RATING` in absolute value; `DELETION` where the row takes the pair's
            feedback back.
        rated_at: (n,) int64, Unix milliseconds in UTC, `NO_TIME` if the row has no time.
        line: (n,) int64, 1-based line of the file (row number in Parquet).
    """

    user_ids: "pa.Array"
    item_ids: "pa.Array"
    rating: NDArray[np.float64]
    rated_at: NDArray[np.int64]
    line: NDArray[np.int64]

    def since(self, since_ms: int) -> tuple["RatingBatch", int]:
        """Return the rows without those of an earlier time, and how many these are. A row without a time stays."""
        import pyarrow as pa

        kept = (self.rated_at >= since_ms) | (self.rated_at == np.iinfo(np.int64).min)
        if kept.all():
            return self, 0
        mask = pa.array(kept)
        ids = self.user_ids.filter(mask), self.item_ids.filter(mask)
        return RatingBatch(*ids, self.rating[kept], self.rated_at[kept], self.line[kept]), int((~kept).sum())


@dataclass(frozen=True, slots=True)
class ItemRow:
    """One item of a file."""

    item_id: str
    title: str | None
    categories: tuple[str, ...]
    year: int | None
    others: Mapping[str, object] = field(default_factory=dict)
    """Attributes beside the year, which an export has."""

    @property
    def attributes(self) -> dict[str, object]:
        """Return the attributes that the database stores: the year, if it is known, and what an export has."""
        return dict(self.others) if self.year is None else {**self.others, "year": self.year}


@dataclass(frozen=True, slots=True)
class UserRow:
    """One user of a file.

    Attributes:
        attributes: name of a column → text, a finite number, true or false, or a list of these. A value that is not
            known has no entry.
    """

    user_id: str
    categories: tuple[str, ...]
    attributes: Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Rejected:
    """One rejected row: its file, its line and the reason."""

    file: str
    line: int
    reason: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.reason}"
