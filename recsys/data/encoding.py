"""Ratings by external id as dictionary-encoded columns: the form between a file and the database or a training."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from itertools import count, islice
from typing import TYPE_CHECKING, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from recsys.data.dataset import NO_TIME, Ratings, ratings_from_keys
from recsys.data.keyed import hash_ids
from recsys.data.limits import BYTES_PER_ID, BYTES_PER_RATING
from recsys.data.rows import RatingBatch

if TYPE_CHECKING:  # the server imports this module but reads no files
    import pyarrow as pa

RESERVED_ROWS = 1 << 23
"""Rows to reserve address space for at the start. Pages take memory when rows are written to them."""

ROWS_PER_SORT = 1 << 22
"""Rows that `latest_rows` sorts at a time, which bounds the memory of the sort."""

Scalar = TypeVar("Scalar", bound=np.generic)


@dataclass(frozen=True, slots=True)
class RatingColumns:
    """Ratings by external id, dictionary-encoded: 24 bytes a row.

    Attributes:
        user_ids, item_ids: the distinct external ids, in the order in which they appeared.
        user_code, item_code: (n,) int32, positions in `user_ids` and `item_ids`.
        rating: (n,) float64; NaN where a row takes the feedback of its pair back, see `split_deleted`.
        rated_at: (n,) int64, Unix milliseconds, `NO_TIME` if unknown.
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
    """Maps external ids to the codes 0, 1, 2 … in the order in which they appear.

    Attributes:
        n_bytes: estimated memory of the ids during a load.
    """

    def __init__(self) -> None:
        self._codes: dict[str, int] = {}
        self.n_bytes = 0

    def __len__(self) -> int:
        return len(self._codes)

    def encode(self, ids: "pa.Array") -> NDArray[np.int32]:
        """Return the code of each id; an id that is new gets the next code.

        Args:
            ids: (n,) strings, or a dictionary of such.
        """
        encoded = ids.dictionary_encode()  # itself, if it is one
        index = encoded.indices.to_numpy(zero_copy_only=False)
        is_used = np.zeros(len(encoded.dictionary), bool)
        is_used[index] = True
        if not is_used.all():  # some of its rows were left out
            encoded = ids.dictionary_decode().dictionary_encode()
            index = encoded.indices.to_numpy(zero_copy_only=False)
        distinct = encoded.dictionary.to_pylist()
        new = [external_id for external_id in distinct if external_id not in self._codes]
        if new:
            self._codes.update(zip(new, count(len(self._codes))))
            self.n_bytes += len(new) * (BYTES_PER_ID + encoded.dictionary.nbytes // len(distinct))
        codes = np.fromiter(map(self._codes.__getitem__, distinct), np.int32, len(distinct))
        result: NDArray[np.int32] = codes[index]
        return result

    @property
    def ids(self) -> list[str]:
        """Return the external ids in the order of their codes."""
        return list(self._codes)

    def ids_from(self, first: int) -> list[str]:
        """Return the external ids with the codes from `first` on."""
        last = list(islice(reversed(self._codes), len(self._codes) - first))
        return last[::-1]


class GrowingArray(Generic[Scalar]):
    """An array that grows in place. Parts that are joined at the end would be in memory twice."""

    def __init__(self, dtype: type[Scalar]) -> None:
        self._values = np.empty(RESERVED_ROWS, dtype)
        self._n = 0

    def append(self, part: NDArray[Scalar]) -> None:
        """Append the values of `part`."""
        end = self._n + len(part)
        if end > len(self._values):
            self._values.resize(max(end, len(self._values) * 9 // 8), refcheck=False)
        self._values[self._n : end] = part
        self._n = end

    def finish(self) -> NDArray[Scalar]:
        """Return all values and give unused memory back."""
        self._values.resize(self._n, refcheck=False)
        return self._values


def collect(
    batches: Iterable[RatingBatch],
    users: IdEncoder | None = None,
    items: IdEncoder | None = None,
    take: Callable[[int], None] | None = None,
) -> RatingColumns:
    """Join batches into one set of columns; the rows keep their order.

    Args:
        users, items: encoders to continue with, so that several files share their codes.
        take: called with the estimated memory of the rows and ids of each batch, such as `MemoryBudget.take`.

    Raises:
        InputError: whatever `take` raises.
    """
    import pyarrow as pa

    # An empty encoder is false, so `or` would not keep it.
    users = IdEncoder() if users is None else users
    items = IdEncoder() if items is None else items
    user_code, item_code = GrowingArray(np.int32), GrowingArray(np.int32)
    rating, rated_at = GrowingArray(np.float64), GrowingArray(np.int64)
    for batch in batches:
        n_bytes = users.n_bytes + items.n_bytes
        user_code.append(users.encode(batch.user_ids))
        item_code.append(items.encode(batch.item_ids))
        if take is not None:
            take(BYTES_PER_RATING * len(batch.rating) + users.n_bytes + items.n_bytes - n_bytes)
        rating.append(batch.rating)
        rated_at.append(batch.rated_at)
    pa.default_memory_pool().release_unused()  # the readers' buffers
    return RatingColumns(
        user_ids=users.ids,
        item_ids=items.ids,
        user_code=user_code.finish(),
        item_code=item_code.finish(),
        rating=rating.finish(),
        rated_at=rated_at.finish(),
    )


def latest_rows(
    columns: RatingColumns, user_keys: NDArray[np.int64], item_keys: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Return the row to keep for each (user, item), in ascending order of the keys.

    The row with the latest time is kept; among equal times, the last row. A row without a time counts as older than
    any row with one.

    Args:
        user_keys: (n_user_ids,) the key of each id in `columns.user_ids`.
        item_keys: (n_item_ids,) the key of each id in `columns.item_ids`.

    Returns:
        (n_pairs,) positions in `columns`.
    """

    def keep(rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the rows to keep among some ascending rows, in the order of the keys."""
        user_key = user_keys[columns.user_code[rows]]
        item_key = item_keys[columns.item_code[rows]]
        width = int(item_key.max(initial=0)) + 1
        if (int(user_key.max(initial=0)) + 1) * width < 1 << 63:  # one number for each pair: most files have each once
            pair = user_key * np.int64(width) + item_key
            if (np.diff(pair) > 0).all():
                return rows
            order = np.argsort(pair)
            if (np.diff(pair[order]) > 0).all():
                once: NDArray[np.int64] = rows[order]
                return once
        order = np.lexsort((columns.rated_at[rows], item_key, user_key))  # stable: equal times keep their order
        last = np.zeros(len(order), bool)
        last[-1:] = True
        for key in (user_key, item_key):  # one after the other: only one sorted copy is in memory
            ordered = key[order]
            last[:-1] |= ordered[1:] != ordered[:-1]
        kept: NDArray[np.int64] = rows[order[last]]
        return kept

    n = len(columns)
    if n <= ROWS_PER_SORT:
        return keep(np.arange(n))
    # Users in the order of their keys, in groups of about ROWS_PER_SORT rows.
    by_key = np.argsort(user_keys, kind="stable")
    n_rows = np.bincount(columns.user_code, minlength=len(user_keys))[by_key]
    group_of_code = np.empty(len(by_key), np.int16)
    group_of_code[by_key] = (np.cumsum(n_rows) - n_rows) // ROWS_PER_SORT
    group = group_of_code[columns.user_code]
    kept = GrowingArray(np.int64)
    for number in np.unique(group_of_code):
        rows = np.flatnonzero(group == number)
        if len(rows) > 2 * ROWS_PER_SORT:  # one user with very many rows: drop superseded rows part by part first
            parts = np.split(rows, np.arange(ROWS_PER_SORT, len(rows), ROWS_PER_SORT))
            rows = np.concatenate([np.sort(keep(part)) for part in parts])
        kept.append(keep(rows))
    return kept.finish()


def split_deleted(columns: RatingColumns) -> tuple[RatingColumns, RatingColumns | None]:
    """Return the rows that are left, and one row for each pair that has only deletions left; `None` without deletions.

    A deletion takes back the rows of its pair that are not newer; at an equal time, and without times, those before it
    in the file.
    """
    is_deletion = np.isnan(columns.rating)
    if not is_deletion.any():
        return columns, None
    pair = columns.user_code.astype(np.int64) * np.int64(len(columns.item_ids)) + columns.item_code
    order = np.lexsort((columns.rated_at, pair))  # stable: equal times keep their order
    ordered, deletes = pair[order], is_deletion[order]
    starts = np.flatnonzero(np.append(True, ordered[1:] != ordered[:-1]))
    position = np.where(deletes, np.arange(len(order)), -1)
    last_deletion = np.maximum.reduceat(position, starts)
    last = np.append(starts[1:], len(order)) - 1
    group = np.repeat(np.arange(len(starts)), np.diff(np.append(starts, len(order))))
    left = np.sort(order[np.arange(len(order)) > last_deletion[group]])
    return take_rows(columns, left), take_rows(columns, order[last[last_deletion == last]])


def take_rows(columns: RatingColumns, rows: NDArray[np.int64]) -> RatingColumns:
    """Return some rows, with the ids that occur in them."""
    users, user_code = np.unique(columns.user_code[rows], return_inverse=True)
    items, item_code = np.unique(columns.item_code[rows], return_inverse=True)
    return RatingColumns(
        user_ids=[columns.user_ids[code] for code in users.tolist()],
        item_ids=[columns.item_ids[code] for code in items.tolist()],
        user_code=user_code.astype(np.int32),
        item_code=item_code.astype(np.int32),
        rating=columns.rating[rows],
        rated_at=columns.rated_at[rows],
    )


def sum_pairs(columns: RatingColumns) -> RatingColumns:
    """Return one row for each pair of user and item: the sum of its weights, and its latest time.

    Pairs whose sum is not positive, as of things that were all sent back, are left out.
    """
    n_items = np.int64(len(columns.item_ids) + 1)
    code = columns.user_code.astype(np.int64) * n_items + columns.item_code
    pairs, first, position = np.unique(code, return_index=True, return_inverse=True)
    weight: NDArray[np.float64] = np.bincount(position, columns.rating, len(pairs)).astype(np.float64)
    latest = np.full(len(pairs), NO_TIME)
    np.maximum.at(latest, position, columns.rated_at)
    rows, positive = first[weight > 0], weight > 0
    return replace(
        columns,
        user_code=columns.user_code[rows],
        item_code=columns.item_code[rows],
        rating=weight[positive],
        rated_at=latest[positive],
    )


def as_ratings(columns: RatingColumns, implicit: bool = False) -> Ratings:
    """Return the ratings of a file without a database: codes stand in for keys.

    Args:
        implicit: the rows are events, whose weights add up.
    """
    if implicit:
        columns = sum_pairs(columns)
    user_codes = np.arange(len(columns.user_ids), dtype=np.int64)
    item_codes = np.arange(len(columns.item_ids), dtype=np.int64)
    kept = latest_rows(columns, user_codes, item_codes)
    found = ratings_from_keys(
        user_codes[columns.user_code[kept]],
        item_codes[columns.item_code[kept]],
        columns.rating[kept],
        columns.rated_at[kept],
        hash_ids(columns.user_ids),
        hash_ids(columns.item_ids),
    )
    return replace(found, is_implicit=np.ones(found.n_ratings, bool)) if implicit else found
