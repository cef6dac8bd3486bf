"""Measure what `diversity=` costs and gives, on MovieLens 1M.

    python -m benchmarks.diversity [--architectures dot item] [--out benchmarks/results-diversity.md]

Trained on folds 2–5, measured on fold 1. Intra-list diversity is the mean over the pairs of a list of 1 − the share of
genres that both films have among those that either has. The lists are those of the service.
"""

import argparse
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import benchmarks.spinning  # noqa: F401 - before torch
from benchmarks import data
from benchmarks.case import Case, K
from benchmarks.metrics import ranking_metrics
from benchmarks.ours import LISTS, ratings, train_case
from benchmarks.report import Section, describe_machine, format_figure, markdown_document, markdown_table
from recsys.data.keyed import positions
from recsys.scoring.diversity import diversify, pool_size
from recsys.scoring.profile import profiles_of
from recsys.scoring.search import TopN, index_over

DIVERSITIES = (0.0, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5)


def genres_of_films(folder: Path) -> NDArray[np.bool_]:
    """Return which genres each film of MovieLens 1M has, in the order of the ids of the rated films: (n_items, 18)."""
    rated = np.unique(data.read_ml_1m(folder)[:, 1])
    lines = data.require_file(folder / "ml-1m" / "movies.dat").read_text("latin-1").splitlines()
    of_film = {int(line.split("::")[0]): line.split("::")[2].split("|") for line in lines}
    names = sorted({name for genres in of_film.values() for name in genres})
    return np.array([[name in of_film.get(film, ()) for name in names] for film in rated.tolist()])


def intra_list_diversity(lists: NDArray[np.int64], genres: NDArray[np.bool_]) -> float:
    """Return the mean over lists of the mean over pairs of 1 − |both| / |either|: (n, K), (n_items, n_genres)."""
    of_list = genres[lists].astype(np.float32)  # (n, K, n_genres)
    both = of_list @ of_list.transpose(0, 2, 1)
    size = of_list.sum(2)
    either = size[:, :, None] + size[:, None, :] - both
    pairs = np.triu_indices(lists.shape[1], 1)
    return float((1 - both / np.maximum(either, 1))[:, pairs[0], pairs[1]].mean())


def measure(case: Case, genres: NDArray[np.bool_], architecture: str) -> list[list[str]]:
    """Return a row for each diversity."""
    _, fitted = train_case(case, next(name for name, of in LISTS.items() if of == architecture), seed=0)
    factors, train = fitted.factors, ratings(case).compact()
    users = case.list_users.astype(np.int64)
    index, profiles = index_over(factors, train.item_keys), profiles_of(factors, train, users, train.item_keys)
    starts, order = train.by_user()
    rows = positions(train.user_keys, users)
    seen = [train.item_idx[order[starts[row] : starts[row + 1]]] for row in rows.tolist()]
    vectors = factors.user_factors[positions(factors.user_keys, users)]
    pools = index.best(vectors, [pool_size(K)] * len(users), seen, profiles)
    directions = index.items / np.maximum(np.linalg.norm(index.items, axis=1, keepdims=True), 1e-12)
    similarity = None if factors.n_factors or factors.weights is None else factors.weights.similarity()

    def alikeness(items: NDArray[np.int64]) -> NDArray[np.float32]:
        if similarity is None:
            cosines: NDArray[np.float32] = directions[items] @ directions[items].T
            return cosines
        among = similarity.among(items)
        return among / max(float(among.max()), 1e-12)

    popularity = train.item_counts() / train.n_users
    table, first = [], np.zeros(3)
    for diversity in DIVERSITIES:
        started = time.perf_counter()
        lists = np.array([listed(pool, diversity, alikeness) for pool in pools])
        ms = 1000 * (time.perf_counter() - started) / len(pools)
        ndcg = ranking_metrics(case, train.item_keys[lists])["NDCG@10"]
        figures = np.array([ndcg, intra_list_diversity(train.item_keys[lists], genres), popularity[lists].mean()])
        first = figures if diversity == 0 else first
        changes = [f"{100 * change:+.1f} %".replace("-", "−") for change in figures / first - 1]
        coverage = len(np.unique(lists)) / train.n_items
        cells = [f"{format_figure(value, '')} ({change})" for value, change in zip(figures, changes, strict=True)]
        table.append([f"{diversity:g}", *cells, format_figure(coverage, ""), f"{ms:.2f}"])
    return table


def listed(
    pool: TopN, diversity: float, alikeness: Callable[[NDArray[np.int64]], NDArray[np.float32]]
) -> NDArray[np.int64]:
    """Return the K items of a list."""
    if not diversity:
        return pool.item_idx[:K]
    return pool.item_idx[diversify(pool.scores, alikeness(pool.item_idx), K, diversity)]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark of the command line and write its table."""
    parser = argparse.ArgumentParser(description="What diversity costs and gives.")
    parser.add_argument("--architectures", nargs="+", choices=list(LISTS.values()), default=["dot", "item"])
    parser.add_argument("--data", type=Path, default=data.SHARED_DATA, help="folder of the real ratings")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results-diversity.md")
    options = parser.parse_args(arguments)
    case, genres = data.ml_1m(options.data), genres_of_films(options.data)
    head = ["diversity", "NDCG@10", "diversity of a list", "share of users who rated a listed film", "coverage", "ms"]
    sections = [
        Section(architecture, "", markdown_table(head, measure(case, genres, architecture)))
        for architecture in options.architectures
    ]
    preface = (
        "Written by `python -m benchmarks.diversity`: MovieLens 1M, trained on folds 2–5, measured on fold 1, one "
        "seed; changes from the list without diversity in brackets. Diversity of a list: the mean over its pairs of "
        f"1 − the share of genres in common. ms: re-ranking of a list, one thread.\n\nMachine: {describe_machine()}."
    )
    options.out.write_text(markdown_document("Diversity of lists", preface, sections))


if __name__ == "__main__":
    main()
