"""The record of what ran and how it ended."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from sqlalchemy import Engine, insert, update

from recsys.database import schema
from recsys.database.clock import now_ms
from recsys.database.engine import writing


class Run:
    """A run that is being recorded. Its attributes are written when it ends.

    Attributes:
        reason: outcome in a sentence.
        detail: outcome as JSON holds it.
        failed: whether the run is recorded as failed although it raises nothing.
    """

    def __init__(self) -> None:
        self.reason = ""
        self.detail: Mapping[str, object] = {}
        self.failed = False


@contextmanager
def recorded(engine: Engine, job: str) -> Iterator[Run]:
    """Record a run: `running`, then `done`, or `failed` with the error. The caller holds the job's lease.

    A run of the same job that is still `running` was killed, and is recorded as failed. So is a run that a person or a
    service manager stopped, with "interrupted" in its reason.
    """
    runs = schema.job_runs.c
    started_at = now_ms()
    with writing(engine) as connection:
        connection.execute(
            update(schema.job_runs)
            .where(runs.job == job, runs.status == "running")
            .values(status="failed", reason="killed", finished_at=started_at)
        )
        row = {"job": job, "status": "running", "reason": "", "detail": {}, "started_at": started_at}
        key = connection.execute(insert(schema.job_runs).values(row).returning(runs.run_key)).scalar_one()
    run, status = Run(), "failed"
    try:
        yield run
        status = "failed" if run.failed else "done"
    except KeyboardInterrupt as error:
        run.reason = f"interrupted: {error}" if str(error) else "interrupted"
        raise
    except BaseException as error:
        run.reason = str(error) or type(error).__name__
        raise
    finally:
        with writing(engine) as connection:
            connection.execute(
                update(schema.job_runs)
                .where(runs.run_key == key)
                .values(status=status, reason=run.reason, detail=dict(run.detail), finished_at=now_ms())
            )
