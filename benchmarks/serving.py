"""Measure the speed of the service beside a bare endpoint of the same framework, and its memory.

    python -m benchmarks.serving [--only top10-small,similar] [--postgres] [--huge] [--json FILE]

Starts `recsys serve` as a user would, over databases that are built once in `.bench/`, and sends requests from this
process. The ratios are relative to a bare FastAPI endpoint on uvicorn, measured once before and once after.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.table import Table
from sqlalchemy.exc import SQLAlchemyError

from benchmarks import swaps
from benchmarks.load import SUCCESSES, Load, drive, get
from benchmarks.report import describe_machine
from benchmarks.scenarios import READING, ScenarioResult, Session, put_items, rate
from benchmarks.served import ROOT, ServerFailedError, serve_bare, serve_recsys
from benchmarks.serving_data import (
    HUGE,
    LARGE,
    SIZES,
    SMALL,
    Size,
    copied,
    postgres_database,
    postgres_server,
    read_request_pool,
    sqlite_database,
)
from recsys.errors import RecsysError

SQLITE, POSTGRESQL = "SQLite", "PostgreSQL"
ON_POSTGRESQL = ("first", "top10", "rate", "put")
"""Scenarios that also run on PostgreSQL: those that use the database."""
ON_HUGE = ("start", "first", "memory")
LARGE_ONLY = ("start", "batch", "fold-in", "memory")
"""Scenarios that run on the small database only when named: there they show little."""
ONE_CONNECTION = ("batch", "fold-in", "put")
WRITING = ("rate", "put", "swap")
BUSY = 0.15
"""Relative difference of the two measurements of the bare endpoint above which the result has a warning."""


class Task(NamedTuple):
    """One scenario on a database of one size."""

    scenario: str
    size: Size

    @property
    def name(self) -> str:
        return f"{self.scenario}-{self.size.name}"


@dataclass(frozen=True, slots=True)
class TaskResult:
    """Result of a task on a database.

    Attributes:
        task: what was run.
        database: `SQLITE` or `POSTGRESQL`.
        n_users, n_items: size of the database.
        scenario_result: the measurements.
    """

    task: Task
    database: str
    n_users: int
    n_items: int
    scenario_result: ScenarioResult


def default_tasks(*, huge: bool) -> list[Task]:
    """Return the tasks of a run without names."""
    tasks = [Task(name, SMALL) for name in READING if name not in LARGE_ONLY]
    tasks += [Task("rate", SMALL), Task("swap", SMALL)]
    tasks += [Task(name, LARGE) for name in (*READING, "rate", "put")]
    return tasks + [Task(name, HUGE) for name in ON_HUGE if huge]


def select_tasks(names: str | None, *, huge: bool) -> list[Task]:
    """Return the tasks of names separated by commas.

    Args:
        names: `top10-large`, or `top10` for all sizes that it runs on by default; None returns the default tasks.
        huge: whether the defaults include the huge database.

    Raises:
        ValueError: a name is unknown.
    """
    default = default_tasks(huge=huge)
    if names is None:
        return default
    possible = [Task(name, size) for size in SIZES.values() for name in (*READING, *WRITING)]
    found: dict[Task, None] = {}
    for name in names.split(","):
        of_name = [task for task in possible if task.name == name]
        of_name = of_name or [task for task in default if task.scenario == name]
        if not of_name:
            known = ", ".join((*READING, *WRITING))
            raise ValueError(f"there is no scenario {name!r}: expected one of {known}, or one with -small or -large")
        found |= dict.fromkeys(of_name)
    return list(found)


class Benchmark:
    """Runs tasks, one server after another."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.results: list[TaskResult] = []
        self.failures: list[str] = []
        self._options = options
        self._folder: Path = options.cache

    def measure_bare(self) -> Load:
        """Measure the bare endpoint."""
        self._log_progress("bare endpoint")
        with serve_bare(self._folder / "bare.log") as server:
            drive(server.port, repeat(get("/"), 2000))
            return server.drive(repeat(get("/")), self._options.connections, self._options.seconds)

    def run_reading(self, url: str, database: str, tasks: Sequence[Task]) -> None:
        """Run tasks of one size that do not change the database, all on one server."""
        if not tasks:
            return
        pool = read_request_pool(url)
        with serve_recsys(url, self._log_file(tasks[0], database)) as server:
            session = Session(server, pool, self._options.seconds, self._options.connections)
            for name, scenario in READING.items():
                for task in (task for task in tasks if task.scenario == name):
                    self._log_progress(f"{task.name} on {database}")
                    self._add_result(task, database, session, scenario(session))

    def run_writing(self, url: str, database: str, tasks: Sequence[Task]) -> None:
        """Run tasks that write, each on its own copy of the database."""
        for task in tasks:
            self._log_progress(f"{task.name} on {database}")
            log, pool = self._log_file(task, database), read_request_pool(url)
            with copied(url, self._folder) as copy:
                versions = swaps.second_version(copy) if task.scenario == "swap" else (0, 0)
                settings = {"RECSYS_REFRESH_SECONDS": str(swaps.REFRESH_SECONDS)} if task.scenario == "swap" else {}
                with serve_recsys(copy, log, settings) as server:
                    session = Session(server, pool, self._options.seconds, self._options.connections)
                    if task.scenario == "swap":
                        result = swaps.swap(server, copy, pool, versions, self._options.swaps)
                    else:
                        result = put_items(session) if task.scenario == "put" else rate(session)
                    self._add_result(task, database, session, result)

    def run(self, tasks: Sequence[Task]) -> None:
        """Run tasks, the smallest database first; a failure of one size is recorded and the next size runs."""
        with ExitStack() as stack:
            postgres = stack.enter_context(postgres_server(self._folder)) if self._options.postgres else None
            for size in SIZES.values():
                of_size = [task for task in tasks if task.size == size]
                reading = [task for task in of_size if task.scenario in READING]
                writing = [task for task in of_size if task.scenario in WRITING]
                if not of_size:
                    continue
                try:
                    url = sqlite_database(size, self._folder)
                    self.run_reading(url, SQLITE, reading)
                    self.run_writing(url, SQLITE, writing)
                    read_on_both, written_on_both = (
                        [task for task in group if task.scenario in ON_POSTGRESQL and size != HUGE]
                        for group in (reading, writing)
                    )
                    if postgres is not None and (read_on_both or written_on_both):
                        url = postgres_database(size, self._folder, postgres)
                        self.run_reading(url, POSTGRESQL, read_on_both)
                        self.run_writing(url, POSTGRESQL, written_on_both)
                except (ServerFailedError, swaps.SwapFailedError, RecsysError, SQLAlchemyError, OSError) as error:
                    self.failures.append(f"{size.name}: {error}")

    def _add_result(self, task: Task, database: str, session: Session, result: ScenarioResult) -> None:
        pool = session.pool
        self.results.append(TaskResult(task, database, len(pool.user_ids), len(pool.item_ids), result))

    def _log_file(self, task: Task, database: str) -> Path:
        return self._folder / f"serve-{task.size.name}-{database.lower()}.log"

    @staticmethod
    def _log_progress(step: str) -> None:
        sys.stderr.write(f"running: {step}\n")


