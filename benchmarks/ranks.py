"""Measure training over ranks on generated ratings: time, processor time, loss, metrics, bytes and memory.

    python -m benchmarks.ranks [--ratings 2e6] [--users 20000] [--items 8000] [--ranks 1 2] [--objective rating]

Each number of ranks trains the same ratings with one thread a rank, on an empty SQLite database. Times are those of the
steps alone; reading and sorting the ratings is in `seconds_in_all`.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.report import describe_machine
from recsys.database.engine import connect, reading
from recsys.database.models import versions
from recsys.database.runs import read_run, read_runs

FILE_ROWS = 2_000_000
"""Most ratings of a file; there are at least four files."""
N_TASTES = 4


def write_ratings(folder: Path, n_ratings: int, n_users: int, n_items: int, seed: int = 0) -> None:
    """Write ratings that a product of factors explains, of users with as many ratings and items of a long tail."""
    folder.mkdir(parents=True)
    random = np.random.default_rng(seed)
    users = random.normal(size=(n_users, N_TASTES)).astype(np.float32)
    items = random.normal(size=(n_items, N_TASTES)).astype(np.float32)
    n_files = max(4, -(-n_ratings // FILE_ROWS))
    for number in range(n_files):
        n = n_ratings // n_files
        user = random.integers(0, n_users, n, np.int32)
        item = (n_items * random.random(n) ** 2.5).astype(np.int32)
        noise = random.normal(size=n).astype(np.float32)
        rating = 3.3 + 0.6 * (users[user] * items[item]).sum(1) + 0.5 * noise
        table = {
            "user_id": user,
            "item_id": item,
            "rating": np.clip(np.round(2 * rating) / 2, 0.5, 5).astype(np.float32),
            "timestamp": 1_500_000_000 + np.arange(n) * 10,
        }
        pq.write_table(pa.table(table), folder / f"part-{number:05d}.parquet")


def measure(ratings: Path, n_ranks: int, options: list[str]) -> dict[str, Any]:
    """Train on some ranks, and return what it took."""
    with tempfile.TemporaryDirectory() as folder:
        url = f"sqlite:///{folder}/recsys.db"
        env = os.environ | {"OMP_NUM_THREADS": "1", "RECSYS_DATABASE_URL": url}
        started = time.perf_counter()
        run = ["-m", "torch.distributed.run", "--nproc-per-node", str(n_ranks), "-m", "jobs.train"]
        done = subprocess.run(
            [sys.executable, *run, "--from", str(ratings), "--no-publish", "--json", *options],
            cwd=folder,
            env=env | {"PYTHONPATH": str(Path(__file__).parents[1])},
            capture_output=True,
            text=True,
        )
        if done.returncode:
            raise SystemExit(done.stderr)
        seconds = time.perf_counter() - started
        with reading(connect(url)) as connection:
            version = versions(connection)[0]
            run_record = read_run(connection, read_runs(connection, 1)[0].number)
        assert run_record is not None
        figures = next(step.figures for step in run_record.steps if step.name == "store")
        return {
            "ranks": n_ranks,
            "seconds": version.training.training_seconds,
            "cpu_seconds_of_a_rank": figures["cpu_seconds"],
            "seconds_in_all": round(seconds, 1),
            "losses": [round(float(str(epoch["train_loss"])), 6) for epoch in version.training.history],
            "metrics": dict(version.training.metrics),
            "bytes_of_step": figures["bytes_of_step"],
            "peak_memory_mib": round(figures["peak_memory_bytes"] / 2**20),
        }


def main() -> None:
    """Generate, train on each number of ranks, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ratings", type=float, default=2e6)
    parser.add_argument("--users", type=int, default=20_000)
    parser.add_argument("--items", type=int, default=8_000)
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--objective", choices=["rating", "ranking"], default="rating")
    parser.add_argument("--factors", type=int, default=64)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument(
        "--from", type=Path, dest="source", help="ratings that were generated before, or to generate there"
    )
    parser.add_argument("--set", default="", help="settings, as `recsys train --set` takes them")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        ratings = given.source or Path(folder) / "ratings"
        if not ratings.exists():
            write_ratings(ratings, int(given.ratings), given.users, given.items)
        options = ["--objective", given.objective, "--n-factors", str(given.factors), "--n-epochs", str(given.epochs)]
        options += ["--set", given.set] if given.set else []
        found: list[dict[str, Any]] = []
        for n_ranks in given.ranks:
            found.append(measure(ratings, n_ranks, options))
            faster = found[0]["seconds"] / found[-1]["seconds"]
            print(json.dumps(found[-1]))  # noqa: T201
            print(f"  {faster:.2f} times as fast as {found[0]['ranks']} ranks", flush=True)  # noqa: T201
    if given.json:
        given.json.write_text(json.dumps({"machine": describe_machine(), "measured": found}, indent=2))


if __name__ == "__main__":
    main()
