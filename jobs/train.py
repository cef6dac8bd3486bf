"""Ratings in the database → a new model version, measured on held-out ratings, published if the gate lets it."""

import json
import time
from collections.abc import Mapping
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
from sqlalchemy import Connection, Engine

from jobs.configuration import chosen_config, configured
from jobs.progress import progress, say
from recsys.data.dataset import Ratings
from recsys.database.changes import current_seq
from recsys.database.engine import reading
from recsys.database.features import read_item_features, read_user_features
from recsys.database.leases import Lease
from recsys.database.models import (
    ModelVersion,
    Training,
    live_numbers,
    load_factors,
    publish,
    store,
    versions,
    was_published,
)
from recsys.database.ratings import read_ratings
from recsys.database.tuned import tuned_settings
from recsys.errors import LiveChangedError, TrainingError
from recsys.evaluation.gate import Decision, Judge, decide, stated
from recsys.evaluation.splits import hold_out
from recsys.factors import Factors
from recsys.results import Architecture, Objective, TrainReport
from recsys.settings import Settings
from recsys.training.checkpoint import Checkpoint
from recsys.training.config import Config
from recsys.training.fit import EpochRecord, Fitted, fit, pick_device

CURVE_USERS = 500
"""How many users the curve over the epochs is measured on: enough to see it turn, few enough to cost little."""


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
    publish_it: bool | None = None,
) -> TrainReport:
    """Train one version on all but the held-out ratings, store it, and publish it or not.

    A training that was killed goes on from its last checkpoint when the same is asked for again.

    Args:
        held: the lease of training.
        overrides: fields of `Config` that are to be neither tuned nor the default; None values let them be.
        accumulate: parts to cut each batch into, where the device has too little memory for a whole one.
        publish_it: None lets the gate decide; True publishes whatever it says, False never.

    Raises:
        TrainingError: there are too few ratings, or training diverged.
    """
    started = time.perf_counter()
    with reading(engine) as connection:
        ratings, seq = ratings_to_train_on(connection), current_seq(connection)
        live_number = live_numbers(connection).get(objective)
        live = None if live_number is None else load_factors(connection, live_number)
        config = chosen_config(connection, objective, architecture, ratings.n_ratings, ratings.n_users, overrides)
    scale = rating_scale(ratings, settings)
    is_held_out = hold_out(ratings)
    if not is_held_out.any():
        raise TrainingError(
            "there are too few ratings to hold any out and measure on them: load more, of users with two and more"
        )
    training_set, test = ratings.select(~is_held_out).compact(), ratings.select(is_held_out).compact()
    say(f"{objective}: training on {training_set.n_ratings:,} ratings, measuring on {test.n_ratings:,} held out")
    curve = Judge(objective, training_set, some_users(test), scale)
    identity = [training_set.fingerprint(), config.as_record(), seed, scale, accumulate, pick_device(device).type]
    checkpoint = _checkpoint(settings.checkpoints, config, identity)
    fitted = fit_with_progress(
        training_set, config, scale, device, seed, curve, accumulate=accumulate, checkpoint=checkpoint
    )
    judge = Judge(objective, training_set, test, scale)
    new, metrics = judge.measure(fitted.factors)
    baselines = {name: judge.measure(factors) for name, factors in judge.baselines().items()}
    verdict = decide(
        new,
        baselines["popular" if objective == "ranking" else "bias"][0],
        judge.measure(live)[0] if live else None,
        settings.gate_margin,
        np.intersect1d(fitted.factors.user_keys, live.user_keys) if live else None,
    )
    number = store(
        engine,
        fitted.factors,
        Training(
            architecture=config.architecture,
            configuration={**config.as_record(), "seed": seed, "n_users": ratings.n_users},
            metrics=metrics,
            baselines={name: values for name, (_, values) in baselines.items()},
            history=[_named(epoch, next(iter(metrics))) for epoch in fitted.history],
            data_fingerprint=ratings.fingerprint(),
            trained_seq=seq,
            n_ratings=ratings.n_ratings,
            rating_scale=scale,
            training_seconds=round(fitted.seconds, 3),
            gate_passed=verdict.publish,
            gate_reason=verdict.reason,
        ),
    )
    checkpoint.path.unlink(missing_ok=True)
    decision = verdict
    if publish_it is not None:
        decision = Decision(publish_it, f"{'asked for' if publish_it else 'not asked for'}; gate: {verdict.reason}")
    if decision.publish:
        decision = _publish(engine, objective, number, decision, held, live_number)
    return TrainReport(
        model_version=number,
        objective=objective,
        architecture=config.architecture,
        metrics=metrics,
        baselines={name: values for name, (_, values) in baselines.items()},
        published=decision.publish,
        reason=decision.reason,
        seconds=round(time.perf_counter() - started, 3),
    )


