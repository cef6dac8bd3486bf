"""What a request may ask for: the engine, and the snapshot that it keeps to its end."""

from collections.abc import Iterator
from threading import BoundedSemaphore
from typing import Annotated, cast

from fastapi import Depends, Request
from sqlalchemy import Engine

from recsys.errors import OverloadedError
from recsys.serving.live import LiveRecommender
from recsys.serving.recommender import Recommender
from recsys.settings import Settings


def _engine(request: Request) -> Engine:
    return cast(Engine, request.app.state.engine)


def _live(request: Request) -> LiveRecommender:
    return cast(LiveRecommender, request.app.state.live)


def _recommender(live: Annotated[LiveRecommender, Depends(_live)]) -> Recommender:
    return live.current


def _settings(request: Request) -> Settings:
    return cast(Settings, request.app.state.settings)


def _turn_to_write(request: Request) -> Iterator[None]:
    """Wait a moment for a turn to write.

    Raises:
        OverloadedError: too many others are waiting.
    """
    writers = cast(BoundedSemaphore, request.app.state.writers)
    if not writers.acquire(timeout=1):
        raise OverloadedError("too many requests are waiting to write: send this one again in a moment")
    try:
        yield
    finally:
        writers.release()


EngineOf = Annotated[Engine, Depends(_engine)]
LiveOf = Annotated[LiveRecommender, Depends(_live)]
RecommenderOf = Annotated[Recommender, Depends(_recommender)]
SettingsOf = Annotated[Settings, Depends(_settings)]
TurnToWrite = Depends(_turn_to_write)
