"""The nightly job: load, train both objectives, publish what the gate allows, and record why."""

import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, get_args

from sqlalchemy import Engine

from jobs.interrupt import Interrupted, explain_interrupt
from jobs.load import load
from jobs.progress import say
from jobs.train import already_trained, train
from recsys.database.counts import recount
from recsys.database.engine import reading
from recsys.database.leases import LOADING, TRAINING, Lease, lease
from recsys.database.runs import recorded
from recsys.errors import LockedError, RecsysError
from recsys.extras import has_extra
from recsys.results import LoadReport, NightlyReport, Objective, ObjectiveReport, TrainReport
from recsys.settings import Settings

_log = logging.getLogger(__name__)


class Night:
    """What one night has done so far."""

    def __init__(self) -> None:
        self._started = time.perf_counter()
        self.loads: list[LoadReport] = []
        self.trainings: list[TrainReport] = []
        self.objectives: list[ObjectiveReport] = []

    def report(self) -> NightlyReport:
        """Return everything that was done, with one status for the whole."""
        return NightlyReport(
            status=night_status([each.status for each in self.objectives]),
            objectives=self.objectives,
            loads=self.loads,
            trainings=self.trainings,
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
    engine: Engine, settings: Settings, sources: Sequence[Path] = (), *, device: str = "auto", seed: int = 0
) -> NightlyReport:
    """Load the sources, then train each objective whose ratings changed since it was last trained.

    The objectives are independent: one that fails is reported, and the other is trained all the same.

    Raises:
        Interrupted: the night was stopped; the message says what was kept.
        LockedError: another training or nightly run is at work, or has taken over the lease.
        RecsysError: a source could not be loaded. What was loaded before it stays.
    """
    night = Night()
    with (
        lease(engine, TRAINING, settings.lease_seconds) as held,
        recorded(engine, "nightly") as run,
        explain_interrupt(night.kept),
    ):
        for source in sources:
            with lease(engine, LOADING, settings.lease_seconds) as loading:
                night.loads.append(load(engine, source, settings, guard=loading.guard))
        n_corrected = recount(engine, held.guard)
        if n_corrected:
            _log.warning("corrected the rating counts of items", extra={"items": n_corrected})
        for objective in get_args(Objective):
            try:
                train_if_new(engine, settings, held, night, objective, device, seed)
            except Interrupted as interrupted:
                raise Interrupted(f"{interrupted}. Before: {night.summary() or 'nothing'}") from interrupted
            run.detail, run.reason = night.report().model_dump(mode="json"), night.summary()
        if any(training.published for training in night.trainings) and has_extra("report"):
            from jobs.maps import try_map_live  # plotly and pandas take a while to import

            try_map_live(engine, held.guard)
        report = night.report()
        run.failed = report.status == "failed"
    return report


def train_if_new(
    engine: Engine, settings: Settings, held: Lease, night: Night, objective: Objective, device: str, seed: int
) -> None:
    """Train an objective, unless the training would only repeat an earlier one; add the outcome to the night.

    Raises:
        LockedError: the lease was lost, so that nothing more can be stored.
    """
    try:
        with reading(engine) as connection:
            latest = already_trained(connection, objective, {}, seed)
        if latest is not None:
            reason = f"the ratings are the same as at the training of version {latest.number}"
            say(f"{objective}: {reason}")
            night.objectives.append(
                ObjectiveReport(objective=objective, status="nothing_new", model_version=latest.number, reason=reason)
            )
            return
        training = train(engine, settings, held, objective, device=device, seed=seed)
    except LockedError:
        raise
    except Exception as error:
        # Whatever went wrong, the other objective must not suffer from it.
        if not isinstance(error, RecsysError):
            _log.exception("training failed", extra={"objective": objective})
        reason = str(error) if isinstance(error, RecsysError) else f"{type(error).__name__}: {error}"
        night.objectives.append(
            ObjectiveReport(objective=objective, status="failed", model_version=None, reason=reason)
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


def night_status(
    statuses: Sequence[Literal["published", "not_better", "nothing_new", "failed"]],
) -> Literal["published", "some_refused", "not_better", "nothing_new", "failed"]:
    """Return one status for all objectives."""
    if "failed" in statuses:
        return "failed"
    if "published" in statuses:
        return "some_refused" if "not_better" in statuses else "published"
    return "not_better" if "not_better" in statuses else "nothing_new"
