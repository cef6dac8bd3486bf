"""Query parameters and bodies of requests; `recsys.results` has those of answers."""

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    FiniteFloat,
    SkipValidation,
    StrictBool,
    StringConstraints,
    model_validator,
)

from api.routing import Params
from recsys.data.limits import EARLIEST_MS, EPOCH, LATEST_MS, MAX_WEIGHT, MS
from recsys.results import Order, PopularBy
from recsys.serving.batch import SentFeedback
from recsys.serving.encode import MetadataField
from recsys.serving.filters import NO_FILTERS, Filters, parse_condition
from recsys.serving.trending import HALF_LIFE_DAYS

N = Annotated[int, Field(ge=1, le=1000, description="Number of items to list.", examples=[10])]
MinRatings = Annotated[int, Field(ge=0, le=1_000_000_000, description="Smallest number of ratings of a listed item.")]
Categories = Annotated[
    list[str],
    Field(max_length=100, description="List only items of this category; repeated: of any of these categories."),
]
NotCategories = Annotated[
    list[str], Field(max_length=100, description="List no item of this category; repeated: of none of these.")
]
Year = Annotated[int, Field(ge=-10_000, le=10_000, examples=[1980])]


def _is_condition(text: str) -> str:
    parse_condition(text)
    return text


Conditions = Annotated[
    list[
        Annotated[
            str,
            StringConstraints(max_length=10_000),
            AfterValidator(_is_condition),
            Field(json_schema_extra={"pattern": "^[^=<>]+(>=|<=|=|>|<)"}),
        ]
    ],
    Field(
        max_length=20,
        description="A condition on an attribute of the items: `colour=red`, `price>=10` or `price<20`; repeated: all "
        "of them, but any of several values of one attribute.",
        examples=[["colour=red", "price<20"]],
    ),
]
Cursor = Annotated[
    str,
    StringConstraints(max_length=20_000),
    Field(description="`next_cursor` of the page before, whose items are not listed again. Empty: the first page."),
]
Excluded = Annotated[
    list[str],
    Field(max_length=1000, description="Ids of items to exclude; POST /v1/recommendations takes more of them."),
]
Diversity = Annotated[
    float,
    Field(
        ge=0,
        le=1,
        description="0: the best items; up to 1: among five times as many of the best, items that are less alike.",
        examples=[0.2],
    ),
]
ModelChoice = Annotated[
    str,
    StringConstraints(pattern=r"^(ranking|rating|[1-9][0-9]{0,17})$"),
    Field(
        description="`ranking`, `rating`, or the number of a live version; by default the ranking version.",
        examples=["ranking"],
    ),
]
Text = Annotated[str, StringConstraints(max_length=10_000)]
Id = Annotated[str, StringConstraints(min_length=0)]
"""Any text but an unpaired surrogate, which JSON allows: pydantic checks for these only where there is a constraint."""


FILTERS = frozenset({"category", "not_category", "year_from", "year_to", "attribute"})
"""Names of the parameters that filter by metadata."""


def filters_of(given: "FilterParams | FilterBody", min_ratings: int) -> Filters:
    """Return the filters of a list, from a query or a body."""
    if not min_ratings and given.model_fields_set.isdisjoint(FILTERS):
        return NO_FILTERS
    return Filters(
        categories=tuple(given.category),
        not_categories=tuple(given.not_category),
        year_from=given.year_from,
        year_to=given.year_to,
        attributes=tuple(map(parse_condition, given.attribute)),
        min_ratings=min_ratings,
    )


class FilterParams(Params):
    """Query parameters of all lists."""

    n: N = 10
    cursor: Cursor | None = None
    category: Categories = Field(default_factory=list)
    not_category: NotCategories = Field(default_factory=list)
    year_from: Year | None = Field(default=None, description="First year of a listed item.")
    year_to: Year | None = Field(default=None, description="Last year of a listed item.")
    attribute: Conditions = Field(default_factory=list)

    def filters(self, min_ratings: int = 0) -> Filters:
        """Return the filters of a list."""
        return filters_of(self, min_ratings)


Fields = Annotated[
    list[MetadataField],
    Field(
        max_length=10, description="Metadata that each listed item has beside its title; repeated.", examples=[["year"]]
    ),
]
UserFields = Annotated[
    list[Literal["year", "categories", "attributes", "prediction"]],
    Field(
        max_length=10,
        description="What each listed item has beside its title; repeated. `prediction`: the rating that the user "
        "would give, by the live rating version.",
        examples=[["year"]],
    ),
]
SeenBy = Annotated[str, Field(description="External id of a user: exclude what they have rated.", examples=["196"])]


