"""Whether the process lives, and whether it can answer."""

from typing import Literal

from fastapi import APIRouter
from pydantic import BaseModel, Field

from api.state import LiveOf
from recsys.errors import NoModelError
from recsys.factors import Objective

router = APIRouter(prefix="/health", tags=["health"])


class Alive(BaseModel):
    status: Literal["ok"]


class Ready(BaseModel):
    status: Literal["ready", "degraded"]
    models: dict[Objective, int] = Field(description="The live version of each objective.")
    problem: str | None = Field(description="Why the service is degraded.")


@router.get("/live")
def live() -> Alive:
    """The process answers."""
    return Alive(status="ok")


@router.get("/ready")
def ready(live: LiveOf) -> Ready:
    """A model is in memory. `degraded`: it is, but the database cannot be reached. 503: there is none."""
    models = live.current.models
    if not models:
        raise NoModelError("no model is live yet: run `recsys load PATH`, then `recsys nightly`")
    return Ready(
        status="degraded" if live.problem else "ready",
        models={objective: model.number for objective, model in models.items()},
        problem=live.problem,
    )
