"""Answers about users and items: lists, predictions, items, ratings."""

from datetime import datetime

from pydantic import Field

from recsys.results.base import Result, Score, ScoreKind, Source, is_absent


class Contribution(Result):
    """What one of the user's ratings adds to the dot product."""

    item_id: str = Field(examples=["181"])
    title: str | None = Field(examples=["Return of the Jedi (1983)"])
    rating: float = Field(examples=[5])
    contribution: Score = Field(examples=[0.41])


class Neighbour(Result):
    """An item the user liked, and how much the listed one points the same way: −1 to 1."""

    item_id: str = Field(examples=["181"])
    title: str | None = Field(examples=["Return of the Jedi (1983)"])
    similarity: Score = Field(examples=[0.87])


class Explanation(Result):
    """How a score came about.

    score = global_bias + user_bias + item_bias + dot_product + layers + item_weights, exactly. Of the dot product and
    the weights between items, `contributions` are the ratings of the user that add most; `all_contributions` is the sum
    over all of their ratings, and what is left is what else the model learned of the user.
    """

    global_bias: float
    user_bias: float
    item_bias: float = Field(description="How much the item is chosen or liked beyond its kind.")
    dot_product: float = Field(description="How well it fits the user's taste.")
    layers: float = Field(description="What the layers of a neural model add; 0 for the dot product.")
    item_weights: float = Field(
        default=0.0, description="What weights between items add for the items that the user has; 0 without any."
    )
    contributions: list[Contribution] = Field(description="The user's ratings that add most, the largest first.")
    all_contributions: float = Field(description="What all of the user's ratings add.")
    nearest_liked: list[Neighbour] = Field(description="The items nearest to it among those that the user liked.")


class Ignored(Result):
    """A part of a request that had no effect."""

    where: str = Field(description="The parameter.", examples=["category"])
    value: str = Field(examples=["Commedy"])
    reason: str = Field(examples=["no item is in this category: see GET /v1/categories"])


class ListedItem(Result):
    item_id: str = Field(examples=["50"])
    title: str | None = Field(examples=["Star Wars (1977)"])
    score: Score = Field(
        description="Only for ordering within this list; `score_kind` says what it is.", examples=[3.21]
    )
    year: int | None = Field(default=None, exclude_if=is_absent, description="With `fields=year`.")
    categories: list[str] | None = Field(default=None, exclude_if=is_absent, description="With `fields=categories`.")
    attributes: dict[str, object] | None = Field(
        default=None, exclude_if=is_absent, description="With `fields=attributes`."
    )
    prediction: Score | None = Field(
        default=None,
        exclude_if=is_absent,
        description="With `fields=prediction`: the rating that the user would give, by the live rating version.",
    )
    explanation: Explanation | None = Field(
        default=None, exclude_if=is_absent, description="Only where it was asked for."
    )


class ItemList(Result):
    """A list of items, the best first."""

    model_version: int | None = Field(description="The version that was asked; null where none is live.")
    source: Source = Field(
        description="How the list came about: `model`, the user's own vector, or weights of their items; `fold_in`, a "
        "vector solved from their ratings now; `popularity`."
    )
    score_kind: ScoreKind = Field(
        description="What the scores are: `logit`, the model's score; `cosine`, a similarity; `weight`, how "
        "much items say of each other; or the measure of a list of popularity: `bias`, `count`, `mean` or `trending`."
    )
    items: list[ListedItem]
    next_cursor: str | None = Field(
        default=None, description="Pass it as `cursor` for the next page; null where nothing is left."
    )
    fallback: str | None = Field(
        default=None, exclude_if=is_absent, description="Why the list is not the one that was asked for."
    )
    ignored: list[Ignored] | None = Field(
        default=None, exclude_if=is_absent, description="Parts of the request without effect, if there are any."
    )
    degraded: bool | None = Field(
        default=None,
        exclude_if=is_absent,
        description="True while the database cannot be read: ratings posted since then may be missing.",
    )
    notice: str | None = Field(
        default=None, exclude_if=is_absent, description="What changed since the page before, if it matters."
    )


class UserList(Result):
    """The list of one user of a batch."""

    user_id: str | None = Field(description="As it was asked; null for a visitor.")
    source: Source
    score_kind: ScoreKind
    items: list[ListedItem]
    fallback: str | None = Field(default=None, exclude_if=is_absent, description="As in a single list.")


class UserLists(Result):
    """Lists in the order in which they were asked for."""

    model_version: int | None = Field(description="The version that was asked; null where no version was.")
    lists: list[UserList]
    ignored: list[Ignored] | None = Field(
        default=None, exclude_if=is_absent, description="Parts of the request without effect, if there are any."
    )
    degraded: bool | None = Field(
        default=None,
        exclude_if=is_absent,
        description="True while the database cannot be read: ratings posted since then may be missing.",
    )


class Prediction(Result):
    item_id: str = Field(examples=["50"])
    title: str | None = Field(examples=["Star Wars (1977)"])
    prediction: Score = Field(description="On the rating scale.", examples=[4.31])


class Predictions(Result):
    model_version: int
    source: Source = Field(description="`popularity`: the user is unknown, and the biases alone predict.")
    items: list[Prediction] = Field(
        description="In the order in which they were asked for; unknown items are left out."
    )
    unknown: list[str] = Field(description="Ids that no item has.")


class Item(Result):
    item_id: str = Field(examples=["50"])
    title: str | None = Field(examples=["Star Wars (1977)"])
    categories: list[str] = Field(examples=[["Action", "Sci-Fi"]])
    year: int | None = Field(examples=[1977])
    attributes: dict[str, object] = Field(description="What else is known of the item.", examples=[{}])
    hidden: bool = Field(description="Whether all lists leave it out.")
    n_ratings: int
    mean_rating: Score | None


class Category(Result):
    name: str = Field(examples=["Sci-Fi"])
    n_items: int = Field(description="Number of its items that are not hidden.", examples=[101])


class Categories(Result):
    categories: list[Category] = Field(description="Ordered by name.")


class ItemPage(Result):
    items: list[Item]
    next_cursor: str | None = Field(description="Pass it as `cursor` for the next page; null on the last one.")


class UserRating(Result):
    item_id: str
    title: str | None
    rating: float | None = Field(description="Null for events.")
    rated_at: datetime | None
    weight: float | None = Field(
        default=None, exclude_if=is_absent, description="Of events: the sum of what they count."
    )


class UserRatings(Result):
    user_id: str
    ratings: list[UserRating] = Field(description="The latest first.")
    next_cursor: str | None = Field(
        default=None, description="Pass it as `cursor` for the next page; null on the last one."
    )


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


class ItemsReport(Result):
    """What became of posted items: inserted + updated + unchanged + rejected = rows sent."""

    inserted: int
    updated: int
    unchanged: int
    rejected: int
    errors: list[RowError]
