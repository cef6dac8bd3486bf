"""Watch the database of a server: its API keys, and whether it answers and takes writes."""

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import replace

from sqlalchemy import Engine

from recsys.database.breaker import SILENT, Breaker, connect_probe
from recsys.database.engine import reading, write_problem
from recsys.database.keys import KeyRing, Scope, note_uses, read_keyring
from recsys.errors import DatabaseError, RecsysError

READ_SECONDS = 600.0
"""How long the last key ring serves reads while the database is not available."""
CHANGE_SECONDS = 60.0
"""How long it serves writes and administration. They need the database anyway; this bounds what a revoked key can do
where the database answers writes, but not this reader."""
SILENT_SECONDS = 10.0
"""A database that has not answered for this long counts as a problem."""
USE_SECONDS = 60.0
"""Least time between two writes of when keys were used."""
START_SECONDS = 15.0
"""Longest time that start-up waits for the first key ring. Without one the server starts, and answers 503."""

_log = logging.getLogger(__name__)


class DatabaseWatch:
    """Asks the database again and again in a thread of its own, so that no loading of a model delays a revocation."""

    def __init__(
        self,
        engine: Engine,
        refresh_seconds: float,
        breaker: Breaker | None = None,
        on_look: Callable[[], None] | None = None,
    ) -> None:
        """
        Args:
            engine: of the server.
            breaker: of the engine; it is open while the database hangs. `None`: of none.
            on_look: called after each look.
        """
        self._on_look = on_look
        self._breaker = breaker or Breaker()
        self._given, self._engine = engine, connect_probe(engine, self._breaker)
        self._refresh_seconds = refresh_seconds
        self._ring: KeyRing | None = None
        self._read_at = 0.0
        self._reason = "the API keys are not read yet: try again in a moment"
        self._write_problem: str | None = None
        self._is_failing = False
        self.used: dict[int, float] = {}  # number of a key → Unix seconds of its last use
        self._used_at = time.monotonic()
        self._tried, self._stop = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._watch, name="database watch", daemon=True)

    def start(self) -> None:
        """Start to watch, and wait for the first attempt."""
        self._thread.start()
        self._tried.wait(START_SECONDS)

    def stop(self) -> None:
        """Stop to watch, and close what was opened for it. A read that hangs ends with the process."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(timeout=1)
        if self._engine is not self._given:
            self._engine.dispose()

    def reason_to_refuse(self) -> str | None:
        """Return why every request is refused, until a first key ring is read; then `None`."""
        return self._reason if self._ring is None else None

    @property
    def is_away(self) -> bool:
        """Whether the database cannot be read."""
        return self._is_failing or self._breaker.is_open

    @property
    def needs_key(self) -> bool:
        """Whether a key was ever created, as far as is known."""
        return self._ring is None or self._ring.any_ever

    def problem(self) -> str | None:
        """Return why the database cannot be read or written; `None` if it can."""
        if self._breaker.is_open:
            return SILENT
        if self._is_failing or self._ring is None:
            return self._reason
        if time.monotonic() - self._read_at > SILENT_SECONDS + self._refresh_seconds:
            return "the database does not answer"
        if self._ring.damaged:
            number = self._ring.damaged[0]
            return f"the row of API key {number} is damaged: `recsys keys revoke {number}`, and create another key"
        return self._write_problem

    def keys(self, scope: Scope) -> KeyRing:
        """Return the keys to check a request against.

        Args:
            scope: the scope that the request needs.

        Raises:
            DatabaseError: no keys were read yet, or too long ago for this scope.
        """
        ring, age = self._ring, time.monotonic() - self._read_at
        if ring is None:
            raise DatabaseError(self._reason, public=self._reason)
        if age > (READ_SECONDS if scope.endswith("read") else CHANGE_SECONDS):
            reason = "the API keys cannot be checked, since the database does not answer: try again in a moment"
            raise DatabaseError(reason, public=reason)
        return ring

    def refresh(self) -> None:
        """Ask the database once. A failure is logged once, and leaves the keys as they are."""
        started = time.monotonic()
        self._write_problem = write_problem(self._engine)
        try:
            with reading(self._engine) as connection:
                ring = read_keyring(connection)
        except RecsysError as error:
            self._reason = error.public
            if not self._is_failing:
                _log.warning("the API keys cannot be read", extra={"reason": str(error)})
            self._is_failing = True
        except Exception:
            self._reason = "the API keys cannot be read: the server's log has the error"
            if not self._is_failing:
                _log.exception("the API keys cannot be read")
            self._is_failing = True
        else:
            if self._ring is not None and self._ring.any_ever and not ring.any_ever:
                # Another database, or an older copy of it: a service that needed keys does not open.
                ring = replace(ring, any_ever=True)
            self._read_at, self._ring, self._is_failing = started, ring, False
            self._breaker.reset()

    def _watch(self) -> None:
        while not self._stop.is_set():
            self.refresh()
            self._tried.set()
            if self._on_look is not None:
                self._on_look()
            if self.used and time.monotonic() - self._used_at > USE_SECONDS and not self.is_away:
                self._used_at = time.monotonic()
                # In a thread of its own, since a write may wait for others, and a revocation may not.
                threading.Thread(target=self.write_uses, name="key uses", daemon=True).start()
            self._stop.wait(self._refresh_seconds)

    def write_uses(self) -> None:
        """Write when keys were used; what cannot be written is kept for the next time."""
        used, self.used = self.used, {}
        try:
            note_uses(self._given, {number: round(at * 1000) for number, at in used.items()})
        except RecsysError as error:
            self.used = used | self.used
            _log.debug("the uses of keys cannot be written", extra={"reason": str(error)})
