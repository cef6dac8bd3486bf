"""Processes that are killed at seeded points. The short form is part of `make test`, the long one is `make crash-test`.

A failure names its seed; `RECSYS_CRASH_SEED=N` repeats that trial alone.
"""

import os
import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import Engine, select

from recsys.data import sample
from recsys.data.encoding import collect
from recsys.database import schema
from recsys.database.engine import connect, reading, writing
from recsys.database.items import upsert_items
from recsys.database.models import live_numbers, load_factors, load_judged, version, versions
from recsys.database.ratings import upsert_ratings
from recsys.errors import RecsysError
from tests.crash.child import known_factors
from tests.forked import run

MADE = sample.generate(n_users=100, n_items=45, n_ratings=2000, seed=3)


def do(engine: Engine, folder: Path, job: str, argument: object, **fault: object) -> tuple[int, str, str]:
    """Run a job in a process of its own; return its exit code and output."""
    url = engine.url.render_as_string(hide_password=False)
    request = {"url": url, "job": job, "argument": argument, **fault}
    program = f"from tests.crash.child import main; main({request!r})"
    done = run(["-c", program], cwd=folder, timeout=600)
    return done.returncode, done.stdout, done.stderr


def fill(engine: Engine) -> None:
    upsert_items(engine, MADE.items)
    upsert_ratings(engine, collect([MADE.ratings]))


def live_problem(engine: Engine) -> str | None:
    """Return what is wrong with the live version: it must be whole, and that of a seed."""
    with reading(engine) as connection:
        number = live_numbers(connection).get("ranking")
        if number is None:
            return None
        try:
            stored = version(connection, number)
            found = load_factors(connection, number)
            load_judged(connection, number)
        except RecsysError as error:
            return str(error)
        expected = known_factors(int(str(stored.training.configuration["seed"])), found.user_keys, found.item_keys)
        users = connection.scalars(select(schema.users.c.user_key)).all()
        if len(found.user_keys) != len(users):
            return f"{len(found.user_keys)} of {len(users)} users"
    if not np.array_equal(found.user_factors, expected.user_factors):
        return "its users are of another version"
    return None if np.array_equal(found.item_factors, expected.item_factors) else "its items are of another version"


def crash_publications(engine: Engine, folder: Path, job: str, n_trials: int, seed: int) -> tuple[int, list[str]]:
    """Kill publications at seeded points and look at what is live then; return the kills and the inconsistencies."""
    fill(engine)
    code, output, errors = do(engine, folder, job, 0)
    assert code == 0, errors
    n_points, seconds = int(output.split()[0]), float(output.split()[1])
    n_killed, problems = 0, []
    for trial in seeds_of(seed, n_trials):
        rng = random.Random(trial)
        fault = {"kill_at": rng.randint(1, n_points)} if trial % 4 else {"kill_after": rng.uniform(0, seconds)}
        # A version of a killed holder is stored by the next one once the lease of a second has ended.
        code, _, errors = do(engine, folder, job, trial, **fault)
        n_killed += code == -9
        problem = live_problem(engine)
        if problem is not None:
            problems.append(f"seed {trial}, {fault}: {problem}")
        release(engine)
    return n_killed, problems


def seeds_of(first: int, n_trials: int) -> list[int]:
    """The seeds of a series of trials, or the one that `RECSYS_CRASH_SEED` names."""
    only = os.environ.get("RECSYS_CRASH_SEED")
    return list(range(first, first + n_trials)) if only is None else [int(only)]


def release(engine: Engine) -> None:
    """End all leases, as their expiry would."""
    with writing(engine) as connection:
        connection.execute(schema.job_leases.update().values(expires_at=0, renewed_at=0))


def test_promise_1_a_publication_that_is_killed_anywhere_leaves_a_whole_version_live(
    engine: Engine, tmp_path: Path
) -> None:
    n_killed, problems = crash_publications(engine, tmp_path, "publish", 4, seed=100)
    assert problems == []
    assert n_killed >= 2
    code, _, errors = do(engine, tmp_path, "publish", 99)
    assert code == 0, errors
    with reading(engine) as connection:
        assert connection.scalars(select(schema.models.c.number).where(schema.models.c.status == "storing")).all() == []
        assert version(connection, live_numbers(connection)["ranking"]).training.configuration["seed"] == 99


def test_a_broken_publisher_is_caught(sqlite_engine: Engine, tmp_path: Path) -> None:
    _, problems = crash_publications(sqlite_engine, tmp_path, "broken", 8, seed=300)
    assert problems


@pytest.mark.crash
@pytest.mark.parametrize("part", range(4))
def test_a_thousand_killed_publications(engine: Engine, tmp_path: Path, part: int) -> None:
    n_killed, problems = crash_publications(engine, tmp_path, "publish", 250, seed=1000 + 250 * part)
    report(f"publications on {engine.dialect.name}: 250 trials, {n_killed} killed, {len(problems)} inconsistencies")
    assert problems == []


