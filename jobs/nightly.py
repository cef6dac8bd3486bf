"""The nightly job: load, train both objectives, publish what the gate allows, prune, report, and record why."""

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, get_args

from sqlalchemy import Connection, Engine

from jobs.interrupt import Interrupted, explain_interrupt
from jobs.load import LoadOptions, load
from jobs.notify import notify
from jobs.pipeline import Pipeline, TrainingJob
from jobs.progress import say
from jobs.query import Query
from jobs.train import already_trained, is_unpublished
from jobs.training_input import TrainingInput
from recsys.database.audit import record
from recsys.database.clock import now_ms
from recsys.database.counts import recount
from recsys.database.engine import reading
from recsys.database.leases import LOADING, TRAINING, Lease, lease
from recsys.database.retention import prune
from recsys.database.runs import Run, delete_old_runs, recorded
from recsys.errors import LockedError, NothingToTrainError, RecsysError
from recsys.extras import has_extra, require_extra
from recsys.results import Architecture, LoadReport, NightlyReport, Objective, ObjectiveReport, TrainReport, as_time
from recsys.settings import Settings

KEEP_RUNS_DAYS = 400
"""Days after which the record of a run is deleted."""

_log = logging.getLogger(__name__)


class Night:
    """What one night has done so far."""

    def __init__(self) -> None:
        self._started_at, self._started = now_ms(), time.perf_counter()
        self.run: int | None = None
        self.loads: list[LoadReport] = []
        self.trainings: list[TrainReport] = []
        self.objectives: list[ObjectiveReport] = []
        self.pruned: list[int] = []
        self.error: str | None = None

    def report(self) -> NightlyReport:
        """Return everything that was done, with one status for the whole."""
        return NightlyReport(
            status="failed" if self.error else night_status([each.status for each in self.objectives]),
            run=self.run,
            started_at=as_time(self._started_at),
            finished_at=as_time(now_ms()),
            error=self.error,
            objectives=self.objectives,
            loads=self.loads,
            trainings=self.trainings,
            pruned=self.pruned,
            seconds=round(time.perf_counter() - self._started, 3),
        )

    def summary(self) -> str:
        """Return the outcome of each objective, in one line."""
        return "; ".join(each.line() for each in self.objectives)

    def kept(self) -> str:
        """Return what an interrupted night leaves behind, and what to do next."""
        done = self.summary() or "no objective was trained"
        return f"{done}. Run the same command again: it does only what is left"


def nightly(
    engine: Engine,
    settings: Settings,
    sources: Sequence[Path | Query] = (),
    *,
    load_options: LoadOptions | None = None,
    overrides: Mapping[Objective, Mapping[str, Any]] | None = None,
    device: str = "auto",
    seed: int = 0,
    architecture: Architecture | None = None,
    on_end: Callable[[NightlyReport], None] = lambda report: None,
) -> NightlyReport:
    """Load the sources, train each objective whose ratings changed since it was last trained, and delete old versions.

    The objectives are independent: one that fails is reported, and the other is trained all the same.

    Args:
        load_options: how all sources are to be read.
        architecture: of the lists; `None`: the candidate that suits the ratings best (`jobs.portfolio`).
        on_end: called with the report, also if an error is raised afterwards.

    Raises:
        Interrupted: the night was stopped; the message says what was kept.
        LockedError: another training or nightly run is at work, or has taken over the lease.
        RecsysError: a source could not be loaded. What was loaded before it stays.
    """
    if settings.report_dir is not None:
        require_extra("report")
    night = Night()
    try:
        with lease(engine, TRAINING, settings.lease_seconds) as held, recorded(engine, "nightly") as run:
            night.run = run.key
            with reported(settings, night, run), explain_interrupt(night.kept):
                run_steps(
                    engine,
                    settings,
                    held,
                    run,
                    night,
                    sources,
                    load_options or {},
                    overrides or {},
                    device,
                    seed,
                    architecture,
                )
    except BaseException as error:
        night.error = described(error)
        raise
    finally:
        on_end(night.report())
    return night.report()


@contextmanager
def reported(settings: Settings, night: Night, run: Run) -> Iterator[None]:
    """Record the outcome of the block in its run, and send it to whom the settings name, whether it failed or not."""
    try:
        yield
    except BaseException as error:
        night.error = described(error)
        raise
    finally:
        report = night.report()
        run.failed, run.detail = report.status == "failed", report.model_dump(mode="json")
        run.reason = night.summary() or night.error or "nothing was trained"
        if settings.notify_url or settings.notify_command:
            try:
                with run.step("notify") as step:
                    step.figures = {"sent": notify(settings, report)}
            except RecsysError as problem:
                _log.warning("the summary could not be sent", extra={"reason": str(problem)})