class RecommendParams(FilterParams):
    exclude_seen: bool = Field(default=True, description="Exclude items that the user has rated.")
    exclude: Excluded = Field(default_factory=list)
    min_ratings: MinRatings = 0
    diversity: Diversity = 0.0
    explain: bool = Field(default=False, description="Explain the score of every item.")
    model: ModelChoice | None = None
    fields: UserFields = Field(default_factory=list)


class SimilarParams(FilterParams):
    min_ratings: MinRatings = 0
    exclude_seen_by: SeenBy | None = None
    fields: Fields = Field(default_factory=list)


class PopularParams(FilterParams):
    by: PopularBy = Field(
        default="bias",
        description="`bias`: liked more than its factors explain; `count`: number of ratings; `mean`: mean rating; "
        "`trending`: ratings of the last days, each counting 2^(−age / half-life).",
    )
    order: Order = Field(default="desc", description="`asc` lists the other end.")
    min_ratings: MinRatings | None = Field(
        default=None,
        description="Smallest number of ratings of a listed item; the default is 10 by bias and mean, and else 0.",
    )
    half_life_days: float = Field(
        default=HALF_LIFE_DAYS, ge=0.01, le=3650, description="Age in days at which a rating counts half in a trend."
    )
    fields: Fields = Field(default_factory=list)


class PredictParams(Params):
    item_id: list[str] = Field(
        min_length=1, max_length=1000, description="Items to predict; repeated.", examples=[["50", "181"]]
    )


class UserRatingsParams(Params):
    limit: int = Field(default=100, ge=1, le=1000, description="Number of ratings to list.")
    cursor: Text | None = Field(default=None, description="`next_cursor` of the previous page.")


class Body(BaseModel):
    """Base of bodies; an unknown field is an error."""

    model_config = ConfigDict(extra="forbid")


EXPECTED_TIME = "expected an ISO 8601 time such as 1997-12-04T15:55:49Z, or Unix seconds or milliseconds"


