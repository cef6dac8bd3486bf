"""The cache of user states."""

import sys
from collections import OrderedDict, defaultdict
from collections.abc import Iterable
from threading import Lock

from recsys.serving.users import UserState

_FIXED_BYTES = 3200
"""Bytes of a state without its arrays, its place in the cache, an answer of ten items and its best items included."""


class UserCache:
    """User states, the most recently used ones, up to a number of bytes. Safe between threads.

    `forget` comes with the seq of a change, and a state that was read before that change is not cached.

    Attributes:
        n_hits, n_misses: how often a state was there, and was not.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._states: OrderedDict[tuple[int, str], UserState] = OrderedDict()
        self._keys: dict[int, set[tuple[int, str]]] = defaultdict(set)
        self._n_bytes = 0
        self._floor = 0
        self._lock = Lock()
        self.n_hits = self.n_misses = 0

    @property
    def n_bytes(self) -> int:
        """Bytes of all states, about."""
        return self._n_bytes

    def __len__(self) -> int:
        return len(self._states)

    def get(self, number: int, user_id: str) -> UserState | None:
        """Return the cached state of a user for a version."""
        with self._lock:
            state = self._states.get((number, user_id))
            if state is None:
                self.n_misses += 1
            else:
                self.n_hits += 1
                self._states.move_to_end((number, user_id))
            return state

    def put(self, number: int, user_id: str, state: UserState) -> None:
        """Cache a state, unless a change was forgotten since it was read."""
        if state.user_key is None:
            return  # no change would announce that the user was created, or that the catalogue has the item
        with self._lock:
            if state.seq < self._floor:
                return
            self._drop((number, user_id))
            self._states[number, user_id] = state
            self._keys[state.user_key].add((number, user_id))
            self._n_bytes += _size(state)
            while self._n_bytes > self._max_bytes and self._states:
                self._drop(next(iter(self._states)))

    def forget(self, user_keys: Iterable[int], seq: int) -> None:
        """Forget users that changed at `seq` or before."""
        with self._lock:
            self._floor = max(self._floor, seq)
            for user_key in user_keys:
                for key in list(self._keys.get(user_key, ())):
                    self._drop(key)

    def clear(self, seq: int) -> None:
        """Forget all users."""
        with self._lock:
            self._floor = max(self._floor, seq)
            self._states.clear()
            self._keys.clear()
            self._n_bytes = 0

    def reset(self) -> None:
        """Forget all users and every seq: the database is another one."""
        with self._lock:
            self._floor = 0
        self.clear(0)

    def _drop(self, key: tuple[int, str]) -> None:
        state = self._states.pop(key, None)
        if state is None:
            return
        assert state.user_key is not None
        self._n_bytes -= _size(state)
        others = self._keys[state.user_key]
        others.discard(key)
        if not others:
            del self._keys[state.user_key]


def _size(state: UserState) -> int:
    """Return about how many bytes a state takes."""
    vector = 0 if state.embedding is None else state.embedding.vector
    n_bytes = 0 if isinstance(vector, int) else sys.getsizeof(vector) + vector.nbytes
    of_profile = 0 if state.profile is None else state.profile.nbytes
    return _FIXED_BYTES + state.seen.nbytes + n_bytes + of_profile
