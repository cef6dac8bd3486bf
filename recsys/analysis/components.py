"""Principal components of the item factors, and the items at both ends of an axis."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Components:
    """The directions in which the item factors differ most.

    Attributes:
        directions: (n_components, n_factors) float64, orthonormal rows.
        positions: (n_items, n_components) float64, coordinates of the centred item factors along the directions.
        explained: (n_components,) float64, share of the total variance, descending.
    """

    directions: NDArray[np.float64]
    positions: NDArray[np.float64]
    explained: NDArray[np.float64]

    @property
    def n_components(self) -> int:
        return len(self.explained)


def principal_components(item_factors: NDArray[np.float32], n_components: int = 4) -> Components:
    """Compute the principal components of item factors, by singular value decomposition.

        Q − mean(Q) = U S Vᵀ,   positions = U S,   directions = Vᵀ,   explained_k = S_k² / Σ S²

    A decomposition leaves the sign of each component open. Here the item farthest from the mean is on the
    positive side, which depends on the positions of the items alone: factors that are equal up to a rotation
    give the same picture. Components without variance are left out: there are none for a single item, for no
    factors, or for equal factors.

    Args:
        item_factors: (n_items, n_factors).
        n_components: the largest number of components to return.

    Reference: I. T. Jolliffe, Principal Component Analysis, 2nd edition, section 3.5.
    """
    factors = item_factors.astype(np.float64)
    n_items, n_factors = factors.shape
    if n_items == 0 or n_factors == 0:
        return Components(np.zeros((0, n_factors)), np.zeros((n_items, 0)), np.zeros(0))
    left, singular, right = np.linalg.svd(factors - factors.mean(axis=0), full_matrices=False)
    # The norm is that of the factors before centring: a rounding error of equal factors is no variance.
    floor = max(factors.shape) * np.finfo(np.float64).eps * np.linalg.norm(factors)
    kept = min(n_components, int((singular > floor).sum()))
    positions = left[:, :kept] * singular[:kept]
    farthest = np.abs(positions).argmax(axis=0)
    sign = np.where(positions[farthest, np.arange(kept)] < 0, -1.0, 1.0)
    explained = singular[:kept] ** 2 / (singular**2).sum() if kept else np.zeros(0)
    return Components(right[:kept] * sign[:, None], positions * sign, explained)


def both_ends(
    values: NDArray[np.floating], n: int, among: NDArray[np.bool_] | None = None
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the items with the lowest and with the highest values, the most extreme first.

    No item is at both ends: of fewer than 2 n items the upper half is at the high end. Equal values keep the
    order of the items.

    Args:
        values: (n_items,).
        n: the largest number of items at each end.
        among: (n_items,) which items to consider; by default all.

    Returns:
        (low, high): positions of the items, (≤ n,) each.
    """
    eligible = np.arange(len(values)) if among is None else np.flatnonzero(among)
    ascending = eligible[np.argsort(values[eligible], kind="stable")]
    descending = eligible[np.argsort(-values[eligible], kind="stable")]
    n_high = min(n, (len(eligible) + 1) // 2)
    high = descending[:n_high]
    low = ascending[~np.isin(ascending, high)][: min(n, len(eligible) - n_high)]
    return low, high
