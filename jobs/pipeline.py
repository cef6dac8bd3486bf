"""One objective from ratings to a live version: split, train, judge, refit, store, publish; each a recorded step.

`train` and each objective of `nightly` run this. What decides the outcome of a step is in its fingerprint. A run that
was killed goes on where it stopped: trainings from their checkpoints, a stored version with its publication.
"""

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine

from jobs.fitting import fit_with_progress
from jobs.interrupt import explain_interrupt
from jobs.judging import Judgement, judge_version
from jobs.portfolio import CANDIDATES, CHOICE_TRAININGS, Choice, choose_architecture, kept_choice
from jobs.progress import say
from jobs.training_data import choose_config
from jobs.training_input import TrainingInput
from recsys.data.dataset import Ratings
from recsys.database.engine import reading
from recsys.database.leases import Lease
from recsys.database.models import Training, live_numbers, publish, store, version
from recsys.database.runs import Run
from recsys.errors import LiveChangedError
from recsys.evaluation.gate import Decision, Judge
from recsys.evaluation.refit import check_refit
from recsys.factors import Factors
from recsys.learner import Learner
from recsys.library.loading import RatingData
from recsys.results import Architecture, Objective, TrainReport
from recsys.scoring.neighbours import find_neighbours, often_rated
from recsys.settings import Settings
from recsys.training.checkpoint import Checkpoint
from recsys.training.config import Config
from recsys.training.devices import pick_device

CURVE_USERS = 500
"""Number of users that the training curve is measured on: enough to see it turn, few enough to cost little."""


@dataclass(frozen=True, slots=True)
class TrainingJob:
    """What to train, and what to do with the version.

    Attributes:
        architecture: `None`: the one that orders a validation part best; see `jobs.portfolio`.
        overrides: fields of `Config` to set in place of tuned values and defaults; `None` values are ignored.
        accumulate: number of parts to split each batch into, if the device has too little memory for a whole one.
        publish_it: whether to publish the version if the gate allows it.
        force_reason: publish the version even if the gate refuses it, for this reason, which is recorded.
    """

    objective: Objective
    architecture: Architecture | None = "dot"
    overrides: Mapping[str, Any] = field(default_factory=dict)
    device: str = "auto"
    seed: int = 0
    accumulate: int = 1
    publish_it: bool = True
    force_reason: str | None = None


