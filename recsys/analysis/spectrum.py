"""Vectors of items that have weights between them and no factors."""

import numpy as np
from numpy.typing import NDArray

from recsys.factors import Factors, ItemWeights

WIDTH = 32
"""Directions; fewer if there are fewer items."""
_MORE, _ROUNDS = 8, 6


def item_vectors(factors: Factors) -> NDArray[np.float32]:
    """Return the vectors of the items, (n_items, width): their factors, or directions of the weights between them."""
    if factors.weights is None or factors.n_factors:
        return factors.embeddings
    return spectral_vectors(factors.weights)


def spectral_vectors(weights: ItemWeights, width: int = WIDTH) -> NDArray[np.float32]:
    """Return the leading eigenvectors of the similarities of items, by the root of their eigenvalues: (n_items, width).

    Items with large weights between them and to the same others point the same way. S = V diag(e) Vᵀ is found by
    subspace iteration from fixed numbers, so that the same weights give the same vectors; negative e are left out.

    Args:
        width: number of directions.
    """
    similar, n_items = weights.similarity(), weights.n_items
    rows, columns = similar.rows(), similar.item_idx

    def times(Q: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.column_stack([np.bincount(rows, similar.values * q[columns], n_items) for q in Q.T])

    n = min(width + _MORE, n_items)
    Q = np.linalg.qr(np.random.default_rng(0).normal(size=(n_items, n)))[0]
    for _ in range(_ROUNDS):
        Q = np.linalg.qr(times(Q))[0]
    values, directions = np.linalg.eigh(Q.T @ times(Q))
    vectors = (Q @ directions)[:, ::-1] * np.sqrt(np.maximum(values[::-1], 0))
    found = np.zeros((n_items, width), np.float32)
    found[:, : min(n, width)] = vectors[:, :width]
    return found
