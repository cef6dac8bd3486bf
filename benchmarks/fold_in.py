"""How good folded-in users are beside trained ones, and how long one takes.

    python -m benchmarks.fold_in [--seeds 0 1 2] [--neural-folds 1 2 3 4 5]

A tenth of the users, drawn by seed, is hidden from a training and folded into it from their training ratings; a second
training sees everybody. Both are measured on the test ratings of these users: NDCG@10 over the whole catalogue, without
what they have, or RMSE. The dot product on MovieLens 1M (trained on folds 2–5, measured on fold 1), once for each seed;
the neural model, whose training takes longer, on the official folds of MovieLens 100K. `make bench-fold-in` lets numpy
have one thread, which is what the times are to be read for.
"""

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from benchmarks import data
from benchmarks.case import Case
from benchmarks.ours import ratings
from recsys.data.dataset import NO_TIME, Ratings
from recsys.data.keyed import positions
from recsys.evaluation.metrics import evaluate_ranking, evaluate_rating
from recsys.factors import Factors, RankingConstants, RatingConstants, Side
from recsys.results import Architecture, Objective
from recsys.scoring.fold_in import FoldedUser, FoldIn
from recsys.training.config import default_config
from recsys.training.fit import fit

HIDDEN = 0.1
"""Share of the users that training does not see."""
N_RATED = 50
"""Ratings of the visitor whose solution is timed."""


@dataclass(frozen=True, slots=True)
class Quality:
    """NDCG@10 or RMSE of the hidden users.

    Attributes:
        trained: in a training that saw them.
        folded: folded into one that did not.
        unsolved: with what their items add, whatever the ratings, and nothing solved.
    """

    trained: float
    folded: float
    unsolved: float


def quality(case: Case, objective: Objective, architecture: Architecture, seed: int) -> Quality:
    """Train with and without a tenth of the users, and measure these users in both."""
    train, test = ratings(case), _test(case)
    hidden = np.random.default_rng(seed).permutation(train.n_users)[: round(HIDDEN * train.n_users)]
    is_hidden = np.isin(np.arange(train.n_users), hidden)
    known = train.select(~is_hidden[train.user_idx])
    test = test.select(is_hidden[test.user_idx])

    def trained(on: Ratings) -> Factors:
        n_users = len(np.unique(on.user_idx))
        config = default_config(objective, on.n_ratings, n_users, architecture=architecture)
        return fit(on, config, device="cpu", seed=seed).factors

    def measured(factors: Factors) -> float:
        if objective == "rating":
            return evaluate_rating(factors, test).rmse
        return evaluate_ranking(factors, train, test).ndcg

    every, some = trained(train), trained(known)
    folded = fold(FoldIn(some), some.item_keys, train, hidden)
    unsolved = [FoldedUser(_implicit(some, train, user), 0.0, None) for user in np.sort(hidden)]
    return Quality(
        measured(every), measured(_with_users(some, hidden, folded)), measured(_with_users(some, hidden, unsolved))
    )


def fold(fold_in: FoldIn, item_keys: NDArray[np.int64], train: Ratings, users: NDArray[np.int64]) -> list[FoldedUser]:
    """The rows of some users, ascending, from their ratings in `train`; items by `item_keys`."""
    starts, order = train.by_user()
    place = positions(item_keys, train.item_keys)
    folded = []
    for user in np.sort(users):
        rows = order[starts[user] : starts[user + 1]]
        idx = place[train.item_idx[rows]]
        folded.append(fold_in.solve(idx[idx >= 0], train.rating[rows][idx >= 0]))
    return folded


def seconds_of_one(n_items: int, n_factors: int, objective: Objective, n: int = 200) -> list[float]:
    """How long each of `n` visitors took, ascending; items and ratings are made up, popular items rated more often."""
    rng = np.random.default_rng(0)
    popularity = 1 / (np.arange(n_items) + 5.0) ** 1.1
    rows = rng.normal(size=(n_items, n_factors)).astype(np.float32) * np.float32(2 / n_factors**0.5)
    is_rating = objective == "rating"
    config = default_config(objective, 25_000_000)
    items = Side(
        keys=np.arange(n_items),
        factors=rows,
        bias=np.log(popularity).astype(np.float32) + 8 if not is_rating else rows[:, 0],
        implicit=rng.normal(size=rows.shape).astype(np.float32) * np.float32(0.3),
    )
    constants = (
        RatingConstants(config.l2, config.damping)
        if is_rating
        else RankingConstants(3.5, 4.0, 100.0, 20.0, config.rating_weight, config.user_power)
    )
    fold_in = FoldIn(
        Factors(
            objective, items, Side.empty(n_factors), rating_range=(0.5, 5.5) if is_rating else None, constants=constants
        )
    )
    seconds = []
    for _ in range(n):
        idx = rng.choice(n_items, N_RATED, replace=False, p=popularity / popularity.sum())
        rating = rng.integers(1, 6, N_RATED).astype(np.float32)
        started = time.perf_counter()
        fold_in.solve(idx, rating)
        seconds.append(time.perf_counter() - started)
    return sorted(seconds)