class Pipeline:
    """The steps of one training job.

    Args:
        held: the lease of training.
        run: records the steps.
        source: the ratings.
    """

    def __init__(
        self, engine: Engine, settings: Settings, held: Lease, run: Run, source: TrainingInput, job: TrainingJob
    ) -> None:
        self._engine, self._settings, self._held, self._run = engine, settings, held, run
        self._source, self.job = source, job
        self._number: int | None = None

    def train(self) -> TrainReport:
        """Train one version, judge it, refit it on all ratings, store it, and publish it if allowed.

        Raises:
            Interrupted: the training was stopped; the message says what was kept.
            LockedError: another process took the lease meanwhile.
            NothingToTrainError: there is nothing that the objective could learn from.
            TrainingError: there are too few ratings, or training diverged.
        """
        started = time.perf_counter()
        self._source = self._source.for_objective(self.job.objective)
        job, source, settings, run = self.job, self._source, self._settings, self._run
        with explain_interrupt(lambda: kept_of(job.objective, self._number, settings.checkpoints)):
            with run.step("split", job.objective, source.fingerprint) as step:
                training_set, test = source.parts
                step.figures = {
                    "n_ratings": source.ratings.n_ratings,
                    "n_users": source.ratings.n_users,
                    "n_items": source.ratings.n_items,
                    "n_held_out": test.n_ratings,
                }
            choice = None
            if job.architecture is None and job.objective == "ranking":
                choice, config = self._choose(training_set)
            else:
                config = self._config(job.architecture or "dot")
            settled = config if choice is None else choice.applied_to(config)
            twin_file, refit_file = open_checkpoints(
                settings.checkpoints, settled, [self._digest(settled, part) for part in (training_set, source.ratings)]
            )
            say(f"{job.objective}: training on {training_set.n_ratings:,} ratings, measuring on {test.n_ratings:,}")
            if test.n_users > CURVE_USERS:
                say(f"{job.objective}: the training curve is measured on {CURVE_USERS} of {test.n_users:,} users")
            with run.step("train", job.objective, twin_file.path.stem) as step:
                curve = Judge(
                    job.objective, training_set, test.select(test.user_idx < CURVE_USERS).compact(), source.scale
                )
                twin = self._fit(training_set, settled, twin_file, curve=curve, baseline=source.bias_baseline)
                step.figures = {"seconds": round(twin.seconds, 3), "loss": last_loss(twin), "n_epochs": config.n_epochs}
            judge = Judge(job.objective, training_set, test, source.scale)
            with run.step("judge", job.objective, twin_file.path.stem) as step:
                judgement = judge_version(self._engine, judge, twin.factors, source.bias_baseline, settings.gate_margin)
                step.figures = judgement.as_record()
            return self._finish(config, choice, twin, refit_file, judgement, curve.metric, started)

    def _config(self, architecture: Architecture) -> Config:
        """Return the settings to train an architecture with."""
        job, ratings = self.job, self._source.ratings
        with reading(self._engine) as connection:
            return choose_config(
                connection,
                job.objective,
                architecture,
                ratings.n_ratings,
                ratings.n_users,
                ratings.effective_items(),
                job.overrides,
            )

    def _choose(self, training_set: Ratings) -> tuple[Choice, Config]:
        """Return the architecture that suits the training set, and its settings."""
        configs = {architecture: self._config(architecture) for architecture in CANDIDATES}

        def fit(ratings: Ratings, config: Config) -> Learner:
            # Not by `open_checkpoints`: a night that was stopped later has checkpoints of its own.
            path = checkpoint_path(self._settings.checkpoints, config, self._digest(config, ratings))
            return self._fit(ratings, config, Checkpoint(path, save_last=True), label="trying")

        n_ratings = self._source.ratings.n_ratings
        with self._run.step("choose", "ranking", self._digest(configs["dot"], training_set)) as step:
            with reading(self._engine) as connection:
                kept = kept_choice(connection, n_ratings)
            if kept is not None:
                left = CHOICE_TRAININGS - kept.age
                say(f"ranking: {kept.architecture} is trained; candidates are compared again in {left} trainings")
            choice = kept or replace(
                choose_architecture(training_set, self._source.scale, configs, fit), n_ratings=n_ratings
            )
            step.figures = {
                "architecture": choice.architecture,
                "measured": dict(choice.measured),
                "age": choice.age,
                **choice.settings,
            }
        return choice, configs[choice.architecture]

    def _finish(
        self,
        config: Config,
        choice: Choice | None,
        twin: Learner,
        refit_file: Checkpoint,
        judgement: Judgement,
        curve_metric: str,
        started: float,
    ) -> TrainReport:
        """Refit, store and publish a version that was judged."""
        job, source, run = self.job, self._source, self._run
        verdict, served, refit = judgement.verdict, twin, None
        found = twin.config.get("found", {})
        if verdict.publish or job.force_reason is not None:
            with run.step("refit", job.objective, refit_file.path.stem) as step:
                refitted = self._fit(source.ratings, replace(config, **found), refit_file, label="refitting")
                check = check_refit(refitted.factors, twin.factors, source.ratings, source.parts[0])
                step.figures = {"seconds": round(refitted.seconds, 3), **check.as_record()}
            if check.problem is None:
                served, refit = refitted, step.figures
            else:  # the twin was judged, so it may be served; the next night refits again
                verdict = replace(verdict, reason=f"{verdict.reason}; without the held-out ratings: {check.problem}")
        with run.step("store", job.objective, f"{refit_file.path.stem} {judgement.compared_with}") as step:
            training = Training(
                architecture=config.architecture,
                configuration={
                    **served.config,
                    **config.as_record(),
                    **({"found": found} if found else {}),
                    **({} if choice is None else choice.as_record()),
                    "n_users": source.ratings.n_users,
                    "effective_items": source.ratings.effective_items(),
                    "curve_users": min(source.parts[1].n_users, CURVE_USERS),
                },
                metrics=judgement.metrics,
                baselines=judgement.baselines,
                history=[
                    {curve_metric if name == "valid" else name: value for name, value in epoch.items()}
                    for epoch in twin.history
                ],
                data_fingerprint=source.fingerprint,
                trained_seq=source.seq,
                n_ratings=source.ratings.n_ratings,
                rating_scale=source.scale,
                training_seconds=round(twin.seconds + (0 if served is twin else served.seconds), 3),
                gate_passed=verdict.publish,
                gate_reason=verdict.reason,
                gate=judgement.gate,
                refit=refit,
                newest_rating_at=source.newest_rating_at,
                weight_top=source.ratings.weight_top,
            )
            factors = served.factors
            if job.objective == "ranking":  # similar items come from it
                factors = replace(factors, neighbours=find_neighbours(factors, often_rated(factors, source.ratings)))
            number = self._number = store(
                self._engine,
                factors,
                training,
                self._held.guard,
                twin=None if served is twin else twin.factors,
            )
            step.figures = {"model_version": number, "refitted": served is not twin}
        for each in (config, *([] if choice is None else [replace(config, architecture=name) for name in CANDIDATES])):
            for file in checkpoint_files(self._settings.checkpoints, each):
                file.unlink(missing_ok=True)
        decision = decide_publication(verdict, job.publish_it, job.force_reason)
        if decision.publish:
            decision = self.publish(number, decision, judgement.compared_with, force=not verdict.publish)
        return TrainReport(
            model_version=number,
            objective=job.objective,
            architecture=config.architecture,
            metrics=judgement.metrics,
            baselines=judgement.baselines,
            published=decision.publish,
            reason=decision.reason,
            seconds=round(time.perf_counter() - started, 3),
            gate=judgement.gate,
            refit=refit,
            candidates=None if choice is None or choice.age else dict(choice.measured),
        )

    def resume(self, number: int) -> TrainReport:
        """Publish a version that a killed run stored after the gate had passed it."""
        started = time.perf_counter()
        with reading(self._engine) as connection:
            stored = version(connection, number)
        training = stored.training
        compared_with = training.gate.get("compared_with")
        decision = self.publish(
            number,
            Decision(True, training.gate_reason),
            compared_with if isinstance(compared_with, int) else None,
            force=False,
        )
        return TrainReport(
            model_version=number,
            objective=stored.objective,
            architecture=training.architecture,
            metrics=dict(training.metrics),
            baselines={name: dict(values) for name, values in training.baselines.items()},
            published=decision.publish,
            reason=decision.reason,
            seconds=round(time.perf_counter() - started, 3),
            gate=dict(training.gate),
            refit=None if training.refit is None else dict(training.refit),
        )

    def publish(self, number: int, decision: Decision, compared_with: int | None, *, force: bool) -> Decision:
        """Publish a version, unless another version went live since the comparison.

        Args:
            compared_with: number of the version that was live when the gate decided.
            force: publish it although the gate refused it.

        Returns:
            The decision, turned down if another version is live now.
        """
        return publish_judged(
            self._engine, self._held, self._run, self.job.objective, number, decision, compared_with, force=force
        )

    def _fit(
        self,
        ratings: Ratings,
        config: Config,
        checkpoint: Checkpoint,
        *,
        curve: Judge | None = None,
        baseline: Factors | None = None,
        label: str = "training",
    ) -> Learner:
        job = self.job
        return fit_with_progress(
            RatingData(ratings, {}, {}),
            config,
            self._source.scale,
            job.device,
            job.seed,
            curve,
            accumulate=job.accumulate,
            baseline=baseline,
            checkpoint=checkpoint,
            check=self._held.check,
            label=label,
        )

    def _digest(self, config: Config, ratings: Ratings) -> str:
        """Return a digest of everything that decides the outcome of a training."""
        job = self.job
        device = pick_device(job.device).type
        identity = [ratings.fingerprint(), config.as_record(), job.seed, self._source.scale, job.accumulate, device]
        return blake2b(json.dumps(identity).encode(), digest_size=8).hexdigest()


