"""Leases: one process at a time runs a job; with a fencing token and an expiry by the database's clock."""

import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from secrets import token_hex
from threading import Event, Thread

from sqlalchemy import ColumnElement, Connection, Engine, select, update

from recsys.database import schema
from recsys.database.engine import database_now_ms, writing
from recsys.database.statements import upsert
from recsys.errors import LockedError, RecsysError
from recsys.results import as_time

LEASE_SECONDS = 60.0
"""Length of a lease unless `RECSYS_LEASE_SECONDS` says otherwise: a run that was killed blocks others for so long."""

RETRY_SECONDS = 1.0
"""Longest pause before a renewal that failed is tried again."""

LOADING = "loading"
TUNING = "tuning"
TRAINING = "training"
"""`train` and `nightly` share one lease: both store and publish versions."""

_log = logging.getLogger(__name__)


class Lease:
    """A lease that this process took.

    Attributes:
        holder: random id of this holder, after the machine and the process for people. Neither of these says whether
            the holder is alive: containers share them. Only the expiry does.
        token: fencing token: grows with every holder; a write checks that its token is still the newest.
    """

    def __init__(self, job: str, holder: str, token: int) -> None:
        self.job = job
        self.holder = holder
        self.token = token
        self._lost: str | None = None

    def check(self) -> None:
        """Check, without a look at the database, that the lease was renewed until now as far as is known.

        A long computation calls it from time to time, so that it does not go on for hours in vain.

        Raises:
            LockedError: another process took the lease, or the thread that renews it has ended.
        """
        if self._lost is not None:
            raise LockedError(f"{self.job}: {self._lost}, so this run stopped and wrote nothing more")

    def guard(self, connection: Connection) -> None:
        """Check, inside a transaction, that this process still holds the lease. No other takes it before the commit.

        Raises:
            LockedError: as `check`.
        """
        if connection.scalar(select(schema.job_leases.c.token).where(self.is_this()).with_for_update()) is None:
            self.lose("another run has taken the lease")
        self.check()

    def lose(self, reason: str) -> None:
        """Note that the lease is lost: nothing more may be written."""
        self._lost = self._lost or reason

    def is_this(self) -> ColumnElement[bool]:
        """Return the condition that the lease is still this one. The holder tells restored databases apart."""
        leases = schema.job_leases.c
        return (leases.job == self.job) & (leases.token == self.token) & (leases.holder == self.holder)


@contextmanager
def lease(engine: Engine, job: str, seconds: float = LEASE_SECONDS) -> Iterator[Lease]:
    """Hold the lease of a job while the block runs; a thread renews it.

    Args:
        seconds: length of the lease. That of a process that was killed ends so long after its last renewal.

    Raises:
        LockedError: another process holds it; the message says which, and until when.
    """
    held = _take(engine, job, seconds)
    done = Event()
    renewing = Thread(target=keep_renewed, args=(engine, held, seconds, done), name=f"lease {job}", daemon=True)
    renewing.start()
    try:
        yield held
    finally:
        done.set()
        renewing.join(seconds)  # not for ever: the database may hang
        try:
            set_expiry(engine, held, None)
        except RecsysError as error:  # the block's own outcome matters more, and the lease ends by itself
            _log.warning("the lease could not be released", extra={"job": job, "reason": str(error)})


def held_leases(connection: Connection) -> list[tuple[str, str, int]]:
    """Return the leases that have not ended: job, holder, and milliseconds until they end unless they are renewed."""
    now = database_now_ms(connection)
    rows = connection.execute(select(schema.job_leases).order_by(schema.job_leases.c.job))
    return [(row.job, row.holder, row.expires_at - now) for row in rows if row.expires_at > now]


def _take(engine: Engine, job: str, seconds: float) -> Lease:
    leases = schema.job_leases.c
    with writing(engine) as connection:
        free = {"job": job, "holder": "", "token": 0, "renewed_at": 0, "expires_at": 0}
        upsert(connection, schema.job_leases, [free], key=["job"])
        row = connection.execute(select(schema.job_leases).where(leases.job == job).with_for_update()).one()
        now = database_now_ms(connection)
        # A clock that was set back would keep a dead holder's lease for as long as the jump. A living one renews it.
        renewed_at = min(row.renewed_at, now)
        expires_at = renewed_at + row.expires_at - row.renewed_at
        taken = Lease(job, f"{socket.gethostname()}:{os.getpid()}:{token_hex(8)}", row.token + 1)
        is_free = expires_at <= now
        values = {"renewed_at": renewed_at, "expires_at": expires_at}
        if is_free:
            expires_at = now + round(seconds * 1000)
            values = {"renewed_at": now, "expires_at": expires_at, "holder": taken.holder, "token": taken.token}
        connection.execute(update(schema.job_leases).where(leases.job == job).values(values))
    if not is_free:
        until = as_time(expires_at).strftime("%H:%M:%S UTC")
        raise LockedError(
            f"{job} is being run by {row.holder}: wait for it to end; if it was killed, its lease ends at {until}"
        )
    return taken


def keep_renewed(engine: Engine, held: Lease, seconds: float, done: Event) -> None:
    """Renew a lease until `done` is set or the lease is lost."""
    pause, is_late = seconds / 4, False
    try:
        while not done.wait(pause):
            try:
                if not set_expiry(engine, held, seconds):
                    held.lose("another run has taken the lease")
                    return
                pause, is_late = seconds / 4, False
            except Exception as error:  # tried again; the guard decides whether it was too late
                if not is_late:
                    _log.warning(
                        "the lease could not be renewed", extra={"job": held.job, "reason": str(error)}, exc_info=True
                    )
                pause, is_late = min(seconds / 4, RETRY_SECONDS), True
    finally:
        if not done.is_set():
            held.lose("the thread that renews the lease ended")


def set_expiry(engine: Engine, held: Lease, seconds: float | None) -> bool:
    """Renew a lease for some seconds, or end it; return whether this process still had it."""
    with writing(engine) as connection:
        values = {"expires_at": 0, "renewed_at": 0}
        if seconds is not None:
            now = database_now_ms(connection)
            values = {"expires_at": now + round(seconds * 1000), "renewed_at": now}
        return connection.execute(update(schema.job_leases).where(held.is_this()).values(values)).rowcount == 1
