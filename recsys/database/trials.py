"""Trials of the search for a better config: one row for each training."""

from collections.abc import Mapping
from dataclasses import dataclass

from sqlalchemy import Connection, delete, insert, select

from recsys.database import schema
from recsys.database.clock import now_ms
from recsys.results import Architecture, Objective


@dataclass(frozen=True, slots=True)
class Study:
    """One search: trainings on the same ratings, around the same defaults.

    Attributes:
        digest: of all that two trials with the same values must have in common to come out the same.
        data_fingerprint: of the ratings.
        metric: name of the metric.
    """

    digest: str
    objective: Objective
    architecture: Architecture
    data_fingerprint: str
    n_ratings: int
    metric: str


@dataclass(frozen=True, slots=True)
class StoredTrial:
    """One training.

    Attributes:
        parameters: fields of `Config` → values.
        value: the metric; `None` if training diverged.
        seconds: duration of training and measuring.
    """

    parameters: Mapping[str, float]
    value: float | None
    seconds: float


def read_trials(connection: Connection, study: str) -> list[StoredTrial]:
    """Return the trials of a study in their order.

    Args:
        study: digest of the study.
    """
    trials = schema.tuning_trials.c
    rows = connection.execute(
        select(trials.parameters, trials.value, trials.seconds).where(trials.study == study).order_by(trials.trial_key)
    )
    return [StoredTrial(row.parameters, row.value, row.seconds) for row in rows]


def record_trial(connection: Connection, study: Study, trial: StoredTrial) -> None:
    """Add a trial to a study."""
    connection.execute(
        insert(schema.tuning_trials).values(
            study=study.digest,
            objective=study.objective,
            architecture=study.architecture,
            data_fingerprint=study.data_fingerprint,
            n_ratings=study.n_ratings,
            parameters=dict(trial.parameters),
            metric=study.metric,
            value=trial.value,
            seconds=trial.seconds,
            created_at=now_ms(),
        )
    )


def delete_trials(connection: Connection, study: str) -> None:
    """Delete the trials of a study.

    Args:
        study: digest of the study.
    """
    connection.execute(delete(schema.tuning_trials).where(schema.tuning_trials.c.study == study))
