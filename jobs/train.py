"""Ratings in the database → a new model version, measured on held-out ratings, and published if the gate allows it."""

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
from sqlalchemy import Connection, Engine

from jobs.interrupt import explain_interrupt
from jobs.progress import progress, say
from jobs.training_data import choose_config, rating_scale, ratings_to_train_on, split_ratings
from recsys.data.dataset import Ratings
from recsys.database.changes import current_seq
from recsys.database.engine import reading
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
from recsys.database.tuned import read_tuned
from recsys.errors import LiveChangedError
from recsys.evaluation.gate import Decision, Judge, decide, usable_scale
from recsys.factors import Factors
from recsys.learner import Learner
from recsys.library.loading import RatingData
from recsys.results import Architecture, Objective, TrainReport
from recsys.settings import Settings
from recsys.training.checkpoint import Checkpoint
from recsys.training.config import Config, config_for
from recsys.training.devices import pick_device

CURVE_USERS = 500
"""Number of users that the training curve is measured on: enough to see it turn, few enough to cost little."""


@dataclass(frozen=True, slots=True)
class TrainingInput:
    """One consistent state of the database, as a training starts from it.

    Attributes:
        ratings: all of them.
        seq: the last change that they include.
        live_number: number of the live version of the objective, if any.
        live: its factors.
        config: how to train.
    """

    ratings: Ratings
    seq: int
    live_number: int | None
    live: Factors | None
    config: Config


@dataclass(frozen=True, slots=True)
class Measurements:
    """A new model on the held-out ratings, beside its baselines.

    Attributes:
        metrics: of the new model.
        baselines: name → metrics of a baseline.
        verdict: of the gate.
    """

    metrics: dict[str, float]
    baselines: dict[str, dict[str, float]]
    verdict: Decision


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
    """Train one version without the held-out ratings, measure it on them, store it, and publish it if allowed.

    A training that was stopped continues from its last checkpoint when it is called with the same arguments again.

    Args:
        held: the lease of training.
        overrides: fields of `Config` to set in place of tuned values and defaults; `None` values are ignored.
        accumulate: number of parts to split each batch into, if the device has too little memory for a whole one.
        publish_it: whether to publish the version if the gate allows it.
        force_reason: publish the version even if the gate refuses it, for this reason, which is recorded.

    Raises:
        Interrupted: the training was stopped; the message says what was kept.
        LockedError: another process took the lease meanwhile.
        TrainingError: there are too few ratings, or training diverged.
    """
    started = time.perf_counter()
    number: int | None = None
    with explain_interrupt(lambda: kept_of(objective, number, settings.checkpoints)):
        source = read_input(engine, objective, architecture, overrides)
        config, scale = source.config, rating_scale(source.ratings, settings)
        training_set, test = split_ratings(source.ratings)
        say(f"{objective}: training on {training_set.n_ratings:,} ratings, measuring on {test.n_ratings:,} others")
        identity = [training_set.fingerprint(), config.as_record(), seed, scale, accumulate, pick_device(device).type]
        checkpoint = open_checkpoint(settings.checkpoints, config, identity)
        curve = Judge(objective, training_set, test.select(test.user_idx < CURVE_USERS).compact(), scale)
        judge = Judge(objective, training_set, test, scale)
        baselines = judge.baselines()
        learner = fit_with_progress(
            RatingData(training_set, {}, {}),
            config,
            scale,
            device,
            seed,
            curve,
            accumulate=accumulate,
            baseline=baselines["bias"],
            checkpoint=checkpoint,
            check=held.check,
        )
        measured = measure(judge, learner.factors, baselines, source.live, settings.gate_margin)
        number = store(
            engine,
            learner.factors,
            Training(
                architecture=config.architecture,
                configuration={**learner.config, "n_users": source.ratings.n_users},
                metrics=measured.metrics,
                baselines=measured.baselines,
                history=[
                    {curve.metric if name == "valid" else name: value for name, value in epoch.items()}
                    for epoch in learner.history
                ],
                data_fingerprint=source.ratings.fingerprint(),
                trained_seq=source.seq,
                n_ratings=source.ratings.n_ratings,
                rating_scale=scale,
                training_seconds=round(learner.seconds, 3),
                gate_passed=measured.verdict.publish,
                gate_reason=measured.verdict.reason,
            ),
            held.guard,
        )
        checkpoint.path.unlink(missing_ok=True)
        decision = decide_publication(measured.verdict, publish_it, force_reason)
        if decision.publish:
            force = not measured.verdict.publish
            decision = publish_compared(engine, objective, number, decision, held, source.live_number, force=force)
    return TrainReport(
        model_version=number,
        objective=objective,
        architecture=config.architecture,
        metrics=measured.metrics,
        baselines=measured.baselines,
        published=decision.publish,
        reason=decision.reason,
        seconds=round(time.perf_counter() - started, 3),
    )


def kept_of(objective: Objective, number: int | None, checkpoints: Path) -> str:
    """Return what an interrupted training leaves behind, and what to do next.

    Args:
        number: of the stored version; `None` if none is stored yet.
    """
    if number is not None:
        return f"{objective} version {number} is stored. To publish it: `recsys models publish {number}`"
    if any(checkpoints.glob(f"{objective}-*.safetensors")):
        return f"no {objective} version was stored. Run the same command again to continue from the last checkpoint"
    return f"no {objective} version was stored, and there is no checkpoint yet. Run the same command again"


