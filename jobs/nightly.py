"""The nightly job: load, train both objectives, publish what the gate lets through, record why."""

import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from sqlalchemy import Engine

from jobs.load import load
from jobs.progress import say
from jobs.train import already_trained, train
from recsys.database.counts import recount
from recsys.database.engine import reading
from recsys.database.leases import LOADING, TRAINING, lease
from recsys.database.runs import recorded
from recsys.results import LoadReport, NightlyReport, Objective, TrainReport
from recsys.settings import Settings

_log = logging.getLogger(__name__)


def nightly(
    engine: Engine, settings: Settings, sources: Sequence[Path] = (), *, device: str = "auto", seed: int = 0
) -> NightlyReport:
    """Load the sources, then train each objective whose ratings changed since it was last trained.

    Raises:
        LockedError: another training or nightly run is at work.
        RecsysError: a source could not be loaded, or a training failed; what was done before stays.
    """
    started = time.perf_counter()
    loads: list[LoadReport] = []
    trainings: list[TrainReport] = []
    with lease(engine, TRAINING) as held, recorded(engine, "nightly") as run:
        for source in sources:
            with lease(engine, LOADING):
                loads.append(load(engine, source, settings))
        mended = recount(engine)
        if mended:
            _log.warning("counts of items were mended", extra={"items": mended})
        for objective in get_args(Objective):
            with reading(engine) as connection:
                done = already_trained(connection, objective, {}, seed)
            if done is not None:
                say(f"{objective}: nothing new since version {done.number}")
                continue
            trainings.append(train(engine, settings, held, objective, device=device, seed=seed))
        report = NightlyReport(
            status="nothing_new"
            if not trainings
            else "published"
            if any(training.published for training in trainings)
            else "not_better",
            loads=loads,
            trainings=trainings,
            seconds=round(time.perf_counter() - started, 3),
        )
        run.detail = report.model_dump(mode="json")
        run.reason = (
            "; ".join(
                f"{training.objective} version {training.model_version} "
                f"{'published' if training.published else 'kept back'}: {training.reason}"
                for training in trainings
            )
            or "the ratings are the same as at the last training"
        )
    return report
