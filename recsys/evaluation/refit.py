"""Whether a training on all ratings turned out like its twin, which was judged without the held-out ratings."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from recsys.data.dataset import Ratings
from recsys.data.keyed import positions
from recsys.evaluation.gate import K
from recsys.factors import Factors
from recsys.scoring.search import Index, as_matrix

MAX_LOSS = 1.05
"""Largest loss of a refit as a multiple of its twin's."""

MIN_OVERLAP = 0.7
"""Smallest share of a user's list that a refit and its twin must have in common, in the mean."""

N_USERS = 1000
"""Users whose lists are compared."""


@dataclass(frozen=True, slots=True)
class RefitCheck:
    """A refit beside its twin.

    Attributes:
        loss, twin_loss: mean training loss in the last epoch.
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


def check_refit(refit: Factors, twin: Factors, losses: tuple[float, float], ratings: Ratings) -> RefitCheck:
    """Check a refit: its numbers are finite, its loss is not above the twin's, and its lists are like the twin's.

    Args:
        losses: last training loss of the refit and of the twin.
        ratings: those that the refit was trained on.
    """
    loss, twin_loss = losses
    sides = (refit.users, refit.items)
    if not all(np.isfinite(array).all() for side in sides for array in (side.factors, side.bias)):
        return RefitCheck(loss, twin_loss, 0.0, "the refit has numbers that are not finite")
    overlap = list_overlap(refit, twin, ratings)
    problem = None
    if not loss <= MAX_LOSS * twin_loss:
        problem = f"the loss of the refit is {loss:.4f}, and that of its twin {twin_loss:.4f}"
    elif overlap < MIN_OVERLAP:
        problem = f"the lists of the refit have {overlap:.0%} in common with its twin's, less than {MIN_OVERLAP:.0%}"
    return RefitCheck(loss, twin_loss, overlap, problem)


def list_overlap(first: Factors, second: Factors, ratings: Ratings, *, k: int = K, n_users: int = N_USERS) -> float:
    """Return the mean share of their first k items that two models list for the same users, without rated items.

    Items and users that one of the models does not know are left out; a user's list is as long as both models' are.

    Args:
        n_users: users to compare on, spread evenly over all.
    """
    ratings = ratings.compact()
    users = np.intersect1d(first.user_keys, second.user_keys)
    users = users[np.linspace(0, len(users) - 1, min(n_users, len(users))).astype(np.int64)]
    items = np.intersect1d(first.item_keys, second.item_keys)
    in_both = positions(items, ratings.item_keys)  # (n_items of the ratings,), −1 where a model lacks the item
    starts, order = ratings.by_user()
    seen = []
    for row in positions(ratings.user_keys, users).tolist():
        rated = in_both[ratings.item_idx[order[starts[row] : starts[row + 1]]]] if row >= 0 else in_both[:0]
        seen.append(rated[rated >= 0])
    lists = []
    for factors in (first, second):
        rows = positions(factors.item_keys, items)
        index = Index(factors.item_factors[rows], factors.item_bias[rows], factors.head)
        vectors = factors.user_factors[positions(factors.user_keys, users)]
        lists.append(as_matrix(index.best(vectors, [k] * len(users), seen), k))
    listed = lists[0] >= 0
    common = ((lists[0][:, :, None] == lists[1][:, None, :]).any(2) & listed).sum(1)
    length = listed.sum(1)
    return float((common[length > 0] / length[length > 0]).mean()) if length.any() else 1.0
