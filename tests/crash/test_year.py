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
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from sqlalchemy import Engine, func, select

from recsys.data.encoding import collect
from recsys.data.rows import RatingBatch
from recsys.database import schema
from recsys.database.changes import current_seq
from recsys.database.engine import reading, writing
from recsys.database.models import live_numbers, load_factors, load_judged, previously_published, version
from recsys.database.ratings import upsert_ratings
from recsys.database.users import erase_user
from recsys.errors import DamagedVersionError
from tests.crash.test_crashes import MADE, do, fill, release, report
from tests.forked import Server
from tests.jobs.cli.test_main import Recsys, free_port

FAULTS = ("none", "none", "kill", "kill", "late kill", "stop", "two", "erase", "flip", "full", "clock")


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

    def run(self) -> None:
        rng = random.Random(self.seed)
        while not self.done:
            if self.paused.is_set():
                self.idle.set()
                time.sleep(0.02)
                continue
            self.idle.clear()
            user, item = f"u{rng.randint(1, 100):04}", rng.choice(MADE.items).item_id
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


def nights(engine: Engine, folder: Path, seed: int, n_nights: int, port: int) -> dict[str, int]:
    """Run nights with seeded faults; return how often each occurred."""
    happened: dict[str, int] = {}
    erased: set[str] = set()
    load = Load(port, seed)
    client = threading.Thread(target=load.run, daemon=True)
    client.start()
    second = Server()
    try:
        for night in range(n_nights):
            rng = random.Random(f"{seed} {night}")
            where = f"seed {seed}, night {night}"
            add_ratings(engine, rng, night)
            kind = rng.choice(FAULTS)
            if kind == "full" and engine.dialect.name != "sqlite":
                kind = "kill"
            happened[kind] = happened.get(kind, 0) + 1
            with_fault(engine, folder, rng, kind, erased, load, second)
            for _ in range(3):  # until the lease of what was killed has ended
                code, _, errors = do(engine, folder, "night", None)
                if code != 3 and "holds the lease" not in errors and "is being run by" not in errors:
                    break
                time.sleep(1.1)
            assert code == 0, f"{where}, {kind}: {errors[-2000:]}"
            load.paused.set()
            assert load.idle.wait(60)
            with reading(engine) as connection:
                seq = current_seq(connection)
            code, _, errors = do(engine, folder, "night", None)
            assert code == 0, f"{where}, {kind}: {errors[-2000:]}"
            problems = [*load.problems, *broken_promises(engine, load, erased, seq)]
            assert problems == [], f"{where}, {kind}: {problems[:5]}"
            load.paused.clear()
    finally:
        load.done = True
        client.join(60)
        second.close()
    happened["answers"] = load.n_answers
    return happened


def add_ratings(engine: Engine, rng: random.Random, night: int) -> None:
    """Twenty ratings of the day."""
    rows = [(f"u{rng.randint(1, 100):04}", rng.choice(MADE.items).item_id, float(rng.randint(1, 5))) for _ in range(20)]
    users, items, values = zip(*dict.fromkeys(rows), strict=True)
    at = np.full(len(users), 2 * 10**12 + night * 86_400_000)
    batch = RatingBatch(pa.array(users), pa.array(items), np.array(values), at, np.arange(len(users)))
    upsert_ratings(engine, collect([batch]))


def with_fault(
    engine: Engine, folder: Path, rng: random.Random, kind: str, erased: set[str], load: Load, second: Server
) -> None:
    """Run a night in which something goes wrong."""
    if kind in ("kill", "clock", "full", "late kill"):
        fault: dict[str, object] = {
            "kill": {"kill_at": rng.randint(1, 400)},
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
        other = threading.Thread(target=second.run, args=(["-c", code], folder, dict(os.environ), 600))
        other.start()
        time.sleep(2 if kind == "stop" else 0.1)
        do(engine, folder, "night", None)
        other.join()
    elif kind == "erase":
        user = f"u{rng.randint(1, 100):04}"
        timer = threading.Timer(rng.uniform(0, 1.5), lambda: erase_user(engine, user, actor="test"))
        timer.start()
        do(engine, folder, "night", None)
        timer.join()
        load.paused.set()
        load.idle.wait(60)
        # Ratings posted after the erasure make the user anew.
        for pair in [pair for pair in load.acknowledged if pair[0] == user]:
            load.acknowledged.pop(pair)
        load.paused.clear()
    elif kind == "flip":
        with writing(engine) as connection:
            numbers = sorted(live_numbers(connection).values())
            if numbers:
                chosen = schema.item_factors.c.number == rng.choice(numbers)
                row = connection.execute(select(schema.item_factors).where(chosen).limit(1)).one()
                flipped = bytes([row.vector[0] ^ 64, *row.vector[1:]])
                connection.execute(
                    schema.item_factors.update()
                    .where(chosen, schema.item_factors.c.item_key == row.item_key)
                    .values(vector=flipped)
                )
        do(engine, folder, "night", None)
    else:
        do(engine, folder, "night", None)


def broken_promises(engine: Engine, load: Load, erased: set[str], seq: int) -> list[str]:
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
        running = connection.scalars(select(runs.run_key).where(runs.status == "running")).all()
        if running:
            problems.append(f"the runs {running} have not ended")
        stored = {
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
    for pair in load.acknowledged.keys() - stored.keys():
        problems.append(f"the acknowledged rating {pair} is lost")
    if {key: n for key, n in counted.items() if n} != actual:
        problems.append("the counts of items are wrong")
    if now != seq:
        problems.append("a night without news changed ratings")
    return problems


def run_year(engine: Engine, tmp_path: Path, seed: int, n_nights: int) -> dict[str, int]:
    fill(engine)
    assert do(engine, tmp_path, "night", None)[0] == 0
    recsys, port = Recsys(tmp_path, engine.url.render_as_string(hide_password=False)), free_port()
    with (tmp_path / "serve.log").open("w") as log:
        process = subprocess.Popen(
            recsys.command("serve", "--port", str(port)), cwd=tmp_path, env=recsys.environment, stderr=log, stdout=log
        )
        try:
            probe = Load(port, 0)
            for _ in range(600):
                try:
                    if probe.ask("GET", "/health/ready")[0] == 200:
                        break
                except OSError:
                    time.sleep(0.1)
            return nights(engine, tmp_path, seed, n_nights, port)
        finally:
            process.terminate()
            process.wait(60)
            release(engine)


@pytest.mark.crash
@pytest.mark.parametrize("part", range(4))
def test_a_year_of_nights(engine: Engine, tmp_path: Path, part: int) -> None:
    n_nights = int(os.environ.get("RECSYS_YEAR_NIGHTS", "46"))  # 4 parts on 2 databases: 368 nights
    seed = int(os.environ.get("RECSYS_YEAR_SEED", str(part)))
    happened = run_year(engine, tmp_path, seed, n_nights)
    report(f"year on {engine.dialect.name}, seed {seed}: {n_nights} nights, faults and answers {json.dumps(happened)}")
