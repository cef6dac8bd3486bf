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
