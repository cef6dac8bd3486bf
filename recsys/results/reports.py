"""What jobs and administration did."""

from datetime import datetime
from typing import Any, Literal

from pydantic import Field

from recsys.results.base import Architecture, Objective, Result, is_absent
from recsys.results.lists import Ignored


class LoadReport(Result):
    """What became of a file: rows_read = inserted + updated + unchanged + rejected + unrated +
    withdrawn + deleted + earlier.

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
    deleted: int = Field(default=0, description="Ratings and events that rows of the file took back.")
    earlier: int = Field(default=0, description="Rows from before --since, which were left out.")
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
    candidates: dict[str, float] | None = Field(
        default=None,
        description="Architectures that were tried, with their NDCG@10 on a validation part; null: none was.",
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


class CapacityLine(Result):
    """One need of `recsys capacity`."""

    name: str = Field(examples=["memory of a night"])
    unit: str = Field(description="`bytes`, `core seconds` or `cores`.")
    amount: float
    text: str = Field(description="The amount for people.")
    assumes: str


class CapacityReport(Result):
    """What a number of users, items and ratings needs."""

    users: int
    items: int
    ratings: int
    n_factors: int
    lines: list[CapacityLine]


class AllListsReport(Result):
    """What became of the lists of all users."""

    model_version: int | None
    users: int
    rows: int
    file: str
    seconds: float
    files_written: int | None = Field(default=None, exclude_if=is_absent, description="In a folder: files of this run.")
    files_left: int | None = Field(
        default=None, exclude_if=is_absent, description="In a folder: files that are still missing."
    )
    ignored: list[Ignored] | None = Field(
        default=None, exclude_if=is_absent, description="Parts of the request without effect, if there are any."
    )


class PruneReport(Result):
    """Outcome of deleting old versions."""

    deleted: list[int] = Field(description="Numbers of the deleted versions.")


class InitReport(Result):
    """State of the database after `recsys init`."""

    database: str = Field(description="Its URL, without the password.")
    server: str = Field(examples=["SQLite 3.45.1"])
    revision: str = Field(description="Version of the schema.")


class DemoReport(Result):
    """The service that a demo started."""

    url: str = Field(examples=["http://127.0.0.1:8000"])
    database: str
    objectives: list[ObjectiveReport]
    requests: list[str] = Field(description="Commands to try.")


class MapReport(Result):
    """Outcome of computing maps of the items."""

    mapped: list[int] = Field(description="Numbers of the versions that have a map now and had none.")


class FilesReport(Result):
    """Files that were written."""

    files: list[str]


class BackupReport(Result):
    """A backup that was written."""

    file: str
    n_bytes: int
    snapshot_at: datetime = Field(description="What changed later is missing.")
    rows: dict[str, int] = Field(description="Numbers of users, items, ratings, and of models with their twins.")
    seconds: float


class RestoreReport(Result):
    """A backup that was restored."""

    file: str
    snapshot_at: datetime = Field(description="What changed later is missing.")
    rows: dict[str, int] = Field(description="Numbers of users, items, ratings, and of models with their twins.")
    verified: bool = Field(description="Whether all was read back and compared.")
    erased_again: int = Field(description="Users of the backup who were erased since.")
    notices: list[str] = Field(default=[], description="What a person should know.")
    seconds: float


class EraseReport(Result):
    """The receipt of an erasure: what was removed where, and what the program does not reach."""

    user_hash: str = Field(description="Keyed hash of the id, as the journal, logs and tombstones have it.")
    erased_at: datetime
    ratings: int = Field(description="Removed ratings, and sums of events.")
    events: int = Field(description="Removed events over HTTP.")
    withdrawals: int = Field(description="Removed hashes of ratings that the user had taken back.")
    versions: list[int] = Field(description="Model versions that had the user.")
    vectors: int = Field(description="Removed rows of these versions and their twins.")
    checkpoints: list[str] = Field(description="Files of trainings that were deleted.")
    files: list[str] = Field(description="Lists, exports and reports of rejected rows that the user was taken out of.")
    journal: str | None = Field(description="The journal that has the erasure; null: none is kept.")
    caches: str = Field(description="When server processes forget the user.")
    storage: str = Field(description="What is left in the files of the database.")
    out_of_reach: list[str] = Field(description="What this program does not reach.")


class AuditEntry(Result):
    """One entry of the audit log."""

    number: int
    at: datetime
    actor: str = Field(description="Name of a key, or of a person on the command line.")
    action: str = Field(examples=["erase user"])
    detail: dict[str, Any]
    hash: str | None = Field(description="Of this entry and all before it; null: written by an earlier version.")


class AuditEntries(Result):
    entries: list[AuditEntry] = Field(description="The newest first.")


class AuditCheck(Result):
    """Whether the audit log is as it was written."""

    n_entries: int = Field(description="Entries with hashes.")
    n_unchained: int = Field(description="Entries of an earlier version, which have none.")
    hash: str = Field(description="The last hash; keep it elsewhere.")
    problem: str | None = Field(description="The first entry that was removed or changed; null: none.")


class PageReport(Result):
    """The report page that was written."""

    file: str


class KeySummary(Result):
    """The record of an API key; the key itself is not in it."""

    number: int
    name: str = Field(examples=["web shop"])
    scopes: list[str] = Field(examples=[["read", "ratings:write"]])
    created_at: datetime
    revoked_at: datetime | None = Field(description="Null where it was not revoked.")
    expires_at: datetime | None = Field(description="Null where it does not expire.")
    last_used_at: datetime | None = Field(description="Null where it was not used; written once a minute.")


class CreatedKey(KeySummary):
    key: str = Field(description="The key itself, which is not stored and not shown again.")


class SignedToken(Result):
    """A token for one user."""

    token: str
    user_id: str
    expires_at: datetime


class KeySummaries(Result):
    keys: list[KeySummary] = Field(description="The newest first, revoked ones included.")
