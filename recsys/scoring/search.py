"""The best of a vector of scores, with exclusions and a stable order on ties."""

import numpy as np
from numpy.typing import NDArray


def top_n(
    scores: NDArray[np.float32], n: int, exclude: NDArray[np.int64] | NDArray[np.bool_] | None = None
) -> NDArray[np.int64]:
    """The positions of the `n` highest scores, highest first.

    Equal scores are ordered by position, so that the same scores always give the same list.

    Args:
        scores: (n_items,). An item with a score of −inf is never listed; NaN is not allowed.
        n: how many; fewer come back where fewer are left.
        exclude: positions, or a mask (n_items,), of items not to list.

    Returns:
        (≤ n,) positions.
    """
    if exclude is not None:
        scores = scores.copy()
        scores[exclude] = -np.inf
    n = min(n, len(scores))
    if n <= 0:
        return np.empty(0, np.int64)
    # Everything at or above the n-th highest score, ties at the border included, then exact order.
    border = np.partition(scores, len(scores) - n)[len(scores) - n]
    candidates = np.flatnonzero((scores >= border) & (scores > -np.inf))
    # flatnonzero is ascending and the sort is stable: ties keep the order of position.
    return candidates[np.argsort(-scores[candidates], kind="stable")[:n]]


def top_n_rows(scores: NDArray[np.float32], n: int) -> NDArray[np.int64]:
    """`top_n` of every row at once, for evaluation and batches of lists.

    Args:
        scores: (rows, n_items). An item with a score of −inf is never listed; NaN is not allowed.
        n: how many.

    Returns:
        (rows, min(n, n_items)) positions, highest first, equal scores by position; −1 where a row has
        none left.
    """
    n_rows, n_items = scores.shape
    n = max(0, min(n, n_items))
    result = np.full((n_rows, n), -1, np.int64)
    if n == 0 or n_rows == 0:
        return result
    border = np.partition(scores, n_items - n, axis=1)[:, n_items - n, None]  # (rows, 1)
    row, item = np.nonzero((scores >= border) & (scores > -np.inf))
    order = np.lexsort((-scores[row, item], row))  # stable: ties keep the order of position
    row, item = row[order], item[order]
    place = np.arange(len(row)) - np.searchsorted(row, row)
    best = place < n
    result[row[best], place[best]] = item[best]
    return result
