"""One run of this project; `benchmarks.peers` is its counterpart for other libraries.

python -m benchmarks.ours NAME CASE ANSWER --seed N
"""

from dataclasses import replace
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
from jobs.portfolio import CANDIDATES, Choice, choose_architecture
from recsys.data.dataset import NO_TIME, Ratings
from recsys.data.feedback import prepare
from recsys.data.keyed import positions
from recsys.evaluation.gate import usable_scale
from recsys.factors import Factors
from recsys.learner import Learner
from recsys.library.loading import RatingData
from recsys.results import Architecture
from recsys.scoring.profile import profiles_of
from recsys.scoring.score import predict_ratings
from recsys.scoring.search import Index, as_matrix, index_over
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

LISTS: dict[str, Architecture] = {"ranking": "dot", "item": "item", "blend": "blend"}
"""Runs that train for lists → architecture."""

BLOCK_SCORES = 1 << 24
"""Most scores in memory at a time."""


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
    if name in LISTS:
        return default_config("ranking", n_ratings, n_users, effective_items, architecture=LISTS[name])
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


def lists(case: Case, factors: Factors, k: int = K) -> NDArray[np.int64]:
    """Return the k best items for each of `case.list_users`: (n_list_users, k); unknown users get popular items."""
    train = ratings(case).compact()
    starts, order = train.by_user()
    users = case.list_users.astype(np.int64)
    rows = positions(train.user_keys, users)
    excluded = [train.item_idx[order[starts[row] : starts[row + 1]]] if row >= 0 else None for row in rows.tolist()]
    user_idx = positions(factors.user_keys, users)
    catalogue = index_over(factors, train.item_keys)
    popularity = Index(np.zeros((train.n_items, 0), np.float32), train.item_counts().astype(np.float32))
    best = np.empty((len(users), k), np.int64)
    profiles = profiles_of(factors, train, users, train.item_keys)
    size = max(1, BLOCK_SCORES // train.n_items)
    for known, index in ((True, catalogue), (False, popularity)):
        of_these = np.flatnonzero((user_idx >= 0) == known)
        for start in range(0, len(of_these), size):
            block = of_these[start : start + size]
            vectors = factors.user_factors[user_idx[block]] if known else np.zeros((len(block), 0), np.float32)
            theirs = None if profiles is None or not known else [profiles[row] for row in block.tolist()]
            found = index.best(vectors, [k] * len(block), [excluded[row] for row in block.tolist()], theirs)
            best[block] = as_matrix(found, k)
    return np.where(best >= 0, train.item_keys[best], -1)


def train_portfolio(case: Case, *, seed: int, device: str = "cpu") -> tuple[TrainingCost, Factors, Choice]:
    """Choose an architecture as `recsys nightly` does, and train it; return cost, result and choice."""
    given = ratings(case).compact()
    train, _ = prepare(replace(given, is_implicit=np.full(given.n_ratings, case.is_implicit)), "ranking")
    scale = train.scale
    assert scale is not None
    n_items = train.effective_items()
    configs = {
        name: default_config("ranking", train.n_ratings, train.n_users, n_items, architecture=name)
        for name in CANDIDATES
    }

    def learn(part: Ratings, config: Config) -> Learner:
        data = RatingData(part, {}, {})
        return Learner.fit(data, config=config, rating_scale=usable_scale(scale), device=device, seed=seed)

    result: list[tuple[Factors, Choice]] = []

    def run() -> None:
        choice = choose_architecture(train, scale, configs, learn)
        config = replace(configs[choice.architecture], **choice.settings)
        result.append((learn(train, config).factors, choice))

    cost = measure_cost(run)
    return cost, *result[0]


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
        __doc__,
        [*LISTS, "portfolio", "rating", "rating-neural", *FAST, "throughput", "large", "large-implicit"],
    )
    case = read_case(options.case)
    versions = {name: version(name) for name in ("recsys", "torch", "numpy")}
    if options.name == "portfolio":
        cost, factors, choice = train_portfolio(case, seed=options.seed)
        note = f"{choice.architecture}: " + ", ".join(f"{name} {value:g}" for name, value in choice.settings.items())
        write_result(
            options.answer, answer(case, factors), RunResult(*cost, versions=versions, epoch_seconds=[], note=note)
        )
        return
    cost, fitted = train_case(case, options.name, seed=options.seed)
    write_result(
        options.answer,
        answer(case, fitted.factors),
        RunResult(*cost, versions=versions, epoch_seconds=epoch_seconds(fitted)),
    )


if __name__ == "__main__":
    main()
