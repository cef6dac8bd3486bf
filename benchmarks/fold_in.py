"""Compare the quality of folded-in users with that of trained ones, and measure the time of a fold-in.

    python -m benchmarks.fold_in [--seeds 0 1 2] [--neural-folds 1 2 3 4 5]

A training does not see a random tenth of the users, who are then folded in from their training ratings; a second
training sees all users. Both are measured on the test ratings of this tenth: NDCG@10 over the whole catalogue without
the items that the user rated, or RMSE. The dot product runs on MovieLens 1M (trained on folds 2–5, measured on fold 1),
once per seed; the neural model, whose training takes longer, on the official folds of MovieLens 100K. The times are
those of one thread: `make bench-fold-in` limits numpy to one.
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

import benchmarks.spinning  # noqa: F401 - before torch
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

HIDDEN_SHARE = 0.1
"""Share of the users that the first training does not see."""
N_RATED = 50
"""Ratings of the visitor whose fold-in is timed."""


@dataclass(frozen=True, slots=True)
class Quality:
    """NDCG@10 or RMSE of the hidden users.

    Attributes:
        trained: in a training that saw them.
        folded: folded into a training that did not see them.
        unsolved: with the implicit vectors of their items alone, without fold-in.
    """

    trained: float
    folded: float
    unsolved: float


def quality(case: Case, objective: Objective, architecture: Architecture, seed: int) -> Quality:
    """Train with and without a tenth of the users, and measure these users in both models."""
    train, test = ratings(case), held_out_ratings(case)
    hidden = np.random.default_rng(seed).permutation(train.n_users)[: round(HIDDEN_SHARE * train.n_users)]
    is_hidden = np.isin(np.arange(train.n_users), hidden)
    known = train.select(~is_hidden[train.user_idx])
    test = test.select(is_hidden[test.user_idx])

    def trained(on: Ratings) -> Factors:
        n_users = len(np.unique(on.user_idx))
        config = default_config(objective, on.n_ratings, n_users, on.effective_items(), architecture=architecture)
        return fit(on, config, device="cpu", seed=seed).factors

    def measure(factors: Factors) -> float:
        if objective == "rating":
            return evaluate_rating(factors, test).rmse
        return evaluate_ranking(factors, train, test).ndcg

    every, some = trained(train), trained(known)
    folded = fold_in_users(FoldIn(some), some.item_keys, train, hidden)
    unsolved = [FoldedUser(implicit_vector(some, train, user), 0.0, None) for user in np.sort(hidden)]
    return Quality(
        measure(every), measure(with_users(some, hidden, folded)), measure(with_users(some, hidden, unsolved))
    )


def fold_in_users(
    fold_in: FoldIn, item_keys: NDArray[np.int64], train: Ratings, users: NDArray[np.int64]
) -> list[FoldedUser]:
    """Fold in some users from their ratings in `train`, in ascending order.

    Args:
        fold_in: solves one user.
        item_keys: (n_items,) of the model.
        train: the ratings.
        users: positions in `train`.
    """
    starts, order = train.by_user()
    item_idx = positions(item_keys, train.item_keys)  # position in `train` → in the model
    folded = []
    for user in np.sort(users):
        rows = order[starts[user] : starts[user + 1]]
        idx = item_idx[train.item_idx[rows]]
        folded.append(fold_in.solve(idx[idx >= 0], train.rating[rows][idx >= 0]))
    return folded


def solve_seconds(n_items: int, n_factors: int, objective: Objective, n: int = 200) -> list[float]:
    """Return the seconds of n fold-ins, ascending, with random items (popular ones more often) and ratings."""
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


def held_out_ratings(case: Case) -> Ratings:
    """Return the test part over the same users and items as `ratings`."""
    return replace(
        ratings(case),
        user_idx=case.test_user,
        item_idx=case.test_item,
        rating=case.test_rating,
        rated_at=np.full(len(case.test_rating), NO_TIME),
    )


def implicit_vector(factors: Factors, train: Ratings, user: int) -> NDArray[np.float32]:
    """Return Σ_j y_j / √|N| of a user: (width,)."""
    idx = positions(factors.item_keys, train.item_keys[train.item_idx[train.user_idx == user]])
    if factors.items.implicit is None or not (idx >= 0).any():
        return np.zeros(factors.n_factors, np.float32)
    rows = factors.items.implicit[idx[idx >= 0]]
    result: NDArray[np.float32] = rows.sum(0) / np.float32(len(rows) ** 0.5)
    return result


def with_users(factors: Factors, users: NDArray[np.int64], folded: Sequence[FoldedUser]) -> Factors:
    """Return the factors with these users, ascending, in place of their own."""
    return replace(
        factors,
        users=Side(
            np.sort(users),
            np.stack([each.vector for each in folded]),
            np.array([each.bias for each in folded], np.float32),
        ),
    )


def quality_table(seeds: Sequence[int], folds: Sequence[int], folder: Path, console: Console) -> Table:
    """Measure the quality on the real ratings."""
    table = Table("objective", "architecture", "on", "trained", "folded", "folded / trained", "not folded in")
    cases: list[tuple[Architecture, str, list[tuple[Case, int]]]] = []
    if seeds:
        large = data.ml_1m(folder)
        runs = [(large, seed) for seed in seeds]
        cases += [(architecture, f"1M, {len(seeds)} seeds", runs) for architecture in ("dot", "item", "blend")]
    if folds:
        cases.append(("neural", f"100K, {len(folds)} folds", [(data.ml_100k(fold, folder), fold) for fold in folds]))
    for architecture, name, runs in cases:
        objectives: tuple[Objective, ...] = ("ranking", "rating")
        for objective in objectives[:1] if architecture in ("item", "blend") else objectives:
            found = []
            for case, seed in runs:
                found.append(quality(case, objective, architecture, seed))
                console.print(f"{objective} {architecture}, {name}: {found[-1]}", markup=False)
            trained, folded, unsolved = np.mean([(each.trained, each.folded, each.unsolved) for each in found], 0)
            ratio = [each.folded / each.trained for each in found]
            row = f"{trained:.4f}", f"{folded:.4f}", f"{np.mean(ratio):.3f} ({min(ratio):.3f}–{max(ratio):.3f})"
            table.add_row(objective, architecture, name, *row, f"{unsolved:.4f}")
    return table


def time_table() -> Table:
    """Measure the time of a fold-in for several sizes of a model."""
    table = Table("objective", "items", "factors", "p50, ms", "p95, ms")
    objectives: tuple[Objective, ...] = ("ranking", "rating")
    for objective in objectives:
        for n_items in (3_700, 62_000):
            for n_factors in (64, 128):
                seconds = solve_seconds(n_items, n_factors, objective)
                times = (f"{1000 * np.quantile(seconds, share):.2f}" for share in (0.5, 0.95))
                table.add_row(objective, f"{n_items:,}", str(n_factors), *times)
    return table


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark of the command line and print its tables."""
    parser = argparse.ArgumentParser(description="Quality and time of fold-in.")
    parser.add_argument(
        "--seeds", type=int, nargs="*", default=[0, 1, 2], help="seeds of the hidden users of MovieLens 1M"
    )
    parser.add_argument("--neural-folds", type=int, nargs="*", default=[1, 2, 3, 4, 5], help="folds of MovieLens 100K")
    parser.add_argument("--data", type=Path, default=data.SHARED_DATA, help="folder of ml-1m/ and ml-100k.zip")
    options = parser.parse_args(arguments)
    progress, console = Console(stderr=True, soft_wrap=True), Console(width=120)
    console.print(time_table())
    if options.seeds or options.neural_folds:
        console.print(quality_table(options.seeds, options.neural_folds, options.data, progress))


if __name__ == "__main__":
    main()
