"""Leases: one process at a time runs a job; with a fencing token and an expiry."""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Event, Thread

from sqlalchemy import Connection, Engine, select, update

from recsys.database import schema
from recsys.database.clock import now_ms
from recsys.database.engine import upsert, writing
from recsys.errors import LockedError, RecsysError
from recsys.results import as_time

LEASE_SECONDS = 120.0

LOADING = "loading"
TUNING = "tuning"
TRAINING = "training"
"""`train` and `nightly` share one lease: both store and publish versions."""


@dataclass(frozen=True, slots=True)
class Lease:
    """A lease that this process holds.

    Attributes:
        token: fencing token: grows with every holder; a write checks that its token is still the newest.
    """

    job: str
    holder: str
    token: int

    def guard(self, connection: Connection) -> None:
        """Check, inside a transaction, that this process still holds the lease.

        Raises:
            LockedError: it expired and another process took it.
        """
        leases = schema.job_leases.c
        token = connection.scalar(select(leases.token).where(leases.job == self.job).with_for_update())
        if token != self.token:
            raise LockedError(
                f"{self.job}: another run has taken the lease, so this run stopped and wrote nothing more"
            )


@contextmanager
def lease(engine: Engine, job: str, seconds: float = LEASE_SECONDS) -> Iterator[Lease]:
    """Hold the lease of a job while the block runs; a thread renews it.

    The lease of a process that died ends after `seconds` at most; at once if it ran on this machine.

    Raises:
        LockedError: another process holds it; the message says which, and until when.
    """
    held = _take(engine, job, seconds)
    done = Event()
    renewing = Thread(target=_renew, args=(engine, held, seconds, done), name=f"lease {job}", daemon=True)
    renewing.start()
    try:
        yield held
    finally:
        done.set()
        renewing.join()
        _set_expiry(engine, held, 0)


def _take(engine: Engine, job: str, seconds: float) -> Lease:
    holder = f"{socket.gethostname()}:{os.getpid()}"
    leases = schema.job_leases.c
    with writing(engine) as connection:
        now = now_ms()
        free = {"job": job, "holder": "", "token": 0, "expires_at": 0}
        upsert(connection, schema.job_leases, [free], key=["job"])
        row = connection.execute(select(schema.job_leases).where(leases.job == job).with_for_update()).one()
        if row.expires_at > now and not _is_dead(row.holder):
            until = as_time(row.expires_at).strftime("%H:%M:%S UTC")
            raise LockedError(
                f"{job} is being run by {row.holder}: wait for it to end; if it died, its lease ends at {until}"
            )
        token = row.token + 1
        connection.execute(
            update(schema.job_leases)
            .where(leases.job == job)
            .values(holder=holder, token=token, expires_at=now + round(seconds * 1000))
        )
    return Lease(job, holder, token)


def _is_dead(holder: str) -> bool:
    """Return whether a holder is a process of this machine that does not run any more."""
    host, _, pid = holder.rpartition(":")
    if host != socket.gethostname():
        return False
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False  # it runs, as another user
    return False


def _renew(engine: Engine, held: Lease, seconds: float, done: Event) -> None:
    while not done.wait(seconds / 4):
        try:
            _set_expiry(engine, held, now_ms() + round(seconds * 1000))
        except RecsysError:
            continue  # tried again before it expires; the guard decides whether it was too late


def _set_expiry(engine: Engine, held: Lease, expires_at: int) -> None:
    leases = schema.job_leases.c
    with writing(engine) as connection:
        connection.execute(
            update(schema.job_leases)
            .where(leases.job == held.job, leases.token == held.token)
            .values(expires_at=expires_at)
        )
