"""The snapshot that answers now, and the thread that replaces it when the database has something newer."""

import logging
import time
from dataclasses import dataclass
from threading import Event, Thread

from sqlalchemy import Connection, Engine

from recsys.data.changes import KEPT, current_seq, rows_changed_seq
from recsys.data.database import forget_replaced_file, reading
from recsys.errors import DatabaseError, RecsysError
from recsys.factors import Objective
from recsys.registry import live_numbers
from recsys.serving.recommender import Recommender, load_recommender

COUNTS_SECONDS = 30
"""How old the numbers of ratings may be while ratings come in one by one."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Mark:
    """What tells whether a snapshot is still the newest."""

    numbers: dict[Objective, int]
    items_seq: int
    seq: int


class LiveRecommender:
    """Holds one `Recommender` and swaps it for a newer one; a request keeps the one that it began with."""

    def __init__(self, engine: Engine, refresh_seconds: float) -> None:
        self._engine = engine
        self._refresh_seconds = refresh_seconds
        self._stop = Event()
        self._thread = Thread(target=self._watch, name="refresh", daemon=True)
        self._recommender: Recommender | None = None
        self._mark: _Mark | None = None
        self._loaded_at = 0.0
        self._load_seconds = 0.0
        self.problem: str | None = None
        """Why the database could not be asked last time; None when all is well."""

    @property
    def current(self) -> Recommender:
        """The newest snapshot.

        Raises:
            DatabaseError: there has been none yet.
        """
        if self._recommender is None:
            raise DatabaseError(self.problem or "nothing has been read from the database yet: try again")
        return self._recommender

    def refresh(self) -> None:
        """Look once, and load a new snapshot if there is something newer.

        A database that cannot be reached is noted in `problem`, not raised.
        """
        try:
            forget_replaced_file(self._engine)
            with reading(self._engine) as connection:
                mark = _read_mark(connection)
                if self._is_newer(mark):
                    started = time.monotonic()
                    self._recommender = load_recommender(connection)
                    self._mark, self._loaded_at = mark, time.monotonic()
                    self._load_seconds = self._loaded_at - started
                    _log.info("snapshot loaded", extra={"live": mark.numbers, "seq": mark.seq})
            self.problem = None
        except RecsysError as error:
            if self.problem is None:
                _log.warning("database not available", extra={"reason": str(error)})
            self.problem = str(error)

    def start(self) -> None:
        self.refresh()
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(self._refresh_seconds):
            try:
                self.refresh()
            except Exception:
                _log.exception("the snapshot could not be refreshed")

    def _is_newer(self, mark: _Mark) -> bool:
        before = self._mark
        if before is None or before.numbers != mark.numbers:
            return True
        # A bulk load changes everything again and again: do not spend more than a fifth of the time on reading.
        age = time.monotonic() - self._loaded_at
        if age < 5 * self._load_seconds:
            return False
        if before.items_seq < mark.items_seq or before.seq <= mark.seq - KEPT:
            return True
        return before.seq < mark.seq and age > COUNTS_SECONDS


def _read_mark(connection: Connection) -> _Mark:
    return _Mark(live_numbers(connection), rows_changed_seq(connection), current_seq(connection))
