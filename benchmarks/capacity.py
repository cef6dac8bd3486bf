"""Measure what a rating, a user and an item cost: disk, memory and processor time, as differences between sizes.

    python -m benchmarks.capacity [--json FILE]

`recsys capacity --costs FILE` computes with them what any size needs. Times are those of one core's processor time, so
that another load of the machine counts little.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

import numpy as np
from sqlalchemy import Engine

import benchmarks.spinning  # noqa: F401 - before torch
from benchmarks.report import describe_machine
from benchmarks.serving_data import Size as DatabaseSize
from benchmarks.serving_data import random_items, random_ratings, store_version
from jobs.capacity import Costs, Size
from jobs.recommend import UserQuery, recommend_all
from recsys.data.dataset import Ratings
from recsys.database import migration
from recsys.database.engine import connect
from recsys.database.items import upsert_items
from recsys.database.models import publish
from recsys.database.ratings import upsert_ratings
from recsys.results import Objective
from recsys.scoring.search import Index
from recsys.training.config import default_config
from recsys.training.fit import fit

BASE = Size(5_000, 2_000, 200_000)
MORE_RATINGS = Size(5_000, 2_000, 400_000)
MORE_USERS = Size(25_000, 2_000, 200_000)
MORE_ITEMS = Size(5_000, 12_000, 200_000)
N_FACTORS = 64
SEARCHED, N_LISTS = 62_000, 16

_SERVER = """
import sys
from recsys.database.engine import connect, reading
from recsys.serving.snapshot import load_recommender
with reading(connect(sys.argv[1])) as connection:
    recommender = load_recommender(connection)
for model in recommender.models.values():
    model.warm()