def _test(case: Case) -> Ratings:
    """The test part, over the same users and items as `ratings`."""
    return replace(
        ratings(case),
        user_idx=case.test_user,
        item_idx=case.test_item,
        rating=case.test_rating,
        rated_at=np.full(len(case.test_rating), NO_TIME),
    )


def _implicit(factors: Factors, train: Ratings, user: int) -> NDArray[np.float32]:
    """Σ_j y_j / √|N| of a user: (width,)."""
    idx = positions(factors.item_keys, train.item_keys[train.item_idx[train.user_idx == user]])
    if factors.items.implicit is None or not (idx >= 0).any():
        return np.zeros(factors.n_factors, np.float32)
    rows = factors.items.implicit[idx[idx >= 0]]
    result: NDArray[np.float32] = rows.sum(0) / np.float32(len(rows) ** 0.5)
    return result


def _with_users(factors: Factors, users: NDArray[np.int64], folded: Sequence[FoldedUser]) -> Factors:
    """The same items with these users, in the order of `folded`, ascending."""
    return replace(
        factors,
        users=Side(
            np.sort(users),
            np.stack([each.vector for each in folded]),
            np.array([each.bias for each in folded], np.float32),
        ),
    )


def _qualities(seeds: Sequence[int], folds: Sequence[int], folder: Path, console: Console) -> Table:
    table = Table("objective", "architecture", "on", "trained", "folded", "folded / trained", "nothing solved")
    cases: list[tuple[Architecture, str, list[tuple[Case, int]]]] = []
    if seeds:
        large = data.ml_1m(folder)
        cases.append(("dot", f"1M, {len(seeds)} seeds", [(large, seed) for seed in seeds]))
    if folds:
        cases.append(("neural", f"100K, {len(folds)} folds", [(data.ml_100k(fold, folder), fold) for fold in folds]))
    for architecture, name, runs in cases:
        objectives: tuple[Objective, ...] = ("ranking", "rating")
        for objective in objectives:
            found = []
            for case, seed in runs:
                found.append(quality(case, objective, architecture, seed))
                console.print(f"{objective} {architecture}, {name}: {found[-1]}", markup=False)
            trained, folded, unsolved = np.mean([(each.trained, each.folded, each.unsolved) for each in found], 0)
            ratio = [each.folded / each.trained for each in found]
            row = f"{trained:.4f}", f"{folded:.4f}", f"{np.mean(ratio):.3f} ({min(ratio):.3f}–{max(ratio):.3f})"
            table.add_row(objective, architecture, name, *row, f"{unsolved:.4f}")
    return table


def _times() -> Table:
    table = Table("objective", "items", "factors", "p50, ms", "p95, ms")
    objectives: tuple[Objective, ...] = ("ranking", "rating")
    for objective in objectives:
        for n_items in (3_700, 62_000):
            for n_factors in (64, 128):
                seconds = seconds_of_one(n_items, n_factors, objective)
                shown = (f"{1000 * np.quantile(seconds, share):.2f}" for share in (0.5, 0.95))
                table.add_row(objective, f"{n_items:,}", str(n_factors), *shown)
    return table


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Quality and time of fold-in.")
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2], help="of the hidden users of MovieLens 1M")
    parser.add_argument("--neural-folds", type=int, nargs="*", default=[1, 2, 3, 4, 5], help="of MovieLens 100K")
    parser.add_argument("--data", type=Path, default=data.SHARED_DATA, help="folder of ml-1m/ and ml-100k.zip")
    given = parser.parse_args(arguments)
    progress, console = Console(stderr=True, soft_wrap=True), Console(width=120)
    console.print(_times())
    if given.seeds or given.neural_folds:
        console.print(_qualities(given.seeds, given.neural_folds, given.data, progress))


if __name__ == "__main__":
    main()