def read_input(
    engine: Engine, objective: Objective, architecture: Architecture, overrides: Mapping[str, Any] | None
) -> TrainingInput:
    """Read the ratings, the live version and the config, all from one state of the database.

    Raises:
        InputError: an override is out of range.
        TrainingError: there are no ratings.
    """
    with reading(engine) as connection:
        ratings = ratings_to_train_on(connection)
        live_number = live_numbers(connection).get(objective)
        return TrainingInput(
            ratings=ratings,
            seq=current_seq(connection),
            live_number=live_number,
            live=None if live_number is None else load_factors(connection, live_number),
            config=choose_config(connection, objective, architecture, ratings.n_ratings, ratings.n_users, overrides),
        )


def measure(
    judge: Judge, factors: Factors, baselines: Mapping[str, Factors], live: Factors | None, margin: float
) -> Measurements:
    """Measure new factors, the baselines and the live version on the same ratings, and ask the gate."""
    new, metrics = judge.measure(factors)
    by_name = {name: judge.measure(baseline) for name, baseline in baselines.items()}
    verdict = decide(
        new,
        by_name["popular" if judge.objective == "ranking" else "bias"][0],
        judge.measure(live)[0] if live else None,
        margin,
        np.intersect1d(factors.user_keys, live.user_keys) if live else None,
    )
    return Measurements(metrics, {name: values for name, (_, values) in by_name.items()}, verdict)


def open_checkpoint(folder: Path, config: Config, identity: list[object]) -> Checkpoint:
    """Return the checkpoint of a training; delete those of other trainings of the same objective and architecture.

    Args:
        identity: everything that decides the outcome, as JSON holds it.
    """
    prefix = f"{config.objective}-{config.architecture}-"
    digest = blake2b(json.dumps(identity).encode(), digest_size=8).hexdigest()
    path = folder / f"{prefix}{digest}.safetensors"
    for other in folder.glob(f"{prefix}*.safetensors"):
        if other != path:
            other.unlink(missing_ok=True)
    if path.exists():
        say(f"{config.objective}: continuing from the checkpoint {path}")
    return Checkpoint(path)


def decide_publication(verdict: Decision, publish_it: bool, force_reason: str | None) -> Decision:
    """Return whether a version goes live: the verdict of the gate, unless the caller decided otherwise."""
    if not publish_it:
        return Decision(False, f"not published, as asked; gate: {verdict.reason}")
    if force_reason is not None and not verdict.publish:
        return Decision(True, force_reason)
    return verdict


def publish_compared(
    engine: Engine,
    objective: Objective,
    number: int,
    decision: Decision,
    held: Lease,
    compared_with: int | None,
    *,
    force: bool,
) -> Decision:
    """Publish a version, unless another version went live since the comparison.

    Args:
        compared_with: number of the version that was live when the gate decided.
        force: publish it although the gate refused it.

    Returns:
        The decision, turned down if another version is live now.
    """

    def guard(connection: Connection) -> None:
        held.guard(connection)
        live = live_numbers(connection).get(objective)
        if live != compared_with:
            raise LiveChangedError(f"version {live} went live during the training and was not compared with")

    try:
        publish(engine, number, decision.reason, guard, force=force)
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
    """Return the version that a training now would only repeat: same ratings, same config, same seed."""
    # A version that passed the gate but was never published, as after a crash, does not count as a finished run.
    candidates = [
        stored
        for stored in versions(connection)
        if stored.objective == objective
        and (not stored.training.gate_passed or was_published(connection, stored.number))
    ]
    if not candidates:
        return None
    seq = current_seq(connection)
    tuned = read_tuned(connection, objective, architecture)
    fingerprint: str | None = None
    for stored in candidates:
        before = dict(stored.training.configuration)
        before.pop("restarts", None)  # an outcome of the training, see `recsys.training.build.Restart`
        n_ratings, n_users = stored.training.n_ratings, int(str(before.get("n_users", 0)))
        parameters = tuned.parameters if tuned is not None and tuned.applies_to(n_ratings) else {}
        config = config_for(objective, architecture, n_ratings, n_users, parameters, overrides)
        if before != {**config.as_record(), "seed": seed, "n_users": n_users}:
            continue
        if stored.training.trained_seq == seq:
            return stored
        # Something changed, but perhaps no rating: a title, or a rating that was changed back.
        fingerprint = fingerprint or ratings_to_train_on(connection).fingerprint()
        if stored.training.data_fingerprint == fingerprint:
            return stored
    return None


def fit_with_progress(
    data: RatingData,
    config: Config,
    scale: tuple[float, float],
    device: str,
    seed: int,
    curve: Judge | None = None,
    *,
    accumulate: int = 1,
    baseline: Factors | None = None,
    checkpoint: Checkpoint | None = None,
    check: Callable[[], None] = lambda: None,
) -> Learner:
    """Train with a progress bar.

    Args:
        baseline: the bias-only model of the same training set, if it is there already.
        check: called after every epoch; raises if training must not go on.
        curve: measures the factors after every epoch.
    """
    with progress(f"training {config.objective}", config.n_epochs) as advance:

        def on_epoch(_epoch: object) -> None:
            advance(1)
            check()

        return Learner.fit(
            data,
            config=config,
            rating_scale=usable_scale(scale),
            device=device,
            seed=seed,
            accumulate=accumulate,
            baseline=baseline,
            checkpoint=checkpoint,
            validate=None if curve is None else curve.main_metric,
            on_epoch=on_epoch,
        )
