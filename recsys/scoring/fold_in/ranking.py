"""Fold-in under the `ranking` objective: the user's share of the multinomial loss."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from recsys.factors import Factors, RankingConstants
from recsys.scoring.fold_in.items import F32, ItemSet, UserMap, sample_softmax, softmax
from recsys.scoring.fold_in.newton import Solution, add_to_diagonal, minimise
from recsys.scoring.profile import liking

DEFAULT_RIDGE = 20.0
"""λ if the training did not leave any."""
_RIDGE_SHARE = {"dot": 0.5, "neural": 2.0}
"""λ as a share of the training's ridge: the shares that ordered lists best on validation parts."""
_RIDGE_RANGE = (0.1, 1e4)
_N_POPULAR = 8192
"""Items with the highest biases, all of which are scored at the start."""
_N_RARE = 2048
"""Draws that stand for the other items of a larger catalogue."""
_N_BEST = 512
"""Best of these items at the start, which stand for themselves in the softmax."""
_N_OTHERS = 256
"""Draws that stand for the rest of these items."""
_N_CURVED = 256
"""Most probable items, from which the curvature is computed."""
_TOLERANCE = 0.01
"""Improvement below which the last step was taken, as a share of the sum of weights."""


class _Point(NamedTuple):
    """The loss at some own, its negative gradient (n_own,), and what they were computed from.

    Attributes:
        share, slopes: probability and slopes of the sampled items.
        mean: (width,) Σ share · slopes.
        rated_slopes: slopes of the rated items.
    """

    loss: float
    downhill: NDArray[np.float64]
    share: F32
    slopes: F32
    mean: F32
    rated_slopes: F32


class RankingFoldIn:
    """Solves own by Newton steps on

        Σ_j w_j · (log Σ_i e^{z_i} − z_j) + λ/2 · ‖own‖²

    with w as training weighs ratings, and λ half of the training's ridge (twice for a neural model). The sum over i is
    estimated if the catalogue is large: from the 8,192 items with the highest biases and 2,048 drawn from the others
    in proportion to e^{b_i}; and of those from the 512 with the best scores at own = 0 and 256 drawn from the others
    in proportion to e^{z_i}. A drawn item counts as the inverse of how often it was expected to be drawn.
    """

    def __init__(self, factors: Factors, user_map: UserMap, trained: NDArray[np.bool_]) -> None:
        """
        Args:
            trained: (n_items,) mask of the items that were in the softmax of the training.
        """
        self._factors, self._map = factors, user_map
        self._constants = factors.constants if isinstance(factors.constants, RankingConstants) else None
        ridge = DEFAULT_RIDGE if self._constants is None else self._constants.ridge
        self._ridge = _RIDGE_SHARE["dot" if factors.head is None else "neural"] * ridge
        bias = np.where(trained, factors.item_bias, np.float32(-np.inf))
        self._pool = ItemSet(factors.item_factors, bias)
        if len(bias) > _N_POPULAR + _N_RARE:
            idx, offset = sample_softmax(bias, _N_POPULAR, _N_RARE)
            self._pool = ItemSet(factors.item_factors[idx], bias[idx] + offset)

    def solve(self, item_idx: NDArray[np.int64], rating: F32, start: F32) -> Solution:
        """Solve for ratings (n,) of items (n,), from the vector (width,) without the own part."""
        weight = self._weights(rating)
        total = float(weight.sum())
        head, ridge = self._factors.head, self._ridge
        sampled = self._sample(start)
        rated = ItemSet(self._factors.item_factors[item_idx], self._factors.item_bias[item_idx])

        def evaluate(own: NDArray[np.float64]) -> _Point:
            vector = (start + self._map.to_vector(own)).astype(np.float32)
            catalogue, mine = sampled.score(vector, head), rated.score(vector, head)
            share, log_sum = softmax(catalogue.z)
            loss = total * log_sum - weight @ mine.z + ridge / 2 * own @ own
            mean = share @ catalogue.slopes
            downhill = self._map.to_own(weight @ mine.slopes - total * mean) - ridge * own
            return _Point(float(loss), downhill, share, catalogue.slopes, mean, mine.slopes)

        own, there = minimise(
            evaluate,
            self._map.n_own,
            lambda point: self._curvature(point.share, point.slopes, total),
            _TOLERANCE * total,
        )
        pull = self._map.to_own(weight[:, None] * (there.rated_slopes - there.mean) / ridge)
        return Solution(own, 0.0, pull)

    def are_dislikes(self, rating: F32) -> bool:
        """Return whether all of a user's ratings (n,) are dislikes."""
        return self._constants is not None and bool((rating < self._constants.dislike_below).all())

    def measure_ridge(self, rated: Sequence[tuple[NDArray[np.int64], F32]], user_vectors: F32, own: F32) -> float:
        """Return how strongly a training held back the own embeddings of some users: the λ that fits

            λ · own_u = −∂/∂own_u Σ_j w_j · (log Σ_i e^{z_i} − z_j)

        best, weighed by ‖own_u‖. AdamW's decoupled decay is a penalty of no fixed strength (it is divided by how much
        gradients vary), but users differ little in it: on MovieLens 1M it is 21 to 23 from the least to the most
        active fifth.

        Args:
            rated: for each user, the positions of their items, and the ratings.
            user_vectors: (n_users, width).
            own: (n_users, n_own).
        """
        head = self._factors.head
        pulled = square = 0.0
        for (item_idx, rating), vector, user_own in zip(rated, user_vectors, own, strict=True):
            weight = self._weights(rating)
            catalogue = self._sample(vector).score(vector, head)
            items = ItemSet(self._factors.item_factors[item_idx], self._factors.item_bias[item_idx])
            mine = items.score(vector, head)
            share, _ = softmax(catalogue.z)
            gradient = weight @ mine.slopes - weight.sum() * (share @ catalogue.slopes)
            pulled += float(self._map.to_own(gradient) @ user_own)
            square += float(user_own @ user_own)
        if not pulled > 0 or not square > 0:
            return DEFAULT_RIDGE
        return float(np.clip(pulled / square, *_RIDGE_RANGE))

    def _weights(self, rating: F32) -> NDArray[np.float64]:
        """Return w of a user's ratings, as `recsys.training.objectives.RankingLoss` weighs them."""
        constants = self._constants
        if constants is None:
            return np.full(len(rating), 10 * len(rating) ** -0.5)
        activity = (len(rating) / constants.n_items) ** constants.user_power
        weight: NDArray[np.float64] = liking(rating, constants) / activity
        return weight

    def _sample(self, vector: F32) -> ItemSet:
        """Return items that stand for the catalogue in the softmax of a user near this vector."""
        n_dot = self._factors.n_dot
        pool, pool_bias = self._pool
        idx, offset = sample_softmax(pool[:, :n_dot] @ vector[:n_dot] + pool_bias, _N_BEST, _N_OTHERS)
        return ItemSet(pool[idx], pool_bias[idx] + offset)

    def _curvature(self, share: F32, slopes: F32, total: float) -> NDArray[np.floating]:
        """Return the second derivative in own: (n_own, n_own), as if the most probable items had all probability."""
        if len(share) > _N_CURVED:
            most = np.argpartition(share, -_N_CURVED)[-_N_CURVED:]
            share, slopes = share[most] / share[most].sum(), slopes[most]
        mean = share @ slopes
        centred = self._map.to_own((slopes - mean) * np.sqrt(total * share)[:, None])
        return add_to_diagonal(centred.T @ centred, self._ridge)
