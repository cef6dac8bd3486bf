"""Model versions: list, read, publish, roll back."""

from typing import Annotated

from fastapi import Depends
from sqlalchemy import Connection

from api.body import JsonBody
from api.problems import BODY_RESPONSES, CONFLICT_RESPONSES
from api.routing import Number, router
from api.schemas import Publish, RollBack
from api.security import ModelReader, Publisher
from api.state import AppState, CurrentState
from recsys.database.audit import record
from recsys.database.engine import reading
from recsys.database.models import publish, roll_back, version, versions
from recsys.database.runs import record_finished
from recsys.database.work import Guard
from recsys.results import ModelDetail, ModelSummaries, ModelSummary
from recsys.serving.versions import detailed, summarised

routes = router("models")


@routes.get("/models")
def list_models(_: ModelReader, state: CurrentState) -> ModelSummaries:
    """List all stored model versions, the newest first."""
    with reading(state.engine) as connection:
        return ModelSummaries(models=[summarised(stored) for stored in versions(connection)])


@routes.get("/models/{number}")
def get_model(_: ModelReader, number: Number, state: CurrentState) -> ModelDetail:
    """Return one model version with its configuration, metrics and training history."""
    with reading(state.engine) as connection:
        return detailed(version(connection, number))


@routes.post("/models/{number}/publish", responses=BODY_RESPONSES | CONFLICT_RESPONSES)
def publish_version(
    actor: Publisher, number: Number, body: Annotated[Publish, Depends(JsonBody(Publish))], state: CurrentState
) -> ModelSummary:
    """Make a version the live one of its objective. All workers serve it within seconds. A version that the gate
    refused needs `force`."""
    detail: dict[str, object] = {"number": number, "reason": body.reason, "force": body.force}
    with state.writers:
        publish(state.engine, number, body.reason, audited(actor, "publish", detail), force=body.force)
    return refreshed(state, number)


@routes.post("/models/rollback", responses=BODY_RESPONSES | CONFLICT_RESPONSES)
def rollback(
    actor: Publisher, body: Annotated[RollBack, Depends(JsonBody(RollBack))], state: CurrentState
) -> ModelSummary:
    """Make the version live again that the present live version of an objective replaced."""
    detail: dict[str, object] = {"objective": body.objective, "reason": body.reason}
    with state.writers:
        chosen = roll_back(state.engine, body.objective, body.reason, audited(actor, "rollback", detail))
    return refreshed(state, chosen.number)


def refreshed(state: AppState, number: int) -> ModelSummary:
    """Load what went live, and return the version of that number."""
    state.live.refresh()
    with reading(state.engine) as connection:
        return summarised(version(connection, number))


def audited(actor: str, action: str, detail: dict[str, object]) -> Guard:
    """Return a guard that records an action in the audit log and as a run, in the transaction of the action itself."""

    def guard(connection: Connection) -> None:
        record(connection, actor, action, detail)
        record_finished(connection, action, str(detail["reason"]), detail)

    return guard
