"""A process that does one job and kills itself at a chosen point: before a statement, a commit or a training step.

Run as a fork (`tests.forked`): `python -c "from tests.crash.child import main; main({…})"`.
"""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
from sqlalchemy import Engine, event, insert, select, update

from jobs import pipeline
from jobs.load import load
from jobs.nightly import nightly
from recsys.database import clock, schema
from recsys.database import models as versions
from recsys.database.engine import connect, reading, writing
from recsys.database.leases import LOADING, TRAINING, lease
from recsys.database.models import Training, publish, store
from recsys.database.retention import prune
from recsys.factors import Factors, Side
from recsys.settings import Settings
from recsys.training import loop
from recsys.training.config import config_for

SMALL = {"n_factors": 4, "n_epochs": 2}
"""Config of the trainings, which need not be good."""


class Points:
    """Counts the points that a process passes, and does something at one of them.

    Args:
        at: number of the point, from 1; `None`: none.
        act: what to do there; by default the process kills itself.
    """

    def __init__(self, at: int | None, act: Callable[[], None] = lambda: os.kill(os.getpid(), signal.SIGKILL)) -> None:
        self.n_passed = 0
        self._at, self._act = at, act

    def pass_one(self, *_: object) -> None:
        self.n_passed += 1
        if self.n_passed == self._at:
            self._act()

    def listen(self, engine: Engine) -> None:
        event.listen(engine, "before_cursor_execute", self.pass_one)
        event.listen(engine, "after_cursor_execute", self.pass_one)
        event.listen(engine, "commit", self.pass_one)
        step = loop.train_step

        def counted(*given: Any, **named: Any) -> Any:
            self.pass_one()
            return step(*given, **named)

        loop.train_step = counted


def known_factors(seed: int, user_keys: Any, item_keys: Any) -> Factors:
    """Factors that follow from a seed."""
    rng = np.random.default_rng(seed)
    users, items = (
        Side(
            np.array(keys, np.int64),
            rng.normal(size=(len(keys), 3)).astype(np.float32),
            rng.normal(size=len(keys)).astype(np.float32),
        )
        for keys in (user_keys, item_keys)
    )
    return Factors(objective="ranking", users=users, items=items)


def known_training(seed: int) -> Training:
    return Training(
        architecture="dot",
        configuration={"seed": seed},
        metrics={"ndcg": 0.5},
        baselines={},
        history=[],
        data_fingerprint="known",
        trained_seq=0,
        n_ratings=1,
        rating_scale=(1.0, 5.0),
        training_seconds=0.0,
        gate_passed=True,
        gate_reason="known",
    )


def keys_of(engine: Engine) -> tuple[list[int], list[int]]:
    with reading(engine) as connection:
        users = connection.scalars(select(schema.users.c.user_key).order_by(schema.users.c.user_key)).all()
        items = connection.scalars(select(schema.items.c.item_key).order_by(schema.items.c.item_key)).all()
    return list(users), list(items)


def publish_known(engine: Engine, seed: int) -> None:
    """Store and publish the version of a seed, with its twin, and prune."""
    with lease(engine, TRAINING, 1) as held:
        factors = known_factors(seed, *keys_of(engine))
        number = store(engine, factors, known_training(seed), held.guard, twin=factors)
        publish(engine, number, "test", held.guard)
        prune(engine, 2, None, held.guard)


def publish_broken(engine: Engine, seed: int) -> None:
    """Publish the version of a seed in the wrong order: it is live before its rows are there."""
    factors = known_factors(seed, *keys_of(engine))
    empty = Side.empty(3)
    number = store(engine, Factors(objective="ranking", users=empty, items=empty), known_training(seed))
    publish(engine, number, "test")
    versions.store_users(engine, number, factors.users, None)
    versions.store_items(engine, number, factors.items, None)
    models = schema.models
    with writing(engine) as connection:
        checksum = versions.version_checksum(factors, None)
        changed = {"n_users": factors.n_users, "n_items": factors.n_items, "checksum": checksum}
        connection.execute(update(models).where(models.c.number == number).values(changed))


def load_file(engine: Engine, path: str) -> None:
    with lease(engine, LOADING, 1) as held:
        load(engine, Path(path), Settings(), guard=held.guard)


