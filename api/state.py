"""The objects that requests need, made once at start-up."""

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from threading import BoundedSemaphore, Event
from typing import Annotated, Any, TypeVar, cast

from fastapi import Depends, Request
from sqlalchemy import Engine

from api.access import DatabaseWatch
from api.limits import RateLimits
from api.metrics import Metrics
from api.middleware import InFlight
from recsys.errors import DatabaseError, OverloadedError
from recsys.serving.batching import PostWriter, Searcher, StateReader
from recsys.serving.refresh import LiveRecommender
from recsys.serving.trending import TrendReader
from recsys.settings import Settings

_Answer = TypeVar("_Answer")

MAX_WRITERS = 8
"""Requests that may write at the same time. Requests that only read need the other threads and connections."""

WRITE_WAIT_SECONDS = 1.0
"""Longest time that a request waits for a write slot."""

PROBLEM_SECONDS = 60.0
"""How long a write that the database refused counts as a problem of the service, unless a later one succeeds."""


class WriteLimiter:
    """Limits the number of requests that write at the same time, and notes whether writes succeed.

    Enter it to take a write slot; it raises `OverloadedError` if none becomes free within `WRITE_WAIT_SECONDS`.
    """

    def __init__(self, max_writers: int = MAX_WRITERS) -> None:
        self._slots = BoundedSemaphore(max_writers)
        self._problem: tuple[str, float] | None = None

    def problem(self) -> str | None:
        """Return why the last write failed, if that was less than `PROBLEM_SECONDS` ago."""
        if self._problem is None or time.monotonic() - self._problem[1] > PROBLEM_SECONDS:
            return None
        return self._problem[0]

    def __enter__(self) -> None:
        if not self._slots.acquire(timeout=WRITE_WAIT_SECONDS):
            raise OverloadedError("too many requests are waiting to write: send this one again in a moment")

    def __exit__(self, _kind: object, error: BaseException | None, _traceback: object) -> None:
        self._slots.release()
        if isinstance(error, DatabaseError):
            self._problem = error.public, time.monotonic()
        elif error is None:
            self._problem = None


@dataclass(frozen=True, slots=True)
class AppState:
    """The state of one server process.

    Attributes:
        live: the newest snapshot and the cache of users.
        database: the API keys, and whether the database answers.
        reader: reads users, those of concurrent requests in one query.
        searcher: finds lists, those of concurrent requests in one matrix product.
        posts: writes posted ratings, those of concurrent requests in one transaction.
        trends: reads trending items, and keeps them for a minute.
        threads: run work that would keep the event loop busy for too long.
        writers: limits concurrent writes.
        draining: set when the process was asked to stop.
        rates: limits of the rate of requests; `None`: there are none.
    """

    engine: Engine
    settings: Settings
    live: LiveRecommender
    database: DatabaseWatch
    reader: StateReader
    searcher: Searcher
    posts: PostWriter
    trends: TrendReader
    threads: ThreadPoolExecutor
    writers: WriteLimiter
    metrics: Metrics
    in_flight: InFlight
    draining: Event
    rates: RateLimits | None = None

    @property
    def problem(self) -> str | None:
        """Why the service is degraded: it cannot read, or cannot write, or a write failed a moment ago."""
        return self.live.problem or self.database.problem() or self.writers.problem()


def state_of(request: Request) -> AppState:
    """Return the state of the application that handles a request."""
    return cast(AppState, request.scope["app"].recsys)


async def _current_state(request: Request) -> AppState:
    # FastAPI would call `state_of` in a thread.
    return state_of(request)


CurrentState = Annotated[AppState, Depends(_current_state)]
"""The type of an endpoint's parameter that receives the state."""


async def in_thread(state: AppState, work: Callable[..., _Answer], *arguments: Any) -> _Answer:
    """Call `work` in a thread and return its result; the event loop continues meanwhile."""
    return await asyncio.get_running_loop().run_in_executor(state.threads, work, *arguments)
