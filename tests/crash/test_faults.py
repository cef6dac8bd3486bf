"""Other faults while a version is stored or a night runs: a suspended process, a clock that jumps, a full disk."""

import threading
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from sqlalchemy import Engine, select

from recsys.data.encoding import collect
from recsys.data.rows import RatingBatch
from recsys.database import schema
from recsys.database.engine import reading
from recsys.database.leases import held_leases
from recsys.database.models import live_numbers, load_factors, load_judged, version
from recsys.database.publications import previously_published
from recsys.database.ratings import upsert_ratings
from recsys.database.runs import read_runs
from recsys.errors import LockedError
from tests.crash.child import publish_known
from tests.crash.test_crashes import MADE, do, fill, live_problem, release


def rate(engine: Engine, number: int) -> None:
    """One new rating."""
    row = (pa.array([f"u{number:04}"]), pa.array([MADE.items[number].item_id]), np.array([5.0]))
    upsert_ratings(engine, collect([RatingBatch(*row, np.array([2 * 10**12 + number]), np.array([1]))]))


def test_promise_3_a_publisher_that_is_suspended_past_its_lease_leaves_the_one_that_took_over(
    engine: Engine, tmp_path: Path
) -> None:
    fill(engine)
    ended: list[tuple[int, str, str]] = []
    suspended = threading.Thread(target=lambda: ended.append(do(engine, tmp_path, "publish", 1, stop_in_store=2.0)))
    suspended.start()
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:  # until the first one has the lease, and then until its lease has ended
        with reading(engine) as connection:
            if held_leases(connection):
                break
    while time.monotonic() < deadline:
        try:
            publish_known(engine, 2)
            break
        except LockedError:
            time.sleep(0.05)
    suspended.join()
    assert live_problem(engine) is None
    [(code, _, errors)] = ended
    with reading(engine) as connection:
        seed = version(connection, live_numbers(connection)["ranking"]).training.configuration["seed"]
        half = connection.scalars(select(schema.models.c.number).where(schema.models.c.status == "storing")).all()
    assert code != 0, "it held its lease although it was suspended for longer"
    assert "another run has taken the lease" in errors
    assert (seed, half) == (2, [])


def test_nights_whose_clock_jumps_publish_keep_what_a_rollback_needs_and_find_nothing_new_afterwards(
    sqlite_engine: Engine, tmp_path: Path
) -> None:
    fill(sqlite_engine)
    day = 86_400_000
    # The first jump makes every version older than `keep_days`, the second sets the clock back.
    for number, clock_ms in enumerate((0, 60 * day, -day), start=1):
        rate(sqlite_engine, number)
        code, _, errors = do(sqlite_engine, tmp_path, "night", None, clock_ms=clock_ms)
        assert code == 0, errors
        with reading(sqlite_engine) as connection:
            live = live_numbers(connection)
            for objective, newest in live.items():
                assert newest >= 2 * number - 1
                for kept in (newest, *previously_published(connection, objective)[:1]):
                    load_factors(connection, kept)
                    load_judged(connection, kept)
    assert do(sqlite_engine, tmp_path, "night", None)[0] == 0
    with reading(sqlite_engine) as connection:
        assert "nothing new" in read_runs(connection, 1, "nightly")[0].reason
        assert live_numbers(connection) == live


@pytest.mark.parametrize("fault", [pytest.param("no page left", marks=pytest.mark.long), "few pages left"])
def test_a_night_on_a_full_disk_fails_and_the_next_one_publishes(
    sqlite_engine: Engine, tmp_path: Path, fault: str
) -> None:
    fill(sqlite_engine)
    with reading(sqlite_engine) as connection:
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar_one()
    max_pages = 1 if fault == "no page left" else pages + 4
    assert do(sqlite_engine, tmp_path, "night", None, max_pages=max_pages)[0] == 1
    with reading(sqlite_engine) as connection:
        for number in live_numbers(connection).values():
            load_factors(connection, number)
    release(sqlite_engine)
    code, _, errors = do(sqlite_engine, tmp_path, "night", None)
    assert code == 0, errors
    with reading(sqlite_engine) as connection:
        assert len(live_numbers(connection)) == 2