print(next(line for line in open('/proc/self/status') if line.startswith('VmRSS')).split()[1])
"""


class Measured(NamedTuple):
    """A database of one size: bytes with ratings alone and with two versions, seconds to load, memory of a server."""

    size: Size
    data: int
    with_versions: int
    load_seconds: float
    server_bytes: int


def processor_seconds(work: Callable[[], object]) -> float:
    """Return the processor time of a call."""
    started = time.process_time()
    work()
    return time.process_time() - started


def measure_database(size: Size, folder: Path) -> tuple[Measured, Engine]:
    """Build a database and measure it."""
    path = folder / f"{size.n_users}-{size.n_items}-{size.n_ratings}.db"
    url = f"sqlite:///{path}"
    engine = connect(url)
    migration.upgrade(engine)
    draw = np.random.default_rng(0)
    upsert_items(engine, random_items(size.n_items, draw))
    ratings = random_ratings(DatabaseSize("capacity", size.n_users, size.n_items, size.n_ratings), draw)
    seconds = processor_seconds(lambda: upsert_ratings(engine, ratings))
    data = file_bytes(engine, path)
    objectives: tuple[Objective, ...] = ("ranking", "rating")
    for objective in objectives:
        publish(engine, store_version(engine, objective, seed=0), "benchmark")
    kib = subprocess.run([sys.executable, "-c", _SERVER, url], check=True, capture_output=True, text=True).stdout
    actual = Size(size.n_users, size.n_items, len(ratings))
    return Measured(actual, data, file_bytes(engine, path), seconds, int(kib) * 1024), engine


def file_bytes(engine: Engine, path: Path) -> int:
    """Return the bytes of an SQLite file once its write-ahead log is in it."""
    with engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
    return path.stat().st_size


def random_training_set(size: Size) -> Ratings:
    """Return ratings in memory."""
    made = random_ratings(
        DatabaseSize("capacity", size.n_users, size.n_items, size.n_ratings), np.random.default_rng(0)
    )
    draw = np.random.default_rng(1)
    return Ratings(
        user_idx=made.user_code,
        item_idx=made.item_code,
        rating=made.rating.astype(np.float32),
        rated_at=made.rated_at,
        user_keys=np.arange(size.n_users),
        item_keys=np.arange(size.n_items),
        user_hash=draw.integers(1 << 62, size=size.n_users, dtype=np.uint64),
        item_hash=draw.integers(1 << 62, size=size.n_items, dtype=np.uint64),
    ).compact()


def epoch_seconds(size: Size, objective: Objective, batch_size: int) -> tuple[float, Ratings]:
    """Return the processor time of an epoch, from the difference between three and one, and the ratings."""
    train = random_training_set(size)
    seconds = []
    for n_epochs in (1, 3):
        config = default_config(
            objective,
            train.n_ratings,
            train.n_users,
            n_factors=N_FACTORS,
            n_epochs=n_epochs,
            batch_size=batch_size,
        )
        seconds.append(
            processor_seconds(lambda config=config: fit(train, config, device="cpu", restarts=False))  # type: ignore[misc]
        )
    return (seconds[1] - seconds[0]) / 2, train


def search_seconds() -> float:
    """Return the processor time of a list among `SEARCHED` items, with others: the smallest of several."""
    draw = np.random.default_rng(0)
    index = Index(
        np.asfortranarray(draw.standard_normal((SEARCHED, N_FACTORS), np.float32)), np.zeros(SEARCHED, np.float32)
    )
    vectors = draw.standard_normal((N_LISTS, N_FACTORS), np.float32)
    return min(processor_seconds(lambda: index.best(vectors, [10] * N_LISTS)) for _ in range(20)) / N_LISTS


def measure(folder: Path) -> Costs:
    """Measure all costs."""
    base, engine = measure_database(BASE, folder)
    by_ratings, by_users, by_items = (
        measure_database(size, folder)[0] for size in (MORE_RATINGS, MORE_USERS, MORE_ITEMS)
    )

    def per(more: Measured, field: str, count: str) -> float:
        change: float = getattr(more, field) - getattr(base, field)
        of_ratings = 0.0 if more is by_ratings else rating_share(field) * (more.size.n_ratings - base.size.n_ratings)
        n: int = getattr(more.size, count) - getattr(base.size, count)
        return (change - of_ratings) / n

    def rating_share(field: str) -> float:
        return per(by_ratings, field, "n_ratings")

    user_disk, item_disk = per(by_users, "data", "n_users"), per(by_items, "data", "n_items")
    vector, near = 4 * N_FACTORS, 8 * 32 / 2  # neighbours are stored with one of the two versions
    lists = folder / "lists.parquet"
    report = recommend_all(engine, lists, UserQuery())
    batch = 4096
    rating_epoch, ratings = epoch_seconds(MORE_RATINGS, "rating", batch)
    ranking_epoch, few = epoch_seconds(BASE, "ranking", batch)
    more_scores, many = epoch_seconds(MORE_ITEMS, "ranking", batch)
    scores = many.n_users * many.n_items - few.n_users * few.n_items
    score = max(more_scores - ranking_epoch, 0.0) / scores / N_FACTORS
    rest = max(ranking_epoch - score * N_FACTORS * few.n_users * few.n_items, 0.0)
    server_item = per(by_items, "server_bytes", "n_items") - 4 * vector - 2 * near
    return Costs(
        rating_disk=per(by_ratings, "data", "n_ratings"),
        user_disk=user_disk,
        item_disk=item_disk,
        version_user_disk=(per(by_users, "with_versions", "n_users") - user_disk) / 2 - vector,
        version_item_disk=(per(by_items, "with_versions", "n_items") - item_disk) / 2 - 2 * vector,
        list_row_disk=lists.stat().st_size / report.rows,
        server_base_memory=base.server_bytes - BASE.n_items * (server_item + 4 * vector + 2 * near),
        server_item_memory=server_item,
        load_rating=per(by_ratings, "load_seconds", "n_ratings"),
        train_rating=rating_epoch / ratings.n_ratings / N_FACTORS,
        train_ranking=rest / few.n_ratings / N_FACTORS,
        train_score=score,
        search_item=search_seconds() / SEARCHED / N_FACTORS,
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure the costs and print them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the costs to this file")
    options = parser.parse_args(arguments)
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        if os.environ.get(name) != "1":
            parser.error(f"set {name}=1: the costs are those of one core")
    with tempfile.TemporaryDirectory() as folder:
        costs = asdict(measure(Path(folder)))
    print(describe_machine())  # noqa: T201
    print(json.dumps(costs, indent=1))  # noqa: T201
    if options.json:
        options.json.write_text(json.dumps(costs, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
