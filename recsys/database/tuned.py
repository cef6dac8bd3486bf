"""Tuned configs: values of `Config` fields that a search found to train better models than the defaults."""

from collections.abc import Mapping
from dataclasses import dataclass

from sqlalchemy import Connection, delete, select

from recsys.database import schema
from recsys.database.clock import now_ms
from recsys.database.statements import upsert
from recsys.results import Architecture, Objective

APPLIES_WITHIN = 4
"""A tuned config is used for up to this many times the ratings that it was found on, and down to this part."""


@dataclass(frozen=True, slots=True)
class Tuned:
    """The tuned config of one objective and architecture.

    Attributes:
        study: digest of the search that found it.
        parameters: fields of `Config` → values.
        metric: name of the metric.
        value: the metric with these values.
        default_value: the metric with the defaults; `None` if training with them diverged.
        n_ratings: number of ratings that the search used.
    """

    study: str
    parameters: Mapping[str, float]
    metric: str
    value: float
    default_value: float | None
    n_ratings: int

    def applies_to(self, n_ratings: int) -> bool:
        """Return whether the config is to be used for so many ratings: about as many as it was found on."""
        return self.n_ratings <= APPLIES_WITHIN * n_ratings and n_ratings <= APPLIES_WITHIN * self.n_ratings


def read_tuned(connection: Connection, objective: Objective, architecture: Architecture) -> Tuned | None:
    """Return the tuned config, if there is one."""
    table = schema.tuned_configurations
    row = connection.execute(
        select(table).where(table.c.objective == objective, table.c.architecture == architecture)
    ).one_or_none()
    if row is None:
        return None
    return Tuned(row.study, row.parameters, row.metric, row.value, row.default_value, row.n_ratings)


def keep_tuned(connection: Connection, objective: Objective, architecture: Architecture, tuned: Tuned) -> None:
    """Store a tuned config in place of the one before."""
    values = {
        "study": tuned.study,
        "parameters": dict(tuned.parameters),
        "metric": tuned.metric,
        "value": tuned.value,
        "default_value": tuned.default_value,
        "n_ratings": tuned.n_ratings,
        "tuned_at": now_ms(),
    }
    row = {"objective": objective, "architecture": architecture, **values}
    upsert(connection, schema.tuned_configurations, [row], key=["objective", "architecture"], set_=list(values))


def delete_tuned(connection: Connection, objective: Objective, architecture: Architecture) -> bool:
    """Delete the tuned config; return whether there was one."""
    table = schema.tuned_configurations
    deleted = connection.execute(
        delete(table).where(table.c.objective == objective, table.c.architecture == architecture)
    )
    return deleted.rowcount > 0
