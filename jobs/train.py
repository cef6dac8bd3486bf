"""Ratings in the database → a new model version, measured on held-out ratings, and published if the gate allows it."""

from collections.abc import Callable, Mapping
from typing import Any

from sqlalchemy import Connection, Engine

from jobs.interrupt import explain_interrupt
from jobs.pipeline import Pipeline, TrainingJob, kept_of
from jobs.training_data import ratings_to_train_on
from jobs.training_input import TrainingInput
from recsys.database.changes import current_seq
from recsys.database.leases import Lease
from recsys.database.models import ModelVersion, live_numbers, versions
from recsys.database.publications import was_published
from recsys.database.runs import recorded
from recsys.database.tuned import read_tuned
from recsys.results import Architecture, Objective, TrainReport
from recsys.settings import Settings
from recsys.training.config import config_for


def train(
    engine: Engine,
    settings: Settings,
    held: Lease,
    objective: Objective,
    *,
    architecture: Architecture = "dot",
    overrides: Mapping[str, Any] | None = None,
    device: str = "auto",
    seed: int = 0,
    accumulate: int = 1,
    publish_it: bool = True,
    force_reason: str | None = None,
) -> TrainReport:
    """Run the steps of the pipeline for one objective, and record them as a run.

    A training that was stopped continues from its last checkpoint when it is called with the same arguments again.

    Args:
        held: the lease of training.
        overrides, accumulate, publish_it, force_reason: as in `TrainingJob`.

    Raises:
        Interrupted: the training was stopped; the message says what was kept.
        LockedError: another process took the lease meanwhile.
        TrainingError: there are too few ratings, or training diverged.
    """
    job = TrainingJob(objective, architecture, overrides or {}, device, seed, accumulate, publish_it, force_reason)
    with (
        recorded(engine, "train") as run,
        explain_interrupt(lambda: kept_of(objective, None, settings.checkpoints)),
    ):
        source = TrainingInput.read(engine, settings)
        report = Pipeline(engine, settings, held, run, source, job).train()
        run.reason, run.detail = report.reason, report.model_dump(mode="json")
    return report


def already_trained(
    connection: Connection,
    objective: Objective,
    overrides: Mapping[str, Any],
    seed: int,
    architecture: Architecture | None = "dot",
    fingerprint: Callable[[], str] | None = None,
) -> ModelVersion | None:
    """Return the version that a training now would only repeat: same ratings, same config, same seed.

    A version that passed the gate but was never published does not count, unless it can be published now
    (`is_unpublished`).

    Args:
        architecture: `None`: of a version that was the best candidate.
        fingerprint: returns the fingerprint of all ratings; `None`: they are read for it.
    """
    live = live_numbers(connection).get(objective)
    seq = current_seq(connection)
    found: str | None = None
    for stored in versions(connection):
        if stored.objective != objective:
            continue
        if is_unpublished(connection, stored) and stored.training.gate.get("compared_with", 0) != live:
            continue
        before = dict(stored.training.configuration)
        if architecture is None and "candidates" not in before:
            continue
        # See `recsys.training.fit.Fitted` and `jobs.pipeline`.
        for outcome in ("restarts", "found", "candidates", "choice", "curve_users"):
            before.pop(outcome, None)
        of_version = architecture or stored.training.architecture
        tuned = read_tuned(connection, objective, of_version)
        n_ratings, n_users = stored.training.n_ratings, int(str(before.get("n_users", 0)))
        effective_items = float(str(before.pop("effective_items", 0)))
        parameters = tuned.parameters if tuned is not None and tuned.applies_to(n_ratings) else {}
        config = config_for(objective, of_version, n_ratings, n_users, effective_items, parameters, overrides)
        if before != {**config.as_record(), "seed": seed, "n_users": n_users}:
            continue
        if stored.training.trained_seq == seq:
            return stored
        # Something changed, but perhaps no rating: a title, or a rating that was changed back.
        found = found or (fingerprint() if fingerprint else ratings_to_train_on(connection).fingerprint())
        if stored.training.data_fingerprint == found:
            return stored
    return None


def is_unpublished(connection: Connection, stored: ModelVersion) -> bool:
    """Return whether a version passed the gate and was never live, as after a run that was killed."""
    return stored.training.gate_passed and not was_published(connection, stored.number)


if __name__ == "__main__":
    from jobs.cli.ranks import main

    main()
