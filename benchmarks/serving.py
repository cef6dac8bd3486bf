"""How fast the service answers, beside a bare endpoint of the same framework, and how much memory it takes.

    python -m benchmarks.serving [--only top10-small,similar] [--postgres] [--huge] [--json FILE]

Starts `recsys serve` as a user would, over databases that are built once into `.bench/`, and asks from this process.
The ratios are to a bare FastAPI endpoint on uvicorn in the same run: the mean of one measurement before and one after.
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
from benchmarks.load import Load, drive, get
from benchmarks.report import machine
from benchmarks.scenarios import READING, Outcome, Session, rate
from benchmarks.served import ROOT, ServerFailedError, bare_served, recsys_served
from benchmarks.serving_data import (
    HUGE,
    LARGE,
    SIZES,
    SMALL,
    Size,
    copied,
    postgres_database,
    postgres_server,
    read_stock,
    sqlite_database,
)
from recsys.errors import RecsysError

SQLITE, POSTGRESQL = "SQLite", "PostgreSQL"
ON_POSTGRESQL = ("first", "top10")
"""What is asked of PostgreSQL too: what reads the database."""
ON_HUGE = ("start", "first", "memory")
LARGE_ONLY = ("start", "batch", "fold-in", "memory")
"""Of these the small database says little; they are run on it when named."""
ONE_CONNECTION = ("batch", "fold-in")
WRITING = ("rate", "swap")
BUSY = 0.15
"""By what share the two measurements of the bare endpoint may differ before the ratios deserve a warning."""


class Chosen(NamedTuple):
    """One scenario on a database of one size."""

    scenario: str
    size: Size

    @property
    def name(self) -> str:
        return f"{self.scenario}-{self.size.name}"


@dataclass(frozen=True, slots=True)
class Result:
    """What a scenario came to on a database."""

    chosen: Chosen
    database: str
    n_users: int
    n_items: int
    outcome: Outcome


def by_default(*, huge: bool) -> list[Chosen]:
    """What is run when nothing is named."""
    chosen = [Chosen(name, SMALL) for name in READING if name not in LARGE_ONLY]
    chosen += [Chosen("rate", SMALL), Chosen("swap", SMALL)]
    chosen += [Chosen(name, LARGE) for name in (*READING, "rate")]
    return chosen + [Chosen(name, HUGE) for name in ON_HUGE if huge]


def selected(wanted: str | None, *, huge: bool) -> list[Chosen]:
    """The scenarios of names divided by commas: `top10-large`, or `top10` for all the sizes it is run on by default.

    Raises:
        ValueError: there is no scenario of a name.
    """
    default = by_default(huge=huge)
    if wanted is None:
        return default
    possible = [Chosen(name, size) for size in SIZES.values() for name in (*READING, *WRITING)]
    found: dict[Chosen, None] = {}
    for name in wanted.split(","):
        of_name = [chosen for chosen in possible if chosen.name == name]
        of_name = of_name or [chosen for chosen in default if chosen.scenario == name]
        if not of_name:
            names = ", ".join((*READING, *WRITING))
            raise ValueError(f"there is no scenario {name!r}: expected one of {names}, or one with -small or -large")
        found |= dict.fromkeys(of_name)
    return list(found)


class Benchmark:
    """Carries out scenarios, one server after another."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.results: list[Result] = []
        self.failures: list[str] = []
        self._options = options
        self._folder: Path = options.cache

    def bare(self) -> Load:
        self._say("the bare endpoint")
        with bare_served(self._folder / "bare.log") as server:
            drive(server.port, repeat(get("/"), 2000))
            return drive(
                server.port, repeat(get("/")), n_connections=self._options.connections, seconds=self._options.seconds
            )

    def reading(self, url: str, database: str, wanted: Sequence[Chosen]) -> None:
        """Scenarios of one size that leave the database as it is, all of one server."""
        if not wanted:
            return
        stock = read_stock(url)
        with recsys_served(url, self._log(wanted[0], database)) as server:
            session = Session(server, stock, self._options.seconds, self._options.connections)
            for name, scenario in READING.items():
                for chosen in (chosen for chosen in wanted if chosen.scenario == name):
                    self._say(f"{chosen.name} on {database}")
                    self._keep(chosen, database, session, scenario(session))

    def writing(self, url: str, wanted: Sequence[Chosen]) -> None:
        """Scenarios that write: each on a copy of its own."""
        for chosen in wanted:
            self._say(f"{chosen.name} on {SQLITE}")
            log, stock = self._log(chosen, SQLITE), read_stock(url)
            with copied(url, self._folder) as copy:
                versions = swaps.second_version(copy) if chosen.scenario == "swap" else (0, 0)
                often = {"RECSYS_REFRESH_SECONDS": str(swaps.REFRESH_SECONDS)} if chosen.scenario == "swap" else {}
                with recsys_served(copy, log, often) as server:
                    session = Session(server, stock, self._options.seconds, self._options.connections)
                    if chosen.scenario == "swap":
                        outcome = swaps.swap(server, copy, stock, versions, self._options.swaps)
                    else:
                        outcome = rate(session)
                    self._keep(chosen, SQLITE, session, outcome)

    def run(self, wanted: Sequence[Chosen]) -> None:
        with ExitStack() as stack:
            postgres = stack.enter_context(postgres_server(self._folder)) if self._options.postgres else None
            for size in SIZES.values():
                of_size = [chosen for chosen in wanted if chosen.size == size]
                reading = [chosen for chosen in of_size if chosen.scenario in READING]
                if not of_size:
                    continue
                try:
                    url = sqlite_database(size, self._folder)
                    self.reading(url, SQLITE, reading)
                    self.writing(url, [chosen for chosen in of_size if chosen.scenario in WRITING])
                    on_both = [chosen for chosen in reading if chosen.scenario in ON_POSTGRESQL and size != HUGE]
                    if postgres is not None and on_both:
                        self.reading(postgres_database(size, self._folder, postgres), POSTGRESQL, on_both)
                except (ServerFailedError, swaps.SwapFailedError, RecsysError, SQLAlchemyError, OSError) as error:
                    self.failures.append(f"{size.name}: {error}")

    def _keep(self, chosen: Chosen, database: str, session: Session, outcome: Outcome) -> None:
        stock = session.stock
        self.results.append(Result(chosen, database, len(stock.user_ids), len(stock.item_ids), outcome))

    def _log(self, chosen: Chosen, database: str) -> Path:
        return self._folder / f"serve-{chosen.size.name}-{database.lower()}.log"

    @staticmethod
    def _say(what: str) -> None:
        sys.stderr.write(f"asking: {what}\n")


