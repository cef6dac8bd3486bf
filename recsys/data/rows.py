"""What readers hand over: checked ratings in batches, items, users, and the rows that were set aside.

And how messages show what was found.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:  # a server knows rows, and reads no files
    import pyarrow as pa


@dataclass(frozen=True, slots=True)
class RatingBatch:
    """Checked ratings as they stood in a file.

    Attributes:
        user_ids, item_ids: external ids, byte for byte, never null or blank.
        rating: (n,) float64, at most `checks.MAX_RATING` in absolute value.
        rated_at: (n,) int64, Unix milliseconds in UTC, `NO_TIME` where the file has none.
        line: (n,) int64, 1-based line (row, for Parquet) of the file.
    """

    user_ids: "pa.StringArray"
    item_ids: "pa.StringArray"
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

    @property
    def attributes(self) -> dict[str, object]:
        """The year, where it is known, as the database keeps it."""
        return {} if self.year is None else {"year": self.year}


@dataclass(frozen=True, slots=True)
class UserRow:
    """What a file says of one user.

    Attributes:
        attributes: name of a column → text, a finite number, true or false, or a list of these; what is not known
            is not there.
    """

    user_id: str
    categories: tuple[str, ...]
    attributes: Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Rejected:
    """One row that was set aside."""

    file: str
    line: int
    reason: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.reason}"


def shown(value: object, limit: int = 40) -> str:
    """A value as messages show it: quoted, on one line, control characters escaped, long ones cut."""
    if isinstance(value, bytes):
        try:
            value = value.decode()
        except UnicodeDecodeError:
            return repr(value[:limit])[1:] + ("…" if len(value) > limit else "")
    text = str(value)
    cut = text if len(text) <= limit else text[: limit - 1] + "…"
    # Bytes that are not UTF-8 travel as lone surrogates (PEP 383): show them as the bytes they were.
    return repr(cut) if cut.isascii() else re.sub(r"\\udc([89a-f][0-9a-f])", r"\\x\1", repr(cut))


def named(names: Sequence[str]) -> str:
    """Names of columns, as they stood in a file, for a message."""
    return listed([shown(name)[1:-1] for name in names])


def listed(names: Sequence[str], limit: int = 10) -> str:
    """Names in a message, the first few where there are many."""
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more
