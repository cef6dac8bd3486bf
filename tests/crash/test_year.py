"""Nights with faults at random, one after the other, with the API under load; after each every promise is checked.

`RECSYS_YEAR_NIGHTS` and `RECSYS_YEAR_SEED` repeat a part; a failure names its seed and night.
"""

import http.client
import json
import os
import random
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from sqlalchemy import Connection, Engine, func, select

from recsys.data.encoding import collect
from recsys.data.rows import RatingBatch
from recsys.database import migration, schema
from recsys.database.changes import current_seq
from recsys.database.engine import connect, reading, writing
from recsys.database.models import live_numbers, load_factors, load_judged, version
from recsys.database.publications import previously_published
from recsys.database.ratings import upsert_ratings
from recsys.database.users import erase_user
from recsys.errors import DamagedVersionError
from tests.conftest import postgres_database
from tests.crash.child import SERVER_FAULTS
from tests.crash.test_crashes import MADE, do, fill, report
from tests.forked import Server
from tests.jobs.cli.test_main import Recsys, free_port

FAULTS = ("none", "none", "kill", "kill", "late kill", "stop", "two", "erase", "flip", "clock")
RATED = sorted(set(MADE.ratings.item_ids.to_pylist()))[:20]
"""The items that are rated during the year. Every user has more than five unseen items besides these."""
FAULTS_OF = {"sqlite": (*FAULTS, "full"), "postgresql": (*FAULTS, *SERVER_FAULTS)}


@dataclass
class Load:
    """Clients of the API: they post ratings and ask for lists until they are stopped.

    Attributes:
        acknowledged: (user, item) → the last rating that the API acknowledged.
        problems: answers that must not be.
    """

    port: int
    seed: int
    acknowledged: dict[tuple[str, str], float] = field(default_factory=dict)
    uncertain: set[tuple[str, str]] = field(default_factory=set)
    problems: list[str] = field(default_factory=list)
    n_answers: int = 0
    paused: threading.Event = field(default_factory=threading.Event)
    idle: threading.Event = field(default_factory=threading.Event)
    done: bool = False

    def ask(self, method: str, path: str, body: object = None) -> tuple[int, Any]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            sent = None if body is None else json.dumps(body)
            connection.request(method, path, sent, {"Content-Type": "application/json"} if sent else {})
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read() or b"null")
        finally:
            connection.close()

    def pause(self) -> None:
        """Wait for the answers that are under way, and ask nothing until `paused` is cleared."""
        self.idle.clear()
        self.paused.set()
        assert self.idle.wait(60), self.problems

    def run(self) -> None:
        """Ask and post until `done`; an error of the connection is a problem."""
        try:
            self.ask_and_post()
        except Exception as error:
            self.problems.append(f"{type(error).__name__}: {error}")
        while not self.done:
            self.idle.set()
            time.sleep(0.02)

    def ask_and_post(self) -> None:
        rng = random.Random(self.seed)
        while not self.done:
            if self.paused.is_set():
                self.idle.set()
                time.sleep(0.02)
                continue
            user, item = f"u{rng.randint(1, 100):04}", rng.choice(RATED)
            status, answer = self.ask("GET", f"/v1/users/{user}/recommendations?n=5")
            self.n_answers += 1
            if status != 200 or len(answer["items"]) != 5:
                self.problems.append(f"list of {user}: {status} {answer}")
            rating = float(rng.randint(1, 5))
            status, answer = self.ask(
                "POST", "/v1/ratings", {"ratings": [{"user_id": user, "item_id": item, "rating": rating}]}
            )
            if status == 200 and answer["rejected"] == 0:
                self.acknowledged[user, item] = rating
                self.uncertain.discard((user, item))
            elif status == 503:
                self.uncertain.add((user, item))
            else:
                self.problems.append(f"rating of {user}: {status} {answer}")
            time.sleep(0.05)


