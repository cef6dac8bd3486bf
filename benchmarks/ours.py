"""One run of this project; `benchmarks.peers` is its counterpart for other libraries.

python -m benchmarks.ours NAME CASE ANSWER --seed N
"""

from importlib.metadata import version
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

import benchmarks.spinning  # noqa: F401 - before torch
from benchmarks.case import (
    Answer,
    Case,
    K,
    RunResult,
    TrainingCost,
    measure_cost,
    parse_arguments,
    read_case,
    write_result,
)
from recsys.data.dataset import NO_TIME, Ratings
from recsys.data.keyed import positions
from recsys.factors import Factors
from recsys.scoring.score import predict_ratings
from recsys.scoring.search import Index, as_matrix
from recsys.training.config import Config, default_config
from recsys.training.fit import Fitted, fit

FAST: dict[str, dict[str, Any]] = {
    "cmfrec": {
        "implicit": False,
        "n_factors": 32,
        "n_epochs": 5,
        "batch_size": 16384,
        "learning_rate": 0.015,
        "l2": 0.02,
    },
    "surprise": {
        "implicit": False,
        "n_factors": 16,
        "n_epochs": 3,
        "batch_size": 16384,
        "learning_rate": 0.02,
        "l2": 0.02,
    },
}
"""Settings that differ from the defaults, to reach the accuracy of a peer in the shortest time.

Chosen on a validation part of the training folds of MovieLens 1M.
"""

THROUGHPUT: dict[str, Any] = {"n_factors": 64, "n_epochs": 6, "batch_size": 16384, "implicit": False}
LARGE: dict[str, Any] = {"n_factors": 64, "n_epochs": 5, "batch_size": 131072, "implicit": False}
LARGE_IMPLICIT: dict[str, Any] = {**LARGE, "implicit": True}


def ratings(case: Case) -> Ratings:
    """Return the training part as the database would return it, with the dense indices as keys."""
    return Ratings(
        user_idx=case.user,
        item_idx=case.item,
        rating=case.rating,
        rated_at=np.full(len(case.rating), NO_TIME),
        user_keys=np.arange(case.n_users),
        item_keys=np.arange(case.n_items),
        user_hash=np.arange(case.n_users, dtype=np.uint64),
        item_hash=np.arange(case.n_items, dtype=np.uint64),
    )


def config_of(name: str, n_ratings: int, n_users: int, effective_items: float | None = None) -> Config:
    """Return the settings of a run."""
    if name == "ranking":
        return default_config("ranking", n_ratings, n_users, effective_items)
    if name == "rating-neural":
        return default_config("rating", n_ratings, n_users, architecture="neural")
    overrides = {"rating": {}, "throughput": THROUGHPUT, "large": LARGE, "large-implicit": LARGE_IMPLICIT, **FAST}[name]
    return default_config("rating", n_ratings, n_users, **overrides)


def answer(case: Case, factors: Factors) -> Answer:
    """Return predictions of the test ratings for the rating objective, and lists for the ranking objective."""
    return predictions(case, factors) if factors.objective == "rating" else lists(case, factors)


def predictions(case: Case, factors: Factors) -> NDArray[np.float32]:
    """Return predictions of the test ratings: (n_test,)."""
    user_idx = positions(factors.user_keys, case.test_user.astype(np.int64))
    item_idx = positions(factors.item_keys, case.test_item.astype(np.int64))
    return predict_ratings(factors, user_idx, item_idx)


def lists(case: Case, factors: Factors) -> NDArray[np.int64]:
    """Return the K best items for each of `case.list_users`: (n_list_users, ≤ K); unknown users get popular items."""
    order = np.argsort(case.user, kind="stable")
    starts = np.searchsorted(case.user[order], np.arange(case.n_users + 1))
    item_idx = positions(factors.item_keys, case.item.astype(np.int64))[order]
    users = case.list_users.astype(np.int64)
    excluded = [item_idx[starts[user] : starts[user + 1]] for user in users]
    user_idx = positions(factors.user_keys, users)
    index = Index(factors.item_factors, factors.item_bias, factors.head)
    found = index.best(factors.user_factors[user_idx], [K] * len(users), excluded)
    rated = np.bincount(item_idx, minlength=factors.n_items).astype(np.float32)
    popularity = Index(np.zeros((factors.n_items, 0), np.float32), rated)
    for row in np.flatnonzero(user_idx < 0):
        found[row] = popularity.best(np.zeros((1, 0), np.float32), [K], [excluded[row]])[0]
    best = as_matrix(found, K)
    return np.where(best >= 0, factors.item_keys[best], -1)


def train_case(case: Case, name: str, *, seed: int, device: str = "cpu") -> tuple[TrainingCost, Fitted]:
    """Train with the settings of a run; return the cost and the result."""
    train = ratings(case)
    config = config_of(name, train.n_ratings, train.n_users, train.effective_items())
    fitted: list[Fitted] = []
    cost = measure_cost(lambda: fitted.append(fit(train, config, device=device, seed=seed)))
    return cost, fitted[0]


def epoch_seconds(fitted: Fitted) -> list[float]:
    """Return the seconds of each epoch after the first, which includes preparations."""
    return [later.seconds - earlier.seconds for earlier, later in pairwise(fitted.history)]


def main() -> None:
    """Run the model of the command line."""
    options = parse_arguments(
        __doc__, ["rating", "rating-neural", "ranking", *FAST, "throughput", "large", "large-implicit"]
    )
    case = read_case(options.case)
    cost, fitted = train_case(case, options.name, seed=options.seed)
    versions = {name: version(name) for name in ("recsys", "torch", "numpy")}
    write_result(
        options.answer,
        answer(case, fitted.factors),
        RunResult(*cost, versions=versions, epoch_seconds=epoch_seconds(fitted)),
    )


if __name__ == "__main__":
    main()