def show(results: Sequence[Result], bare: Sequence[Load], console: Console) -> None:
    """The figures as a table, further ones and complaints below it."""
    table = Table(
        "", "database", "items", "requests/s", "p50, ms", "p95, ms", "p99, ms", "p99/p50", "errors", "of bare"
    )
    for column in table.columns[2:]:
        column.justify = "right"
    for when, measured in zip(("before", "after"), bare, strict=True):
        table.add_row(f"bare, {when}", "–", "–", *_cells(measured), "")
    for result in results:
        if (load := result.outcome.load) is not None:
            share = "" if result.chosen.scenario in ONE_CONNECTION else f"{load.per_second / _mean_rate(bare):.3f}"
            table.add_row(result.chosen.name, result.database, f"{result.n_items:,}", *_cells(load), share)
    console.print(table)
    if abs(bare[0].per_second - bare[1].per_second) > BUSY * _mean_rate(bare):
        console.print("The bare endpoint was not equally fast before and after: the machine does something else too.")
    for result in results:
        name = f"{result.chosen.name} ({result.database}, {result.n_users:,} users)"
        if figures := result.outcome.figures:
            said = " · ".join(f"{label} {_figure(value)}" for label, value in figures.items())
            console.print(f"{name}: {said}", soft_wrap=True, highlight=False)
        if (load := result.outcome.load) is not None and load.errors:
            console.print(f"{name}: first error {load.complaint}", soft_wrap=True, markup=False, highlight=False)
    for name, ratio in postgres_ratios(results).items():
        console.print(f"{name}: PostgreSQL / SQLite {ratio:.2f}", highlight=False)