def publish_judged(
    engine: Engine,
    held: Lease,
    run: Run,
    objective: Objective,
    number: int,
    decision: Decision,
    compared_with: int | None,
    *,
    force: bool,
) -> Decision:
    """Publish a version, unless another version went live since the comparison; see `Pipeline.publish`."""

    def guard(connection: Connection) -> None:
        held.guard(connection)
        live = live_numbers(connection).get(objective)
        if live not in (compared_with, number):
            raise LiveChangedError(f"version {live} went live during the training and was not compared with")

    with run.step("publish", objective, f"{number} {compared_with}") as step:
        step.figures = {"model_version": number, "replaces": compared_with, "reason": decision.reason}
        try:
            publish(engine, number, decision.reason, guard, force=force)
        except LiveChangedError as error:
            decision = Decision(False, f"{error}; gate: {decision.reason}")
            step.figures |= {"published": False, "reason": decision.reason}
    return decision


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


def last_loss(learner: Learner) -> float:
    """Return the mean training loss of the last epoch."""
    return float(str(learner.history[-1]["train_loss"]))


def checkpoint_files(folder: Path, config: Config) -> list[Path]:
    """Return the checkpoints of an objective and architecture."""
    return sorted(folder.glob(f"{config.objective}-{config.architecture}-*.safetensors"))


def checkpoint_path(folder: Path, config: Config, digest: str) -> Path:
    """Return the file of the checkpoint of a training."""
    return folder / f"{config.objective}-{config.architecture}-{digest}.safetensors"


def open_checkpoints(folder: Path, config: Config, digests: list[str]) -> list[Checkpoint]:
    """Return the checkpoints of some trainings; delete those of other trainings of the same objective and architecture.

    The last state of a training is saved too, so that a later step that is killed does not train again.
    """
    paths = [checkpoint_path(folder, config, digest) for digest in digests]
    for other in checkpoint_files(folder, config):
        if other not in paths:
            other.unlink(missing_ok=True)
    for path in paths:
        if path.exists():
            say(f"{config.objective}: continuing from the checkpoint {path}")
    return [Checkpoint(path, save_last=True) for path in paths]


def decide_publication(verdict: Decision, publish_it: bool, force_reason: str | None) -> Decision:
    """Return whether a version goes live: the verdict of the gate, unless the caller decided otherwise."""
    if not publish_it:
        return Decision(False, f"not published, as asked; gate: {verdict.reason}")
    if force_reason is not None and not verdict.publish:
        return Decision(True, force_reason)
    return verdict
