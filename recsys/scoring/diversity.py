"""Re-rank a list so that its items are less alike."""

import numpy as np
from numpy.typing import NDArray

POOL, MOST_MORE = 5, 400
"""How many times as many items as listed are chosen from, and how many more at most."""


def pool_size(n: int) -> int:
    """Return the number of items that a list of `n` is chosen from."""
    return n + min((POOL - 1) * n, MOST_MORE)


def diversify(scores: NDArray[np.float64], similar: NDArray[np.float32], n: int, diversity: float) -> NDArray[np.int64]:
    """Return the positions of `n` items in the order of their maximal marginal relevance.

        next = argmax_i (1 − d) · (z_i − min z) / (max z − min z) − d · max_{j listed} s_ij

    Carbonell & Goldstein, "The Use of MMR, Diversity-Based Reranking for Reordering Documents and Producing Summaries",
    SIGIR 1998.

    Args:
        scores: (m,) z of the items to choose from, the best first.
        similar: (m, m) s, how alike two items are, at most 1.
        n: number of items to choose.
        diversity: d, from 0 (the order of the scores) to 1 (the scores choose the first item only).
    """
    m = len(scores)
    if m <= 1 or diversity <= 0:
        return np.arange(min(n, m))
    span = float(scores[0] - scores[-1])
    relevance = (1 - diversity) * (scores - scores[-1]) / (span if span > 0 else 1.0)
    penalty = diversity * np.maximum(similar, 0).astype(np.float64)  # (m, m)
    chosen = np.zeros(min(n, m), np.int64)  # the first item is the best one
    left = relevance - penalty[0]
    nearest = penalty[0].copy()
    left[0] = -np.inf
    for place in range(1, len(chosen)):
        item = int(left.argmax())
        chosen[place] = item
        np.maximum(nearest, penalty[item], out=nearest)
        relevance[item] = -np.inf
        np.subtract(relevance, nearest, out=left)
        left[0] = -np.inf
    return chosen
