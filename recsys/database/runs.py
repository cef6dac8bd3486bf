"""The record of what ran, step by step, and how it ended."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, Engine, delete, func, insert, select, update

from recsys.database import schema
from recsys.database.clock import now_ms
from recsys.database.engine import writing
from recsys.database.leases import LOADING, TRAINING, held_leases
from recsys.results import Objective

KILLED = "killed"
"""Reason of a run that was still `running` when the next one of its job began."""
KILLED_EXIT_CODE = 137
"""What a shell calls the end of a process by SIGKILL."""
GONE = "killed or suspended: its lease has ended. The same command again goes on where it stopped"
"""Reason, until then, of a run that is `running` although nothing holds the lease of its job."""


class Step:
    """A step of a run that is being recorded. Its attributes are written when it ends.

    Attributes:
        figures: outcome as JSON holds it.
        fingerprint: of everything that decides the outcome.
    """

    def __init__(self, fingerprint: str) -> None:
        self.figures: dict[str, object] = {}
        self.fingerprint = fingerprint


class Run:
    """A run that is being recorded. Its attributes are written when it ends.

    Attributes:
        key: number of the run.
        started_at: Unix milliseconds.
        reason: outcome in a sentence.
        detail: outcome as JSON holds it.
        failed: whether the run is recorded as failed although it raises nothing.
    """

    def __init__(self, engine: Engine, key: int, started_at: int) -> None:
        self.key, self.started_at = key, started_at
        self.reason = ""
        self.detail: Mapping[str, object] = {}
        self.failed = False
        self._engine = engine

    @contextmanager
    def step(self, name: str, objective: Objective | None = None, fingerprint: str = "") -> Iterator[Step]:
        """Record a step: `running`, then `done`, or `failed` with the error."""
        row = {
            "run_key": self.key,
            "name": name,
            "objective": objective,
            "fingerprint": fingerprint,
            "status": "running",
            "figures": {},
            "started_at": now_ms(),
        }
        steps = schema.job_steps.c
        with writing(self._engine) as connection:
            key = connection.execute(insert(schema.job_steps).values(row).returning(steps.step_key)).scalar_one()
        step, status = Step(fingerprint), "failed"
        try:
            yield step
            status = "done"
        except BaseException as error:
            step.figures = {**step.figures, "error": _described(error)}
            raise
        finally:
            with writing(self._engine) as connection:
                connection.execute(
                    update(schema.job_steps)
                    .where(steps.step_key == key)
                    .values(status=status, figures=step.figures, fingerprint=step.fingerprint, finished_at=now_ms())
                )


@contextmanager
def recorded(engine: Engine, job: str) -> Iterator[Run]:
    """Record a run: `running`, then `done`, or `failed` with the error. The caller holds the job's lease.

    A run of the same job that is still `running` was killed, and is recorded as failed. So is a run that a person or a
    service manager stopped, with "interrupted" in its reason.
    """
    runs = schema.job_runs.c
    started_at = now_ms()
    with writing(engine) as connection:
        end_killed(connection, job)
        row = {"job": job, "status": "running", "reason": "", "detail": {}, "started_at": started_at}
        key = connection.execute(insert(schema.job_runs).values(row).returning(runs.run_key)).scalar_one()
    run, status, exit_code = Run(engine, key, started_at), "failed", 1
    try:
        yield run
        status, exit_code = ("failed", 1) if run.failed else ("done", 0)
    except KeyboardInterrupt as error:
        run.reason = f"interrupted: {error}" if str(error) else "interrupted"
        exit_code = 130
        raise
    except BaseException as error:
        run.reason = _described(error)
        exit_code = int(getattr(error, "exit_code", 1))
        raise
    finally:
        with writing(engine) as connection:
            connection.execute(
                update(schema.job_runs)
                .where(runs.run_key == key)
                .values(
                    status=status,
                    reason=run.reason,
                    detail=dict(run.detail),
                    finished_at=now_ms(),
                    exit_code=exit_code,
                )
            )


def end_killed(connection: Connection, job: str) -> None:
    """Record the runs of a job that are still `running` as failed, at the last time that they wrote a step."""
    runs, steps = schema.job_runs.c, schema.job_steps.c
    for key, started_at in connection.execute(
        select(runs.run_key, runs.started_at).where(runs.job == job, runs.status == "running")
    ).all():
        last_sign = connection.scalar(
            select(func.max(func.coalesce(steps.finished_at, steps.started_at))).where(steps.run_key == key)
        )
        connection.execute(
            update(schema.job_runs)
            .where(runs.run_key == key)
            .values(status="failed", reason=KILLED, finished_at=last_sign or started_at)
        )
        connection.execute(
            update(schema.job_steps)
            .where(steps.run_key == key, steps.status == "running")
            .values(status="failed", figures={"error": KILLED})
        )


def record_finished(connection: Connection, job: str, reason: str, detail: Mapping[str, object]) -> None:
    """Record something that is done within one transaction, in that transaction: a publication by hand, for example."""
    at = now_ms()
    row = {"job": job, "status": "done", "reason": reason, "detail": dict(detail), "exit_code": 0}
    connection.execute(insert(schema.job_runs).values({**row, "started_at": at, "finished_at": at}))


def _described(error: BaseException) -> str:
    return str(error) or type(error).__name__


@dataclass(frozen=True, slots=True)
class StoredStep:
    """One step of a run, as the table has it; times in Unix milliseconds."""

    name: str
    objective: Objective | None
    fingerprint: str
    status: str
    figures: Mapping[str, Any]
    started_at: int
    finished_at: int | None


@dataclass(frozen=True, slots=True)
class StoredRun:
    """One run, as the table has it; times in Unix milliseconds."""

    number: int
    job: str
    status: str
    reason: str
    detail: Mapping[str, Any]
    started_at: int
    finished_at: int | None
    exit_code: int | None
    steps: tuple[StoredStep, ...] = field(default=())


def read_runs(connection: Connection, limit: int, job: str | None = None, before: int | None = None) -> list[StoredRun]:
    """Return runs without their steps, the newest first.

    Args:
        job: only runs of this job.
        before: only runs of lower numbers.
    """
    runs = schema.job_runs.c
    statement = select(schema.job_runs).order_by(runs.run_key.desc()).limit(limit)
    if job is not None:
        statement = statement.where(runs.job == job)
    if before is not None:
        statement = statement.where(runs.run_key < before)
    working = _working(connection)
    return [_as_run(row, working) for row in connection.execute(statement)]


def read_run(connection: Connection, number: int) -> StoredRun | None:
    """Return a run with its steps; `None` if no run has the number."""
    row = connection.execute(select(schema.job_runs).where(schema.job_runs.c.run_key == number)).one_or_none()
    if row is None:
        return None
    steps = schema.job_steps.c
    rows = connection.execute(select(schema.job_steps).where(steps.run_key == number).order_by(steps.step_key))
    return _as_run(
        row,
        _working(connection),
        tuple(
            StoredStep(
                each.name,
                each.objective,
                each.fingerprint,
                each.status,
                each.figures,
                each.started_at,
                each.finished_at,
            )
            for each in rows
        ),
    )


def _working(connection: Connection) -> set[str]:
    """Return the jobs whose leases are held."""
    return {job for job, _, _ in held_leases(connection)}


def _as_run(row: Any, working: set[str], steps: tuple[StoredStep, ...] = ()) -> StoredRun:
    # A job holds its lease for as long as its run is recorded as running.
    is_gone = row.status == "running" and (LOADING if row.job == "load" else TRAINING) not in working
    return StoredRun(
        number=row.run_key,
        job=row.job,
        status="failed" if is_gone else row.status,
        reason=GONE if is_gone else row.reason,
        detail=row.detail,
        started_at=row.started_at,
        finished_at=row.finished_at,
        exit_code=row.exit_code,
        steps=steps,
    )


def judged_before(connection: Connection, objective: Objective, live_number: int, limit: int) -> list[dict[str, Any]]:
    """Return the figures of the latest nights that compared a new version with this live one, the latest first.

    A night that was killed and run again counts once.
    """
    steps, runs = schema.job_steps.c, schema.job_runs.c
    rows = connection.execute(
        select(steps.fingerprint, steps.figures)
        .join(schema.job_runs, runs.run_key == steps.run_key)
        .where(runs.job == "nightly", steps.name == "judge", steps.objective == objective, steps.status == "done")
        .order_by(steps.step_key.desc())
        .limit(4 * limit)
    )
    by_fingerprint: dict[str, dict[str, Any]] = {}
    for fingerprint, figures in rows:
        if figures.get("compared_with") != live_number:
            break
        by_fingerprint.setdefault(fingerprint, dict(figures))
    return list(by_fingerprint.values())[:limit]


def last_ends(connection: Connection) -> dict[str, dict[str, int]]:
    """Return when each job was last attempted and last succeeded, and its last exit code: 137 if it was killed.

    Returns:
        job → `attempt` and `success` in Unix milliseconds, and `exit_code`; what never happened is left out.
    """
    runs = schema.job_runs.c
    ends: dict[str, dict[str, int]] = {}
    for job, attempt in connection.execute(select(runs.job, func.max(runs.started_at)).group_by(runs.job)).all():
        ends[job] = {"attempt": attempt}
        success = connection.scalar(select(func.max(runs.finished_at)).where(runs.job == job, runs.status == "done"))
        [newest] = read_runs(connection, 1, job)
        exit_code = KILLED_EXIT_CODE if newest.status == "failed" and newest.exit_code is None else newest.exit_code
        ends[job] |= {} if success is None else {"success": success}
        ends[job] |= {} if exit_code is None else {"exit_code": exit_code}
    return ends


def delete_old_runs(engine: Engine, before: int) -> None:
    """Delete runs that began before a time, in Unix milliseconds, with their steps."""
    with writing(engine) as connection:
        old = select(schema.job_runs.c.run_key).where(schema.job_runs.c.started_at < before)
        connection.execute(delete(schema.job_steps).where(schema.job_steps.c.run_key.in_(old)))
        connection.execute(delete(schema.job_runs).where(schema.job_runs.c.started_at < before))
