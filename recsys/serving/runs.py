"""Runs of jobs as answers."""

from typing import Literal, cast

from recsys.database.runs import StoredRun
from recsys.results import RunDetail, RunStep, RunSummary, as_time

Status = Literal["running", "done", "failed"]


def summarised_run(run: StoredRun) -> RunSummary:
    """Return a run without its steps."""
    return RunSummary(
        run=run.number,
        job=run.job,
        status=cast(Status, run.status),
        started_at=as_time(run.started_at),
        seconds=seconds_between(run.started_at, run.finished_at),
        exit_code=run.exit_code,
        reason=run.reason,
    )


def detailed_run(run: StoredRun) -> RunDetail:
    """Return a run with its steps and its result."""
    return RunDetail(
        **summarised_run(run).model_dump(),
        steps=[
            RunStep(
                step=step.name,
                objective=step.objective,
                status=cast(Status, step.status),
                started_at=as_time(step.started_at),
                seconds=seconds_between(step.started_at, step.finished_at),
                fingerprint=step.fingerprint,
                figures=dict(step.figures),
            )
            for step in run.steps
        ],
        detail=dict(run.detail),
    )


def seconds_between(started_at: int, finished_at: int | None) -> float | None:
    """Return the length of time between two Unix times in milliseconds; `None` if it has no end."""
    return None if finished_at is None else (finished_at - started_at) / 1000
