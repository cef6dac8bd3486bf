"""One at a time: leases with fencing tokens."""

import socket
import subprocess
import sys
import time

import pytest
from sqlalchemy import Engine, select, text

from recsys.database import schema
from recsys.database.engine import reading, writing
from recsys.database.leases import Lease, lease
from recsys.database.runs import recorded
from recsys.errors import LockedError


def test_the_second_is_told_who_runs_and_the_third_may_go(engine: Engine) -> None:
    with lease(engine, "training") as first:
        said = rf"training is being run by {first.holder}: wait for it to end"
        with pytest.raises(LockedError, match=said), lease(engine, "training"):
            pass
        with lease(engine, "another job"):
            pass
    with lease(engine, "training") as third:
        assert third.token == first.token + 1


def test_a_holder_that_died_holds_no_longer_than_its_lease(engine: Engine) -> None:
    with lease(engine, "training") as dead, writing(engine) as connection:
        connection.execute(text("UPDATE job_leases SET expires_at = 1"))
        assert dead.token == 1
    with writing(engine) as connection:
        connection.execute(text("UPDATE job_leases SET expires_at = 1, token = 1"))
    with lease(engine, "training") as heir:
        with writing(engine) as connection:
            heir.guard(connection)
        with writing(engine) as connection, pytest.raises(LockedError, match="another run has taken the lease"):
            dead.guard(connection)


def test_a_holder_that_was_killed_on_this_machine_is_noticed_at_once(engine: Engine) -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as gone:
        gone.wait()
    with lease(engine, "training"), writing(engine) as connection:
        elsewhere, here = f"another-machine:{gone.pid}", f"{socket.gethostname()}:{gone.pid}"
        connection.execute(text("UPDATE job_leases SET holder = :holder, token = 7"), {"holder": elsewhere})
    with pytest.raises(LockedError, match="another-machine"), lease(engine, "training"):
        pass
    with writing(engine) as connection:
        connection.execute(text("UPDATE job_leases SET holder = :holder"), {"holder": here})
    with lease(engine, "training") as heir:
        assert heir.token == 8


def test_a_long_run_keeps_its_lease(engine: Engine) -> None:
    with lease(engine, "training", seconds=0.4) as held:
        time.sleep(1.0)
        with pytest.raises(LockedError), lease(engine, "training"):
            pass
        with writing(engine) as connection:
            held.guard(connection)


def test_a_lease_nobody_took_guards_nothing(engine: Engine) -> None:
    with writing(engine) as connection, pytest.raises(LockedError):
        Lease("training", "me", 1).guard(connection)


def runs(engine: Engine) -> list[tuple[str, str]]:
    table = schema.job_runs.c
    with reading(engine) as connection:
        return [tuple(row) for row in connection.execute(select(table.status, table.reason).order_by(table.run_key))]


def test_runs_are_recorded_however_they_end(engine: Engine) -> None:
    with recorded(engine, "nightly") as run:
        assert runs(engine) == [("running", "")]
        run.reason = "published"
    with pytest.raises(RuntimeError), recorded(engine, "nightly"):
        raise RuntimeError("no space left")
    assert runs(engine) == [("done", "published"), ("failed", "no space left")]


def test_a_run_that_was_killed_is_put_down_by_the_next(engine: Engine) -> None:
    with recorded(engine, "nightly"):
        pass
    with writing(engine) as connection:
        connection.execute(text("UPDATE job_runs SET status = 'running', finished_at = NULL"))
    with recorded(engine, "nightly"):
        pass
    assert runs(engine) == [("failed", "killed"), ("done", "")]
