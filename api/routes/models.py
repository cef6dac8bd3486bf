"""Model versions."""

from typing import Annotated

from fastapi import APIRouter, Path

from api.state import EngineOf
from recsys.data.database import reading
from recsys.registry import version, versions
from recsys.results import ModelDetail, ModelSummaries
from recsys.serving.versions import detailed, summarised

router = APIRouter(tags=["models"])


@router.get("/models")
def models(engine: EngineOf) -> ModelSummaries:
    """All stored model versions, the newest first."""
    with reading(engine) as connection:
        return ModelSummaries(models=[summarised(stored) for stored in versions(connection)])


@router.get("/models/{number}")
def model(
    number: Annotated[int, Path(ge=1, le=2**63 - 1, description="Number of a model version.", examples=[1])],
    engine: EngineOf,
) -> ModelDetail:
    """One model version: what it was trained with, and how well it did."""
    with reading(engine) as connection:
        return detailed(version(connection, number))
