"""The versions that the dashboard shows, in memory."""

import time
from collections import OrderedDict
from threading import Lock

import numpy as np

from api.state import AppState
from recsys.analysis.view import ModelView
from recsys.database.engine import reading
from recsys.database.models import ModelVersion, versions
from recsys.errors import NoModelError, NotFoundError
from recsys.library.views import read_view, with_some_users
from recsys.serving.live_model import LiveModel
from recsys.serving.snapshot import load_live_model

MOST_KEPT = 4
"""Versions that are kept in memory, those used last."""
LISTED_CELLS = 20_000_000
"""Scores that are computed for the lists of some users: the larger the catalogue, the fewer users."""
KEPT_SECONDS = 120.0
"""Age after which a version is read again, for new titles, counts and maps."""


class Views:
    """Reads versions when they are asked for, and keeps the last ones."""

    def __init__(self, state: AppState) -> None:
        self._state = state
        self._kept: OrderedDict[int, tuple[ModelView, float]] = OrderedDict()
        self._with_users: dict[int, tuple[ModelView, float]] = {}
        self._lock = Lock()

    def versions(self) -> list[ModelVersion]:
        """Return all stored versions, the newest first."""
        with reading(self._state.engine) as connection:
            return versions(connection)

    def choose(self, number: int | None, known: list[ModelVersion] | None = None) -> ModelView:
        """Return a version; by default the live ranking version, else the live rating version, else the newest.

        Raises:
            NoModelError: there is no version at all.
            NotFoundError: there is no such version.
        """
        stored = self.versions() if known is None else known
        if not stored:
            raise NoModelError("no model is stored yet: load ratings with `recsys load`, then run `recsys nightly`")
        if number is None:
            live = {version.objective: version.number for version in stored if version.live}
            number = live.get("ranking") or live.get("rating") or stored[0].number
        if number not in {version.number for version in stored}:
            self._kept.pop(number, None)
            raise NotFoundError(f"there is no version {number} any more: it was pruned; choose another one")
        return self.get(number)

    def get(self, number: int) -> ModelView:
        """Return a version by its number."""
        with self._lock:
            view, read_at = self._kept.get(number, (None, 0.0))
            if view is None or time.monotonic() - read_at > KEPT_SECONDS:
                snapshot = self._state.live.current
                live = next((model for model in snapshot.models.values() if model.number == number), None)
                factors = None if live is None else live.as_trained()  # a live version is in memory already
                with reading(self._state.engine) as connection:
                    view = read_view(connection, number, snapshot.catalogue, factors=factors).with_plane()
                self._kept[number] = view, time.monotonic()
            self._kept.move_to_end(number)
            while len(self._kept) > MOST_KEPT:
                self._kept.popitem(last=False)
        return view

    def read_at(self, number: int) -> int:
        """Return when a version in memory was read, in seconds of a clock that only runs on."""
        return int(self._kept[number][1]) if number in self._kept else 0

    def with_users(self, number: int) -> ModelView:
        """Return a version with some of its users, evenly chosen, and their ratings."""
        with self._lock:
            view, read_at = self._with_users.get(number, (None, 0.0))
        if view is None or time.monotonic() - read_at > KEPT_SECONDS:
            view = self.get(number)
            n_users = int(np.clip(LISTED_CELLS // max(1, len(view.items)), 50, 1000))
            with reading(self._state.engine) as connection:
                view = with_some_users(connection, view, n_users)
            with self._lock:
                self._with_users = {number: (view, time.monotonic())}
        return view

    def with_same_users(self, number: int, view: ModelView) -> ModelView:
        """Return a version with the users of a view, as far as it knows them."""
        with reading(self._state.engine) as connection:
            return with_some_users(connection, self.get(number), among=view.factors.user_keys.tolist())

    def live_model(self, number: int) -> LiveModel:
        """Return a version as lists need it, live or not."""
        snapshot = self._state.live.current
        for model in snapshot.models.values():
            if model.number == number:
                return model
        with reading(self._state.engine) as connection:
            return load_live_model(connection, number, snapshot.catalogue)