def postgres_ratios(results: Sequence[Result]) -> dict[str, float]:
    """Requests/s on PostgreSQL over those on SQLite, of what was asked of both."""
    rates = {
        (result.chosen.name, result.database): result.outcome.load.per_second
        for result in results
        if result.outcome.load is not None
    }
    return {
        name: rate / rates[name, SQLITE]
        for (name, database), rate in rates.items()
        if database == POSTGRESQL and rates.get((name, SQLITE))
    }


def as_record(results: Sequence[Result], bare: Sequence[Load], options: argparse.Namespace) -> dict[str, object]:
    """Everything, as JSON has it."""
    return {
        "machine": machine(),
        "seconds": options.seconds,
        "connections": options.connections,
        "bare": [load.figures() for load in bare],
        "results": [
            {
                "name": result.chosen.name,
                "database": result.database,
                "users": result.n_users,
                "items": result.n_items,
                **(load.figures() if (load := result.outcome.load) is not None else {}),
                "of_bare": round(load.per_second / _mean_rate(bare), 4) if load is not None else None,
                "figures": result.outcome.figures,
            }
            for result in results
        ],
        "postgresql_to_sqlite": postgres_ratios(results),
    }


def _cells(load: Load) -> list[str]:
    statuses = "/".join(str(status or "none") for status in sorted(load.statuses) if status != 200)
    errors = f"{load.errors:,} ({statuses})" if load.errors else "0"
    if not load.answered:
        return ["–"] * 5 + [errors]
    p50, p95, p99 = (load.percentile(percent) for percent in (50, 95, 99))
    rate = f"{load.per_second:,.0f}" if load.per_second >= 100 else f"{load.per_second:.1f}"
    return [rate, f"{p50:.2f}", f"{p95:.2f}", f"{p99:.2f}", f"{p99 / p50:.1f}", errors]


def _figure(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:,.0f}" if value >= 100 or value == int(value) else f"{value:.2f}"


def _mean_rate(bare: Sequence[Load]) -> float:
    return sum(load.per_second for load in bare) / len(bare)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--only", metavar="NAMES", help=f"divided by commas: {', '.join((*READING, *WRITING))}; with -small or -large"
    )
    parser.add_argument("--postgres", action="store_true", help=f"{' and '.join(ON_POSTGRESQL)} on PostgreSQL too")
    parser.add_argument("--huge", action="store_true", help="the memory of a worker beside a million users too")
    parser.add_argument("--seconds", type=float, default=8.0, help="of each timed run")
    parser.add_argument("--connections", type=int, default=16)
    parser.add_argument("--swaps", type=int, default=200)
    parser.add_argument("--cache", type=Path, default=ROOT / ".bench", help="folder of the databases")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    options = parser.parse_args(arguments)
    try:
        wanted = selected(options.only, huge=options.huge)
    except ValueError as error:
        parser.error(str(error))
    options.cache.mkdir(parents=True, exist_ok=True)
    benchmark = Benchmark(options)
    bare = [benchmark.bare()]
    benchmark.run(wanted)
    bare.append(benchmark.bare())
    console = Console(width=None if sys.stdout.isatty() else 140)
    console.print(f"{machine()}; {options.connections} connections, {options.seconds:g} s each", highlight=False)
    show(benchmark.results, bare, console)
    if options.json:
        options.json.write_text(json.dumps(as_record(benchmark.results, bare, options), indent=1) + "\n")
    for failure in benchmark.failures:
        sys.stderr.write(f"failed: {failure}\n")
    sys.exit(1 if benchmark.failures else 0)


if __name__ == "__main__":
    main()
