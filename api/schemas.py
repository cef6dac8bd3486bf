"""What requests carry; what answers carry is in `recsys.results`."""

from datetime import UTC, datetime
from typing import Annotated

from fastapi import Query
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat

N = Annotated[int, Query(ge=1, le=1000, description="How many items to list.")]


class PostedRating(BaseModel):
    model_config = ConfigDict(extra="forbid")

    user_id: str = Field(examples=["196"])
    item_id: str = Field(examples=["50"])
    rating: Annotated[FiniteFloat, Field(strict=True, examples=[5])]
    rated_at: datetime | None = Field(
        None, description="Time of the rating, UTC unless it says otherwise; by default now.", examples=[None]
    )

    @property
    def rated_at_ms(self) -> int | None:
        if self.rated_at is None:
            return None
        at = self.rated_at if self.rated_at.tzinfo else self.rated_at.replace(tzinfo=UTC)
        return round(at.timestamp() * 1000)


class PostedRatings(BaseModel):
    model_config = ConfigDict(extra="forbid")

    ratings: list[PostedRating] = Field(min_length=1, max_length=1000)