def run_night(engine: Engine, path: str | None) -> None:
    """A night with small trainings, whose gate refuses nothing that beats its baseline."""
    choose = pipeline.choose_config
    pipeline.choose_config = lambda *given: choose(*given[:-1], SMALL)
    from jobs import train
    from recsys.evaluation import refit

    train.config_for = lambda *given: config_for(*given[:-1], SMALL)
    refit.MIN_OVERLAP, refit.MAX_LOSS = 0.0, 10.0
    settings = Settings(checkpoints=Path("checkpoints"), gate_margin=1.0, lease_seconds=1.0)
    report = nightly(engine, settings, [Path(path)] if path else [], device="cpu")
    if report.status == "failed":
        raise SystemExit("\n".join(each.line() for each in report.objectives))


def insert_nothing(engine: Engine, _: object) -> None:
    """A job that only writes one row: the shortest there is."""
    with writing(engine) as connection:
        connection.execute(insert(schema.audit_log).values(at=0, actor="test", action="test", detail={}))


JOBS: dict[str, Callable[[Engine, Any], None]] = {
    "publish": publish_known,
    "broken": publish_broken,
    "load": load_file,
    "night": run_night,
    "nothing": insert_nothing,
}


def later(seconds: float, act: Callable[..., object], *arguments: object) -> None:
    """Call a function after some seconds, in a thread that does not keep the process alive."""
    timer = threading.Timer(seconds, act, arguments)
    timer.daemon = True
    timer.start()


def stop_for(seconds: float) -> None:
    """Suspend this process for some seconds."""
    pid = os.getpid()
    subprocess.Popen(["sh", "-c", f"sleep {seconds}; kill -CONT {pid}"])
    os.kill(pid, signal.SIGSTOP)


def stop_server(postmaster: int, url: str) -> None:
    """Stop PostgreSQL at once, as after a crash: `pg_ctl stop -m immediate`."""
    pids = [postmaster, *children_of(postmaster)]
    os.kill(postmaster, signal.SIGQUIT)
    while any(is_running(pid) for pid in pids):
        time.sleep(0.01)


def freeze_server(postmaster: int, url: str) -> None:
    """Suspend all processes of PostgreSQL for longer than the lease."""
    pids = [postmaster, *children_of(postmaster)]
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    subprocess.Popen(["sh", "-c", f"sleep 1.5; kill -CONT {' '.join(map(str, pids))}"])


def children_of(pid: int) -> list[int]:
    found = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], stdout=subprocess.PIPE, check=True)
    return [int(child) for child in found.stdout.split()]


def is_running(pid: int) -> bool:
    state = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], stdout=subprocess.PIPE, check=False).stdout
    return state[:1] not in (b"", b"Z")


def end_connections(postmaster: int, url: str) -> None:
    """Terminate every connection to the database but the one that says so."""
    with psycopg.connect(url.replace("postgresql+psycopg", "postgresql"), autocommit=True) as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )


SERVER_FAULTS: dict[str, Callable[[int, str], None]] = {
    "stopped": stop_server,
    "frozen": freeze_server,
    "connections ended": end_connections,
}


def main(request: dict[str, Any]) -> None:
    """Do a job. Prints the number of points that were passed and the seconds that it took.

    Args:
        request: `url` of the database, `job`, its `argument`, and what goes wrong: `kill_at` a point, `kill_after`
            seconds, `stop_after` seconds for `stop_seconds` (SIGSTOP), `stop_in_store` for so many seconds between two
            transactions, `max_pages` of the SQLite file (disk full), `clock_ms` to add to the clock, `server_fault` of
            `postmaster` at the point `fault_at`.
    """
    url = request["url"]
    engine = connect(url)
    points = Points(request.get("kill_at"))
    if "stop_in_store" in request:
        store_items = versions.store_items

        def stopped(*given: Any) -> None:
            stop_for(request["stop_in_store"])
            store_items(*given)

        versions.store_items = stopped
    if "server_fault" in request:
        fault = SERVER_FAULTS[request["server_fault"]]
        points = Points(request["fault_at"], lambda: fault(request["postmaster"], url))
    points.listen(engine)
    if "kill_after" in request:
        later(request["kill_after"], os.kill, os.getpid(), signal.SIGKILL)
    if "stop_after" in request:
        later(request["stop_after"], stop_for, request["stop_seconds"])
    if "max_pages" in request:

        @event.listens_for(engine, "connect")
        def limit(connection: Any, _: object) -> None:
            connection.execute(f"PRAGMA max_page_count = {request['max_pages']}")

    if "clock_ms" in request:
        real = clock.now_ms
        for module in list(sys.modules.values()):
            if getattr(module, "now_ms", None) is real:
                vars(module)["now_ms"] = lambda: real() + request["clock_ms"]
    started = time.perf_counter()
    JOBS[request["job"]](engine, request["argument"])
    print(points.n_passed, time.perf_counter() - started)  # noqa: T201
