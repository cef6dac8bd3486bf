"""What the HTTP API and the command line both answer."""

from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PlainSerializer

Objective = Literal["rating", "ranking"]
Architecture = Literal["dot", "neural"]
Source = Literal["model", "fold_in", "popularity"]
PopularBy = Literal["bias", "count", "mean", "trending"]
ScoreKind = Literal["logit", "cosine", "bias", "count", "mean", "trending"]
Order = Literal["desc", "asc"]

Score = Annotated[float, PlainSerializer(lambda value: round(value, 6), return_type=float)]


class Result(BaseModel):
    """Base of all answers: immutable, and strict about what it holds."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def _not_asked_for(value: object) -> bool:
    """Return whether a result leaves a field out."""
    return value is None


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

    score = global_bias + user_bias + item_bias + dot_product + layers, exactly. Of the dot
    product, `contributions` are the ratings of the user that add most; `all_contributions` is the sum over all of their
    ratings, and what is left of it is what else the model learned of the user.
    """

    global_bias: float
    user_bias: float
    item_bias: float = Field(description="How much the item is chosen or liked beyond its kind.")
    dot_product: float = Field(description="How well it fits the user's taste.")
    layers: float = Field(description="What the layers of a neural model add; 0 for the dot product.")
    contributions: list[Contribution] = Field(description="The user's ratings that add most, the largest first.")
    all_contributions: float = Field(description="What all of the user's ratings add to the dot product.")
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
    year: int | None = Field(default=None, exclude_if=_not_asked_for, description="With `fields=year`.")
    categories: list[str] | None = Field(
        default=None, exclude_if=_not_asked_for, description="With `fields=categories`."
    )
    attributes: dict[str, object] | None = Field(
        default=None, exclude_if=_not_asked_for, description="With `fields=attributes`."
    )
    prediction: Score | None = Field(
        default=None,
        exclude_if=_not_asked_for,
        description="With `fields=prediction`: the rating that the user would give, by the live rating version.",
    )
    explanation: Explanation | None = Field(
        default=None, exclude_if=_not_asked_for, description="Only where it was asked for."
    )


class ItemList(Result):
    """A list of items, the best first."""

    model_version: int | None = Field(description="The version that was asked; null where none is live.")
    source: Source = Field(
        description="How the list came about: `model`, the user's own vector; `fold_in`, a vector solved from their "
        "ratings now; `popularity`."
    )
    score_kind: ScoreKind = Field(
        description="What the scores are: `logit`, the model's score; `cosine`, a similarity; or the measure of a list "
        "of popularity: `bias`, `count`, `mean` or `trending`."
    )
    items: list[ListedItem]
    next_cursor: str | None = Field(
        default=None, description="Pass it as `cursor` for the next page; null where nothing is left."
    )
    fallback: str | None = Field(
        default=None, exclude_if=_not_asked_for, description="Why the list is not the one that was asked for."
    )
    ignored: list[Ignored] | None = Field(
        default=None, exclude_if=_not_asked_for, description="Parts of the request without effect, if there are any."
    )
    notice: str | None = Field(
        default=None, exclude_if=_not_asked_for, description="What changed since the page before, if it matters."
    )


class UserList(Result):
    """The list of one user of a batch."""

    user_id: str | None = Field(description="As it was asked; null for a visitor.")
    source: Source
    score_kind: ScoreKind
    items: list[ListedItem]
    fallback: str | None = Field(default=None, exclude_if=_not_asked_for, description="As in a single list.")


