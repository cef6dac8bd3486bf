"""What a model learned, as plain arrays: the hand-over from training to everything downstream. No torch."""

from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from recsys.results import Objective

_Float = TypeVar("_Float", bound=np.floating[Any])


@dataclass(frozen=True, slots=True)
class Head:
    """The layers of a neural model above its first one.

    The first `n_dot` columns of the rows are multiplied; the others are what the user and the item each contribute to
    the first layer, worked out once:

        z_ui = p_u[:n_dot] · q_i[:n_dot] + f(p_u[n_dot:] + q_i[n_dot:])

        f(x) = W_L relu(… W_2 relu(W_1 relu(x) + b_1) + b_2 …) + b_L

    Attributes:
        n_dot: how many columns are multiplied.
        layers: (W, b) of each linear map: (n_out, n_in) and (n_out,) float32; the last has n_out = 1.
    """

    n_dot: int
    layers: tuple[tuple[NDArray[np.float32], NDArray[np.float32]], ...]

    def __call__(self, x: NDArray[_Float]) -> NDArray[_Float]:
        """f: (rows, n_in) → (rows,), in the precision of what it is given, but at least float32."""
        for weight, bias in self.layers:
            x = np.maximum(x, 0) @ weight.T + bias
        return x[:, 0]


EXACT_ITEMS = 20_000
"""Items that the layers of a neural model score one by one for every list: a few milliseconds of them."""
N_CANDIDATES = 2_000
"""Items of a larger catalogue that they score."""


_CHUNK_ITEMS = 16_384
"""Items that are scored at a time: what a product writes is still near the processor when the biases are added."""


def score_rows(
    users: NDArray[np.float32],
    items: NDArray[np.float32],
    item_bias: NDArray[np.float32],
    head: Head | None,
    *,
    scale: NDArray[np.float32] | None = None,
    out: NDArray[np.float32] | None = None,
) -> NDArray[np.float32]:
    """Scores of every item for every user, without b_u and b: (n, width), (n_items, width) → (n, n_items).

    The one definition of a score for a list, in evaluation and in serving. Exact; but of more than `EXACT_ITEMS` items
    only the `N_CANDIDATES` with the best product and bias go through the layers of a neural model, and the others
    score −inf, and so are in no list.

    Args:
        scale: (n_items,) what each product is multiplied by; None: 1.
        out: where to write them; None: a new array.
    """
    scores = np.empty((len(users), len(items)), np.float32) if out is None else out
    n_dot = users.shape[1] if head is None else head.n_dot
    p, q = users[:, :n_dot], items[:, :n_dot].T
    for start in range(0, len(items), _CHUNK_ITEMS):
        chunk = slice(start, start + _CHUNK_ITEMS)
        np.matmul(p, q[:, chunk], out=scores[:, chunk])
        if scale is not None:
            scores[:, chunk] *= scale[chunk]
        scores[:, chunk] += item_bias[chunk]
    if head is None:
        return scores
    inputs = items[:, n_dot:]
    for place, user in enumerate(users):
        if len(items) <= EXACT_ITEMS:
            scores[place] += head(inputs + user[n_dot:])
            continue
        best = np.argpartition(scores[place], -N_CANDIDATES)[-N_CANDIDATES:]
        exact = scores[place, best] + head(inputs[best] + user[n_dot:])
        scores[place] = -np.inf
        scores[place, best] = exact
    return scores


def embeddings(items: NDArray[np.float32], head: Head | None) -> NDArray[np.float32]:
    """Where items lie, the part of their rows that is multiplied: (n_items, width) → (n_items, n_dot)."""
    return items if head is None else items[:, : head.n_dot]


