"""Categories as directions among the item vectors, and how well each direction tells its items apart."""

import numpy as np
from numpy.typing import NDArray

from recsys.analysis.neighbours import unit_rows

MIN_ITEMS = 5
"""A category with fewer items inside or outside has no direction."""


def category_direction(vectors: NDArray[np.float32], members: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return the unit vector from the mean of the other items to the mean of the members: (n_factors,).

    Args:
        vectors: (n_items, n_factors); their lengths do not matter.
        members: (n_items,) both kinds must exist.
    """
    units = unit_rows(vectors).astype(np.float64)
    direction: NDArray[np.float64] = units[members].mean(axis=0) - units[~members].mean(axis=0)
    length = float(np.linalg.norm(direction))
    return direction / length if length else direction


def direction_auc(vectors: NDArray[np.float32], members: NDArray[np.bool_], seed: int = 0) -> float | None:
    """Return the AUC with which a category's direction separates its items from the others; .5 is chance.

    Cross-validated on two halves: the direction of each half is measured on the other, since a direction fits the
    items that it was computed from.

    Returns:
        The mean of both; `None` if a half has too few items of either kind.
    """
    if members.sum() < MIN_ITEMS or (~members).sum() < MIN_ITEMS:
        return None
    half = np.zeros(len(members), bool)
    random = np.random.default_rng(seed)
    for kind in (members, ~members):  # half of each kind
        idx = random.permutation(np.flatnonzero(kind))
        half[idx[: len(idx) // 2]] = True
    units = unit_rows(vectors)
    areas = [
        area_under_curve(units[~fit] @ category_direction(vectors[fit], members[fit]), members[~fit])
        for fit in (half, ~half)
    ]
    return float(np.mean(areas))


def area_under_curve(scores: NDArray[np.floating], members: NDArray[np.bool_]) -> float:
    """Return the probability that a member scores above another item; equal scores count half.

    Reference: Hanley & McNeil, "The meaning and use of the area under a ROC curve", 1982.
    """
    _, inverse, counts = np.unique(scores, return_inverse=True, return_counts=True)
    rank = (np.cumsum(counts) - (counts - 1) / 2)[inverse]  # mean rank of equal scores
    n_in = int(members.sum())
    n_out = len(members) - n_in
    return float((rank[members].sum() - n_in * (n_in + 1) / 2) / (n_in * n_out)) if n_in and n_out else float("nan")


def correlation_of(positions: NDArray[np.floating], members: NDArray[np.bool_]) -> float:
    """Return the correlation of positions with membership; 0 where either is constant."""
    if not positions.std() or not members.any() or members.all():
        return 0.0
    return float(np.corrcoef(positions, members)[0, 1])


def telling_categories(
    positions: NDArray[np.floating], masks: dict[str, NDArray[np.bool_]], n: int = 3, floor: float = 0.15
) -> list[tuple[str, float]]:
    """Return the categories that correlate most with positions along an axis: (name, correlation), strongest first."""
    found = [(name, correlation_of(positions, mask)) for name, mask in masks.items()]
    strong = [row for row in found if abs(row[1]) >= floor]
    return sorted(strong, key=lambda row: (-abs(row[1]), row[0]))[:n]
