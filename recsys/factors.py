"""What a model learned, as plain arrays: the hand-over from training to everything downstream. No torch."""

import math
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from recsys.results import Objective

_Float = TypeVar("_Float", bound=np.floating[Any])


@dataclass(frozen=True, slots=True)
class Head:
    """The layers of a neural model above its first one.

    The first `n_dot` columns of the vectors are multiplied. The other columns are the contributions of the user and of
    the item to the first layer, computed once:

        z_ui = p_u[:n_dot] · q_i[:n_dot] + f(p_u[n_dot:] + q_i[n_dot:])

        f(x) = W_L relu(… W_2 relu(W_1 relu(x) + b_1) + b_2 …) + b_L

    Attributes:
        n_dot: number of columns that are multiplied.
        layers: (W, b) of each linear map: (n_out, n_in) and (n_out,) float32; the last has n_out = 1.
        user_map: (width, n_embedding) float32: the vectors of users, and everything that is added to them, are
            `user_map` times their embeddings. `None` in versions that were stored without it.
    """

    n_dot: int
    layers: tuple[tuple[NDArray[np.float32], NDArray[np.float32]], ...]
    user_map: NDArray[np.float32] | None = None

    def __call__(self, x: NDArray[_Float]) -> NDArray[_Float]:
        """Return f(x): (n, n_in) → (n,), in the precision of `x`, but at least float32."""
        for weight, bias in self.layers:
            x = np.maximum(x, 0) @ weight.T + bias
        return x[:, 0]


@dataclass(frozen=True, slots=True)
class FeatureEmbeddings:
    """Embeddings of metadata features, for users or items without ratings.

        vector = base + Σ_{f ∈ F} vectors_f        bias = Σ_{f ∈ F} bias_f

    Attributes:
        names: the name of each feature, as `recsys.data.features` writes them.
        base: (width,) float32, the part that every vector has: zeros, except for the items of a neural model.
        vectors: (n_features, width) float32.
        bias: (n_features,) float32.
    """

    names: tuple[str, ...]
    base: NDArray[np.float32]
    vectors: NDArray[np.float32]
    bias: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Side:
    """The users or the items of a model.

    Attributes:
        keys: (n,) int64, ascending: the database keys.
        factors: (n, n_factors) float32.
        bias: (n,) float32.
        implicit: (n, n_factors) float32, of items only: a user who rated the items N, whatever the ratings, has
            Σ_{j ∈ N} implicit[j] / √|N| as part of their vector. Zeros for an item without ratings; `None`: the
            items that a user rated are no part of their vector.
        features: embeddings of metadata; `None`: the model was trained without.
    """

    keys: NDArray[np.int64]
    factors: NDArray[np.float32]
    bias: NDArray[np.float32]
    implicit: NDArray[np.float32] | None = None
    features: FeatureEmbeddings | None = None

    def __len__(self) -> int:
        return len(self.keys)

    @classmethod
    def empty(cls, width: int, features: FeatureEmbeddings | None = None) -> "Side":
        """Return a side without rows, of vectors of some width."""
        return cls(np.empty(0, np.int64), np.empty((0, width), np.float32), np.empty(0, np.float32), None, features)