def run_steps(
    engine: Engine,
    settings: Settings,
    held: Lease,
    run: Run,
    night: Night,
    sources: Sequence[Path | Query],
    load_options: LoadOptions,
    overrides: Mapping[Objective, Mapping[str, Any]],
    device: str,
    seed: int,
    architecture: Architecture | None,
) -> None:
    """Run all steps of a night."""
    with run.step("lease") as step:
        step.figures = {"holder": held.holder, "token": held.token}
    for source in sources:
        with (
            run.step("load", fingerprint=str(source)) as step,
            lease(engine, LOADING, settings.lease_seconds) as loading,
        ):
            night.loads.append(load(engine, source, settings, guard=loading.guard, **load_options))
            step.figures = night.loads[-1].model_dump(mode="json")
    with run.step("count") as step:
        n_corrected = recount(engine, held.guard)
        step.figures = {"corrected": n_corrected}
    if n_corrected:
        _log.warning("corrected the rating counts of items", extra={"items": n_corrected})
    inputs: list[TrainingInput] = []

    def read_once() -> TrainingInput:
        if not inputs:
            inputs.append(TrainingInput.read(engine, settings))
        return inputs[0]

    for objective in get_args(Objective):
        chosen: Architecture | None = architecture if objective == "ranking" else "dot"
        job = TrainingJob(objective, chosen, overrides.get(objective, {}), device, seed)
        try:
            train_if_new(engine, settings, held, run, night, job, read_once)
        except Interrupted as interrupted:
            raise Interrupted(f"{interrupted}. Before: {night.summary() or 'nothing'}") from interrupted
    if has_extra("report"):
        from jobs.maps import try_map_live  # plotly and pandas take a while to import

        with run.step("map"):
            try_map_live(engine, held.guard)
    if settings.report_dir is not None:
        from jobs.report import try_report

        with run.step("report") as step:
            written = try_report(engine, settings.report_dir)
            step.figures = {"written": None if written is None else str(written)}
    with run.step("prune") as step:

        def audit(connection: Connection, numbers: list[int]) -> None:
            record(connection, "nightly", "prune", {"keep": settings.keep_versions, "numbers": numbers})

        night.pruned = prune(engine, settings.keep_versions, audit, held.guard, max_days=settings.keep_days)
        delete_old_runs(engine, now_ms() - KEEP_RUNS_DAYS * 86_400_000)
        step.figures = {"deleted": night.pruned}


def train_if_new(
    engine: Engine,
    settings: Settings,
    held: Lease,
    run: Run,
    night: Night,
    job: TrainingJob,
    read_once: Callable[[], TrainingInput],
) -> None:
    """Train an objective, unless the training would only repeat an earlier one; add the outcome to the night.

    Args:
        read_once: returns the ratings of this night, which are read at the first call.

    Raises:
        LockedError: the lease was lost, so that nothing more can be stored.
    """
    objective = job.objective
    try:
        with reading(engine) as connection:
            latest = already_trained(
                connection, objective, job.overrides, job.seed, job.architecture, lambda: read_once().fingerprint
            )
            is_left = latest is not None and is_unpublished(connection, latest)
        if latest is not None and not is_left:
            reason = f"the ratings are the same as at the training of version {latest.number}"
            say(f"{objective}: {reason}")
            with run.step("skip", objective, latest.training.data_fingerprint) as step:
                step.figures = {"model_version": latest.number, "reason": reason}
            night.objectives.append(
                ObjectiveReport(objective=objective, status="nothing_new", model_version=latest.number, reason=reason)
            )
            return
        pipeline = Pipeline(engine, settings, held, run, read_once(), job)
        training = pipeline.train() if latest is None else pipeline.resume(latest.number)
    except LockedError:
        raise
    except NothingToTrainError as nothing:
        say(f"{objective}: skipped: {nothing}")
        night.objectives.append(
            ObjectiveReport(objective=objective, status="skipped", model_version=None, reason=str(nothing))
        )
        return
    except Exception as error:
        # Whatever went wrong, the other objective must not suffer from it.
        if not isinstance(error, RecsysError):
            _log.exception("training failed", extra={"objective": objective})
        night.objectives.append(
            ObjectiveReport(objective=objective, status="failed", model_version=None, reason=described(error))
        )
        return
    night.trainings.append(training)
    night.objectives.append(
        ObjectiveReport(
            objective=objective,
            status="published" if training.published else "not_better",
            model_version=training.model_version,
            reason=training.reason,
        )
    )


def described(error: BaseException) -> str:
    """Return an error in one line: its message if it was raised on purpose, else its type too."""
    if isinstance(error, RecsysError | Interrupted):
        return str(error)
    return f"{type(error).__name__}: {error}".removesuffix(": ")


def night_status(
    statuses: Sequence[Literal["published", "not_better", "nothing_new", "skipped", "failed"]],
) -> Literal["published", "some_refused", "not_better", "nothing_new", "failed"]:
    """Return one status for all objectives."""
    if "failed" in statuses:
        return "failed"
    if "published" in statuses:
        return "some_refused" if "not_better" in statuses else "published"
    return "not_better" if "not_better" in statuses else "nothing_new"
