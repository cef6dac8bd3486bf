"""The application: what it is made of, and in which order."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from threading import BoundedSemaphore

from fastapi import FastAPI

import recsys
from api import problems
from api.paths import MatchBeforeDecoding
from api.routes import health, items, models, ratings, recommendations
from recsys.data.database import connect
from recsys.serving.live import LiveRecommender
from recsys.settings import Settings, load_settings

WRITE_SECONDS = 5.0
"""How long a request waits for another writer of the database before it says 503."""

WRITERS = 8
"""Requests that may write at the same time: those that wait must leave threads for those that only read."""

DESCRIPTION = """\
Recommendations, similar items and popularity from models that are trained every night.

Every list says which `model_version` was asked and from what `source` it came: `model` (the user's own
vector) or `popularity` (nobody knows the user yet, or the list is one of popularity). Ids may hold anything;
in a path, percent-encode them (`a/b` is `a%2Fb`). Every error is a problem document (RFC 9457).
"""


def create_app(settings: Settings | None = None) -> FastAPI:
    """The service over the database that the settings name; by default those of the environment.

    Nothing is opened before it starts up, and it starts without a database or a model too: `/health/ready`
    then says what is missing.
    """
    settings = settings or load_settings()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        engine = connect(settings.database_url, busy_seconds=WRITE_SECONDS)
        live = LiveRecommender(engine, settings.refresh_seconds)
        app.state.engine, app.state.live, app.state.settings = engine, live, settings
        app.state.writers = BoundedSemaphore(WRITERS)
        live.start()
        try:
            yield
        finally:
            live.stop()
            engine.dispose()

    app = FastAPI(
        title="recsys",
        version=recsys.__version__,
        description=DESCRIPTION,
        lifespan=lifespan,
        redirect_slashes=False,
        responses=problems.RESPONSES,
    )
    for routes in (recommendations, items, ratings, models):
        app.include_router(routes.router, prefix="/v1")
    app.include_router(health.router)
    problems.install(app)
    app.add_middleware(MatchBeforeDecoding)
    return app
