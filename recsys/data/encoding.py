"""Ratings by external ids as dictionary-encoded columns: between a file and the database, or a training."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from recsys.data.dataset import Ratings, ratings_from_keys
from recsys.data.keyed import hash_ids
from recsys.data.rows import RatingBatch

if TYPE_CHECKING:  # a server knows columns, and reads no files
    import pyarrow as pa

_RESERVED_ROWS = 1 << 23
"""Room for so many rows from the start. It is addresses, not memory, until rows are written there."""

_Scalar = TypeVar("_Scalar", bound=np.generic)


@dataclass(frozen=True, slots=True)
class RatingColumns:
    """Ratings by external ids, dictionary-encoded: 24 bytes a row.

    A load holds more at its peak, while it sorts: some 65 bytes a row beside a fixed 250 MiB (Parquet into SQLite,
    resident: 498 MiB at 4 million rows, 746 MiB at 8 million).

    Attributes:
        user_ids, item_ids: the distinct external ids, in the order in which they appeared.
        user_code, item_code: (n,) int32, positions in them.
        rating: (n,) float64.
        rated_at: (n,) int64, Unix milliseconds, `NO_TIME` where unknown.
    """

    user_ids: list[str]
    item_ids: list[str]
    user_code: NDArray[np.int32]
    item_code: NDArray[np.int32]
    rating: NDArray[np.float64]
    rated_at: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.rating)


class IdEncoder:
    """External ids to codes 0, 1, 2 …, in the order in which they appear."""

    def __init__(self) -> None:
        self._codes: dict[str, int] = {}

    def encode(self, ids: "pa.StringArray") -> NDArray[np.int32]:
        encoded = ids.dictionary_encode()
        codes = np.empty(len(encoded.dictionary), np.int32)
        for place, external_id in enumerate(encoded.dictionary.to_pylist()):
            codes[place] = self._codes.setdefault(external_id, len(self._codes))
        result: NDArray[np.int32] = codes[encoded.indices.to_numpy(zero_copy_only=False)]
        return result

    @property
    def ids(self) -> list[str]:
        return list(self._codes)


def collect(
    batches: Iterable[RatingBatch], users: IdEncoder | None = None, items: IdEncoder | None = None
) -> RatingColumns:
    """All batches as one set of columns, rows in the order of the file.

    Args:
        users, items: encoders to go on with, so that several files share their codes.
    """
    import pyarrow as pa

    users, items = users or IdEncoder(), items or IdEncoder()
    user_code, item_code = _Growing(np.int32), _Growing(np.int32)
    rating, rated_at = _Growing(np.float64), _Growing(np.int64)
    for batch in batches:
        user_code.append(users.encode(batch.user_ids))
        item_code.append(items.encode(batch.item_ids))
        rating.append(batch.rating)
        rated_at.append(batch.rated_at)
    pa.default_memory_pool().release_unused()  # what the readers no longer use
    return RatingColumns(
        user_ids=users.ids,
        item_ids=items.ids,
        user_code=user_code.whole(),
        item_code=item_code.whole(),
        rating=rating.whole(),
        rated_at=rated_at.whole(),
    )


class _Growing(Generic[_Scalar]):
    """A column that grows in place: parts that are joined at the end would be in memory twice."""

    def __init__(self, dtype: type[_Scalar]) -> None:
        self._values = np.empty(_RESERVED_ROWS, dtype)
        self._n = 0

    def append(self, part: NDArray[_Scalar]) -> None:
        end = self._n + len(part)
        if end > len(self._values):
            self._values.resize(max(end, len(self._values) * 9 // 8), refcheck=False)
        self._values[self._n : end] = part
        self._n = end

    def whole(self) -> NDArray[_Scalar]:
        self._values.resize(self._n, refcheck=False)
        return self._values


def latest(columns: RatingColumns, user_key: NDArray[np.int64], item_key: NDArray[np.int64]) -> NDArray[np.int64]:
    """Rows to keep, one for each (user, item), in the order of the keys.

    The latest is kept; of equals the last line.

    A rating whose time is unknown counts as older than any whose time is known.
    """
    order = np.lexsort((columns.rated_at, item_key, user_key))  # stable: equal times keep the order of lines
    last = np.zeros(len(order), bool)
    last[-1:] = True
    for key in (user_key, item_key):  # one after the other: only one sorted copy is in memory at once
        ordered = key[order]
        last[:-1] |= ordered[1:] != ordered[:-1]
    kept: NDArray[np.int64] = order[last]
    return kept


def as_ratings(columns: RatingColumns) -> Ratings:
    """Ratings straight from a file, without a database: the codes take the place of keys."""
    kept = latest(columns, columns.user_code.astype(np.int64), columns.item_code.astype(np.int64))
    return ratings_from_keys(
        columns.user_code[kept].astype(np.int64),
        columns.item_code[kept].astype(np.int64),
        columns.rating[kept],
        columns.rated_at[kept],
        hash_ids(columns.user_ids),
        hash_ids(columns.item_ids),
    )
