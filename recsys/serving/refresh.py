"""The current snapshot, and the thread that keeps it and the cache of users up to date with the database."""

import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from threading import Event, Lock, Thread

from sqlalchemy import Connection, Engine

from recsys.database.changes import Changes, changes_since
from recsys.database.counts import read_counts
from recsys.database.engine import forget_replaced_file, reading
from recsys.database.items import read_items
from recsys.database.models import live_numbers
from recsys.database.users import some_user_ids
from recsys.errors import DatabaseError, RecsysError
from recsys.results import Objective
from recsys.serving.catalogue import Catalogue, read_catalogue
from recsys.serving.live_model import LiveModel
from recsys.serving.replay import ListCall, RequestLog, replay
from recsys.serving.snapshot import Recommender, load_models
from recsys.serving.user_cache import UserCache

COUNTS_SECONDS = 30
"""Largest age of the numbers of ratings while single ratings are posted."""

FIRST_CALLS = 50
"""Users whose lists are tried at the start, when no request was recorded yet."""

START_SECONDS = 60.0
"""Longest time that `start` waits for the first snapshot."""

_log = logging.getLogger(__name__)


class LiveRecommender:
    """Holds one snapshot and replaces it by a newer one; a request keeps the snapshot that it began with.

    Attributes:
        users: cached user states; forgotten when the user changes.
        requests: the latest requests for lists, which a new version must answer well before it is served.
        problem: why the last refresh failed, or which versions are damaged; `None` if all is well.
    """

    def __init__(
        self,
        engine: Engine,
        refresh_seconds: float,
        user_cache_bytes: int = 32 << 20,
        on_load: Callable[[], None] = lambda: None,
    ) -> None:
        """Create the object without a snapshot; `start` reads the first one.

        Args:
            on_load: called after a snapshot or a version was loaded, for example to reduce the memory of the process.
        """
        self.users = UserCache(user_cache_bytes)
        self.requests = RequestLog()
        self.problem: str | None = None
        self._engine = engine
        self._refresh_seconds = refresh_seconds
        self._on_load = on_load
        self._tried, self._stop = Event(), Event()
        self._thread = Thread(target=self._watch, name="refresh", daemon=True)
        self._changes_thread = Thread(target=self._watch_while_loading, name="changes", daemon=True)
        self._lock = Lock()
        self._swap = Lock()  # held for moments, where `_lock` is held while a version is loaded
        self._recommender: Recommender | None = None
        self._seq = 0  # of the last change that the snapshot and the cache include
        self._stale = False  # whether a change of everything has not been loaded yet
        self._live: dict[Objective, int] = {}  # as the database names them; a damaged one is not served
        self._damage: str | None = None
        self._refused: dict[int, str] = {}  # versions that answered recorded requests badly, and how
        self._counts_seq = 0
        self._counted_at = self._loaded_at = 0.0
        self._load_seconds = 0.0

    @property
    def loaded(self) -> bool:
        """Whether a snapshot was loaded."""
        return self._recommender is not None

    @property
    def current(self) -> Recommender:
        """The newest snapshot.

        Raises:
            DatabaseError: no snapshot was loaded yet.
        """
        if self._recommender is None:
            reason = self.problem or "nothing has been read from the database yet: try again"
            raise DatabaseError(reason, public=reason)
        return self._recommender

    def refresh(self) -> None:
        """Read what changed: forget cached users, and load newer items, counts and versions.

        If the database cannot be reached, `problem` says so; nothing is raised.
        """
        with self._lock:
            try:
                if forget_replaced_file(self._engine):  # another database, whose seq has no relation to the last one
                    self._seq, self._loaded_at = -1, -math.inf
                    self.users.reset()
                with reading(self._engine) as connection:
                    self._catch_up(connection)
                self.problem = self._damage
            except RecsysError as error:
                if self.problem is None:
                    _log.warning("database not available", extra={"reason": str(error)})
                self.problem = error.public
            except Exception:
                _log.exception("the snapshot could not be refreshed")
                self.problem = "the snapshot could not be refreshed: the server's log has the error"
            finally:
                self._tried.set()

    def refresh_items(self, item_keys: Sequence[int]) -> Recommender:
        """Read some items again, and return the snapshot that includes them: it is the current one from now on.

        A refresh is not enough for an item that was just stored: while a bulk load runs, a refresh postpones reading
        all items again.

        Raises:
            DatabaseError: the database cannot be reached, or no snapshot was loaded yet.
        """
        with self._swap, reading(self._engine) as connection:
            self._recommender = self.current.with_items(read_items(connection, item_keys))
            return self._recommender

    def start(self) -> None:
        """Start to refresh, and wait for the first attempt, but not for ever: a database may hang."""
        self._thread.start()
        self._changes_thread.start()
        self._tried.wait(START_SECONDS)

    def stop(self) -> None:
        """Stop to refresh. An attempt that hangs ends with the process."""
        self._stop.set()
        self._thread.join(timeout=5)

    def _watch(self) -> None:
        self.refresh()
        while not self._stop.wait(self._refresh_seconds):
            self.refresh()

    def _watch_while_loading(self) -> None:
        """Forget users and read items that change while `refresh` is at work: loading a version takes seconds, and no
        list may have what another process has acknowledged as rated or hidden for longer than that one second."""
        seq = 0
        while not self._stop.wait(self._refresh_seconds):
            if not self._lock.locked() or self._recommender is None:
                seq = self._seq
                continue
            try:
                with reading(self._engine) as connection:
                    changes = changes_since(connection, seq)
                if changes.items:
                    self._serve(None, seq)
            except RecsysError:  # `refresh` says so
                continue
            if changes.everything:
                self.users.clear(changes.seq)
            elif changes.users:
                self.users.forget(changes.users, changes.seq)
            seq = changes.seq

    def _serve(self, recommender: Recommender | None, seq: int) -> None:
        """Serve a snapshot from now on, or the present one, with the items that changed after `seq` as they are now."""
        with self._swap, reading(self._engine) as connection:
            items = changes_since(connection, seq).items
            latest = self.current if recommender is None else recommender
            self._recommender = latest.with_items(read_items(connection, items)) if items else latest

    def _catch_up(self, connection: Connection) -> None:
        changes = changes_since(connection, self._seq)
        if changes.everything:
            self.users.clear(changes.seq)
            self._stale = True
        elif changes.users:
            self.users.forget(changes.users, changes.seq)
        numbers = live_numbers(connection)
        before = self._recommender
        # A bulk load changes everything again and again: spend at most a fifth of the time on loading.
        may_reload = time.monotonic() - self._loaded_at > 5 * self._load_seconds
        if before is None or (self._stale and may_reload):
            self._load(connection, changes)
        else:
            if changes.items:
                self._serve(None, self._seq)  # before a version is loaded
            before = after = self.current
            if numbers != self._live:
                after = self._with_versions(connection, after)
            if self._counts_seq < changes.seq and time.monotonic() - self._counted_at > COUNTS_SECONDS:
                after = Recommender(after.catalogue.with_counts(read_counts(connection)), after.models)
                self._counts_seq, self._counted_at = changes.seq, time.monotonic()
            if after is not before:
                self._serve(after, changes.seq)
        self._seq = changes.seq

    def _load(self, connection: Connection, changes: Changes) -> None:
        started = time.monotonic()
        catalogue = read_catalogue(connection)
        recommender = Recommender(catalogue, self._load_models(connection, catalogue, {}))
        self._serve(recommender, changes.seq)
        self._loaded_at = self._counted_at = time.monotonic()
        self._load_seconds = self._loaded_at - started
        self._stale, self._counts_seq = False, changes.seq
        self._on_load()
        live = {objective: model.number for objective, model in recommender.models.items()}
        _log.info("snapshot loaded", extra={"live": live, "seq": changes.seq, "seconds": round(self._load_seconds, 3)})

    def _with_versions(self, connection: Connection, recommender: Recommender) -> Recommender:
        known = {model.number: model for model in recommender.models.values()}
        models = self._load_models(connection, recommender.catalogue, known)
        self._on_load()
        _log.info("versions loaded", extra={"live": {objective: model.number for objective, model in models.items()}})
        return Recommender(recommender.catalogue, models)

    def _load_models(
        self, connection: Connection, catalogue: Catalogue, known: Mapping[int, LiveModel]
    ) -> dict[Objective, LiveModel]:
        loaded = load_models(connection, catalogue, known, self._refused)
        for model in loaded.models.values():
            model.warm()
        calls = self.requests.calls() or [ListCall(user_id) for user_id in some_user_ids(connection, FIRST_CALLS)]
        problems = replay(connection, calls, self._recommender, Recommender(catalogue, loaded.models))
        if problems:
            self._refused |= {loaded.models[objective].number: problem for objective, problem in problems.items()}
            rest = {model.number: model for objective, model in loaded.models.items() if objective not in problems}
            loaded = load_models(connection, catalogue, {**known, **rest}, self._refused)
            for model in loaded.models.values():
                model.warm()
        if loaded.problem is not None:
            _log.error("damaged or refused versions", extra={"reason": loaded.problem})
        self._live, self._damage = live_numbers(connection), loaded.problem
        return loaded.models
