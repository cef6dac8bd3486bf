"""Use the service for a long time while people are erased, versions are swapped, keys rotate and workers are killed.

    python -m benchmarks.soak [--minutes 30] [--requests 1000000] [--postgres] [--json FILE]

Two workers of `recsys serve` answer clients that check every answer against plain Python (`benchmarks.soak_clients`).
Meanwhile versions go live in turn, keys are rotated, and the younger worker is killed (SIGKILL) again and again; the
older one is killed at the end, after its memory was measured. At the end the ratings in the database are compared with
what was acknowledged. It ends with 1 if anything was not as it must be.
"""

import argparse
import asyncio
import json
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import uvloop
from sqlalchemy import Engine, func, make_url, select, text

from benchmarks.report import describe_machine
from benchmarks.served import Server, ServerFailedError, is_ready, process_memory, process_tree, serve_recsys
from benchmarks.serving_data import Size, build, postgres_server, store_version
from benchmarks.soak_clients import Client, Connection, Keys, Oracle, Write
from recsys.database import schema
from recsys.database.engine import connect, reading
from recsys.database.keys import create_key, revoke_key
from recsys.database.models import live_numbers, publish
from recsys.serving.refresh import COUNTS_SECONDS

SIZE = Size("soak", 2_000, 1_500, 60_000)
N_CLIENTS = 12
WORKERS = 2
MAX_DRIFT = 0.02
SAMPLE_SECONDS = 2.0
KEY_SECONDS = 4.0
"""How long a new key is known before it is used, and unused before it is revoked."""


@dataclass
class Findings:
    """What the threads beside the clients counted and found wrong."""

    swaps: int = 0
    kills: int = 0
    rotations: int = 0
    slowest_restart: float = 0.0
    problems: list[str] = field(default_factory=list)
    memory: dict[int, list[tuple[float, float]]] = field(default_factory=dict)  # pid → (seconds, MiB)


def workers_of(server: Server) -> list[int]:
    """Return the ids of the worker processes, the oldest first."""
    found = []
    for pid in process_tree(server.pid)[1:]:
        try:
            command = Path(f"/proc/{pid}/cmdline").read_bytes()
            started = int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[19])
        except OSError:  # it has just ended
            continue
        if b"spawn_main" in command:
            found.append((started, pid))
    return [pid for _, pid in sorted(found)]


class Disturbance:
    """Swaps, rotations and kills in threads of their own, until it is stopped."""

    def __init__(self, engine: Engine, server: Server, oracle: Oracle, keys: Keys, seconds: float) -> None:
        self.findings = Findings()
        self._engine, self._server, self._oracle, self._keys, self._seconds = engine, server, oracle, keys, seconds
        self._stop = threading.Event()
        self._started = time.monotonic()
        with reading(engine) as connection:
            live = live_numbers(connection)["ranking"]
        self._versions = (live, store_version(engine, "ranking", seed=1000))
        pace = seconds / 1800  # of a run of half an hour
        self._threads = [
            threading.Thread(target=self._repeat, args=(work, max(2.0, every * pace)), daemon=True)
            for work, every in ((self._swap, 15.0), (self._rotate, 60.0), (self._kill, 45.0), (self._sample, 0.0))
        ]

    def __enter__(self) -> "Disturbance":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(60)

    def _repeat(self, work: Any, every: float) -> None:
        while not self._stop.wait(every):
            try:
                work()
            except Exception as error:  # the report names it; in this thread it would be lost
                self.findings.problems.append(f"{work.__name__.strip('_')}: {type(error).__name__}: {error}")
                return

    def _swap(self) -> None:
        self.findings.swaps += 1
        publish(self._engine, self._versions[self.findings.swaps % 2], "soak")

    def _rotate(self) -> None:
        old = self._keys.text
        name = f"shop {self.findings.rotations}"
        row, text_of_key = create_key(self._engine, f"shop {self.findings.rotations + 1}", ["admin"], actor="soak")
        if self._stop.wait(KEY_SECONDS):
            return
        self._keys.rotate(row.number, text_of_key)
        if self._stop.wait(KEY_SECONDS):
            return
        revoke_key(self._engine, name, actor="soak")
        self._keys.revoked = old, time.monotonic()
        self.findings.rotations += 1

    def _kill(self) -> None:
        workers = workers_of(self._server)
        if len(workers) == WORKERS:
            self.kill(workers[-1])

    def kill(self, pid: int) -> None:
        """Kill a worker, and wait until another one is in its place."""
        started = time.monotonic()
        self._oracle.kills.append(started)
        os.kill(pid, signal.SIGKILL)
        self.findings.kills += 1
        while pid in (present := workers_of(self._server)) or len(present) < WORKERS:
            if time.monotonic() - started > 30:
                self.findings.problems.append("a worker that was killed was not replaced within 30 s")
                return
            time.sleep(0.1)
        self.findings.slowest_restart = max(self.findings.slowest_restart, time.monotonic() - started)

    def _sample(self) -> None:
        for pid in workers_of(self._server):
            try:
                memory = process_memory(pid)
            except (OSError, KeyError):
                continue
            at = time.monotonic() - self._started
            self.findings.memory.setdefault(pid, []).append((at, memory.rss))
        self._stop.wait(SAMPLE_SECONDS)

    def drift(self) -> tuple[float, float, float]:
        """Return the memory of the oldest worker early on (MiB), at the end, and the relative difference."""
        samples = max(self.findings.memory.values(), key=len)
        early = [mib for at, mib in samples if 0.2 <= at / self._seconds <= 0.4]
        late = [mib for at, mib in samples if at / self._seconds >= 0.8]
        if not early or not late:
            return float("nan"), float("nan"), float("nan")
        return median(early), median(late), median(late) / median(early) - 1


