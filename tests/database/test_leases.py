"""One at a time: leases with fencing tokens."""

import socket
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import Engine, select, text, update

from recsys.database import leases, schema
from recsys.database.engine import reading, writing
from recsys.database.leases import Lease, lease
from recsys.database.runs import recorded
from recsys.errors import DatabaseError, LockedError
from tests.conftest import expire_leases, wait_until


def test_the_second_is_told_who_runs_and_the_third_may_go(engine: Engine) -> None:
    with lease(engine, "training") as first:
        said = rf"training is being run by {first.holder}: wait for it to end"
        with pytest.raises(LockedError, match=said), lease(engine, "training"):
            pass
        with lease(engine, "another job"):
            pass
    with lease(engine, "training") as third:
        assert third.token == first.token + 1


def refused(engine: Engine, held: Lease) -> bool:
    with writing(engine) as connection:
        try:
            held.guard(connection)
        except LockedError as error:
            return "another run has taken the lease, so this run stopped and wrote nothing more" in str(error)
    return False


def times(engine: Engine) -> tuple[int, int]:
    leases = schema.job_leases.c
    with reading(engine) as connection:
        renewed_at, expires_at = connection.execute(select(leases.renewed_at, leases.expires_at)).one()
    return renewed_at, expires_at


def test_a_holder_that_was_suspended_past_its_lease_can_write_no_more(engine: Engine) -> None:
    with lease(engine, "training") as suspended:
        expire_leases(engine)
        assert not refused(engine, suspended)  # no other run has begun
        with lease(engine, "training") as heir:
            assert (heir.token, refused(engine, heir)) == (suspended.token + 1, False)
            assert refused(engine, suspended)
        assert refused(engine, suspended)  # also after the other run has ended
        with pytest.raises(LockedError):  # from now on it needs no database to know
            suspended.check()


def test_a_holder_that_wakes_up_does_not_end_the_lease_of_another(engine: Engine) -> None:
    with lease(engine, "training"):
        expire_leases(engine)
        heir = lease(engine, "training")
        heir.__enter__()
    with pytest.raises(LockedError), lease(engine, "training"):
        pass
    heir.__exit__(None, None, None)
    with lease(engine, "training"):
        pass


def test_only_the_expiry_says_whether_a_holder_is_alive(engine: Engine) -> None:
    # In two containers all host names and process ids may be alike, and a dead process's id is given again.
    with lease(engine, "training") as here:
        name = here.holder.rpartition(":")[0]
        with subprocess.Popen([sys.executable, "-c", ""]) as gone:
            gone.wait()
        for other in (name, f"{socket.gethostname()}:{gone.pid}"):
            with writing(engine) as connection:
                connection.execute(update(schema.job_leases).values(holder=f"{other}:0123456789abcdef"))
            with pytest.raises(LockedError, match="0123456789abcdef"), lease(engine, "training"):
                pass
        assert refused(engine, here)  # the same token, as in a database restored from a backup, but not the same holder


@pytest.mark.postgres
def test_postgres_decides_by_its_own_clock(postgres_engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    with lease(postgres_engine, "training"):
        monkeypatch.setattr(time, "time_ns", lambda: 0)
        before, _ = times(postgres_engine)
        with pytest.raises(LockedError), lease(postgres_engine, "training"):
            pass
        monkeypatch.setattr(time, "time_ns", lambda: 1 << 62)
        with pytest.raises(LockedError), lease(postgres_engine, "training"):
            pass
        expire_leases(postgres_engine)
        with lease(postgres_engine, "training"):
            assert 0 <= times(postgres_engine)[0] - before < 60_000


def test_a_clock_set_back_does_not_keep_the_lease_of_a_dead_holder(engine: Engine) -> None:
    hour, length = 3_600_000, 1000
    with lease(engine, "training"):
        renewed_at, _ = times(engine)
        with writing(engine) as connection:  # the holder died one hour ahead of the clock as it is now
            jumped = {"renewed_at": renewed_at + hour, "expires_at": renewed_at + hour + length}
            connection.execute(update(schema.job_leases).values(jumped))
        with pytest.raises(LockedError), lease(engine, "training"):
            pass
        assert times(engine)[1] <= renewed_at + 60_000
        time.sleep(length / 1000)
        with lease(engine, "training"):
            pass


def test_a_long_run_keeps_its_lease(engine: Engine) -> None:
    with lease(engine, "training", seconds=0.4) as held:
        time.sleep(1.0)
        with pytest.raises(LockedError), lease(engine, "training"):
            pass
        assert not refused(engine, held)


def test_a_renewal_that_fails_is_tried_again(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    renew, failures = leases.set_expiry, iter([ValueError("a fault"), DatabaseError("the server restarts")])

    def failing(*arguments: Any) -> bool:
        for error in failures:
            raise error
        return renew(*arguments)

    monkeypatch.setattr(leases, "set_expiry", failing)
    with lease(engine, "training", seconds=0.8) as held:
        before = times(engine)
        wait_until(lambda: times(engine) > before)
        assert not refused(engine, held)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_job_notices_that_its_lease_is_lost_or_not_renewed_any_more(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    with lease(engine, "training", seconds=0.4) as held:
        with writing(engine) as connection:
            connection.execute(update(schema.job_leases).values(token=17))
        wait_until(lambda: raises(held.check, "another run has taken the lease"))
        expire_leases(engine)

    def killed(*_: Any) -> bool:
        raise SystemExit

    with lease(engine, "training", seconds=0.4) as held:
        with monkeypatch.context() as patched:
            patched.setattr(leases, "set_expiry", killed)
            wait_until(lambda: raises(held.check, "the thread that renews the lease ended"))
        with writing(engine) as connection, pytest.raises(LockedError, match="the thread that renews the lease ended"):
            held.guard(connection)


def raises(check: Callable[[], None], reason: str) -> bool:
    try:
        check()
    except LockedError as error:
        return reason in str(error)
    return False


def test_the_outcome_of_a_run_survives_a_database_that_is_gone_at_its_end(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(*_: Any) -> bool:
        raise DatabaseError("the server is gone")

    with pytest.raises(RuntimeError, match="no space left"), lease(engine, "training"):
        monkeypatch.setattr(leases, "set_expiry", gone)
        raise RuntimeError("no space left")
    monkeypatch.undo()
    with pytest.raises(LockedError), lease(engine, "training"):  # it ends by itself
        pass


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