def print_results(results: Sequence[TaskResult], bare: Sequence[Load], console: Console) -> None:
    """Print the figures as a table, and further figures and errors below it."""
    table = Table("", "database", "items", "requests/s", "p50, ms", "p95, ms", "p99, ms", "p99/p50", "errors")
    for name in ("of bare", "processor, µs", "of bare"):
        table.add_column(name)
    for column in table.columns[2:]:
        column.justify = "right"
    for when, measured in zip(("before", "after"), bare, strict=True):
        table.add_row(f"bare, {when}", "–", "–", *table_cells(measured), "", f"{measured.processor_us:.0f}", "")
    for result in results:
        if (load := result.scenario_result.load) is not None:
            shares = "", ""
            if result.task.scenario not in ONE_CONNECTION:
                cost = sum(each.processor_us for each in bare) / len(bare)
                shares = f"{load.per_second / mean_rate(bare):.3f}", f"{cost / load.processor_us:.3f}"
            cells = (*table_cells(load), shares[0], f"{load.processor_us:.0f}", shares[1])
            table.add_row(result.task.name, result.database, f"{result.n_items:,}", *cells)
    console.print(table)
    if abs(bare[0].per_second - bare[1].per_second) > BUSY * mean_rate(bare):
        console.print("The bare endpoint was not equally fast before and after: something else uses the machine too.")
    for result in results:
        name = f"{result.task.name} ({result.database}, {result.n_users:,} users)"
        if figures := result.scenario_result.figures:
            line = " · ".join(f"{label} {format_figure(value)}" for label, value in figures.items())
            console.print(f"{name}: {line}", soft_wrap=True, highlight=False)
        if (load := result.scenario_result.load) is not None and load.errors:
            console.print(f"{name}: first error {load.first_error}", soft_wrap=True, markup=False, highlight=False)
    for name, ratio in postgres_ratios(results).items():
        console.print(f"{name}: PostgreSQL / SQLite {ratio:.2f}", highlight=False)