def _to_time(value: object) -> object:
    """Return a number as the moment it names, by its size: pydantic would guess another unit."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        in_seconds = EARLIEST_MS <= value * 1000 < LATEST_MS
        ms = value * 1000 if in_seconds else value
        if not EARLIEST_MS <= ms < LATEST_MS:
            raise ValueError(EXPECTED_TIME)
        return EPOCH + round(ms) * MS
    if not isinstance(value, str | None) or (isinstance(value, str) and not re.match("[0-9]{4}-", value)):
        raise ValueError(EXPECTED_TIME)
    return value


Rating = Annotated[FiniteFloat, Field(strict=True, examples=[5])]
Time = Annotated[datetime, BeforeValidator(_to_time, json_schema_input_type=datetime | float)]
# In JSON a number is not text; in a query string everything is.
StrictN = Annotated[N, Field(strict=True)]
StrictMinRatings = Annotated[MinRatings, Field(strict=True)]
StrictYear = Annotated[Year, Field(strict=True)]
StrictDiversity = Annotated[Diversity, Field(strict=True)]


class FeedbackRow(Body):
    """A rating, or an event in place of it."""

    item_id: str = Field(examples=["50"])
    rating: Rating | None = Field(default=None, description="Of a rating.", examples=[5])
    event: Annotated[str, StringConstraints(min_length=1, max_length=200)] | None = Field(
        default=None,
        description="Of an event: its name, which counts as RECSYS_EVENT_WEIGHTS says, and 1 without it.",
        examples=[None],
    )
    weight: Annotated[FiniteFloat, Field(strict=True, gt=0, le=MAX_WEIGHT)] | None = Field(
        default=None, description="Of an event: how much it counts.", examples=[None]
    )

    @model_validator(mode="after")
    def _is_one_kind(self) -> Self:
        is_event = self.event is not None or self.weight is not None
        if (self.rating is not None) == is_event:
            raise ValueError("expected a rating, or an event or weight in place of it: send one of them")
        return self

    def weight_of(self, weights: Mapping[str, float]) -> float | None:
        """Return how much an event counts; `None` for a rating."""
        if self.rating is not None:
            return None
        return self.weight if self.weight is not None else weights.get(self.event or "", 1.0)


class PostedRating(FeedbackRow):
    """A rating, or an event: what a user did with an item, once."""

    user_id: str = Field(examples=["196"])
    rated_at: Time | None = Field(
        default=None,
        description="Time as ISO 8601, in UTC unless it has an offset, or as Unix seconds or milliseconds; by default "
        "now. An event counts once for each user, item and time.",
        examples=[None],
    )

    @property
    def rated_at_ms(self) -> int | None:
        """The time in Unix milliseconds."""
        if self.rated_at is None:
            return None
        at = self.rated_at if self.rated_at.tzinfo else self.rated_at.replace(tzinfo=UTC)
        return round(at.timestamp() * 1000)


class PostedRatings(Body):
    ratings: list[SkipValidation[PostedRating]] = Field(min_length=1, max_length=1000)  # see `validated_rows`


class VisitorRating(FeedbackRow):
    """A rating or an event of a visitor. It is not stored."""

    def as_sent(self, weights: Mapping[str, float]) -> SentFeedback:
        """Return the row for `lists_for`."""
        weight = self.weight_of(weights)
        return SentFeedback(self.item_id, self.rating or 0.0 if weight is None else weight, weight is not None)


class ListUser(Body):
    """A user by id, a visitor with ratings that are not stored, or a user with additional ratings."""

    user_id: Id | None = Field(default=None, description="External id of a user.", examples=["196"])
    ratings: list[VisitorRating] = Field(
        default=[],
        max_length=1000,
        description="Ratings and events in addition to the stored ones; unknown items are ignored.",
    )


MAX_LISTED = 100_000
"""Items of all lists of one request: about 8 MB of JSON."""
MAX_EXPLAINED = 5_000
"""Explained items of all lists of one request: about a second of one thread."""


class FilterBody(Body):
    """Filters in a body, with the meaning that they have in a query."""

    n: StrictN = 10
    exclude: list[str] = Field(default=[], max_length=100_000, description="Ids of items to exclude.")
    category: Categories = Field(default_factory=list)
    not_category: NotCategories = Field(default_factory=list)
    year_from: StrictYear | None = Field(default=None, description="First year of a listed item.")
    year_to: StrictYear | None = Field(default=None, description="Last year of a listed item.")
    attribute: Conditions = Field(default_factory=list)
    min_ratings: StrictMinRatings = 0

    def filters(self) -> Filters:
        """Return the filters of a list."""
        return filters_of(self, self.min_ratings)


class SimilarBody(FilterBody):
    item_ids: list[str] = Field(
        min_length=1,
        max_length=1000,
        description="Ids of items; the list has those with the highest mean cosine to them.",
        examples=[["50", "181"]],
    )
    cursor: Cursor | None = None
    exclude_seen_by: SeenBy | None = None
    fields: Fields = Field(default_factory=list)


class ListsBody(FilterBody):
    users: list[ListUser] = Field(min_length=1, max_length=1000)
    exclude_seen: StrictBool = Field(default=True, description="Exclude items that each user has rated.")
    candidates: list[str] | None = Field(
        default=None, max_length=100_000, description="Ids of the items to choose from; null: all items."
    )
    diversity: StrictDiversity = 0.0
    explain: StrictBool = Field(default=False, description="Explain the score of every item.")
    model: ModelChoice | None = None
    fields: UserFields = Field(default_factory=list)

    @model_validator(mode="after")
    def _has_bounded_work(self) -> Self:
        limit = MAX_EXPLAINED if self.explain else MAX_LISTED
        if len(self.users) * self.n > limit:
            asked = f"{len(self.users):,} users × n {self.n:,}"
            kind = "explained items" if self.explain else "items"
            raise ValueError(f"{asked} is more than {limit:,} {kind} in one request: send several, or lower n")
        return self


class Reason(Body):
    reason: Annotated[
        str,
        StringConstraints(min_length=1, max_length=1000, strip_whitespace=True, pattern=r"^[^\x00]*[^\s\x00][^\x00]*$"),
    ] = Field(description="The reason, which is recorded.", examples=["the new one looks odd"])


class Publish(Reason):
    force: StrictBool = Field(default=False, description="Publish the version even if the gate refused it.")


class RollBack(Reason):
    objective: Literal["rating", "ranking"]
