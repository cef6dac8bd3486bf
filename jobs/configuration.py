"""What to train with: the defaults, what `recsys tune` found to be better, and what is asked for; the last wins."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from sqlalchemy import Connection, delete, select

from jobs.progress import say
from recsys.data import schema
from recsys.data.clock import now_ms
from recsys.data.database import insert_or_update
from recsys.factors import Architecture, Objective
from recsys.training.config import Config, default_config

HOLDS_WITHIN = 4
"""Tuned settings are used for up to this many times the ratings that they were tuned on, and down to this part."""


@dataclass(frozen=True, slots=True)
class Tuned:
    """Settings that beat the defaults.

    Attributes:
        study: which search found them, as `jobs.tuning` names it.
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


def chosen_config(
    connection: Connection,
    objective: Objective,
    architecture: Architecture,
    n_ratings: int,
    n_users: int,
    overrides: Mapping[str, Any] | None = None,
) -> Config:
    """What to train with on so many ratings; says so where tuned settings do not hold for them any more.

    Args:
        overrides: fields of `Config` to set whatever was tuned; None values mean the tuned one or the default.

    Raises:
        InputError: an override is out of range.
    """
    tuned = tuned_settings(connection, objective, architecture)
    if tuned is not None and not tuned.holds(n_ratings):
        say(
            f"{objective}: settings tuned on {tuned.n_ratings:,} ratings are not used for {n_ratings:,}, the defaults "
            f"are; tune again: `recsys tune --objective {objective}`"
        )
    return configured(objective, architecture, n_ratings, n_users, tuned, overrides)


def configured(
    objective: Objective,
    architecture: Architecture,
    n_ratings: int,
    n_users: int,
    tuned: Tuned | None,
    overrides: Mapping[str, Any] | None = None,
) -> Config:
    """The defaults, in their place the tuned settings where they hold, in their place what is given.

    Raises:
        InputError: an override is out of range.
    """
    given = {name: value for name, value in (overrides or {}).items() if value is not None}
    if tuned is not None and tuned.holds(n_ratings):
        known = {field.name for field in fields(Config)}
        given = {name: value for name, value in tuned.parameters.items() if name in known} | given
    return default_config(objective, n_ratings, n_users, architecture=architecture, **given)


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