@dataclass(frozen=True, slots=True)
class FeatureRows:
    """What a model learned of features: the row of a user or item of which nothing else is known.

        row = base + Σ_{f ∈ F} rows_f        bias = Σ_{f ∈ F} bias_f

    Attributes:
        names: one for each feature, as `recsys.data.features` names them.
        base: (width,) float32, of every row: zeros, but for the items of a neural model.
        rows: (n_features, width) float32.
        bias: (n_features,) float32.
    """

    names: tuple[str, ...]
    base: NDArray[np.float32]
    rows: NDArray[np.float32]
    bias: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class RankingConstants:
    """What a `ranking` training leaves to know for those who come later; see `recsys.scoring.fold_in`.

    Attributes:
        mean: the mean of the ratings.
        span: the highest rating less the lowest; 1 where all are equal.
        n_items: the mean number of items that a user has.
        ridge: how strongly the users' own rows were held back, as the λ of a penalty λ/2 · ‖own‖².
    """

    mean: float
    span: float
    n_items: float
    ridge: float


@dataclass(frozen=True, slots=True)
class Factors:
    """The factors and biases of one model version.

    The score of user u and item i is

        z_ui = user_factors[u] · item_factors[i] + user_bias[u] + item_bias[i] + global_bias

    and under the `rating` objective the prediction on the rating scale is

        r_ui = low + (high − low) / (1 + exp(−z_ui)),   (low, high) = rating_range

    A user or item that the model does not know has no row: zero factors and zero bias. The rows of a neural model are
    what its `head` scores, and z_ui is the head's instead of the product; the rest is the same.

    Attributes:
        objective: what was optimised.
        user_keys, item_keys: (n_users,), (n_items,) int64, ascending.
        user_factors, item_factors: (n_users, n_factors), (n_items, n_factors) float32.
        user_bias, item_bias: (n_users,), (n_items,) float32.
        global_bias: added to every score.
        rating_range: the ends of the sigmoid, half a step outside the rating scale; None under `ranking`.
        head: the layers of a neural model; None for the dot product.
        item_implicit: (n_items, n_factors) float32: a user who rated the items N, whatever the ratings, has
            Σ_{j ∈ N} item_implicit[j] / √|N| as part of their row; zeros for an item without ratings; None: what
            was rated is no part of the row.
        user_features, item_features: the rows of those known by nothing else; None: the model was trained without.
        user_map: (n_factors, width of the users' embeddings) float32, of a neural model: its users' rows are
            `user_map` times their embeddings, and so are those of `item_implicit` and `user_features`.
        ranking: what is known of the training under `ranking`.
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
    head: Head | None = None
    item_implicit: NDArray[np.float32] | None = None
    user_features: FeatureRows | None = None
    item_features: FeatureRows | None = None
    user_map: NDArray[np.float32] | None = None
    ranking: RankingConstants | None = None

    @property
    def n_users(self) -> int:
        return len(self.user_keys)

    @property
    def n_items(self) -> int:
        return len(self.item_keys)

    @property
    def n_factors(self) -> int:
        return int(self.item_factors.shape[1])

    @property
    def embeddings(self) -> NDArray[np.float32]:
        """Where the items lie: (n_items, width), the part of their rows that is multiplied."""
        return embeddings(self.item_factors, self.head)

    def scores(self, user_idx: NDArray[np.int64]) -> NDArray[np.float32]:
        """Scores of all items for some users: (n, n_items)."""
        scores = score_rows(self.user_factors[user_idx], self.item_factors, self.item_bias, self.head)
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
        z[both] += self._products(user_idx[both], item_idx[both])
        return self.to_rating(z)

    def _products(self, user_idx: NDArray[np.int64], item_idx: NDArray[np.int64]) -> NDArray[np.float32]:
        """What pairs score beside their biases: (n,)."""
        p, q = self.user_factors[user_idx], self.item_factors[item_idx]
        if self.head is None:
            product: NDArray[np.float32] = np.einsum("nf,nf->n", p, q, optimize=False)
            return product
        n_dot = self.head.n_dot
        dot: NDArray[np.float32] = np.einsum("nf,nf->n", p[:, :n_dot], q[:, :n_dot], optimize=False)
        return dot + self.head(p[:, n_dot:] + q[:, n_dot:])

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
