"""Measure what users with dislikes only get, and what their vectors cost in accuracy.

    python -m benchmarks.dislikes [--seeds 0 1 2]

The multinomial loss has only positive weights, so that one star pulls towards an item as five do, if less. The vectors
of users whose ratings are all below the middle of the scale point away instead. On the official folds of MovieLens 100K
each version is measured with and without that: NDCG@10 of all users. Then a visitor gives one star to the eight most
rated items of a genre: how many of the ten listed items are of the genre, beside the ten most rated ones that are left.
"""

import argparse
import io
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

import benchmarks.spinning  # noqa: F401 - before torch
from benchmarks import data
from benchmarks.fold_in import held_out_ratings
from benchmarks.ours import ratings
from recsys.data.keyed import positions
from recsys.evaluation.metrics import evaluate_ranking
from recsys.factors import Factors, RankingConstants
from recsys.scoring.fold_in import FoldIn
from recsys.training.config import default_config
from recsys.training.fit import fit

N_DISLIKED, N_LISTED = 8, 10
SCALE = (1.0, 5.0)


def read_genres(folder: Path = data.SHARED_DATA) -> tuple[list[str], NDArray[np.bool_]]:
    """Return the names of the genres of MovieLens 100K, and (n_items, n_genres) which item is of which."""
    with zipfile.ZipFile(folder / "ml-100k.zip") as file:
        names = [line.split("|")[0] for line in file.read("ml-100k/u.genre").decode().split("\n") if "|" in line]
        rows = io.StringIO(file.read("ml-100k/u.item").decode("latin-1"))
        flags = [line.rstrip("\n").split("|")[5:] for line in rows if line.strip()]
    return names, np.array(flags) == "1"


def listed_of_kind(factors: Factors, counts: NDArray[np.int64], kind: NDArray[np.bool_], away: bool) -> int:
    """Return how many of the items for someone who disliked the most rated items of a kind are of it.

    Args:
        counts: (n_items,) numbers of ratings, of all items.
        kind: (n_items,) which items are of the kind.
        away: whether dislikes point away.
    """
    known = factors.item_keys
    rated = known[np.argsort(np.where(kind[known], -counts[known], 1), kind="stable")[:N_DISLIKED]]
    constants = factors.constants
    assert isinstance(constants, RankingConstants)
    if not away:
        constants = replace(constants, dislike_below=-np.inf)
    fold_in = FoldIn(replace(factors, constants=constants))
    vector = fold_in.solve(positions(known, rated), np.ones(N_DISLIKED, np.float32)).vector
    score = factors.item_factors @ vector + factors.item_bias
    score[positions(known, rated)] = -np.inf
    return int(kind[known[np.argsort(-score, kind="stable")[:N_LISTED]]].sum())


def popular_of_kind(counts: NDArray[np.int64], kind: NDArray[np.bool_]) -> int:
    """Return how many of the most rated items are of a kind, without the items that were disliked."""
    disliked = np.flatnonzero(kind)[np.argsort(-counts[kind], kind="stable")[:N_DISLIKED]]
    left = counts.copy()
    left[disliked] = -1
    return int(kind[np.argsort(-left, kind="stable")[:N_LISTED]].sum())


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--folds", type=int, nargs="+", default=[1, 2, 3, 4, 5])
    arguments = parser.parse_args()
    names, genres = read_genres()
    accuracy = Table("fold", "seed", "users with dislikes only", "NDCG@10 with", "without")
    kinds = Table("genre", "away", "towards", "popularity")
    found: dict[str, list[tuple[int, int, int]]] = {name: [] for name in names}
    for fold in arguments.folds:
        case = data.ml_100k(fold)
        train, test = replace(ratings(case), scale=SCALE), held_out_ratings(case)
        counts = np.bincount(train.item_idx, minlength=len(genres))
        highest = np.zeros(train.n_users)
        np.maximum.at(highest, train.user_idx, train.rating)
        n_disliking = int(((highest > 0) & (highest < sum(SCALE) / 2)).sum())
        config = default_config("ranking", train.n_ratings, train.n_users, train.effective_items())
        for seed in arguments.seeds:
            away = fit(train, config, rating_scale=SCALE, device="cpu", seed=seed).factors
            plain = fit(replace(train, scale=None), config, rating_scale=SCALE, device="cpu", seed=seed).factors
            ndcg = [evaluate_ranking(factors, train, test).ndcg for factors in (away, plain)]
            accuracy.add_row(str(fold), str(seed), str(n_disliking), *(f"{value:.4f}" for value in ndcg))
            for name, kind in zip(names, genres.T, strict=True):
                if (kind & (counts > 0)).sum() >= 2 * N_DISLIKED:
                    both = (listed_of_kind(away, counts, kind, points_away) for points_away in (True, False))
                    found[name].append((*both, popular_of_kind(counts, kind)))  # type: ignore[arg-type]
    for name, rows in found.items():
        if rows:
            kinds.add_row(name, *(f"{value:.1f}" for value in np.mean(rows, axis=0)))
    console = Console()
    console.print(accuracy)
    console.print(kinds)
    every = np.array([row for rows in found.values() for row in rows])
    console.print(f"lists with more of the genre than popularity: {(every[:, 0] > every[:, 2]).sum()} of {len(every)}")


if __name__ == "__main__":
    main()
