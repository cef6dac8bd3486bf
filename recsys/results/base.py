"""Base and types of all answers."""

from datetime import UTC, datetime
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, PlainSerializer

Objective = Literal["rating", "ranking"]
Architecture = Literal["dot", "neural", "item", "blend"]
Source = Literal["model", "fold_in", "popularity"]
PopularBy = Literal["bias", "count", "mean", "trending"]
ScoreKind = Literal["logit", "cosine", "weight", "bias", "count", "mean", "trending"]
Order = Literal["desc", "asc"]

Score = Annotated[float, PlainSerializer(lambda value: round(value, 6), return_type=float)]


class Result(BaseModel):
    """Base of all answers: immutable, and strict about what it holds."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def is_absent(value: object) -> bool:
    """Return whether a result leaves a field out."""
    return value is None


def as_time(milliseconds: int) -> datetime:
    """Unix milliseconds as a time in UTC."""
    return datetime.fromtimestamp(milliseconds / 1000, UTC)
