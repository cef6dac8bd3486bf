"""Ratings spread over ranks, made without files."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa

from recsys.data.rows import RatingBatch
from recsys.results import Objective
from recsys.training.config import default_config
from recsys.training.ranks.group import Group
from recsys.training.ranks.loop import RankRun, train_ranks
from recsys.training.ranks.partition import Partition, partition
from recsys.training.ranks.spool import Layout, spool

BATCH_ROWS = 5000


def batches(group: Group, n_users: int, n_items: int, n_ratings: int) -> Iterator[RatingBatch]:
    """Yield this rank's part of random ratings."""
    for number in range(group.rank, n_ratings // BATCH_ROWS, group.size):
        random = np.random.default_rng(number)
        yield RatingBatch(
            pa.array(random.integers(0, n_users, BATCH_ROWS)).cast(pa.string()),
            pa.array(random.integers(0, n_items, BATCH_ROWS)).cast(pa.string()),
            random.integers(1, 6, BATCH_ROWS).astype(np.float64),
            number * BATCH_ROWS + np.arange(BATCH_ROWS),
            np.arange(BATCH_ROWS),
        )


def spread(
    group: Group, folder: Path, n_users: int, n_items: int, n_ratings: int, n_slots: int, objective: Objective
) -> Partition:
    """Return random ratings over ranks."""
    folder.mkdir()
    layout = Layout(4, n_slots, group.size)
    return partition(group, spool(group, batches(group, n_users, n_items, n_ratings), layout, folder), objective)


def train_made(group: Group, data: Partition, objective: Objective, **settings: object) -> RankRun:
    """Train on ratings over ranks with 8 factors for an epoch."""
    config = default_config(objective, data.n_ratings, n_factors=8, n_epochs=1, features=False, **settings)
    return train_ranks(group, data, config, seed=0)


def print_bytes(folder: Path) -> None:
    """Print the most bytes that this rank sends in a step: by objective, size of the catalogue and of the batch."""
    from recsys.training.ranks.group import joined

    with joined() as group:
        for objective, n_items, batch_size in (
            ("rating", 500, 256),
            ("rating", 5000, 256),
            ("rating", 5000, 1024),
            ("ranking", 500, 1000),
            ("ranking", 5000, 1000),
        ):
            made = folder / f"{group.rank}-{objective}-{n_items}-{batch_size}"
            data = spread(group, made, 400, n_items, 10_000, 2, objective)
            # What a window exchanges for the implicit terms comes on top, once a window.
            settings = {"n_sampled": 64} if objective == "ranking" else {"implicit": False}
            run = train_made(group, data, objective, batch_size=batch_size, **settings)
            print(objective, n_items, batch_size, max(run.step_bytes))  # noqa: T201
