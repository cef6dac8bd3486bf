"""Ctrl-C and SIGTERM: an exit code, one sentence, the lease released, the run recorded."""

import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine, func, select

from recsys.data import sample
from recsys.data.encoding import collect
from recsys.database import migration, schema
from recsys.database.clock import now_ms
from recsys.database.engine import connect, reading
from recsys.database.ratings import upsert_ratings
from tests.jobs.cli.test_main import Recsys


@pytest.fixture
def loaded(tmp_path: Path) -> Iterator[Engine]:
    engine = connect(f"sqlite:///{tmp_path / 'recsys.db'}")
    migration.upgrade(engine)
    upsert_ratings(engine, collect([sample.generate(n_users=300, n_items=120, n_ratings=5000, seed=1).ratings]))
    yield engine
    engine.dispose()


def stop(recsys: Recsys, sent: signal.Signals, when: Callable[[], bool], *arguments: str) -> tuple[int, str]:
    """Start a command, send it a signal as soon as `when` says so; return its exit code and standard error."""
    with subprocess.Popen(
        recsys.command(*arguments),
        cwd=recsys.folder,
        env=recsys.environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        deadline = time.monotonic() + 100
        while not when():
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.send_signal(sent)
        _, stderr = process.communicate(timeout=60)
        return process.returncode, stderr


def last_run(engine: Engine) -> tuple[str, str, str] | None:
    runs = schema.job_runs.c
    with reading(engine) as connection:
        row = connection.execute(
            select(runs.job, runs.status, runs.reason).order_by(runs.run_key.desc()).limit(1)
        ).one_or_none()
        return None if row is None else tuple(row)


def is_released(engine: Engine, job: str) -> bool:
    leases = schema.job_leases.c
    with reading(engine) as connection:
        return connection.execute(select(leases.expires_at).where(leases.job == job)).scalar_one() <= now_ms()


@pytest.mark.parametrize(
    ("arguments", "sent", "code"),
    [
        pytest.param(("train", "--n-epochs", "100000"), signal.SIGINT, 130, marks=pytest.mark.long),
        (("nightly",), signal.SIGTERM, 143),
    ],
    ids=["train", "nightly"],
)
def test_a_training_that_is_stopped_says_what_was_kept(
    loaded: Engine, tmp_path: Path, arguments: tuple[str, ...], sent: signal.Signals, code: int
) -> None:
    recsys = Recsys(tmp_path, loaded.url.render_as_string())
    job = arguments[0]
    ended, stderr = stop(recsys, sent, lambda: last_run(loaded) == (job, "running", ""), *arguments)
    assert ended == code, stderr
    assert stderr.startswith("recsys: interrupted: ")
    assert stderr.count("\n") == 1
    assert "version was stored" in stderr or "no objective was trained" in stderr
    assert "Run the same command again" in stderr
    assert is_released(loaded, "training")
    run = last_run(loaded)
    assert run is not None
    assert run[:2] == (job, "failed")
    assert run[2].startswith("interrupted")
    assert run[2].removeprefix("interrupted: ") in stderr


def test_a_load_that_is_stopped_says_so_and_the_next_one_completes_it(loaded: Engine, tmp_path: Path) -> None:
    n_rows = 80_000
    with (tmp_path / "many.csv").open("w") as file:
        file.write("user_id,item_id,rating,rated_at\n")
        file.writelines(f"v{i % 1000:03},j{i // 1000:03},{1 + i % 5},{881250949 + i}\n" for i in range(n_rows))
    recsys = Recsys(tmp_path, loaded.url.render_as_string())

    def n_users() -> int:
        with reading(loaded) as connection:
            return connection.scalar(select(func.count()).select_from(schema.users)) or 0

    code, stderr = stop(recsys, signal.SIGINT, lambda: n_users() > 300, "load", "many.csv")
    assert code == 130, stderr
    assert stderr.startswith("recsys: interrupted: the rows written so far are kept")
    assert stderr.count("\n") == 1
    assert is_released(loaded, "loading")
    assert last_run(loaded) == ("load", "failed", "interrupted")
    report = recsys.json("load", "many.csv")
    assert report["rows_read"] == n_rows
    with reading(loaded) as connection:
        assert connection.scalar(select(func.count()).select_from(schema.ratings)) == 5000 + n_rows
