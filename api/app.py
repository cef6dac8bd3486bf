"""Build the application: its state, its routes and its middleware."""

import asyncio
import threading
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send
from threadpoolctl import threadpool_limits

import recsys
from api import dashboard, problems
from api.access import DatabaseWatch
from api.door import SHED
from api.hosts import HostRule
from api.limits import RateLimits
from api.metrics import Metrics
from api.middleware import GZipIfAccepted, InFlight, RequestMiddleware
from api.openapi import document_of
from api.process import (
    end_with_parent,
    keep_loaded_objects,
    note_termination,
    paused_collection,
    share_interpreter,
    write_lean_records,
)
from api.routes import docs, health, items, models, ratings, recommendations, runs
from api.routing import FastPaths
from api.state import AppState, WriteLimiter
from recsys.database.breaker import Breaker
from recsys.database.engine import connect
from recsys.extras import require_extra
from recsys.serving.batching import PostWriter, Searcher, StateReader
from recsys.serving.refresh import LiveRecommender
from recsys.serving.trending import TrendReader
from recsys.settings import Settings, load_settings

if TYPE_CHECKING:
    from api.tracing import Tracer

WRITE_SECONDS = 5.0
"""Longest time that a request waits for another writer of the database; then the answer is 503."""

DESCRIPTION = """\
Recommendations, similar items and popularity from models that are trained every night.

Every list names its `model_version` and its `source`: `model` (the user's own vector), `fold_in` (a vector computed
from the user's current ratings) or `popularity`. Ids may contain any character; percent-encode them in a path
(`a/b` is `a%2Fb`). Every error is a problem document (RFC 9457).

Where keys are needed, send one: `Authorization: Bearer recsys_…`.
"""


class Service(FastAPI):
    """The application, with its own middleware and the fast path of lists outside of FastAPI's.

    Attributes:
        outermost: receives every request first.
        recsys: what requests need, from the start-up on. The attributes of `state` take many times as long to read.
    """

    outermost: ASGIApp
    recsys: AppState

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.outermost(scope, receive, send)


def create_app(settings: Settings | None = None) -> Service:
    """Return the service over the database that the settings name.

    The application opens nothing before its start-up, and starts without a database or a model too: `/health/ready`
    then says what is missing.

    Args:
        settings: by default those of the environment.
    """
    settings = settings or load_settings()
    in_flight, metrics, draining = InFlight(), Metrics(), threading.Event()
    tracer = make_tracer() if settings.traces else None

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        breaker = Breaker()
        engine = connect(settings.database_url, busy_seconds=WRITE_SECONDS, create=False, breaker=breaker)
        live = LiveRecommender(
            engine, settings.refresh_seconds, settings.user_cache_mib << 20, on_load=keep_loaded_objects
        )

        def update_metrics() -> None:
            metrics.update_process(live, engine.pool, SHED.take(), is_open=breaker.is_open)

        database = DatabaseWatch(engine, settings.refresh_seconds, breaker, update_metrics)
        readers, searchers, posters = (ThreadPoolExecutor(1, name) for name in ("users", "lists", "posts"))
        threads = ThreadPoolExecutor(16, "work")
        helper = ThreadPoolExecutor(1, "search") if settings.search_threads == 2 else None
        writers = WriteLimiter()
        app.recsys = AppState(
            engine=engine,
            settings=settings,
            live=live,
            database=database,
            reader=StateReader(engine, live.users, readers),
            searcher=Searcher(searchers, helper),
            posts=PostWriter(engine, posters, threads, writers, live.users.forget),
            trends=TrendReader(engine),
            threads=threads,
            writers=writers,
            metrics=metrics,
            in_flight=in_flight,
            draining=draining,
            rates=RateLimits(settings.rate_limit) if settings.rate_limit else None,
        )
        note_termination(draining, settings.notice_seconds)
        end_with_parent()
        share_interpreter()
        write_lean_records()
        # Lists of concurrent requests are one matrix product already; more BLAS threads would only compete.
        with threadpool_limits(1):
            with paused_collection():
                await asyncio.gather(asyncio.to_thread(database.start), asyncio.to_thread(live.start))
            try:
                yield
            finally:
                live.stop()
                database.stop()
                for pool in (readers, searchers, posters, threads, helper):
                    if pool is not None:
                        pool.shutdown()
                engine.dispose()
                metrics.close()
                if tracer is not None:
                    tracer.close()

    app = Service(
        title="recsys",
        version=recsys.__version__,
        description=DESCRIPTION,
        lifespan=lifespan,
        redirect_slashes=False,
        docs_url=None,  # FastAPI's own pages need files from the network: see `api.routes.docs`
        redoc_url=None,
        openapi_url=None,  # FastAPI would write the document anew for each request
    )
    for module in (recommendations, items, ratings, models, runs, health, docs):
        app.router.routes.extend(module.routes.routes)
    for module in (items, ratings):
        app.router.routes.extend(module.reading_routes.routes)
    app.router.routes.extend(ratings.posting_routes.routes)
    if settings.dashboard and dashboard.is_installed():
        app.router.routes.append(dashboard.DashboardRoute(settings.root_path))
    problems.install(app)
    inner: ASGIApp = FastPaths(super(Service, app).__call__, app)
    inner = GZipIfAccepted(inner, minimum_size=2000, compresslevel=4)

    def with_cors(inner: ASGIApp) -> ASGIApp:
        if not settings.cors_origins:
            return inner
        return CORSMiddleware(
            inner,
            allow_origins=settings.names_of_cors_origins,
            allow_methods=["GET", "HEAD", "POST", "PUT", "DELETE"],
            allow_headers=["authorization", "content-type", "if-none-match", "x-request-id"],
            expose_headers=["etag", "retry-after", "x-request-id"],
        )

    app.outermost = RequestMiddleware(
        with_cors(inner),
        with_cors=with_cors,
        metrics=metrics,
        in_flight=in_flight,
        max_requests=settings.max_requests,
        root_path=settings.root_path.encode(),
        hosts=HostRule(
            settings.names_of_allowed_hosts,
            lambda: not settings.key_required and not app.recsys.database.needs_key,
        ),
        is_draining=draining.is_set,
        reason_to_refuse=lambda: app.recsys.database.reason_to_refuse(),
        trace=None if tracer is None else tracer.record,
    )
    app.openapi = lambda: document_of(app)  # type: ignore[method-assign]
    return app


def make_tracer() -> "Tracer":
    """Return what sends traces.

    Raises:
        MissingExtraError: `recsys[traces]` is not installed.
    """
    require_extra("traces")
    from api.tracing import Tracer  # imports take .2 s, and most servers send no traces

    return Tracer()
