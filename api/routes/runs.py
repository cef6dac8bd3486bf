"""Runs of jobs: list and read."""

from typing import Annotated

from fastapi import Query

from api.routing import Number, router
from api.security import ModelReader
from api.state import CurrentState
from recsys.database.engine import reading
from recsys.database.runs import read_run, read_runs
from recsys.errors import NotFoundError
from recsys.results import RunDetail, RunSummaries
from recsys.serving.runs import detailed_run, summarised_run

routes = router("runs")


@routes.get("/runs")
def list_runs(
    _: ModelReader,
    state: CurrentState,
    job: Annotated[str | None, Query(description="Only runs of this job.", examples=["nightly"])] = None,
    n: Annotated[int, Query(ge=1, le=1000, description="Number of runs.")] = 20,
    before: Annotated[int | None, Query(ge=1, le=2**63 - 1, description="Only runs of lower numbers.")] = None,
) -> RunSummaries:
    """List what the jobs did, the newest first: loads, trainings, nights, publications and prunes."""
    with reading(state.engine) as connection:
        return RunSummaries(runs=[summarised_run(run) for run in read_runs(connection, n, job, before)])


@routes.get("/runs/{number}")
def get_run(_: ModelReader, number: Number, state: CurrentState) -> RunDetail:
    """Return one run with its steps and their figures."""
    with reading(state.engine) as connection:
        found = read_run(connection, number)
    if found is None:
        raise NotFoundError(f"there is no run {number}: see GET /v1/runs")
    return detailed_run(found)
