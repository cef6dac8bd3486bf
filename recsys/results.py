"""What the HTTP API and the command line both answer."""

from datetime import UTC, datetime
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, PlainSerializer

from recsys.factors import Architecture, Objective

Source = Literal["model", "fold_in", "popularity"]
PopularBy = Literal["bias", "count", "mean"]
Order = Literal["desc", "asc"]

Score = Annotated[float, PlainSerializer(lambda value: round(value, 6), return_type=float)]


class Result(BaseModel):
    """Base of all answers: immutable, and strict about what it holds."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class ListedItem(Result):
    item_id: str = Field(examples=["50"])
    title: str | None = Field(examples=["Star Wars (1977)"])
    score: Score = Field(description="Only for ordering within this list.", examples=[3.21])


class ItemList(Result):
    """A list of items, the best first."""

    model_version: int | None = Field(description="The version that was asked; null where none is live.")
    source: Source = Field(description="How the list came about.")
    items: list[ListedItem]


class Item(Result):
    item_id: str = Field(examples=["50"])
    title: str | None = Field(examples=["Star Wars (1977)"])
    categories: list[str] = Field(examples=[["Action", "Sci-Fi"]])
    year: int | None = Field(examples=[1977])
    hidden: bool
    n_ratings: int
    mean_rating: Score | None


class ItemPage(Result):
    items: list[Item]
    next_cursor: str | None = Field(description="Pass it as `cursor` for the next page; null on the last one.")


class UserRating(Result):
    item_id: str
    title: str | None
    rating: float
    rated_at: datetime | None


class UserRatings(Result):
    user_id: str
    ratings: list[UserRating] = Field(description="The latest first.")


class RowError(Result):
    index: int = Field(description="0-based position in the list that was sent.")
    message: str


class RateReport(Result):
    """What became of posted ratings: inserted + updated + unchanged + rejected = rows sent."""

    inserted: int
    updated: int
    unchanged: int
    rejected: int
    errors: list[RowError]


class LoadReport(Result):
    """What became of a file: rows_read = inserted + updated + unchanged + rejected, all of them rows of ratings."""

    rows_read: int
    inserted: int
    updated: int
    unchanged: int
    rejected: int
    users: int = Field(description="Different users in the files, rating items or described.")
    items: int = Field(description="Different items in the files, rated or described.")
    items_rejected: int = Field(description="Rows of items that were set aside; rows_read does not count them.")
    users_rejected: int = Field(description="The same of rows of users.")
    seconds: float
    rejects_file: str | None = Field(default=None, description="Where rejected rows are named.")


class TrainReport(Result):
    model_version: int
    objective: Objective
    architecture: Architecture
    metrics: dict[str, float] = Field(description="On the held-out ratings.")
    baselines: dict[str, dict[str, float]]
    published: bool
    reason: str = Field(description="Why it was published, or why not.")
    seconds: float


class EvaluateReport(Result):
    metrics: dict[str, float]
    baselines: dict[str, dict[str, float]]
    known_share: float = Field(description="Share of the ratings measured on whose user has ratings to train on.")
    seconds: float


class NightlyReport(Result):
    status: Literal["published", "not_better", "nothing_new"]
    loads: list[LoadReport]
    trainings: list[TrainReport]
    seconds: float


class ModelSummary(Result):
    number: int
    objective: Objective
    architecture: Architecture
    live: bool
    created_at: datetime
    n_users: int
    n_items: int
    n_ratings: int
    n_factors: int
    metrics: dict[str, float]


class ModelDetail(ModelSummary):
    baselines: dict[str, dict[str, float]]
    configuration: dict[str, object]
    history: list[dict[str, object]]
    rating_min: float
    rating_max: float
    training_seconds: float


class ModelSummaries(Result):
    models: list[ModelSummary] = Field(description="The newest first.")


def as_time(milliseconds: int) -> datetime:
    """Unix milliseconds as a time in UTC."""
    return datetime.fromtimestamp(milliseconds / 1000, UTC)


class KeySummary(Result):
    """What is known of an API key, without the key."""

    number: int
    name: str = Field(examples=["web shop"])
    scopes: list[Literal["read", "write", "admin"]]
    created_at: datetime
    revoked_at: datetime | None = Field(description="Null where it is in force.")


class CreatedKey(KeySummary):
    key: str = Field(description="The key itself, which is not stored and not shown again.")


class KeySummaries(Result):
    keys: list[KeySummary] = Field(description="The newest first, revoked ones included.")