@dataclass
class Year:
    """What the nights run on.

    Attributes:
        server: the PostgreSQL server of the engine, which may be stopped; `None` on SQLite.
        load: the clients of the API.
        second: runs a night beside another one.
        erased: keys of erased users.
    """

    engine: Engine
    server: Any
    folder: Path
    load: Load
    second: Server = field(default_factory=Server)
    erased: set[int] = field(default_factory=set)

    def run(self, seed: int, n_nights: int) -> dict[str, int]:
        """Run nights with seeded faults; return how often each occurred."""
        engine, load, happened = self.engine, self.load, dict[str, int]()
        for night in range(n_nights):
            rng = random.Random(f"{seed} {night}")
            add_ratings(engine, rng, night)
            kind = rng.choice(FAULTS_OF[engine.dialect.name])
            where = f"seed {seed}, night {night}, {kind}"
            happened[kind] = happened.get(kind, 0) + 1
            with_fault(self, rng, kind)
            if self.server is not None:
                self.server.ensure_postgres_running()
            for _ in range(5):  # until the lease of what was killed has ended
                code, _, errors = do(engine, self.folder, "night", None)
                if "is being run by" not in errors:
                    break
                time.sleep(0.5)
            assert code == 0, f"{where}: {errors[-2000:]}"
            load.pause()
            with reading(engine) as connection:
                seq = current_seq(connection)
            code, _, errors = do(engine, self.folder, "night", None)
            assert code == 0, f"{where}: {errors[-2000:]}"
            problems = [*load.problems, *broken_promises(engine, load, self.erased, seq)]
            assert problems == [], f"{where}: {problems[:5]}"
            load.paused.clear()
        return happened


def add_ratings(engine: Engine, rng: random.Random, night: int) -> None:
    """Twenty ratings of the day."""
    rows = [(f"u{rng.randint(1, 100):04}", rng.choice(RATED), float(rng.randint(1, 5))) for _ in range(20)]
    users, items, values = zip(*dict.fromkeys(rows), strict=True)
    at = np.full(len(users), 2 * 10**12 + night * 86_400_000)
    batch = RatingBatch(pa.array(users), pa.array(items), np.array(values), at, np.arange(len(users)))
    upsert_ratings(engine, collect([batch]))


def with_fault(year: Year, rng: random.Random, kind: str) -> None:
    """Run a night in which something goes wrong."""
    engine, folder, load = year.engine, year.folder, year.load
    if kind in SERVER_FAULTS:
        fault_at, postmaster = rng.randint(1, 800), year.server.get_pid()
        do(engine, folder, "night", None, server_fault=kind, fault_at=fault_at, postmaster=postmaster)
    elif kind in ("kill", "clock", "full", "late kill"):
        fault: dict[str, object] = {
            "kill": {"kill_at": rng.randint(1, 800)},
            "late kill": {"kill_after": rng.uniform(0, 2)},
            "clock": {"clock_ms": rng.choice([-86_400_000, 86_400_000, -3_600_000])},
            "full": {"max_pages": 1},
        }[kind]
        do(engine, folder, "night", None, **fault)
    elif kind in ("stop", "two"):
        url = engine.url.render_as_string(hide_password=False)
        request = {"url": url, "job": "night", "argument": None}
        if kind == "stop":
            request |= {"stop_after": rng.uniform(0, 1.5), "stop_seconds": 4}
        code = f"from tests.crash.child import main; main({request!r})"
        other = threading.Thread(target=year.second.run, args=(["-c", code], folder, dict(os.environ), 600))
        other.start()
        time.sleep(2 if kind == "stop" else 0.1)
        do(engine, folder, "night", None)
        other.join()
    elif kind == "erase":
        user = f"u{rng.randint(1, 100):04}"
        with reading(engine) as connection:
            year.erased.update(
                connection.scalars(select(schema.users.c.user_key).where(schema.users.c.user_id == user))
            )
        timer = threading.Timer(rng.uniform(0, 1.5), lambda: erase_user(engine, user, actor="test"))
        timer.start()
        do(engine, folder, "night", None)
        timer.join()
        load.pause()
        # Ratings posted after the erasure make the user anew.
        for pair in [pair for pair in load.acknowledged if pair[0] == user]:
            load.acknowledged.pop(pair)
        load.paused.clear()
    elif kind == "flip":
        with writing(engine) as connection:
            numbers = sorted(live_numbers(connection).values())
            if numbers:
                flip_byte(connection, rng.choice(numbers))
        do(engine, folder, "night", None)
    else:
        do(engine, folder, "night", None)


def flip_byte(connection: Connection, number: int) -> None:
    """Damage the items of a version: a vector, or the weights where its vectors are empty."""
    for column in (schema.item_factors.c.vector, schema.item_weights.c.weights):
        of_version = column.table.c.number == number
        row = connection.execute(select(column.table).where(of_version, func.length(column) > 0).limit(1)).first()
        if row is None:
            continue
        content = row._mapping[column.name]
        same = [key == row._mapping[key.name] for key in column.table.primary_key]
        connection.execute(column.table.update().where(*same).values({column: bytes([content[0] ^ 64, *content[1:]])}))
        return


