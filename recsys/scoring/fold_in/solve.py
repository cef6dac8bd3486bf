"""Fold-in of one user: the vector from ratings that a model version has not seen.

The items stay as they are. What is solved is the user's share of the loss that the training minimised. A vector is

    p = prior + Σ_{j ∈ N} y_j / √|N| + A own

where the prior comes from the user's metadata, y_j is the implicit vector of a rated item, and A is the identity, or
for a neural model the map from embeddings to vectors. Only `own`, and under `rating` the bias, has to be solved.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from recsys.factors import Factors
from recsys.scoring.fold_in.items import F32, UserMap, softmax
from recsys.scoring.fold_in.ranking import RankingFoldIn
from recsys.scoring.fold_in.rating import RatingFoldIn


@dataclass(frozen=True, slots=True)
class FoldedUser:
    """The vector and bias of a user.

    Attributes:
        vector: (width,) float32, as a row of `user_factors`.
        bias: as in `user_bias`.
        parts: (n, width) float32, the contribution of each rating: vector = prior + Σ parts, up to rounding; `None` if
            it was not requested.
    """

    vector: F32
    bias: float
    parts: F32 | None


class FoldIn:
    """Solves vectors of users against the items of one version.

    Safe to use from many threads. Holds a copy of at most 10,240 items. `RatingFoldIn` and `RankingFoldIn` define what
    is minimised.
    """

    def __init__(self, factors: Factors) -> None:
        """
        Args:
            factors: of the version; the users are not needed. An item with bias −inf is one that the version does not
                know.

        Raises:
            ValueError: `rating` without a rating range.
        """
        self._items = factors.items
        self._bias = factors.item_bias
        self._width, self._n_dot = factors.n_factors, factors.n_dot
        self._known: NDArray[np.bool_] = np.isfinite(factors.item_bias)
        implicit = factors.items.implicit
        # Items without ratings were not in the softmax of the training.
        self._trained = self._known if implicit is None else self._known & implicit.any(1)
        self._map = UserMap(factors)
        self._rating = RatingFoldIn(factors, self._map) if factors.objective == "rating" else None
        self._ranking = RankingFoldIn(factors, self._map, self._trained) if factors.objective == "ranking" else None

    def solve(
        self,
        item_idx: NDArray[np.int64],
        rating: F32,
        *,
        prior: F32 | None = None,
        prior_bias: float = 0.0,
        explain: bool = False,
    ) -> FoldedUser:
        """Return the vector of a user who gave these ratings.

        Args:
            item_idx: (n,) positions of distinct items, in any order; an item that the version does not know adds
                nothing.
            rating: (n,) their ratings.
            prior: (width,) the vector of the user's metadata; `None`: zeros.
            prior_bias: the bias of the user's metadata.
            explain: whether to return the contribution of each rating.
        """
        start = np.zeros(self._width, np.float32) if prior is None else prior.astype(np.float32)
        known = self._known[item_idx]
        idx, r = item_idx[known], rating[known].astype(np.float32)
        if len(idx) == 0:
            return FoldedUser(
                start, prior_bias, np.zeros((len(item_idx), self._width), np.float32) if explain else None
            )
        implicit = self._implicit_vectors(idx)
        if self._ranking is not None and self._ranking.are_dislikes(r):
            return self._from_dislikes(item_idx, idx, known, start, prior_bias, implicit, explain)
        begin = start if implicit is None else start + implicit.sum(0)
        if self._rating is not None:
            solution = self._rating.solve(idx, r, begin, prior_bias)
        else:
            assert self._ranking is not None
            solution = self._ranking.solve(idx, r, begin)
        own = self._map.to_vector(solution.own)
        vector = (begin + own).astype(np.float32)
        if not explain:
            return FoldedUser(vector, prior_bias + solution.bias, None)
        # At the optimum the pulls add up to own; the distance that is left to it is divided evenly.
        pulls = self._map.to_vector(solution.pull)
        added = pulls + (own - pulls.sum(0)) / len(idx)
        if implicit is not None:
            added += implicit
        parts = np.zeros((len(item_idx), self._width), np.float32)
        parts[known] = added
        return FoldedUser(vector, prior_bias + solution.bias, parts)

    def _from_dislikes(
        self,
        item_idx: NDArray[np.int64],
        idx: NDArray[np.int64],
        known: NDArray[np.bool_],
        start: F32,
        prior_bias: float,
        implicit: F32 | None,
        explain: bool,
    ) -> FoldedUser:
        """Return the vector of a user who liked nothing they rated: it points away from what such ratings point to,

            p = prior − Σ_j y_j / √n − m · Σ_j (q_j − q̄) / ‖Σ_j (q_j − q̄)‖,        m = ‖Σ_j y_j / √n‖

        with q̄ the mean vector of the items as they are listed for someone without a vector. The loss has only positive
        weights, so its minimum would lie towards what the user dislikes. What people have who rated an item (y_j) says
        little where items are rated whether they are liked or not; what people like who like it (q_j) does.
        """
        pulls = self._items.factors[idx] / np.float32(len(idx)) if implicit is None else implicit
        apart = self._items.factors[idx] - self._usual_item
        apart[:, self._n_dot :] = 0  # what goes into the layers of a neural model is no taste
        length = float(np.linalg.norm(apart.sum(0)))
        if length > 0:
            apart *= np.float32(np.linalg.norm(pulls.sum(0)) / length)
        away = -pulls - apart
        parts = None
        if explain:
            parts = np.zeros((len(item_idx), self._width), np.float32)
            parts[known] = away
        return FoldedUser((start + away.sum(0)).astype(np.float32), prior_bias, parts)

    @cached_property
    def _usual_item(self) -> F32:
        """Mean vector of the items (width,), weighed by the softmax of their biases."""
        share, _ = softmax(self._bias)
        mean: F32 = share @ self._items.factors
        return mean

    def measure_ridge(self, rated: Sequence[tuple[NDArray[np.int64], F32]], user_vectors: F32, own: F32) -> float:
        """Return how strongly a `ranking` training held back the users' own embeddings; see `RankingFoldIn`.

        Raises:
            ValueError: the objective is `rating`.
        """
        if self._ranking is None:
            raise ValueError("only a ranking version has a ridge to measure")
        return self._ranking.measure_ridge(rated, user_vectors, own)

    def _implicit_vectors(self, idx: NDArray[np.int64]) -> F32 | None:
        """Return y_j / √|N| of each item: (n, width). Items without ratings in training are not in N."""
        if self._items.implicit is None:
            return None
        n = max(int(self._trained[idx].sum()), 1)
        result: F32 = self._items.implicit[idx] / np.float32(np.sqrt(n))
        return result
