"""What requests need, made once at start-up."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from threading import BoundedSemaphore, Event
from typing import Any, TypeVar, cast

from fastapi import Request
from sqlalchemy import Engine

from api.metrics import Metrics
from api.middleware import Load
from recsys.errors import OverloadedError
from recsys.serving.batching import Searcher, StateReader
from recsys.serving.refresh import LiveRecommender
from recsys.settings import Settings

_Answer = TypeVar("_Answer")

WRITERS = 8
"""Requests that may write at the same time: those that wait must leave threads for those that only read."""


@dataclass(frozen=True, slots=True)
class State:
    """One for each process.

    Attributes:
        live: the newest snapshot, the cache of users and the keys.
        reader, searcher: what answers requests that wait together.
        aside: the threads for what would keep the event loop too long.
        writers: turns to write.
        draining: set when the process was told to end.
    """

    engine: Engine
    settings: Settings
    live: LiveRecommender
    reader: StateReader
    searcher: Searcher
    aside: ThreadPoolExecutor
    writers: BoundedSemaphore
    metrics: Metrics
    load: Load
    draining: Event


def state_of(request: Request) -> State:
    return cast(State, request.app.state.recsys)


async def aside(state: State, work: Callable[..., _Answer], *arguments: Any) -> _Answer:
    """Do work in a thread, so that the event loop goes on meanwhile."""
    return await asyncio.get_running_loop().run_in_executor(state.aside, work, *arguments)


class Turn:
    """A turn to write, waited for a moment.

    Raises:
        OverloadedError: too many others are waiting.
    """

    def __init__(self, state: State) -> None:
        self._writers = state.writers

    def __enter__(self) -> None:
        if not self._writers.acquire(timeout=1):
            raise OverloadedError("too many requests are waiting to write: send this one again in a moment")

    def __exit__(self, *_: object) -> None:
        self._writers.release()
