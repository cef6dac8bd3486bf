"""What a server does while PostgreSQL hangs: it stops to wait, and refuses new work until the database answers again.

A frozen host, a partition or a hung disk sends neither an answer nor an error, so that every request would wait for
ever, and with it every thread and connection. The timeouts of PostgreSQL itself do not help: the server that would
apply them is the one that hangs. So one connection asks again and again, and waits `PROBE_SECONDS` for an answer.
"""

import logging
import os
import socket
from collections.abc import Callable
from contextlib import suppress
from threading import Lock
from typing import Any
from weakref import WeakKeyDictionary, WeakSet

from sqlalchemy import Engine, create_engine, event

from recsys.errors import DatabaseError

PROBE_SECONDS = 1.0
"""Longest time that the probe waits for an answer."""

PROBE_LOCK_SECONDS = 0.5
"""Longest time that it waits for a lock: a migration that holds one is no hang, and would leave the probes waiting."""

STATEMENT_SECONDS = 60.0
"""Longest time that a statement of a server may take on PostgreSQL: one that reads all items takes some seconds."""

_TCP = {"keepalives_idle": 10, "keepalives_interval": 5, "keepalives_count": 3, "tcp_user_timeout": 30_000}
# A connection whose other end has gone without a word is closed within half a minute.
JOB_OPTIONS = {"connect_timeout": 10, **_TCP}
SERVER_OPTIONS = {"connect_timeout": 2, **_TCP}
"""Options of connections to PostgreSQL. psycopg waits two seconds for a connection at least."""

SILENT = "the database does not answer: try again in a moment"

_log = logging.getLogger(__name__)


class Breaker:
    """Refuses the use of a database that does not answer. Safe between threads."""

    def __init__(self) -> None:
        self._is_open = False
        self._connections: WeakSet[Any] = WeakSet()
        self._lock = Lock()

    @property
    def is_open(self) -> bool:
        """Whether the database does not answer."""
        return self._is_open

    def check(self) -> None:
        """Raise an error at once in place of waiting.

        Raises:
            DatabaseError: the database does not answer.
        """
        if self._is_open:
            raise DatabaseError(SILENT, public=SILENT)

    def add(self, connection: Any) -> None:
        """Note a connection of psycopg, so that `trip` ends what waits for it."""
        with self._lock:
            self._connections.add(connection)

    def trip(self) -> None:
        """Refuse the database from now on, and end all that waits for it."""
        with self._lock:
            was_open, self._is_open = self._is_open, True
            connections = list(self._connections)
        for connection in connections:
            # It may have been closed meanwhile. Closing a copy of the descriptor leaves the connection its own.
            with suppress(Exception), socket.socket(fileno=os.dup(connection.fileno())) as copy:
                copy.shutdown(socket.SHUT_RDWR)
        if not was_open:
            _log.error("the database does not answer: lists come from memory, writes are refused")

    def reset(self) -> None:
        """Allow the use of the database again."""
        with self._lock:
            was_open, self._is_open = self._is_open, False
        if was_open:
            _log.info("the database answers again")


_breakers: "WeakKeyDictionary[Engine, Breaker]" = WeakKeyDictionary()


def guard(engine: Engine, breaker: Breaker, lock_seconds: float) -> None:
    """Put a breaker before an engine for PostgreSQL, and limit the time of its statements and of their locks."""
    _breakers[engine] = breaker
    connect = guarded_connect(breaker)
    event.listen(engine, "do_connect", lambda _dialect, _record, arguments, options: connect(*arguments, **options))
    event.listen(engine, "connect", lambda connection, _: limit_connection(connection, breaker, lock_seconds))


def check_breaker(engine: Engine) -> None:
    """Raise an error at once where the database is known to hang.

    Raises:
        DatabaseError: it does not answer.
    """
    breaker = _breakers.get(engine)
    if breaker is not None:
        breaker.check()


def connect_probe(engine: Engine, breaker: Breaker) -> Engine:
    """Return an engine of one connection to the same database, which trips the breaker after `PROBE_SECONDS`.

    An SQLite file is asked by the engine itself.
    """
    if engine.dialect.name == "sqlite":
        return engine
    probe = create_engine(engine.url, pool_pre_ping=True, connect_args=SERVER_OPTIONS, pool_size=1, max_overflow=1)
    connect = bounded_connect(PROBE_SECONDS, breaker.trip)
    event.listen(probe, "do_connect", lambda _dialect, _record, arguments, options: connect(*arguments, **options))
    limit = f"SET LOCAL lock_timeout = {round(PROBE_LOCK_SECONDS * 1000)}"
    event.listen(probe, "begin", lambda connection: connection.exec_driver_sql(limit))
    return probe


def limit_connection(connection: Any, breaker: Breaker, lock_seconds: float) -> None:
    """Limit the time of statements on a new connection of psycopg, and of their waiting for locks."""
    breaker.add(connection)
    # A statement and not an option of the connection, which poolers such as PgBouncer refuse.
    limits = {"statement_timeout": STATEMENT_SECONDS, "lock_timeout": lock_seconds}
    try:
        connection.autocommit = True
        connection.execute("; ".join(f"SET {name} = {round(seconds * 1000)}" for name, seconds in limits.items()))
        connection.autocommit = False
    except BaseException:
        connection.close()  # the pool forgets it
        raise


def guarded_connect(breaker: Breaker) -> Callable[..., Any]:
    """Return a function that connects as psycopg does, and gives up when the breaker opens.

    `Breaker.trip` ends what waits for a connection, but does not know one that is being opened.
    """
    import psycopg  # SQLite does not need it

    class GuardedConnection(psycopg.Connection[Any]):
        @classmethod
        def _connect_gen(cls, *arguments: Any, **options: Any) -> Any:
            breaker.check()
            steps = super()._connect_gen(*arguments, **options)
            try:
                step = next(steps)
                while True:
                    ready = yield step  # every 100 ms, ready or not
                    breaker.check()
                    step = steps.send(ready)
            except StopIteration as end:
                return end.value

    return GuardedConnection.connect


def bounded_connect(seconds: float, on_timeout: Callable[[], None]) -> Callable[..., Any]:
    """Return a function that connects as psycopg does, with connections that wait for an answer for so long only.

    Args:
        on_timeout: called when the time has passed, before the error is raised.
    """
    import psycopg  # SQLite does not need it

    class BoundedConnection(psycopg.Connection[Any]):
        def wait(self, gen: Any, interval: float = 0.1, timeout: float | None = None) -> Any:
            try:
                return super().wait(gen, interval, seconds if timeout is None else timeout)
            except psycopg.errors._WaitTimeout as error:
                self.pgconn.finish()  # an answer that comes later would be taken for that of the next statement
                on_timeout()
                raise psycopg.errors.ConnectionTimeout(f"no answer within {seconds:g} s") from error

    def connect(*arguments: Any, **options: Any) -> Any:
        try:
            return BoundedConnection.connect(*arguments, **options)
        except psycopg.errors.ConnectionTimeout:
            on_timeout()
            raise

    return connect