def initial_ratings(engine: Engine) -> dict[str, dict[str, Write]]:
    """Return the stored ratings: user → item → write."""
    users, items, ratings = schema.users.c, schema.items.c, schema.ratings.c
    found: dict[str, dict[str, Write]] = {}
    with reading(engine) as connection:
        for user_id in connection.scalars(select(users.user_id)):
            found[user_id] = {}
        joined = select(users.user_id, items.item_id, ratings.rating).select_from(
            schema.ratings.join(schema.users, users.user_key == ratings.user_key).join(
                schema.items, items.item_key == ratings.item_key
            )
        )
        for user_id, item_id, rating in connection.execute(joined):
            found.setdefault(user_id, {})[item_id] = Write(0.0, 0, float(rating))
    return found


def final_problems(engine: Engine, oracle: Oracle) -> list[str]:
    """Compare the database with what was acknowledged: ratings, erased users, and the counts of items."""
    found, problems = initial_ratings(engine), []
    for user_id, expected in oracle.rated.items():
        stored = {item_id: write.rating for item_id, write in found.get(user_id, {}).items()}
        if stored != {item_id: write.rating for item_id, write in expected.items()}:
            problems.append(f"user {user_id} has {len(stored)} ratings in place of {len(expected)}, or other ones")
        if user_id in oracle.erased and user_id in found:
            problems.append(f"user {user_id} was erased and is there")
    items, ratings = schema.items.c, schema.ratings.c
    counts = Counter(item_id for rated in found.values() for item_id in rated)
    with reading(engine) as connection:
        stored_counts = select(items.item_id, func.count()).select_from(
            schema.ratings.join(schema.items, items.item_key == ratings.item_key)
        )
        for item_id, n in connection.execute(stored_counts.group_by(items.item_id)):
            if counts[item_id] != n:
                problems.append(f"item {item_id} has {n} ratings in place of {counts[item_id]}")
    return problems


async def popular_problems(port: int, keys: Keys, oracle: Oracle) -> list[str]:
    """Compare the counts that the service answers with those of what was acknowledged."""
    connection = Connection(port)
    problems, expected = [], Counter(item_id for rated in oracle.rated.values() for item_id in rated)
    status, body = await connection.ask("GET", "/v1/popular?by=count&n=1000", keys.headers)
    if status != 200:
        problems.append(f"popular: {status}")
    else:
        wrong = [one for one in json.loads(body)["items"] if one["score"] != expected[one["item_id"]]]
        if wrong:
            problems.append(f"popular: {len(wrong)} counts are wrong, the first {wrong[0]}")
    connection.close()
    return problems


async def run_clients(clients: Sequence[Client], seconds: float, interval: float) -> None:
    """Run all clients, and print what was done each minute."""
    running = asyncio.gather(*(client.run(seconds, interval) for client in clients))
    started = time.monotonic()
    while not running.done():
        await asyncio.wait([running], timeout=60)
        sys.stderr.write(f"{(time.monotonic() - started) / 60:.0f} minutes\n")
    await running