def ratings_to_train_on(connection: Connection) -> Ratings:
    """All ratings, and what is known of users and items.

    Raises:
        TrainingError: there are no ratings.
    """
    ratings = read_ratings(connection)
    if ratings.n_ratings == 0:
        raise TrainingError("there are no ratings to train on: run `recsys load PATH` first")
    return ratings.with_features(read_user_features(connection), read_item_features(connection))


def _checkpoint(folder: Path, config: Config, identity: list[object]) -> Checkpoint:
    """Where a training keeps its state: a file of its own, in place of those of other trainings of its kind."""
    kind = f"{config.objective}-{config.architecture}-"
    digest = blake2b(json.dumps(identity).encode(), digest_size=8).hexdigest()
    path = folder / f"{kind}{digest}.safetensors"
    for left in folder.glob(f"{kind}*.safetensors"):
        if left != path:
            left.unlink(missing_ok=True)
    if path.exists():
        say(f"{config.objective}: going on from {path}")
    return Checkpoint(path)


def _publish(
    engine: Engine, objective: Objective, number: int, decision: Decision, held: Lease, compared_with: int | None
) -> Decision:
    """Publish, unless another version went live since the comparison."""

    def guard(connection: Connection) -> None:
        held.guard(connection)
        live = live_numbers(connection).get(objective)
        if live != compared_with:
            raise LiveChangedError(f"version {live} went live during the training, and was not compared with")

    try:
        publish(engine, number, decision.reason, guard)
    except LiveChangedError as error:
        return Decision(False, f"{error}; gate: {decision.reason}")
    return decision


def already_trained(
    connection: Connection,
    objective: Objective,
    overrides: Mapping[str, Any],
    seed: int,
    architecture: Architecture = "dot",
) -> ModelVersion | None:
    """The version that training now would only repeat: same ratings, same configuration, same seed."""
    # A version that passed the gate and was not published, because nobody let it or the process died, is no result.
    candidates = [
        stored
        for stored in versions(connection)
        if stored.objective == objective
        and (not stored.training.gate_passed or was_published(connection, stored.number))
    ]
    if not candidates:
        return None
    seq = current_seq(connection)
    tuned = tuned_settings(connection, objective, architecture)
    fingerprint: str | None = None
    for stored in candidates:
        before = dict(stored.training.configuration)
        n_users = int(str(before.get("n_users", 0)))
        config = configured(objective, architecture, stored.training.n_ratings, n_users, tuned, overrides)
        if before != {**config.as_record(), "seed": seed, "n_users": n_users}:
            continue
        if stored.training.trained_seq == seq:
            return stored
        # Something changed, but perhaps no rating: titles, or a rating that was taken back again.
        fingerprint = fingerprint or ratings_to_train_on(connection).fingerprint()
        if stored.training.data_fingerprint == fingerprint:
            return stored
    return None


def fit_with_progress(
    training_set: Ratings,
    config: Config,
    scale: tuple[float, float],
    device: str,
    seed: int,
    curve: "Judge | None" = None,
    *,
    accumulate: int = 1,
    checkpoint: Checkpoint | None = None,
) -> Fitted:
    """Train with a progress bar; after every epoch `curve` measures what has been learned so far."""

    def validate(factors: Factors) -> float:
        assert curve is not None
        return next(iter(curve.measure(factors)[1].values()))

    with progress(f"training {config.objective}", config.n_epochs) as advance:
        return fit(
            training_set,
            config,
            rating_scale=stated(scale),
            device=device,
            seed=seed,
            accumulate=accumulate,
            checkpoint=checkpoint,
            validate=validate if curve is not None else None,
            on_epoch=lambda _epoch: advance(1),
        )


def some_users(test: Ratings) -> Ratings:
    """The held-out ratings of as many users as a curve needs."""
    return test.select(test.user_idx < CURVE_USERS).compact()


def _named(epoch: EpochRecord, metric: str) -> dict[str, object]:
    """An epoch for the record, the held-out figure under the name of its metric."""
    return {"epoch": epoch.epoch, "train_loss": epoch.train_loss, metric: epoch.valid, "seconds": epoch.seconds}


def rating_scale(ratings: Ratings, settings: Settings) -> tuple[float, float]:
    """Lowest and highest rating: as configured, else as rated."""
    low = float(ratings.rating.min()) if settings.rating_min is None else settings.rating_min
    high = float(ratings.rating.max()) if settings.rating_max is None else settings.rating_max
    return low, high
