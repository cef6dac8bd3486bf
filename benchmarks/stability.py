"""Measure the largest rise of the training loss between epochs, with the default settings on many kinds of data.

    python -m benchmarks.stability [--orders 3] [--kinds flat steep] [--out benchmarks/results-stability.md]

Each kind of data is trained on under both objectives, in several orders of users, items and rows, each with a seed of
its own. Restarts are off, so that a rise is seen.
"""

import argparse
import io
import zipfile
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow.parquet
from numpy.typing import NDArray
from rich.console import Console

import benchmarks.spinning  # noqa: F401 - before torch
from benchmarks.data import SHARED_DATA, DataMissingError, require_file
from benchmarks.report import Section, describe_machine, markdown_document, markdown_table
from recsys.data.dataset import NO_TIME, Ratings
from recsys.data.keyed import hash_ids
from recsys.results import Objective
from recsys.training.config import default_config
from recsys.training.fit import fit

Columns = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]

N_TASTES = 8


def generated(
    n_users: int,
    n_items: int,
    n_ratings: int,
    *,
    steepness: float,
    seed: int,
    values: Callable[[NDArray[np.float64]], NDArray[np.float64]],
    even: bool = False,
) -> Columns:
    """Draw users who choose items by popularity and taste, and rate them by taste: user, item and value.

    Args:
        steepness: the popularity of the k-th item is proportional to k^−steepness.
        values: maps scores of mean 0 and deviation about 1 to ratings or weights.
        even: whether all users have equally many items; else the numbers are log-normal.
    """
    random = np.random.default_rng(seed)
    p, q = random.normal(size=(n_users, N_TASTES)), random.normal(size=(n_items, N_TASTES))
    log_weight = -steepness * np.log(1 + random.permutation(n_items))
    activity = np.ones(n_users) if even else random.lognormal(0, 1, n_users)
    n_rated = np.clip((activity / activity.sum() * n_ratings).astype(int), 1, n_items // 2)
    items = []
    for user in range(n_users):
        appeal = log_weight + 0.6 * q @ p[user] + random.gumbel(size=n_items)
        items.append(np.argpartition(-appeal, n_rated[user] - 1)[: n_rated[user]])
    user_idx, item_idx = np.repeat(np.arange(n_users), n_rated), np.concatenate(items)
    z = 0.35 * (p[user_idx] * q[item_idx]).sum(1) + 0.7 * random.normal(size=len(user_idx))
    z += 0.4 * random.normal(size=n_users)[user_idx] + 0.4 * random.normal(size=n_items)[item_idx]
    return user_idx, item_idx, values(z)


def stars(z: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return whole stars from 1 to 5."""
    return np.clip(np.round(3.5 + z), 1, 5)


def text_rows(folder: Path, archive: str, name: str, separator: str, header: int = 0) -> Columns:
    """Read the first three columns of a file in a zip."""
    with zipfile.ZipFile(require_file(folder / archive)) as file:
        lines = file.read(name).decode().splitlines()[header:]
    text = io.StringIO("\n".join(line.replace(separator, "\t") for line in lines))
    rows = np.loadtxt(text, delimiter="\t", usecols=(0, 1, 2))
    return rows[:, 0].astype(np.int64), rows[:, 1].astype(np.int64), rows[:, 2]


def parquet_rows(folder: Path, name: str) -> Columns:
    """Read pairs, and ratings if there are any, from a Parquet file."""
    table = pyarrow.parquet.read_table(require_file(folder / name))
    user, item = (table[column].to_numpy().astype(np.int64) for column in ("user_id", "item_id"))
    if "rating" in table.column_names:
        return user, item, table["rating"].to_numpy().astype(np.float64)
    return user, item, np.ones(len(user))


KINDS: dict[str, Callable[[Path], Columns]] = {
    "MovieLens 100K": lambda folder: text_rows(folder, "ml-100k.zip", "ml-100k/u.data", "\t"),
    "MovieLens 1M": lambda folder: parquet_rows(folder, "ml-1m/ratings.parquet"),
    "ml-latest-small": lambda folder: text_rows(
        folder, "ml-latest-small.zip", "ml-latest-small/ratings.csv", ",", header=1
    ),
    "MovieTweetings 50K": lambda folder: text_rows(
        folder, "movietweetings-snapshots.zip", "movietweetings/50K/ratings.dat", "::"
    ),
    "Yelp2018": lambda folder: parquet_rows(folder, "yelp2018/train.parquet"),
    "Gowalla": lambda folder: parquet_rows(folder, "gowalla/train.parquet"),
    "flat": lambda _: generated(3000, 1500, 100_000, steepness=0.1, seed=1, values=stars),
    "steep": lambda _: generated(3000, 1500, 100_000, steepness=1.5, seed=2, values=stars),
    "counts": lambda _: generated(
        2000, 3000, 60_000, steepness=0.9, seed=3, values=lambda z: np.log1p(np.ceil(np.exp(1 + z)))
    ),
    "sessions": lambda _: generated(15_000, 3000, 60_000, steepness=0.9, seed=4, values=np.ones_like, even=True),
    "unary": lambda _: generated(2500, 3000, 80_000, steepness=0.8, seed=5, values=np.ones_like),
    "sparse, 0 to 100": lambda _: generated(
        5000, 6000, 30_000, steepness=0.7, seed=6, values=lambda z: np.clip(np.round(60 + 15 * z), 0, 100)
    ),
}
"""Kind of data → function of the folder of real ratings."""


def ordered(columns: Columns, order: int) -> Ratings:
    """Return the ratings with users, items and rows in a random order; order 0 is the given one."""
    users, user_idx = np.unique(columns[0], return_inverse=True)
    items, item_idx = np.unique(columns[1], return_inverse=True)
    rating = columns[2].astype(np.float32)
    if order:
        random = np.random.default_rng(order)
        user_idx, item_idx = random.permutation(len(users))[user_idx], random.permutation(len(items))[item_idx]
        rows = random.permutation(len(rating))
        user_idx, item_idx, rating = user_idx[rows], item_idx[rows], rating[rows]
    return Ratings(
        user_idx=user_idx.astype(np.int32),
        item_idx=item_idx.astype(np.int32),
        rating=rating,
        rated_at=np.full(len(rating), NO_TIME),
        user_keys=np.arange(len(users)),
        item_keys=np.arange(len(items)),
        user_hash=hash_ids([f"u{key}" for key in range(len(users))]),
        item_hash=hash_ids([f"i{key}" for key in range(len(items))]),
    )


def largest_rise(train: Ratings, objective: Objective, seed: int) -> float:
    """Return the largest quotient of the losses of two successive epochs of a default training."""
    config = default_config(objective, train.n_ratings, train.n_users, train.effective_items())
    fitted = fit(train, config, device="cpu", seed=seed, restarts=False)
    losses = [record.train_loss for record in fitted.history]
    return max(later / earlier for earlier, later in pairwise(losses))


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark of the command line and write its table."""
    parser = argparse.ArgumentParser(description="Largest rise of the training loss of the defaults.")
    parser.add_argument("--orders", type=int, default=3, help="orders of users, items and rows")
    parser.add_argument("--kinds", nargs="+", choices=list(KINDS), default=list(KINDS))
    parser.add_argument("--data", type=Path, default=SHARED_DATA, help="folder of the real ratings")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results-stability.md")
    options = parser.parse_args(arguments)
    console = Console(stderr=True, soft_wrap=True)
    rows = []
    for kind in options.kinds:
        try:
            columns = KINDS[kind](options.data)
        except DataMissingError as error:
            console.print(f"{kind} is left out: {error}", markup=False)
            continue
        cells = [kind, f"{len(columns[2]):,}"]
        for objective in ("rating", "ranking"):
            if objective == "rating" and np.ptp(columns[2]) == 0:
                cells.append("all equal")
                continue
            rises = [largest_rise(ordered(columns, order), objective, order) for order in range(options.orders)]
            console.print(f"{kind}, {objective}: {max(rises):.3f}", markup=False)
            cells.append(f"{max(rises):.3f}")
        rows.append(cells)
    table = markdown_table(["data", "ratings", "rating", "ranking"], rows)
    note = (
        "The loss of an epoch over that of the epoch before: the largest quotient of a training with the defaults, "
        f"over {options.orders} orders of users, items and rows. Below 1, the loss fell in every epoch."
    )
    sections = [Section("Largest rise of the training loss", note, table)]
    options.out.write_text(markdown_document("Stability", f"Machine: {describe_machine()}.", sections))
    console.print(f"written to {options.out}", markup=False)


if __name__ == "__main__":
    main()
