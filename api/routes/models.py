"""Model versions: looked at, published, rolled back."""

from fastapi import Request
from sqlalchemy import Connection

from api.problems import BODY_RESPONSES
from api.routing import Number, needs, router
from api.schemas import Reason, RollBack
from api.security import actor_of
from api.state import State, Turn, aside, state_of
from recsys.database.audit import record
from recsys.database.engine import reading
from recsys.database.models import Guard, publish, roll_back, version, versions
from recsys.results import ModelDetail, ModelSummaries, ModelSummary
from recsys.serving.versions import detailed, summarised

routes = router("models")


@routes.get("/models", response_model=ModelSummaries)
async def models(request: Request) -> ModelSummaries:
    """All stored model versions, the newest first."""
    state = state_of(request)
    return await aside(state, _models, state)


@routes.get("/models/{number}", response_model=ModelDetail)
async def model(request: Request, number: Number) -> ModelDetail:
    """One model version: what it was trained with, and how well it did."""
    state = state_of(request)
    return await aside(state, _model, state, number)


@routes.post(
    "/models/{number}/publish", response_model=ModelSummary, openapi_extra=needs("admin"), responses=BODY_RESPONSES
)
async def publish_version(request: Request, number: Number, body: Reason) -> ModelSummary:
    """Make a version the live one of its objective, whatever the gate said. All workers have it within seconds."""
    state = state_of(request)
    return await aside(state, _publish, state, number, body.reason, actor_of(request))


@routes.post("/models/rollback", response_model=ModelSummary, openapi_extra=needs("admin"), responses=BODY_RESPONSES)
async def rollback(request: Request, body: RollBack) -> ModelSummary:
    """Make the version live again that the live one of an objective replaced."""
    state = state_of(request)
    return await aside(state, _roll_back, state, body, actor_of(request))


def _models(state: State) -> ModelSummaries:
    with reading(state.engine) as connection:
        return ModelSummaries(models=[summarised(stored) for stored in versions(connection)])


def _model(state: State, number: int) -> ModelDetail:
    with reading(state.engine) as connection:
        return detailed(version(connection, number))


def _publish(state: State, number: int, reason: str, actor: str) -> ModelSummary:
    with Turn(state):
        publish(state.engine, number, reason, _audited(actor, "publish", {"number": number, "reason": reason}))
    return _now_live(state, number)


def _roll_back(state: State, body: RollBack, actor: str) -> ModelSummary:
    detail: dict[str, object] = {"objective": body.objective, "reason": body.reason}
    with Turn(state):
        chosen = roll_back(state.engine, body.objective, body.reason, _audited(actor, "rollback", detail))
    return _now_live(state, chosen.number)


def _now_live(state: State, number: int) -> ModelSummary:
    state.live.refresh()
    with reading(state.engine) as connection:
        return summarised(version(connection, number))


def _audited(actor: str, action: str, detail: dict[str, object]) -> Guard:
    def guard(connection: Connection) -> None:
        record(connection, actor, action, detail)

    return guard
