"""Whether the process lives, whether it can answer, and how it is doing."""

from typing import Literal

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, Field

from api.problems import RESPONSES, problem
from api.security import check_key
from api.state import state_of
from recsys.errors import NoModelError
from recsys.results import Objective

routes = APIRouter(tags=["health"])


class Alive(BaseModel):
    status: Literal["ok"]


class Ready(BaseModel):
    status: Literal["ready", "degraded"]
    models: dict[Objective, int] = Field(description="The live version of each objective.")
    problem: str | None = Field(description="Why the service is degraded.")


@routes.get("/health/live", response_model=Alive)
async def live() -> JSONResponse:
    """The process answers."""
    return JSONResponse({"status": "ok"})


@routes.get("/health/ready", response_model=Ready, responses={503: RESPONSES[503]})
async def ready(request: Request) -> Response:
    """A model is in memory. `degraded`: it is, but the database cannot be reached. 503: there is none, or the process
    is ending."""
    state = state_of(request)
    if state.draining.is_set():
        return problem(503, "The process is ending", "it answers what it has begun: ask another one")
    models = state.live.current.models
    if not models:
        raise NoModelError("no model is live yet: run `recsys load PATH`, then `recsys nightly`")
    answer = Ready(
        status="degraded" if state.live.problem else "ready",
        models={objective: model.number for objective, model in models.items()},
        problem=state.live.problem,
    )
    return Response(answer.model_dump_json(), media_type="application/json")


@routes.get("/metrics", include_in_schema=False)
async def metrics(request: Request) -> Response:
    """Numbers for Prometheus. Where keys are needed, one with the scope `read` is."""
    state = state_of(request)
    check_key(request, state, "read")
    state.metrics.look_at(state.live, state.load.n_busy)
    return Response(state.metrics.page(), media_type=state.metrics.content_type)
