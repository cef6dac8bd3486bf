"""A new version answers recorded requests before it answers anybody else."""

import time
from collections import deque
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from sqlalchemy import Connection

from recsys.results import Objective
from recsys.serving.lists import ListQuery, recommend
from recsys.serving.live_model import LiveModel
from recsys.serving.snapshot import Recommender
from recsys.serving.users import UserState, read_states

MAX_REQUESTS = 1000
"""Requests that are recorded; of more, the latest."""

TIMED_REQUESTS = 50
"""Requests that are timed one by one."""

SLOWER, SLOW_SECONDS = 5.0, 0.05
"""A version is too slow if its median list takes so many times as long as before, and so many seconds."""


class ListCall(NamedTuple):
    """A request for the list of a user."""

    user_id: str
    n: int = 10


class RequestLog:
    """The latest requests for lists. Appending is safe between threads."""

    def __init__(self) -> None:
        self._calls: deque[ListCall] = deque(maxlen=MAX_REQUESTS)

    def add(self, user_id: str, n: int) -> None:
        """Record a request."""
        self._calls.append(ListCall(user_id, n))

    def calls(self) -> list[ListCall]:
        """Return what was recorded, the oldest first."""
        return list(self._calls)


def replay(
    connection: Connection, calls: Sequence[ListCall], before: Recommender | None, after: Recommender
) -> dict[Objective, str]:
    """Answer recorded requests with the versions that are new in a snapshot.

    Every score must be finite, every list full and without an item that the user has rated, there must be about as many
    items to list as before, and a list must not take much longer.

    Args:
        before: the snapshot that is served now; `None` if there is none.

    Returns:
        objective → why its new version must not be served; nothing for those that may.
    """
    problems: dict[Objective, str] = {}
    for objective, model in after.models.items():
        old = before.models.get(objective) if before is not None else None
        if calls and (old is None or old.number != model.number):
            problem = problem_of(connection, calls, before, old, after, model)
            if problem is not None:
                problems[objective] = problem
    return problems


def problem_of(
    connection: Connection,
    calls: Sequence[ListCall],
    before: Recommender | None,
    old: LiveModel | None,
    after: Recommender,
    model: LiveModel,
) -> str | None:
    """Return why a version must not be served; `None` if it may."""
    user_ids = list(dict.fromkeys(call.user_id for call in calls))
    states = read_states(connection, user_ids, after.catalogue, model)
    longest = max(call.n for call in calls)
    lists = dict(zip(states, recommend(after, model, list(states.values()), ListQuery(n=longest)), strict=True))
    listable = np.isfinite(model.list_bias)
    if old is not None and 2 * listable.sum() < np.isfinite(old.list_bias).sum():
        return f"it can list {listable.sum():,} items, less than half as many as version {old.number}"
    for user_id, state in states.items():
        ranked = lists[user_id]
        if not np.isfinite(ranked.best.scores).all():
            return "a score is not finite"
        if np.isin(ranked.best.item_idx, state.seen).any():
            return "a list has an item that the user has rated"
        expected = min(longest, int(listable.sum() - listable[state.seen].sum()))
        if ranked.source != "popularity" and len(ranked.best.item_idx) < expected:
            return f"a list has {len(ranked.best.item_idx)} items, and {expected} were expected"
    if before is not None and old is not None:
        timed = calls[-TIMED_REQUESTS:]
        old_states = read_states(connection, user_ids, before.catalogue, old)
        was, now = (
            median_seconds(snapshot, version, (known[call.user_id] for call in timed))
            for snapshot, version, known in ((before, old, old_states), (after, model, states))
        )
        if now > max(SLOWER * was, SLOW_SECONDS):
            return f"a list takes {now * 1000:.0f} ms, and took {was * 1000:.0f} ms before"
    return None


def median_seconds(recommender: Recommender, model: LiveModel, users: Iterable[UserState]) -> float:
    """Return the median time that the list of one user takes."""
    seconds = []
    for user in users:
        started = time.perf_counter()
        recommend(recommender, model, [user])
        seconds.append(time.perf_counter() - started)
    return float(np.median(seconds))
