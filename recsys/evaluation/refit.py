"""Whether a training on all ratings turned out like its twin, which was judged without the held-out ratings."""

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recsys.data.dataset import Ratings
from recsys.data.keyed import evenly, positions
from recsys.evaluation.gate import K
from recsys.factors import Factors
from recsys.scoring.profile import added_scores, profiles_of
from recsys.scoring.score import predict_ratings
from recsys.scoring.search import Index, as_matrix, index_over

MAX_LOSS = 1.05
"""Largest loss of a refit as a multiple of its twin's."""

MIN_OVERLAP = 0.7
"""Smallest share of a user's list that a refit and its twin must have in common, in the mean."""

N_USERS = 1000
"""Users whose lists are compared."""

N_RATINGS, N_CANDIDATES = 2000, 100
"""Ratings that the losses are computed on, and random items that each of them is compared with."""

_BLOCK = 1 << 22
"""Added scores held at once: 32 MiB."""


@dataclass(frozen=True, slots=True)
class RefitCheck:
    """A refit beside its twin.

    Attributes:
        loss, twin_loss: mean loss on the same ratings, which both were trained on; see `losses_on_seen`.
        overlap: mean share of the first 10 items that both list.
        problem: why the refit must not be served; `None` if it may.
    """

    loss: float
    twin_loss: float
    overlap: float
    problem: str | None

    def as_record(self) -> dict[str, Any]:
        """Return the fields with JSON's types."""
        return asdict(self)


def check_refit(refit: Factors, twin: Factors, ratings: Ratings, training_set: Ratings) -> RefitCheck:
    """Check a refit: its numbers are finite, its loss is not above the twin's, and its lists are like the twin's.

    Args:
        ratings: those that the refit was trained on.
        training_set: those that the twin was trained on.
    """
    sides = (refit.users, refit.items)
    if not all(np.isfinite(array).all() for side in sides for array in (side.factors, side.bias)):
        return RefitCheck(0.0, 0.0, 0.0, "the refit has numbers that are not finite")
    loss, twin_loss = losses_on_seen(refit, twin, training_set)
    overlap = mean_list_overlap(refit, twin, ratings)
    problem = None
    if not loss <= MAX_LOSS * twin_loss:
        problem = f"the loss of the refit is {loss:.4f}, and that of its twin {twin_loss:.4f}"
    elif overlap < MIN_OVERLAP:
        share = math.floor(1000 * overlap) / 10  # not rounded up to the least that is allowed
        problem = f"the lists of the refit have {share}% in common with its twin's, less than {MIN_OVERLAP:.0%}"
    return RefitCheck(loss, twin_loss, overlap, problem)


def losses_on_seen(refit: Factors, twin: Factors, training_set: Ratings) -> tuple[float, float]:
    """Return the losses of both models on the same ratings, up to `N_RATINGS` of those that both were trained on.

    The losses of the trainings themselves are of other ratings and catalogues. Under `rating` it is the mean of
    (r̂ − r)². Under `ranking` it is the softmax loss of each rated item i among `N_CANDIDATES` random items j, the same
    for both models:

        mean log(1 + Σ_j exp(z_uj − z_ui))
    """
    rng = np.random.default_rng(0)
    items = np.intersect1d(refit.item_keys, twin.item_keys)
    chosen = rng.permutation(training_set.n_ratings)[:N_RATINGS]
    user_key = training_set.user_keys[training_set.user_idx[chosen]]
    item_key = training_set.item_keys[training_set.item_idx[chosen]]
    in_both = np.isin(item_key, items) & np.isin(user_key, np.intersect1d(refit.user_keys, twin.user_keys))
    user_key, item_key, rating = user_key[in_both], item_key[in_both], training_set.rating[chosen[in_both]]
    if not len(rating):
        return 0.0, 0.0
    candidates = items[rng.integers(len(items), size=(len(rating), N_CANDIDATES))]  # (n_ratings, n_candidates)
    losses = []
    for factors in (refit, twin):
        if factors.objective == "rating":
            users, rated = positions(factors.user_keys, user_key), positions(factors.item_keys, item_key)
            losses.append(float(((predict_ratings(factors, users, rated) - rating) ** 2).mean(dtype=np.float64)))
            continue
        columns = positions(factors.item_keys, np.column_stack([item_key, candidates]).ravel())
        z = score_pairs(factors, training_set, np.repeat(user_key, N_CANDIDATES + 1), columns)
        z = z.reshape(len(rating), N_CANDIDATES + 1)
        total = np.exp(np.minimum(z[:, 1:] - z[:, :1], 500)).sum(1)
        losses.append(float(np.log1p(total).mean()))
    return losses[0], losses[1]


def score_pairs(
    factors: Factors, ratings: Ratings, user_key: NDArray[np.int64], item_idx: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Return the scores of pairs, without b_u and b: (n,) keys of users, (n,) positions of items → (n,).

    Args:
        ratings: what weights between items see.
    """
    index = Index(factors.item_factors, factors.item_bias, factors.head)
    z = index.pair_scores(factors.user_factors[positions(factors.user_keys, user_key)], item_idx)
    if factors.weights is not None:
        users, row = np.unique(user_key, return_inverse=True)
        profiles = profiles_of(factors, ratings, users, factors.item_keys) or []
        size = max(1, _BLOCK // factors.n_items)
        for start in range(0, len(profiles), size):
            mine = (row >= start) & (row < start + size)
            added = added_scores(factors.weights, profiles[start : start + size], factors.n_items)
            if added is not None:
                z[mine] += added[row[mine] - start, item_idx[mine]]
    return z


def mean_list_overlap(
    first: Factors, second: Factors, ratings: Ratings, *, k: int = K, n_users: int = N_USERS
) -> float:
    """Return the mean share of their first k items that two models list for the same users, without rated items.

    Items and users that one of the models does not know are left out; a user's list is as long as both models' are.

    Args:
        n_users: users to compare on, spread evenly over all.
    """
    ratings = ratings.compact()
    users = np.intersect1d(first.user_keys, second.user_keys)
    users = users[evenly(len(users), n_users)]
    items = np.intersect1d(first.item_keys, second.item_keys)
    in_both = positions(items, ratings.item_keys)  # (n_items of the ratings,), −1 where a model lacks the item
    starts, order = ratings.by_user()
    seen = []
    for row in positions(ratings.user_keys, users).tolist():
        rated = in_both[ratings.item_idx[order[starts[row] : starts[row + 1]]]] if row >= 0 else in_both[:0]
        seen.append(rated[rated >= 0])
    lists = []
    for factors in (first, second):
        vectors = factors.user_factors[positions(factors.user_keys, users)]
        profiles = profiles_of(factors, ratings, users, items)
        lists.append(as_matrix(index_over(factors, items).best(vectors, [k] * len(users), seen, profiles), k))
    listed = lists[0] >= 0
    common = ((lists[0][:, :, None] == lists[1][:, None, :]).any(2) & listed).sum(1)
    length = listed.sum(1)
    return float((common[length > 0] / length[length > 0]).mean()) if length.any() else 1.0
