"""Ratings by external ids as dictionary-encoded columns: between a file and the database, or a training."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from recsys.data.dataset import Ratings, hash_ids, ratings_from_keys
from recsys.data.files import RatingBatch


@dataclass(frozen=True, slots=True)
class RatingColumns:
    """Ratings by external ids, dictionary-encoded: what a load holds in memory, 28 bytes a row.

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

    def encode(self, ids: pa.StringArray) -> NDArray[np.int32]:
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
    users, items = users or IdEncoder(), items or IdEncoder()
    parts = [
        (users.encode(batch.user_ids), items.encode(batch.item_ids), batch.rating, batch.rated_at) for batch in batches
    ]
    user_code, item_code, rating, rated_at = zip(*parts, strict=True) if parts else ((), (), (), ())
    return RatingColumns(
        user_ids=users.ids,
        item_ids=items.ids,
        user_code=np.concatenate([*user_code, np.empty(0, np.int32)]),
        item_code=np.concatenate([*item_code, np.empty(0, np.int32)]),
        rating=np.concatenate([*rating, np.empty(0, np.float64)]),
        rated_at=np.concatenate([*rated_at, np.empty(0, np.int64)]),
    )


def latest(columns: RatingColumns, user_key: NDArray[np.int64], item_key: NDArray[np.int64]) -> NDArray[np.int64]:
    """Rows to keep, one for each (user, item), in the order of the keys.

    The latest is kept; of equals the last line.

    A rating whose time is unknown counts as older than any whose time is known.
    """
    order = np.lexsort((columns.rated_at, item_key, user_key))  # stable: equal times keep the order of lines
    user_key, item_key = user_key[order], item_key[order]
    last = np.ones(len(order), bool)
    last[:-1] = (user_key[1:] != user_key[:-1]) | (item_key[1:] != item_key[:-1])
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
