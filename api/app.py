"""The application: what it is made of, and in which order."""

import asyncio
import signal
import sys
import threading
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from threading import BoundedSemaphore
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from starlette.datastructures import Headers
from starlette.middleware.gzip import GZipMiddleware
from starlette.types import Receive, Scope, Send
from threadpoolctl import threadpool_limits

import recsys
from api import problems
from api.metrics import Metrics
from api.middleware import Front, Load
from api.routes import health, items, models, ratings, recommendations
from api.state import WRITERS, State
from recsys.database.engine import connect
from recsys.serving.batching import Searcher, StateReader
from recsys.serving.refresh import LiveRecommender
from recsys.settings import Settings, load_settings

WRITE_SECONDS = 5.0
"""How long a request waits for another writer of the database before it says 503."""

SWITCH_SECONDS = 0.0005
"""How long the event loop may keep a thread waiting that has read a row of a user: SQLite lets go of the interpreter at
every row, and by default would wait 5 ms to have it back."""

DESCRIPTION = """\
Recommendations, similar items and popularity from models that are trained every night.

Every list says which `model_version` was asked and from what `source` it came: `model` (the user's own
vector), `fold_in` (a vector solved from their ratings as they are now) or `popularity`. Ids may hold anything;
in a path, percent-encode them (`a/b` is `a%2Fb`). Every error is a problem document (RFC 9457).

Where keys are needed, send one: `Authorization: Bearer recsys_…`.
"""


class GZipWhenAsked(GZipMiddleware):
    """Packs long answers for clients that take them packed, and stays out of the way of all others."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and "gzip" in Headers(scope=scope).get("accept-encoding", ""):
            await super().__call__(scope, receive, send)
        else:
            await self.app(scope, receive, send)


def create_app(settings: Settings | None = None) -> FastAPI:
    """The service over the database that the settings name; by default those of the environment.

    Nothing is opened before it starts up, and it starts without a database or a model too: `/health/ready`
    then says what is missing.
    """
    settings = settings or load_settings()
    load, metrics, draining = Load(), Metrics(), threading.Event()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        engine = connect(settings.database_url, busy_seconds=WRITE_SECONDS)
        live = LiveRecommender(engine, settings.refresh_seconds, settings.user_cache_mib << 20)
        reading, finding = ThreadPoolExecutor(1, "users"), ThreadPoolExecutor(1, "lists")
        aside = ThreadPoolExecutor(16, "aside")
        app.state.recsys = State(
            engine=engine,
            settings=settings,
            live=live,
            reader=StateReader(engine, live.users, reading),
            searcher=Searcher(finding),
            aside=aside,
            writers=BoundedSemaphore(WRITERS),
            metrics=metrics,
            load=load,
            draining=draining,
        )
        _note_termination(draining, settings.notice_seconds)
        sys.setswitchinterval(SWITCH_SECONDS)
        # Lists of several requests are one product already: more threads for it would only wait for each other.
        with threadpool_limits(1):
            await asyncio.get_running_loop().run_in_executor(aside, live.start)
            try:
                yield
            finally:
                live.stop()
                for pool in (reading, finding, aside):
                    pool.shutdown()
                engine.dispose()
                metrics.close()

    app = FastAPI(
        title="recsys",
        version=recsys.__version__,
        description=DESCRIPTION,
        lifespan=lifespan,
        redirect_slashes=False,
    )
    for module in (recommendations, items, ratings, models, health):
        app.router.routes.extend(module.routes.routes)
    problems.install(app)
    app.add_middleware(GZipWhenAsked, minimum_size=2000, compresslevel=4)
    app.add_middleware(Front, metrics=metrics, load=load, most=settings.max_requests, is_draining=draining.is_set)
    app.openapi = lambda: _document(app)  # type: ignore[method-assign]
    return app


def _document(app: FastAPI) -> dict[str, Any]:
    """The OpenAPI document, with the keys that FastAPI does not know of."""
    if app.openapi_schema is None:
        document = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
        document["components"]["securitySchemes"] = {
            "key": {"type": "http", "scheme": "bearer", "description": "A key from `recsys keys create`."}
        }
        for path, operations in document["paths"].items():
            for operation in operations.values():
                if path.startswith("/v1/"):
                    operation["security"] = [{"key": []}, {}]
                for response in operation["responses"].values():
                    if problems.MEDIA_TYPE in response.get("content", ()):
                        response["content"].pop("application/json", None)  # which FastAPI adds for the model
        app.openapi_schema = document
    return app.openapi_schema


def _note_termination(draining: threading.Event, notice_seconds: float) -> None:
    """When told to end, say so at /health/ready, and let the server close its door only after the notice."""
    if threading.current_thread() is not threading.main_thread():
        return  # signals belong to somebody else
    loop = asyncio.get_running_loop()
    close = signal.getsignal(signal.SIGTERM)

    def told(number: int, frame: Any) -> None:
        draining.set()
        if callable(close):
            if notice_seconds > 0:
                loop.call_soon_threadsafe(loop.call_later, notice_seconds, close, number, None)
            else:
                close(number, frame)

    signal.signal(signal.SIGTERM, told)
