"""Health checks for load balancers, and metrics for Prometheus."""

import asyncio
from contextlib import suppress
from typing import Literal

from fastapi import APIRouter, Depends
from fastapi.responses import Response
from pydantic import BaseModel, Field

from api.door import SHED
from api.problems import RESPONSES
from api.problems import problem as problem_answer
from api.routing import operation_name
from api.security import require
from api.state import AppState, CurrentState, in_thread
from recsys.database.alarms import Alarms, read_alarms
from recsys.database.engine import reading
from recsys.errors import NoModelError, RecsysError
from recsys.results import Objective

ALARMS_SECONDS = 2.0
"""Longest time that an answer with metrics waits for the database."""

routes = APIRouter(tags=["health"], generate_unique_id_function=operation_name)


class Alive(BaseModel):
    """The answer of a process that is running."""

    status: Literal["ok"]


class Ready(BaseModel):
    """The answer of a process that can serve requests."""

    status: Literal["ready", "degraded"]
    models: dict[Objective, int] = Field(description="The live version of each objective.")
    problem: str | None = Field(description="Why the service is degraded.")


@routes.get("/health/live")
async def live() -> Alive:
    """Answer 200 while the process is running."""
    return Alive(status="ok")


@routes.get("/health/ready", response_model=Ready, responses={503: RESPONSES[503]})
async def ready(state: CurrentState) -> Ready | Response:
    """Answer 200 if a model is in memory; `degraded` if one is, but the database cannot be read or written. Answer 503
    if none is, or if the process is stopping."""
    if state.draining.is_set():
        return problem_answer(503, "The server is stopping", "it finishes the requests in progress: use another server")
    models = state.live.current.models
    if not models:
        raise NoModelError("no model is live yet: run `recsys load PATH`, then `recsys nightly`")
    problem = state.problem
    return Ready(
        status="degraded" if problem else "ready",
        models={objective: model.number for objective, model in models.items()},
        problem=problem,
    )


def alarms_of(state: AppState) -> Alarms:
    """Read the state of jobs, versions and the database."""
    with reading(state.engine) as connection:
        return read_alarms(connection)


@routes.get("/metrics", include_in_schema=False, dependencies=[Depends(require("models:read"))])
async def metrics(state: CurrentState) -> Response:
    """Return metrics for Prometheus. Where keys are needed, the request needs one with the scope `models:read`."""
    state.metrics.update_process(state.live, state.engine.pool, SHED.take(), is_open=state.database.is_away)
    state.metrics.update(state.live, state.in_flight.n_requests, is_degraded=state.problem is not None)
    with suppress(RecsysError, TimeoutError):  # without the database the last values stay
        state.metrics.update_alarms(await asyncio.wait_for(in_thread(state, alarms_of, state), ALARMS_SECONDS))
    return Response(state.metrics.page(), media_type=state.metrics.content_type)
