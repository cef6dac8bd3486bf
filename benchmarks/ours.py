"""One run of this project, as `benchmarks.peers` is one of another library.

python -m benchmarks.ours NAME CASE ANSWER --seed N
"""

from importlib.metadata import version
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.case import Answer, Case, K, Run, Trained, arguments, read_case, report, timed
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
"""What differs from the default settings where a peer's accuracy is to be reached as fast as can be.

Chosen on a validation part of the training folds of MovieLens 1M.
"""

THROUGHPUT: dict[str, Any] = {"n_factors": 64, "n_epochs": 6, "batch_size": 16384, "implicit": False}
LARGE: dict[str, Any] = {"n_factors": 64, "n_epochs": 5, "batch_size": 131072}


def ratings(case: Case) -> Ratings:
    """The training part as the database would give it, dense indices for keys."""
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


def config_of(name: str, n_ratings: int, n_users: int) -> Config:
    """The settings of a run by its name."""
    if name == "ranking":
        return default_config("ranking", n_ratings, n_users)
    if name == "rating-neural":
        return default_config("rating", n_ratings, n_users, architecture="neural")
    overrides = {"rating": {}, "throughput": THROUGHPUT, "large": LARGE, **FAST}[name]
    return default_config("rating", n_ratings, n_users, **overrides)


def answer(case: Case, factors: Factors) -> Answer:
    """Predictions of the test ratings, or lists for those who are asked, by the objective."""
    return predictions(case, factors) if factors.objective == "rating" else lists(case, factors)


def predictions(case: Case, factors: Factors) -> NDArray[np.float32]:
    user_idx = positions(factors.user_keys, case.test_user.astype(np.int64))
    item_idx = positions(factors.item_keys, case.test_item.astype(np.int64))
    return predict_ratings(factors, user_idx, item_idx)


def lists(case: Case, factors: Factors) -> NDArray[np.int64]:
    """The first K of each asked user; one whom the model does not know gets the list by number of ratings."""
    order = np.argsort(case.user, kind="stable")
    starts = np.searchsorted(case.user[order], np.arange(case.n_users + 1))
    item_idx = positions(factors.item_keys, case.item.astype(np.int64))[order]
    asked = case.asked.astype(np.int64)
    excluded = [item_idx[starts[user] : starts[user + 1]] for user in asked]
    user_idx = positions(factors.user_keys, asked)
    index = Index(factors.item_factors, factors.item_bias, factors.head)
    found = index.best(factors.user_factors[user_idx], [K] * len(asked), excluded)
    rated = np.bincount(item_idx, minlength=factors.n_items).astype(np.float32)
    popularity = Index(np.zeros((factors.n_items, 0), np.float32), rated)
    for at in np.flatnonzero(user_idx < 0):
        found[at] = popularity.best(np.zeros((1, 0), np.float32), [K], [excluded[at]])[0]
    best = as_matrix(found, K)
    return np.where(best >= 0, factors.item_keys[best], -1)


def trained(case: Case, name: str, *, seed: int, device: str = "cpu") -> tuple[Trained, Fitted]:
    """Train under the settings of that name."""
    train = ratings(case)
    config = config_of(name, train.n_ratings, train.n_users)
    fitted: list[Fitted] = []
    cost = timed(lambda: fitted.append(fit(train, config, device=device, seed=seed)))
    return cost, fitted[0]


def epoch_seconds(fitted: Fitted) -> list[float]:
    """Seconds of each epoch but the first, which begins with preparations."""
    return [later.seconds - earlier.seconds for earlier, later in pairwise(fitted.history)]


def main() -> None:
    given = arguments(__doc__, ["rating", "rating-neural", "ranking", *FAST, "throughput", "large"])
    case = read_case(given.case)
    cost, fitted = trained(case, given.name, seed=given.seed)
    versions = {name: version(name) for name in ("recsys", "torch", "numpy")}
    report(
        given.answer,
        answer(case, fitted.factors),
        Run(*cost, versions=versions, epoch_seconds=epoch_seconds(fitted)),
    )


if __name__ == "__main__":
    main()