def postgres_ratios(results: Sequence[TaskResult]) -> dict[str, float]:
    """Return requests/s on PostgreSQL divided by those on SQLite, for each task that ran on both."""
    rates = {
        (result.task.name, result.database): result.scenario_result.load.per_second
        for result in results
        if result.scenario_result.load is not None
    }
    return {
        name: rate / rates[name, SQLITE]
        for (name, database), rate in rates.items()
        if database == POSTGRESQL and rates.get((name, SQLITE))
    }


def as_record(results: Sequence[TaskResult], bare: Sequence[Load], options: argparse.Namespace) -> dict[str, object]:
    """Return all figures for a JSON file."""
    return {
        "machine": describe_machine(),
        "seconds": options.seconds,
        "connections": options.connections,
        "bare": [load.figures() for load in bare],
        "results": [
            {
                "name": result.task.name,
                "database": result.database,
                "users": result.n_users,
                "items": result.n_items,
                **(load.figures() if (load := result.scenario_result.load) is not None else {}),
                "of_bare": round(load.per_second / mean_rate(bare), 4) if load is not None else None,
                "figures": result.scenario_result.figures,
            }
            for result in results
        ],
        "postgresql_to_sqlite": postgres_ratios(results),
    }


def table_cells(load: Load) -> list[str]:
    """Return the cells of a run: rate, three percentiles, their ratio and the errors."""
    statuses = "/".join(str(status or "none") for status in sorted(load.statuses) if status not in SUCCESSES)
    errors = f"{load.errors:,} ({statuses})" if load.errors else "0"
    if not load.answered:
        return ["–"] * 5 + [errors]
    p50, p95, p99 = (load.percentile(percent) for percent in (50, 95, 99))
    rate = f"{load.per_second:,.0f}" if load.per_second >= 100 else f"{load.per_second:.1f}"
    return [rate, f"{p50:.2f}", f"{p95:.2f}", f"{p99:.2f}", f"{p99 / p50:.1f}", errors]


def format_figure(value: float | None) -> str:
    """Return a figure as text; a dash for None."""
    if value is None:
        return "–"
    return f"{value:,.0f}" if value >= 100 or value == int(value) else f"{value:.2f}"


def mean_rate(bare: Sequence[Load]) -> float:
    """Return the mean requests/s of some runs."""
    return sum(load.per_second for load in bare) / len(bare)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark of the command line and print its results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--only", metavar="NAMES", help=f"separated by commas: {', '.join((*READING, *WRITING))}; with -small or -large"
    )
    parser.add_argument("--postgres", action="store_true", help=f"{' and '.join(ON_POSTGRESQL)} also on PostgreSQL")
    parser.add_argument("--huge", action="store_true", help="also measure a worker's memory with a million users")
    parser.add_argument("--seconds", type=float, default=8.0, help="length of each timed run")
    parser.add_argument("--connections", type=int, default=16)
    parser.add_argument("--swaps", type=int, default=200)
    parser.add_argument("--cache", type=Path, default=ROOT / ".bench", help="folder for the databases")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures to this file")
    options = parser.parse_args(arguments)
    try:
        tasks = select_tasks(options.only, huge=options.huge)
    except ValueError as error:
        parser.error(str(error))
    options.cache.mkdir(parents=True, exist_ok=True)
    benchmark = Benchmark(options)
    bare = [benchmark.measure_bare()]
    benchmark.run(tasks)
    bare.append(benchmark.measure_bare())
    console = Console(width=None if sys.stdout.isatty() else 140)
    console.print(
        f"{describe_machine()}; {options.connections} connections, {options.seconds:g} s each", highlight=False
    )
    print_results(benchmark.results, bare, console)
    if options.json:
        options.json.write_text(json.dumps(as_record(benchmark.results, bare, options), indent=1) + "\n")
    for failure in benchmark.failures:
        sys.stderr.write(f"failed: {failure}\n")
    sys.exit(1 if benchmark.failures else 0)


if __name__ == "__main__":
    main()
