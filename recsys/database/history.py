"""What happened: publications and runs of jobs, the newest first."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from sqlalchemy import Connection, select

from recsys.database import schema


class Publication(NamedTuple):
    """A version went live.

    Attributes:
        action: `publish` or `rollback`.
        published_at: Unix milliseconds in UTC.
    """

    objective: str
    number: int
    replaced_number: int | None
    action: str
    reason: str
    published_at: int


class JobRun(NamedTuple):
    """A run of a job.

    Attributes:
        status: `running`, `done` or `failed`.
        started_at, finished_at: Unix milliseconds in UTC.
    """

    job: str
    status: str
    reason: str
    detail: Mapping[str, Any]
    started_at: int
    finished_at: int | None


def read_publications(connection: Connection, limit: int = 50) -> list[Publication]:
    """Return the latest publications."""
    table = schema.publications
    columns = [table.c[name] for name in Publication._fields]
    rows = connection.execute(select(*columns).order_by(table.c.publication_key.desc()).limit(limit))
    return [Publication(*row) for row in rows]


def read_runs(connection: Connection, limit: int = 50) -> list[JobRun]:
    """Return the latest runs of jobs."""
    table = schema.job_runs
    columns = [table.c[name] for name in JobRun._fields]
    rows = connection.execute(select(*columns).order_by(table.c.run_key.desc()).limit(limit))
    return [JobRun(*row) for row in rows]
