"""Settings that a search found to beat the defaults, as the database keeps them."""

from collections.abc import Mapping
from dataclasses import dataclass

from sqlalchemy import Connection, delete, select

from recsys.database import schema
from recsys.database.clock import now_ms
from recsys.database.engine import insert_or_update
from recsys.results import Architecture, Objective

HOLDS_WITHIN = 4
"""Tuned settings are used for up to this many times the ratings that they were tuned on, and down to this part."""


@dataclass(frozen=True, slots=True)
class Tuned:
    """Settings that beat the defaults.

    Attributes:
        study: which search found them, as `jobs.tune` names it.
        parameters: fields of `Config` → values.
        metric: name of the metric.
        value: of the metric with them.
        default_value: of the metric with the defaults; None where training with those diverged.
        n_ratings: how many ratings there were.
    """

    study: str
    parameters: Mapping[str, float]
    metric: str
    value: float
    default_value: float | None
    n_ratings: int

    def holds(self, n_ratings: int) -> bool:
        """Whether there are about as many ratings as they were tuned on."""
        return self.n_ratings <= HOLDS_WITHIN * n_ratings and n_ratings <= HOLDS_WITHIN * self.n_ratings


def tuned_settings(connection: Connection, objective: Objective, architecture: Architecture) -> Tuned | None:
    """The tuned settings of a model, if it has any."""
    table = schema.tuned_configurations
    row = connection.execute(
        select(table).where(table.c.objective == objective, table.c.architecture == architecture)
    ).one_or_none()
    if row is None:
        return None
    return Tuned(row.study, row.parameters, row.metric, row.value, row.default_value, row.n_ratings)


def keep(connection: Connection, objective: Objective, architecture: Architecture, tuned: Tuned) -> None:
    """Make these the tuned settings of a model."""
    values = {
        "study": tuned.study,
        "parameters": dict(tuned.parameters),
        "metric": tuned.metric,
        "value": tuned.value,
        "default_value": tuned.default_value,
        "n_ratings": tuned.n_ratings,
        "tuned_at": now_ms(),
    }
    statement = insert_or_update(connection.dialect.name, schema.tuned_configurations).values(
        objective=objective, architecture=architecture, **values
    )
    connection.execute(statement.on_conflict_do_update(index_elements=["objective", "architecture"], set_=values))


def forget(connection: Connection, objective: Objective, architecture: Architecture) -> bool:
    """Remove the tuned settings of a model; whether there were any."""
    table = schema.tuned_configurations
    gone = connection.execute(delete(table).where(table.c.objective == objective, table.c.architecture == architecture))
    return gone.rowcount > 0
