"""What a night costs, what it leaves on disk, and what the refit is worth.

python -m benchmarks.nightly storing        # 224,000 vectors of 64, checksums included
python -m benchmarks.nightly night          # two full nights on ML-1M, both objectives
python -m benchmarks.nightly disk           # size of the database after 30 nights on ML-1M
python -m benchmarks.nightly later          # NDCG on a later slice: refitted, and not
"""

import argparse
import json
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
from sqlalchemy import Connection, Engine

import benchmarks.spinning  # noqa: F401 - before torch
from benchmarks.data import SHARED_DATA
from jobs.load import load
from jobs.nightly import nightly
from jobs.training_data import choose_config
from recsys.database import migration
from recsys.database.engine import connect, reading
from recsys.database.ids import item_keys, user_keys
from recsys.database.models import Training, publish, store
from recsys.database.runs import read_run
from recsys.evaluation.gate import Judge
from recsys.evaluation.splits import hold_out
from recsys.factors import Factors, Side
from recsys.learner import Learner
from recsys.library.loading import RatingData, load_ratings
from recsys.results import Architecture, Objective
from recsys.settings import Settings
from recsys.training.config import Config, default_config

N_VECTORS, N_ITEMS, WIDTH = 224_000, 24_000, 64


def storing(folder: Path) -> dict[str, float]:
    """Store and publish a version of 200,000 users and 24,000 items."""
    engine = connect(f"sqlite:///{folder / 'storing.db'}")
    migration.upgrade(engine)
    rng = np.random.default_rng(0)
    sides = []
    for keys_of, n in ((user_keys, N_VECTORS - N_ITEMS), (item_keys, N_ITEMS)):
        keys = np.sort(keys_of(engine, [f"{number}" for number in range(n)]))
        sides.append(Side(keys, rng.normal(size=(n, WIDTH)).astype(np.float32), np.zeros(n, np.float32)))
    factors = Factors(objective="ranking", users=sides[0], items=sides[1])
    training = Training("dot", {}, {}, {}, [], "made", 0, 1, (1.0, 5.0), 0.0, True, "made")
    started = time.perf_counter()
    publish(engine, store(engine, factors, training), "made")
    seconds = time.perf_counter() - started
    engine.dispose()
    return {"seconds": round(seconds, 2)}


def night(folder: Path) -> dict[str, Any]:
    """Run two full nights on ML-1M: trainings and refits, judged, stored, published, and pruned.

    The first one also compares architectures; the second one, with two new ratings, keeps the choice, as most nights.
    """
    engine = connect(f"sqlite:///{folder / 'night.db'}")
    migration.upgrade(engine)
    settings = Settings(checkpoints=folder / "checkpoints", gate_margin=1.0)
    load(engine, SHARED_DATA / "ml-1m", settings)
    first = timed_night(engine, settings, [])
    (folder / "day.dat").write_text("new::1::5::2000000000\nnew::2::4::2000000001\n")
    second = timed_night(engine, settings, [folder / "day.dat"])
    engine.dispose()
    return {"first": first, "second": second}


def timed_night(engine: Engine, settings: Settings, sources: list[Path]) -> dict[str, Any]:
    """Run a night; return its seconds, those of its steps, and the figures of its refits."""
    started, cpu_started = time.perf_counter(), time.process_time()
    report = nightly(engine, settings, sources, device="cpu")
    seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - cpu_started
    with reading(engine) as connection:
        run = read_run(connection, report.run or 0)
    steps = (
        {}
        if run is None
        else {
            f"{step.objective or ''} {step.name}".strip(): round(((step.finished_at or 0) - step.started_at) / 1000, 1)
            for step in run.steps
        }
    )
    refits = {
        f"{training.objective}_{name}": round(float(training.refit[name]), 3)
        for training in report.trainings
        if training.refit
        for name in ("overlap", "loss", "twin_loss", "seconds")
    }
    status = {f"{each.objective}_status": each.status for each in report.objectives}
    return {"seconds": round(seconds, 1), "cpu_seconds": round(cpu_seconds, 1), **status, **steps, **refits}


def short_config(
    connection: Connection,
    objective: Objective,
    architecture: Architecture,
    n_ratings: int,
    n_users: int,
    effective_items: float,
    _overrides: Mapping[str, Any],
) -> Config:
    """Return the usual config with one epoch."""
    return choose_config(connection, objective, architecture, n_ratings, n_users, effective_items, {"n_epochs": 1})


def disk(folder: Path, n_nights: int = 30) -> dict[str, float]:
    """Run 30 nights of one epoch on ML-1M, with two new ratings in each; without maps, which take 12 bytes an item."""
    file = folder / "disk.db"
    engine = connect(f"sqlite:///{file}")
    migration.upgrade(engine)
    settings = Settings(checkpoints=folder / "checkpoints", gate_margin=1.0)
    load(engine, SHARED_DATA / "ml-1m", settings)
    engine.dispose()
    of_ratings = file.stat().st_size
    largest = 0
    for number in range(n_nights):
        line = f"new{number}::1::5::2000000000\nnew{number}::2::4::2000000001\n"
        (folder / "day.dat").write_text(line)
        with patch("jobs.pipeline.choose_config", short_config), patch("jobs.nightly.has_extra", lambda _: False):
            nightly(engine, settings, [folder / "day.dat"], device="cpu")
        engine.dispose()
        largest = max(largest, file.stat().st_size)
    return {
        "ratings_mb": round(of_ratings / 1e6, 1),
        "after_mb": round(file.stat().st_size / 1e6, 1),
        "ratio": round(file.stat().st_size / of_ratings, 2),
        "largest_ratio": round(largest / of_ratings, 2),
    }


def later(_: Path) -> dict[str, float]:
    """Train on the oldest 98 % of the ratings, with and without each user's last tenth; measure on the newest 2 %."""
    found: dict[str, float] = {}
    for name in ("ml-100k.zip", "ml-latest-small.zip", "movietweetings-snapshots.zip/movietweetings/10K"):
        ratings = load_ratings(SHARED_DATA / name).ratings
        newest = hold_out(ratings, "time-cut", share=0.02)
        known, test = ratings.select(~newest).compact(), ratings.select(newest).compact()
        scale = float(known.rating.min()), float(known.rating.max())
        config = default_config("ranking", known.n_ratings, known.n_users)
        judge = Judge("ranking", known, test, scale)
        for kind, part in (("twin", known.select(~hold_out(known)).compact()), ("refit", known)):
            fitted = Learner.fit(RatingData(part, {}, {}), config=config, rating_scale=scale, device="cpu")
            found[f"{name} {kind}"] = round(judge.measure(fitted.factors)[1]["ndcg"], 4)
    return found


MEASURED: dict[str, Callable[[Path], dict[str, Any]]] = {
    "storing": storing,
    "night": night,
    "disk": disk,
    "later": later,
}


def main() -> None:
    """Measure what the command line names, and print it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("measured", choices=MEASURED)
    name = parser.parse_args().measured
    folder = Path(tempfile.mkdtemp(prefix="recsys-nightly-"))
    try:
        print(json.dumps({name: MEASURED[name](folder)}))  # noqa: T201
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
