"""What a request may ask for: the engine, and the snapshot that it keeps to its end."""

from typing import Annotated, cast

from fastapi import Depends, Request
from sqlalchemy import Engine

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


EngineOf = Annotated[Engine, Depends(_engine)]
LiveOf = Annotated[LiveRecommender, Depends(_live)]
RecommenderOf = Annotated[Recommender, Depends(_recommender)]
SettingsOf = Annotated[Settings, Depends(_settings)]