class UserLists(Result):
    """Lists in the order in which they were asked for."""

    model_version: int | None = Field(description="The version that was asked; null where no version was.")
    lists: list[UserList]
    ignored: list[Ignored] | None = Field(
        default=None, exclude_if=_not_asked_for, description="Parts of the request without effect, if there are any."
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
        default=None, exclude_if=_not_asked_for, description="Of events: the sum of what they count."
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


class LoadReport(Result):
    """What became of a file: rows_read = inserted + updated + unchanged + rejected + unrated + withdrawn.

    All of them are rows of ratings or events.
    """

    rows_read: int
    inserted: int
    updated: int
    unchanged: int
    rejected: int
    users: int = Field(description="Different users in the files, rating items or described.")
    items: int = Field(description="Different items in the files, rated or described.")
    items_rejected: int = Field(description="Rejected rows of items; rows_read does not count them.")
    users_rejected: int = Field(description="The same of rows of users.")
    seconds: float
    rejects_file: str | None = Field(default=None, description="The file that lists the rejected rows.")
    kind: Literal["explicit", "implicit"] = Field(default="explicit", description="Ratings, or events and counts.")
    unrated: int = Field(default=0, description="Rows that stand for no rating, and were left out.")
    withdrawn: int = Field(
        default=0, description="Rows that were taken back over HTTP or are of an erased user, and were left out."
    )
    notices: list[str] = Field(default=[], description="What a person should know of how the file was read.")


class TrainReport(Result):
    model_version: int
    objective: Objective
    architecture: Architecture
    metrics: dict[str, float] = Field(description="On the held-out ratings.")
    baselines: dict[str, dict[str, float]]
    published: bool
    reason: str = Field(description="Why it was published, or why not.")
    seconds: float
    gate: dict[str, Any] = Field(
        default={},
        description="The comparison with the live version: `mean` difference per user, `standard_error`, lower 95 % "
        "`bound`, the smallest `visible` loss, and `slices`.",
    )
    refit: dict[str, Any] | None = Field(
        default=None, description="The training on all ratings beside its twin; null: the version was not refitted."
    )


class EvaluateReport(Result):
    metrics: dict[str, float]
    baselines: dict[str, dict[str, float]]
    known_share: float = Field(description="Share of the ratings measured on whose user has ratings to train on.")
    seconds: float
    relevant_from: float | None = Field(default=None, description="Lowest rating of a relevant item; null for ratings.")
    notices: list[str] = Field(default=[], description="What a person should know of how the files were read.")


class ObjectiveReport(Result):
    """What a night did for one objective."""

    objective: Objective
    status: Literal["published", "not_better", "nothing_new", "skipped", "failed"]
    model_version: int | None = Field(description="The new version; the latest one if nothing is new; null if failed.")
    reason: str = Field(description="Why it was published or not, or what failed.")

    def line(self) -> str:
        """Return the outcome in one line."""
        version = "" if self.model_version is None else f" version {self.model_version}"
        outcome = {
            "published": f"{version} published",
            "not_better": f"{version} not published",
            "nothing_new": " nothing new",
            "skipped": " skipped",
            "failed": " failed",
        }[self.status]
        return f"{self.objective}{outcome}: {self.reason}"


class NightlyReport(Result):
    """What a night did: the objectives are independent of each other."""

    status: Literal["published", "some_refused", "not_better", "nothing_new", "failed"] = Field(
        description="`failed`: an objective failed; `some_refused`: one was published, another refused; `not_better`: "
        "none was published, and one or more refused."
    )
    run: int | None = Field(description="Number of the run, as `recsys runs` lists it; null: it could not start.")
    started_at: datetime
    finished_at: datetime
    error: str | None = Field(description="What ended the night early; null: nothing did.")
    objectives: list[ObjectiveReport]
    loads: list[LoadReport]
    trainings: list[TrainReport]
    pruned: list[int] = Field(description="Numbers of the versions that were deleted.")
    seconds: float


class NightNotice(Result):
    """The summary of a night as a webhook or a command receives it."""

    text: str
    night: NightlyReport


class PlannedStep(Result):
    """One step that a night would take."""

    step: str
    objective: Objective | None = None
    would: str = Field(description="What it would do.")
    why: str


class NightPlan(Result):
    """What `recsys nightly` would do now. Nothing was changed."""

    steps: list[PlannedStep]


class RunStep(Result):
    """One step of a run."""

    step: str
    objective: Objective | None
    status: Literal["running", "done", "failed"]
    started_at: datetime
    seconds: float | None
    fingerprint: str = Field(description="Of the inputs: a step with the same one would do the same.")
    figures: dict[str, Any]


class RunSummary(Result):
    """One run of a job."""

    run: int
    job: str = Field(examples=["nightly"])
    status: Literal["running", "done", "failed"]
    started_at: datetime
    seconds: float | None = Field(description="Null while it runs.")
    exit_code: int | None
    reason: str


class RunDetail(RunSummary):
    steps: list[RunStep]
    detail: dict[str, Any] = Field(description="The result of the job.")


class RunSummaries(Result):
    runs: list[RunSummary] = Field(description="The newest first.")


class Check(Result):
    """One thing that `recsys doctor` looked at."""

    name: str = Field(examples=["database"])
    status: Literal["ok", "warning", "failed"]
    found: str
    fix: str | None = Field(default=None, description="What to do; null if nothing is wrong.")

    def line(self) -> str:
        """Return the check in one line."""
        return f"{self.status:8}{self.name}: {self.found}" + (f". {self.fix}" if self.fix else "")


class Diagnosis(Result):
    """What `recsys doctor` found."""

    healthy: bool = Field(description="Whether no check failed.")
    checks: list[Check]


class AllListsReport(Result):
    """What became of the lists of all users."""

    model_version: int | None
    users: int
    rows: int
    file: str
    seconds: float
    ignored: list[Ignored] | None = Field(
        default=None, exclude_if=_not_asked_for, description="Parts of the request without effect, if there are any."
    )


class PruneReport(Result):
    """Outcome of deleting old versions."""

    deleted: list[int] = Field(description="Numbers of the deleted versions.")


class InitReport(Result):
    """State of the database after `recsys init`."""

    database: str = Field(description="Its URL, without the password.")
    server: str = Field(examples=["SQLite 3.45.1"])
    revision: str = Field(description="Version of the schema.")


class PageReport(Result):
    """The report page that was written."""

    file: str


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