@contextmanager
def new_database(folder: Path, *, postgres: bool) -> Iterator[str]:
    """The URL of a database with ratings and live versions, for one run."""
    if not postgres:
        url = f"sqlite:///{folder / 'soak.db'}"
        build(url, SIZE)
        yield url
        return
    with postgres_server(folder) as server:
        admin = connect(server.get_uri()).execution_options(isolation_level="AUTOCOMMIT")
        with admin.connect() as connection:
            connection.execute(text("CREATE DATABASE soak"))
        admin.dispose()
        url = make_url(server.get_uri()).set(database="soak").render_as_string(hide_password=False)
        build(url, SIZE)
        yield url


def soak(url: str, log: Path, seconds: float, n_requests: int) -> dict[str, Any]:
    """Run a soak over a database that has ratings and live versions; return its figures and what was wrong."""
    engine = connect(url)
    oracle = Oracle([], initial_ratings(engine))
    with reading(engine) as connection:
        oracle.item_ids = list(connection.scalars(select(schema.items.c.item_id).order_by(schema.items.c.item_key)))
    row, text_of_key = create_key(engine, "shop 0", ["admin"], actor="soak")
    _, reader = create_key(engine, "reader", ["read"], actor="soak")
    keys = Keys(row.number, text_of_key, f"Authorization: Bearer {reader}\r\n")
    users = sorted(oracle.rated)
    with serve_recsys(url, log, workers=WORKERS) as server:
        while len(workers_of(server)) < WORKERS:
            time.sleep(0.1)
        clients = [
            Client(oracle, keys, server.port, users[n::N_CLIENTS], oracle.item_ids[n::N_CLIENTS][:10], seed=n)
            for n in range(N_CLIENTS)
        ]
        disturbance = Disturbance(engine, server, oracle, keys, seconds)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            with disturbance:
                runner.run(run_clients(clients, seconds, N_CLIENTS * seconds / n_requests))
            early, late, drift = disturbance.drift()
            disturbance.kill(workers_of(server)[0])
            while not is_ready(server.port, "/health/ready"):
                time.sleep(0.1)
            time.sleep(COUNTS_SECONDS + 2)  # every process has read the last counts
            problems = [*oracle.faults, *disturbance.findings.problems]
            problems += runner.run(popular_problems(server.port, keys, oracle))
    problems += final_problems(engine, oracle)
    engine.dispose()
    if not drift <= MAX_DRIFT:
        problems.append(f"memory: {early:.1f} MiB early, {late:.1f} MiB late")
    findings = disturbance.findings
    return {
        "database": url.partition(":")[0],
        "minutes": round(seconds / 60, 2),
        "requests": sum(oracle.statuses.values()),
        "statuses": dict(sorted(oracle.statuses.items())),
        "kinds": dict(sorted(oracle.counts.items())),
        "erased now": len(oracle.erased),
        "swaps": findings.swaps,
        "kills": findings.kills,
        "rotations": findings.rotations,
        "slowest restart, s": round(findings.slowest_restart, 1),
        "late lists": oracle.late,
        "memory early, MiB": round(early, 1),
        "memory late, MiB": round(late, 1),
        "drift": round(drift, 4),
        "problems": problems,
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the soak of the command line and print its counts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--requests", type=int, default=1_000_000, help="spread over the time")
    parser.add_argument("--postgres", action="store_true", help="on PostgreSQL in place of SQLite")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures to this file")
    options = parser.parse_args(arguments)
    folder = Path(tempfile.mkdtemp(prefix="recsys-soak-"))
    try:
        with new_database(folder, postgres=options.postgres) as url:
            figures = soak(url, folder / "serve.log", options.minutes * 60, options.requests)
    except ServerFailedError as error:
        sys.exit(f"failed: {error}")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    sys.stdout.write(f"{describe_machine()}\n")
    for name, value in figures.items():
        if name != "problems":
            sys.stdout.write(f"{name}: {value}\n")
    sys.stdout.write(f"problems: {len(figures['problems'])}\n")
    for problem in figures["problems"][:20]:
        sys.stdout.write(f"  {problem}\n")
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1) + "\n")
    sys.exit(1 if figures["problems"] else 0)


if __name__ == "__main__":
    main()