@dataclass(frozen=True, slots=True)
class ItemWeights:
    """How much having one item adds to the scores of others: a sparse matrix B (n_items, n_items), by row.

    A user with the items N, of which each counts x_j, has Σ_{j ∈ N} x_j B_ji as part of the score of item i.

    Attributes:
        starts: (n_items + 1,) int64: the entries of row j are those from `starts[j]` to `starts[j + 1]`.
        item_idx: (n,) int32, the column of each entry, ascending within a row.
        values: (n,) float32.
    """

    starts: NDArray[np.int64]
    item_idx: NDArray[np.int32]
    values: NDArray[np.float32]

    @property
    def n_items(self) -> int:
        return len(self.starts) - 1

    @classmethod
    def from_entries(
        cls, row: NDArray[np.integer], column: NDArray[np.integer], values: NDArray[np.float32], n_items: int
    ) -> "ItemWeights":
        """Return the matrix with some entries, given in any order: (n,) each."""
        order = np.lexsort((column, row))
        starts = np.zeros(n_items + 1, np.int64)
        np.cumsum(np.bincount(row, minlength=n_items), out=starts[1:])
        return cls(starts, column[order].astype(np.int32), values[order].astype(np.float32))

    def rows(self) -> NDArray[np.int64]:
        """Return the row of each entry: (n,)."""
        return np.repeat(np.arange(self.n_items), np.diff(self.starts))

    def at(self, rows: NDArray[np.integer], column: int) -> NDArray[np.float32]:
        """Return the entries of some rows in one column: (n,) → (n,)."""
        found = np.zeros(len(rows), np.float32)
        for place, row in enumerate(np.asarray(rows).tolist()):
            if row < self.n_items:
                start, stop = self.starts[row], self.starts[row + 1]
                at = start + np.searchsorted(self.item_idx[start:stop], column)
                if at < stop and self.item_idx[at] == column:
                    found[place] = self.values[at]
        return found

    def among(self, items: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return the entries between some distinct items: (m,) → (m, m)."""
        values = np.zeros((len(items), len(items)), np.float32)
        known = np.flatnonzero(items < self.n_items)
        place = np.full(self.n_items, -1, np.int32)  # of each item among these
        place[items[known]] = known
        starts, stops = self.starts[items[known]], self.starts[items[known] + 1]
        rows = [slice(start, stop) for start, stop in zip(starts.tolist(), stops.tolist(), strict=True)]
        if not rows:
            return values
        column = place[np.concatenate([self.item_idx[row] for row in rows])]
        inside = np.flatnonzero(column >= 0)
        entries = np.concatenate([self.values[row] for row in rows])[inside]
        values[np.repeat(known, stops - starts)[inside], column[inside]] = entries
        return values

    def times(self, factor: float) -> "ItemWeights":
        """Return the matrix multiplied by a number."""
        return ItemWeights(self.starts, self.item_idx, (self.values * np.float32(factor)).astype(np.float32))

    def moved(self, position: NDArray[np.int64], n_items: int) -> "ItemWeights":
        """Return the same weights over other positions.

        Args:
            position: (n_items of these,) the new position of each item; −1: the item is left out.
            n_items: number of items afterwards.
        """
        if n_items == self.n_items and np.array_equal(position, np.arange(n_items)):
            return self
        row, column = position[self.rows()], position[self.item_idx]
        kept = (row >= 0) & (column >= 0)
        row, column, values = row[kept], column[kept], self.values[kept]
        present = position[position >= 0]
        if (np.diff(present) <= 0).any():
            return ItemWeights.from_entries(row, column, values, n_items)
        starts = np.zeros(n_items + 1, np.int64)  # the order of the entries stays
        np.cumsum(np.bincount(row, minlength=n_items), out=starts[1:])
        return ItemWeights(starts, column.astype(np.int32), values)

    def similarity(self) -> "ItemWeights":
        """Return how much two items say of each other, whichever of them a user has: (B + Bᵀ) / 2."""
        row, column = self.rows(), self.item_idx.astype(np.int64)
        both = np.concatenate([row, column]) * self.n_items + np.concatenate([column, row])
        pair, at = np.unique(both, return_inverse=True)
        means = (np.bincount(at, np.tile(self.values, 2), len(pair)) / 2).astype(np.float32)
        return ItemWeights.from_entries(*np.divmod(pair, max(self.n_items, 1)), means, self.n_items)


NO_NEIGHBOUR = -1


@dataclass(frozen=True, slots=True)
class Neighbours:
    """The most similar items of each item, found once after the training.

    Attributes:
        item_idx: (n_items, n_neighbours) int32, the most similar first; `NO_NEIGHBOUR` where there are fewer.
        scores: (n_items, n_neighbours) float32 cosines, rounded to six decimals; 0 where there is no neighbour.
        in_pool: (n_items,) mask of the items that could be a neighbour.
    """

    item_idx: NDArray[np.int32]
    scores: NDArray[np.float32]
    in_pool: NDArray[np.bool_]

    def moved(self, position: NDArray[np.int64], n_items: int) -> "Neighbours":
        """Return the same neighbours over other positions.

        Args:
            position: (n_items of these,) the new position of each item, all of them ≥ 0.
            n_items: number of items afterwards; those without a position before have no neighbours.
        """
        if n_items == len(position) and np.array_equal(position, np.arange(n_items)):
            return self
        item_idx = np.full((n_items, self.item_idx.shape[1]), NO_NEIGHBOUR, np.int32)
        scores, in_pool = np.zeros(item_idx.shape, np.float32), np.zeros(n_items, bool)
        item_idx[position] = np.append(position, NO_NEIGHBOUR)[self.item_idx]
        scores[position], in_pool[position] = self.scores, self.in_pool
        return Neighbours(item_idx, scores, in_pool)


@dataclass(frozen=True, slots=True)
class RatingConstants:
    """Constants of a `rating` training that fold-in needs.

    Attributes:
        l2: penalty on a user's own vector for each rating.
        damping: penalty on a user's own vector and bias, however many ratings they have.
    """

    l2: float
    damping: float


@dataclass(frozen=True, slots=True)
class RankingConstants:
    """Constants of a `ranking` training that fold-in needs.

    Attributes:
        mean: mean of the ratings.
        span: highest rating minus lowest; 1 if all are equal.
        n_items: mean number of items of a user.
        ridge: strength of the decay of the users' own vectors, as the λ of a penalty λ/2 · ‖own‖².
        rating_weight, user_power: as in the training's `Config`.
        dislike_below: a rating below is a dislike; −∞: none is.
    """

    mean: float
    span: float
    n_items: float
    ridge: float
    rating_weight: float = 2.0
    user_power: float = 0.5
    dislike_below: float = -math.inf


@dataclass(frozen=True, slots=True)
class Factors:
    """The factors and biases of one model version.

    >>> learner.factors.item_factors.shape                              # doctest: +SKIP

    The score of user u and item i is

        z_ui = user_factors[u] · item_factors[i] + user_bias[u] + item_bias[i] + global_bias

    and under the `rating` objective the prediction on the rating scale is

        r_ui = low + (high − low) / (1 + exp(−z_ui)),   (low, high) = rating_range

    A user or item that the model does not know has zero factors and zero bias. For a neural model the `head` takes the
    place of the product. `recsys.scoring.score` computes both. With `weights`, the items that the user has add
    Σ_j x_j B_ji to the score; `recsys.scoring.profile` has x.

    Attributes:
        objective: what was optimised.
        items: the item side.
        users: the user side; without rows if only the item side was loaded, as a server does.
        global_bias: added to every score.
        rating_range: the ends of the sigmoid, half a step outside the rating scale; `None` under `ranking`.
        head: the layers of a neural model; `None` for the dot product.
        constants: what fold-in needs of the training; `None` if the training did not leave any.
        weights: between items; `None`: the items that a user has add nothing but their part of the user's vector.
        neighbours: of each item; `None`: similar items are searched for.
    """

    objective: Objective
    items: Side
    users: Side
    global_bias: float = 0.0
    rating_range: tuple[float, float] | None = None
    head: Head | None = None
    constants: RatingConstants | RankingConstants | None = None
    weights: ItemWeights | None = None
    neighbours: Neighbours | None = None

    @property
    def user_keys(self) -> NDArray[np.int64]:
        return self.users.keys

    @property
    def user_factors(self) -> NDArray[np.float32]:
        return self.users.factors

    @property
    def user_bias(self) -> NDArray[np.float32]:
        return self.users.bias

    @property
    def item_keys(self) -> NDArray[np.int64]:
        return self.items.keys

    @property
    def item_factors(self) -> NDArray[np.float32]:
        return self.items.factors

    @property
    def item_bias(self) -> NDArray[np.float32]:
        return self.items.bias

    @property
    def n_users(self) -> int:
        return len(self.users)

    @property
    def n_items(self) -> int:
        return len(self.items)

    @property
    def n_factors(self) -> int:
        return int(self.items.factors.shape[1])

    @property
    def n_dot(self) -> int:
        """Number of columns of the vectors that are multiplied."""
        return self.n_factors if self.head is None else self.head.n_dot

    @property
    def embeddings(self) -> NDArray[np.float32]:
        """The part of the item vectors that is multiplied: (n_items, n_dot)."""
        return self.items.factors[:, : self.n_dot]
