"""Figures to raise alarms on: sizes, rows, versions, and how the jobs ended."""

from dataclasses import dataclass, field

from sqlalchemy import Connection, func, select

from recsys.database import schema
from recsys.database.models import live_numbers
from recsys.database.runs import last_ends
from recsys.database.space import database_bytes
from recsys.results import Objective


@dataclass(frozen=True, slots=True)
class Alarms:
    """The state of a database, as monitoring wants it.

    Attributes:
        n_bytes: size of the database.
        n_ratings: rows of ratings.
        n_versions: objective → stored versions, without twins.
        gate_passed: objective → whether the gate passed the newest version.
        newest_data_at: objective → Unix milliseconds of the newest rating that the live version has seen; objectives
            whose ratings have no times are left out.
        jobs: job → `attempt`, `success` (Unix milliseconds) and `exit_code`; what never happened is left out.
    """

    n_bytes: int
    n_ratings: int
    n_versions: dict[Objective, int] = field(default_factory=dict)
    gate_passed: dict[Objective, bool] = field(default_factory=dict)
    newest_data_at: dict[Objective, int] = field(default_factory=dict)
    jobs: dict[str, dict[str, int]] = field(default_factory=dict)


def read_alarms(connection: Connection) -> Alarms:
    """Read the figures. The ratings are not counted but their kept counts added up."""
    models = schema.models.c
    listed = (models.status == "ready", models.number > 0)
    n_versions: dict[Objective, int] = {
        row.objective: row.n
        for row in connection.execute(
            select(models.objective, func.count().label("n")).where(*listed).group_by(models.objective)
        )
    }
    newest = select(func.max(models.number)).where(*listed).group_by(models.objective)
    passed: dict[Objective, bool] = {
        row.objective: bool(row.gate_passed)
        for row in connection.execute(select(models.objective, models.gate_passed).where(models.number.in_(newest)))
    }
    live = live_numbers(connection)
    seen: dict[Objective, int] = {
        row.objective: row.newest_rating_at
        for row in connection.execute(
            select(models.objective, models.newest_rating_at).where(
                models.number.in_(list(live.values())), models.newest_rating_at.is_not(None)
            )
        )
    }
    return Alarms(
        n_bytes=database_bytes(connection),
        n_ratings=int(connection.scalar(select(func.coalesce(func.sum(schema.item_counts.c.n_ratings), 0))) or 0),
        n_versions=n_versions,
        gate_passed=passed,
        newest_data_at=seen,
        jobs=last_ends(connection),
    )
