"""What a model learned, as plain arrays: the hand-over from training to everything downstream. No torch."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Objective = Literal["rating", "ranking"]
Architecture = Literal["dot"]


@dataclass(frozen=True, slots=True)
class Factors:
    """The factors and biases of one model version.

    The score of user u and item i is

        z_ui = user_factors[u] · item_factors[i] + user_bias[u] + item_bias[i] + global_bias

    and under the `rating` objective the prediction on the rating scale is

        r_ui = low + (high − low) / (1 + exp(−z_ui)),   (low, high) = rating_range

    A user or item that the model does not know has zero factors and zero bias.

    Attributes:
        objective: what was optimised.
        user_keys, item_keys: (n_users,), (n_items,) int64, ascending.
        user_factors, item_factors: (n_users, n_factors), (n_items, n_factors) float32.
        user_bias, item_bias: (n_users,), (n_items,) float32.
        global_bias: added to every score.
        rating_range: the ends of the sigmoid, half a step outside the rating scale; None under `ranking`.
    """

    objective: Objective
    user_keys: NDArray[np.int64]
    item_keys: NDArray[np.int64]
    user_factors: NDArray[np.float32]
    item_factors: NDArray[np.float32]
    user_bias: NDArray[np.float32]
    item_bias: NDArray[np.float32]
    global_bias: float = 0.0
    rating_range: tuple[float, float] | None = None

    @property
    def n_users(self) -> int:
        return len(self.user_keys)

    @property
    def n_items(self) -> int:
        return len(self.item_keys)

    @property
    def n_factors(self) -> int:
        return int(self.item_factors.shape[1])

    def scores(self, user_idx: NDArray[np.int64]) -> NDArray[np.float32]:
        """Scores of all items for some users: (n, n_items), one matrix product."""
        scores: NDArray[np.float32] = self.user_factors[user_idx] @ self.item_factors.T  # (n, n_items)
        scores += self.item_bias
        scores += self.user_bias[user_idx, None] + np.float32(self.global_bias)
        return scores

    def predict(self, user_idx: NDArray[np.int64], item_idx: NDArray[np.int64]) -> NDArray[np.float32]:
        """Predicted ratings of pairs, (n,); an index of −1 is a user or item the model does not know.

        Raises:
            ValueError: the model was not trained to predict ratings.
        """
        known_user, known_item = user_idx >= 0, item_idx >= 0
        z = np.full(len(user_idx), self.global_bias, np.float32)
        z += np.where(known_user, self.user_bias[user_idx], 0)
        z += np.where(known_item, self.item_bias[item_idx], 0)
        both = known_user & known_item
        z[both] += np.einsum(
            "nf,nf->n", self.user_factors[user_idx[both]], self.item_factors[item_idx[both]], optimize=False
        )
        return self.to_rating(z)

    def to_rating(self, score: NDArray[np.float32]) -> NDArray[np.float32]:
        """Scores put on the rating scale.

        Raises:
            ValueError: the model was not trained to predict ratings.
        """
        if self.rating_range is None:
            raise ValueError("a model trained for ranking orders items; it predicts no ratings")
        low, high = self.rating_range
        with np.errstate(over="ignore"):
            rating: NDArray[np.float32] = (low + (high - low) / (1 + np.exp(-score))).astype(np.float32)
        return rating
