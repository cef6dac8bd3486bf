"""Nearest neighbours of items by cosine, exactly."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from os import cpu_count

import numpy as np
from numpy.typing import NDArray

_BLOCK = 1 << 23
"""Cosines held at once by each thread."""


@dataclass(frozen=True, slots=True)
class Neighbours:
    """The nearest items of each item, the nearest first.

    Attributes:
        item_idx: (n, k) int64.
        cosine: (n, k) float32.
    """

    item_idx: NDArray[np.int64]
    cosine: NDArray[np.float32]

    @property
    def k(self) -> int:
        return int(self.item_idx.shape[1])


def unit_rows(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the rows divided by their lengths; rows of zeros stay as they are."""
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    units: NDArray[np.float32] = np.divide(vectors, norms, out=np.zeros(vectors.shape, np.float32), where=norms > 0)
    return units


def nearest_neighbours(
    vectors: NDArray[np.float32],
    k: int,
    queries: NDArray[np.int64] | None = None,
    among: NDArray[np.bool_] | None = None,
) -> Neighbours:
    """Return the k items with the highest cosine to each item, without the item itself.

    Equal cosines are ordered by position.

    Args:
        vectors: (n_items, n_factors).
        k: number of neighbours; fewer if there are fewer other items.
        queries: positions of the items whose neighbours are returned; by default all.
        among: (n_items,) which items may be neighbours; by default all.
    """
    units = unit_rows(vectors)
    candidates = np.arange(len(units)) if among is None else np.flatnonzero(among)
    rows = np.arange(len(units)) if queries is None else queries
    k = max(0, min(k, len(candidates) - 1))
    found = Neighbours(np.zeros((len(rows), k), np.int64), np.zeros((len(rows), k), np.float32))
    if k == 0 or not len(rows):
        return found
    targets = np.ascontiguousarray(units[candidates].T)
    column_of = np.full(len(units), -1, np.int64)
    column_of[candidates] = np.arange(len(candidates))
    step = max(1, _BLOCK // len(candidates))

    def fill(start: int) -> None:
        block = rows[start : start + step]
        cosine = units[block] @ targets
        own = column_of[block]
        has_own = np.flatnonzero(own >= 0)
        cosine[has_own, own[has_own]] = -np.inf
        best = np.argpartition(-cosine, k - 1, axis=1)[:, :k]
        best.sort(axis=1)
        value = np.take_along_axis(cosine, best, 1)
        order = np.argsort(-value, axis=1, kind="stable")
        found.item_idx[start : start + step] = candidates[np.take_along_axis(best, order, 1)]
        found.cosine[start : start + step] = np.take_along_axis(value, order, 1)

    with ThreadPoolExecutor(min(4, cpu_count() or 1)) as pool:
        list(pool.map(fill, range(0, len(rows), step)))
    return found


def chance_cosine(vectors: NDArray[np.float32], level: float = 0.95, n: int = 500, seed: int = 0) -> float:
    """Return the cosine that the nearest neighbour of a meaningless item stays below, with probability `level`.

    Meaningless items are made from the items themselves: each factor is drawn from another item, so that factors keep
    their spread and lose what they say together (a permutation test, as for the "gap" in principal components).

    Args:
        n: number of items drawn.
    """
    if len(vectors) < 3 or not vectors.shape[1]:
        return 0.0
    random = np.random.default_rng(seed)
    drawn = np.stack([column[random.integers(0, len(vectors), n)] for column in vectors.T], axis=1)
    best = np.empty(n, np.float32)
    units, drawn = unit_rows(vectors), unit_rows(drawn.astype(np.float32))
    step = max(1, _BLOCK // len(vectors))
    for start in range(0, n, step):
        best[start : start + step] = (drawn[start : start + step] @ units.T).max(axis=1)
    return float(np.quantile(best, level))
