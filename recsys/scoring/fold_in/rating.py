"""Fold-in under the `rating` objective: the user's share of the squared error."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from recsys.factors import Factors, RatingConstants
from recsys.scoring.fold_in.items import F32, ItemSet, UserMap
from recsys.scoring.fold_in.newton import Solution, add_to_diagonal, minimise

_L2_SHARE = {"dot": 1.0, "neural": 0.35}
"""l2 as a share of the training's l2: the shares that predicted best on validation parts."""
_MIN_L2 = 0.01
"""Smallest l2, for trainings with less."""
_DEFAULT = RatingConstants(l2=0.05, damping=2.5)
_TOLERANCE = 0.01**2
"""Improvement below which the last step was taken, as a share of n · s²."""


class _Point(NamedTuple):
    """The loss at some own and b_u, half of its negative gradient (n_own + 1,), errors (n,) and their slopes."""

    loss: float
    downhill: NDArray[np.float64]
    error: NDArray[np.float64]
    slopes: NDArray[np.float64]


class RatingFoldIn:
    """Solves own and b_u by Gauss-Newton steps on

    Σ_j (r̂_j − r_j)² + s² · [ (l2 · n + damping) · ‖own‖² + damping · b_u² ],   s = (high − low) / 4
    """

    def __init__(self, factors: Factors, user_map: UserMap) -> None:
        if factors.rating_range is None:
            raise ValueError("the rating objective has a rating range: pass the version's")
        constants = factors.constants if isinstance(factors.constants, RatingConstants) else _DEFAULT
        self._factors, self._map = factors, user_map
        self._low, self._high = factors.rating_range
        self._l2 = _L2_SHARE["dot" if factors.head is None else "neural"] * max(constants.l2, _MIN_L2)
        self._damping = constants.damping

    def solve(self, item_idx: NDArray[np.int64], rating: F32, start: F32, start_bias: float) -> Solution:
        """Solve for ratings (n,) of items (n,), from the vector (width,) and the bias without the own part."""
        low, high = self._low, self._high
        n, n_own, steepest = len(item_idx), self._map.n_own, ((high - low) / 4) ** 2
        ridge = np.full(n_own + 1, steepest * (self._l2 * n + self._damping))
        ridge[-1] = steepest * max(self._damping, _MIN_L2)
        items = ItemSet(self._factors.item_factors[item_idx], self._factors.item_bias[item_idx])
        exact_rating = rating.astype(np.float64)

        def evaluate(x: NDArray[np.float64]) -> _Point:
            """Evaluate the loss at own and b_u, (n_own + 1,)."""
            vector = (start + self._map.to_vector(x[:-1])).astype(np.float32)
            scores = items.score(vector, self._factors.head)
            z = scores.z + (self._factors.global_bias + start_bias + x[-1])
            share = 1 / (1 + np.exp(-np.clip(z, -60, 60)))
            error = low + (high - low) * share - exact_rating
            slope = (high - low) * share * (1 - share)
            slopes = np.column_stack([self._map.to_own(scores.slopes.astype(np.float64)), np.ones(n)]) * slope[:, None]
            return _Point(float(error @ error + ridge @ x**2), -(slopes.T @ error) - ridge * x, error, slopes)

        x, there = minimise(
            evaluate,
            n_own + 1,
            lambda point: add_to_diagonal(point.slopes.T @ point.slopes, ridge),
            _TOLERANCE * n * steepest,
        )
        pull = -(there.slopes * there.error[:, None]) / ridge
        return Solution(x[:-1], float(x[-1]), pull[:, :-1])