def report(line: str) -> None:
    """Print the counts of a long run, and append them to the file that `RECSYS_CRASH_REPORT` names."""
    print(line)  # noqa: T201
    if "RECSYS_CRASH_REPORT" in os.environ:
        with Path(os.environ["RECSYS_CRASH_REPORT"]).open("a") as file:
            file.write(line + "\n")


def outcome(engine: Engine) -> dict[str, Any]:
    """What a night leaves behind, without times."""
    with reading(engine) as connection:
        live = live_numbers(connection)
        arrays = [
            (name, load(connection, number).user_factors.tobytes(), load(connection, number).item_factors.tobytes())
            for name, number in sorted(live.items())
            for load in (load_factors, load_judged)
        ]
        ratings = connection.execute(
            select(schema.users.c.user_id, schema.items.c.item_id, schema.ratings.c.rating)
            .join(schema.users, schema.users.c.user_key == schema.ratings.c.user_key)
            .join(schema.items, schema.items.c.item_key == schema.ratings.c.item_key)
            .order_by(schema.users.c.user_id, schema.items.c.item_id)
        ).all()
        counts = connection.execute(
            select(schema.item_counts.c.n_ratings).order_by(schema.item_counts.c.item_key)
        ).all()
        listed = [(stored.objective, stored.live) for stored in versions(connection)]
        half = connection.scalars(select(schema.models.c.number).where(schema.models.c.status == "storing")).all()
    return {
        "arrays": arrays,
        "ratings": [tuple(row) for row in ratings],
        "counts": [tuple(row) for row in counts],
        "listed": listed,
        "half": list(half),
    }


def crash_nights(template: Path, folder: Path, n_trials: int, seed: int) -> int:
    """Kill nights (load, train, refit, store, publish, prune) at seeded points, run them again, and compare the outcome
    with that of a night that nothing disturbed; return the number of kills."""
    source = str(sample.write(folder / "made", MADE))

    def start(name: str) -> tuple[Engine, Path]:
        cwd = folder / name
        cwd.mkdir()
        shutil.copy(template, cwd / "test.db")
        return connect(f"sqlite:///{cwd / 'test.db'}"), cwd

    engine, cwd = start("oracle")
    code, output, errors = do(engine, cwd, "night", source)
    assert code == 0, errors
    n_points, expected = int(output.split()[0]), outcome(engine)
    assert len(expected["arrays"]) == 4
    engine.dispose()
    n_killed = 0
    for trial in seeds_of(seed, n_trials):
        rng = random.Random(trial)
        engine, cwd = start(f"trial-{trial}")
        for fault in ({"kill_at": rng.randint(1, n_points)}, {}):
            code, _, errors = do(engine, cwd, "night", source, **fault)
            n_killed += code == -9
            release(engine)
        assert code == 0, f"seed {trial}: {errors}"
        found = outcome(engine)
        assert found == expected, f"seed {trial}: {[name for name in found if found[name] != expected[name]]}"
        engine.dispose()
        shutil.rmtree(cwd)
    return n_killed


def test_a_night_that_is_killed_anywhere_and_run_again_ends_as_if_nothing_had_happened(
    migrated_sqlite: Path, tmp_path: Path
) -> None:
    assert crash_nights(migrated_sqlite, tmp_path, 2, seed=7) >= 1


@pytest.mark.crash
@pytest.mark.parametrize("part", range(4))
def test_two_hundred_killed_nights(migrated_sqlite: Path, tmp_path: Path, part: int) -> None:
    n_killed = crash_nights(migrated_sqlite, tmp_path, 50, seed=2000 + 50 * part)
    report(f"nights: 50 trials, {n_killed} killed, 0 differences")


@pytest.mark.parametrize("max_pages", [1, 40, pytest.param(80, marks=pytest.mark.long)])
def test_a_full_disk_leaves_the_live_version_whole(
    sqlite_engine: Engine, tmp_path: Path, migrated_sqlite: Path, max_pages: int
) -> None:
    fill(sqlite_engine)
    assert do(sqlite_engine, tmp_path, "publish", 1)[0] == 0
    with reading(sqlite_engine) as connection:
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar_one()
    # SQLite never takes a limit below the present size, so the smallest one leaves no page at all.
    code, _, _ = do(sqlite_engine, tmp_path, "publish", 2, max_pages=pages - 1 + max_pages)
    assert live_problem(sqlite_engine) is None
    release(sqlite_engine)
    assert do(sqlite_engine, tmp_path, "publish", 3)[0] == 0
    assert live_problem(sqlite_engine) is None
    assert code in (0, 1)