def broken_promises(engine: Engine, load: Load, erased: set[int], seq: int) -> list[str]:
    """Return what is not as it must be after a night, while no client posts."""
    problems: list[str] = []
    models, runs = schema.models.c, schema.job_runs.c
    with reading(engine) as connection:
        for objective, number in live_numbers(connection).items():
            try:
                load_factors(connection, number)
                load_judged(connection, number)
            except DamagedVersionError as error:
                if not previously_published(connection, objective):
                    problems.append(f"nothing to serve in place of {error}")
        for number in connection.scalars(select(models.number).where(models.status == "ready", models.number > 0)):
            training = version(connection, number).training
            if training.gate_passed and training.refit is None:
                problems.append(f"version {number} passed the gate and was not refitted")
        half = connection.scalars(select(models.number).where(models.status == "storing")).all()
        if half:
            problems.append(f"versions {half} are half stored")
        for objective, n in connection.execute(select(models.objective, func.count()).group_by(models.objective)):
            if n > 6:
                problems.append(f"{n} sets of factors of {objective}")
        newest = select(func.max(models.number)).where(models.number > 0).group_by(models.objective)
        n_ratings = connection.scalar(select(func.count()).select_from(schema.ratings))
        for number, trained_on in connection.execute(
            select(models.number, models.n_ratings).where(models.number.in_(newest))
        ):
            if trained_on != n_ratings:
                problems.append(f"version {number} was trained on {trained_on} of {n_ratings} ratings")
        stored = schema.user_factors.c
        left = connection.scalars(select(stored.user_key).where(stored.user_key.in_(erased))).all()
        if left:
            problems.append(f"the versions have rows of the erased users {set(left)}")
        running = connection.scalars(select(runs.run_key).where(runs.status == "running")).all()
        if running:
            problems.append(f"the runs {running} have not ended")
        ratings = {
            (user, item): rating
            for user, item, rating in connection.execute(
                select(schema.users.c.user_id, schema.items.c.item_id, schema.ratings.c.rating)
                .join(schema.users, schema.users.c.user_key == schema.ratings.c.user_key)
                .join(schema.items, schema.items.c.item_key == schema.ratings.c.item_key)
            )
        }
        counted = dict(connection.execute(select(schema.item_counts.c.item_key, schema.item_counts.c.n_ratings)).all())
        actual = dict(
            connection.execute(
                select(schema.ratings.c.item_key, func.count()).group_by(schema.ratings.c.item_key)
            ).all()
        )
        now = current_seq(connection)
    for pair in load.acknowledged.keys() - ratings.keys():
        problems.append(f"the acknowledged rating {pair} is lost")
    if {key: n for key, n in counted.items() if n} != actual:
        problems.append("the counts of items are wrong")
    if now != seq:
        problems.append("a night without news changed ratings")
    return problems


def run_year(engine: Engine, server: Any, tmp_path: Path, seed: int, n_nights: int) -> dict[str, int]:
    """Run nights while a server answers."""
    fill(engine)
    assert do(engine, tmp_path, "night", None)[0] == 0
    recsys, port = Recsys(tmp_path, engine.url.render_as_string(hide_password=False)), free_port()
    load = Load(port, seed)
    with (tmp_path / "serve.log").open("w") as log:
        process = subprocess.Popen(
            recsys.command("serve", "--port", str(port)), cwd=tmp_path, env=recsys.environment, stderr=log, stdout=log
        )
    year = Year(engine, server, tmp_path, load)
    client = threading.Thread(target=load.run, daemon=True)
    try:
        for _ in range(600):
            try:
                if load.ask("GET", "/health/ready")[0] == 200:
                    break
            except OSError:
                time.sleep(0.1)
        client.start()
        return {**year.run(seed, n_nights), "answers": load.n_answers}
    finally:
        load.done = True
        client.join(60)
        year.second.close()
        process.terminate()
        process.wait(60)


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Engine, Any]]:
    """A database with all tables and no rows, and its PostgreSQL server, which may be stopped; `None` on SQLite."""
    if request.param == "sqlite":
        yield request.getfixturevalue("sqlite_engine"), None
        return
    server = request.getfixturevalue("own_server")
    with postgres_database(server.get_uri()) as url:
        engine = connect(url)
        migration.upgrade(engine)
        yield engine, server
        engine.dispose()


@pytest.mark.crash
@pytest.mark.parametrize("part", range(4))
def test_a_year_of_nights(place: tuple[Engine, Any], tmp_path: Path, part: int) -> None:
    engine, server = place
    n_nights = int(os.environ.get("RECSYS_YEAR_NIGHTS", "46"))  # 4 parts on 2 databases: 368 nights
    seed = int(os.environ.get("RECSYS_YEAR_SEED", str(part)))
    happened = run_year(engine, server, tmp_path, seed, n_nights)
    report(f"year on {engine.dialect.name}, seed {seed}: {n_nights} nights, faults and answers {json.dumps(happened)}")
