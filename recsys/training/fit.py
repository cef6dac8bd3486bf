"""`fit`: from ratings to factors."""

import logging
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from hashlib import blake2b
from typing import Any

import torch

from recsys.data.dataset import Ratings
from recsys.data.scale import validate_ratings
from recsys.errors import DivergedError, InputError, TrainingError
from recsys.factors import Factors
from recsys.training.blend import blend_with, find_blend
from recsys.training.build import EpochRecord, Restart, Run, build
from recsys.training.checkpoint import Checkpoint, Keeper
from recsys.training.config import Config
from recsys.training.devices import is_out_of_memory, pick_device
from recsys.training.export import export, with_ranking_constants
from recsys.training.item import fit_item
from recsys.training.loop import Hooks, train_run
from recsys.training.memory import check_memory

_log = logging.getLogger(__name__)

_MAX_RESTARTS = 6
"""Times that a training is started anew: the learning rate is divided by 2, 4, 8, …, by two million in all."""
_LOWEST_RATE = 1e-4
"""Learning rate below which the loss of a training may rise: the reason is another one."""
_FEWEST_WATCHED = 1000
"""Ratings below which the loss may rise: dropout and sampling alone move it by more than is allowed."""


@dataclass(frozen=True, slots=True)
class Fitted:
    """The result of a training.

    Attributes:
        factors: what the model learned.
        history: a record of every epoch.
        seconds: of the whole training, with the parts before a continuation or a restart.
        restarts: the trainings whose loss rose, before this one.
        found: settings that the config left open, with the values that were chosen on a validation part.
    """

    factors: Factors
    history: tuple[EpochRecord, ...]
    seconds: float
    restarts: tuple[Restart, ...] = ()
    found: Mapping[str, float] = field(default_factory=dict)


def fit(
    train: Ratings,
    config: Config,
    *,
    rating_scale: tuple[float, float] | None = None,
    device: str = "auto",
    seed: int = 0,
    accumulate: int = 1,
    baseline: Factors | None = None,
    checkpoint: Checkpoint | None = None,
    restarts: bool = True,
    validate: Callable[[Factors], float] | None = None,
    on_epoch: Callable[[EpochRecord], None] | None = None,
    on_step: Callable[[int, int], None] | None = None,
) -> Fitted:
    """Train a model on ratings.

    AdamW (Loshchilov & Hutter, "Decoupled Weight Decay Regularization", ICLR 2019) on a one-cycle schedule
    (`one_cycle`), with the whole training set on the device. On the CPU the same seed gives the same bits on
    the same machine, torch and number of threads. Global random state is neither read nor changed.

    Args:
        train: users and items without ratings are left out of the model, except those with features: they get
            the factors and biases of their features.
        rating_scale: lowest and highest possible rating. `None`: the lowest and highest in `train`.
        device: `auto` (CUDA if there is a device with enough memory, else the CPU), `cpu` or `cuda`.
        accumulate: parts that a batch is cut into, see `train_step`: more parts take less memory.
        baseline: `bias_only` of the same ratings and scale, if the caller has it: `rating` starts from its biases.
        checkpoint: file to save the state of the training in, and to continue from if it exists. It stays when the
            training is done.
        restarts: start a training whose loss rises by more than 5 % from one epoch to the next anew, with a lower
            learning rate.
        validate: called after every epoch; returns a value for its record.
        on_epoch: called after every epoch with its record.
        on_step: called after every step with (steps done, steps in all).

    Raises:
        InputError: `accumulate` is below 1.
        TrainingError: there are no ratings to train on, or they lie outside the scale; the device is missing or its
            memory too small; the checkpoint is of another training or cannot be read or written; or training diverged.
    """
    if accumulate < 1:
        raise InputError(f"accumulate is {accumulate}: a batch can be cut into 1 part or more")
    train = validate_ratings(train, rating_scale)
    if config.architecture == "item":
        return fit_in_closed_form(train, config, validate=validate, on_epoch=on_epoch, on_step=on_step)
    if config.architecture == "blend":
        check_memory(train, replace(config, architecture="item"), torch.device("cpu"))
        fit_dot = partial(
            fit, rating_scale=rating_scale, device=device, seed=seed, accumulate=accumulate, restarts=restarts
        )
        started = time.perf_counter()
        found = find_blend(train, config, lambda part, settings: fit_dot(part, settings).factors)
        searched = time.perf_counter() - started
        dot = fit_dot(
            train,
            replace(config, architecture="dot"),
            checkpoint=checkpoint,
            validate=validate,
            on_epoch=on_epoch,
            on_step=on_step,
        )
        started = time.perf_counter()
        factors = blend_with(dot.factors, train, config, found)
        seconds = dot.seconds + searched + time.perf_counter() - started
        return replace(dot, factors=factors, seconds=seconds, found=found)
    chosen = pick_device(device)
    job = Job(train, config, rating_scale, seed, accumulate, baseline)
    if chosen.type == "cpu":  # a GPU's allocator says so itself, and `auto` goes on with the CPU
        check_memory(train, config, chosen)
    try:
        return fit_on(
            chosen,
            job,
            checkpoint=checkpoint,
            restarts=restarts,
            validate=validate,
            on_epoch=on_epoch,
            on_step=on_step,
        )
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        if device != "auto" or chosen.type == "cpu":
            or_cpu = "" if chosen.type == "cpu" else ", or train with --device cpu"
            raise TrainingError(
                f"memory of device {chosen.type} is too short ({str(error).partition(chr(10))[0]}): cut batches into "
                f"parts with --accumulate {2 * accumulate}, or use fewer factors (--n-factors){or_cpu}"
            ) from error
    # After the `except` block, because the traceback of its error holds the tensors of the failed training.
    _log.warning("GPU memory is too short for this training: training on the CPU")
    torch.cuda.empty_cache()
    return fit(
        train,
        config,
        rating_scale=rating_scale,
        device="cpu",
        seed=seed,
        accumulate=accumulate,
        baseline=baseline,
        restarts=restarts,
        validate=validate,
        on_epoch=on_epoch,
        on_step=on_step,
    )


def fit_in_closed_form(
    train: Ratings,
    config: Config,
    *,
    validate: Callable[[Factors], float] | None = None,
    on_epoch: Callable[[EpochRecord], None] | None = None,
    on_step: Callable[[int, int], None] | None = None,
) -> Fitted:
    """Fit weights between items, on the CPU: one epoch of one step.

    Raises:
        TrainingError: memory is too short.
    """
    check_memory(train, config, torch.device("cpu"))
    started = time.perf_counter()
    factors, loss, settings = fit_item(train, config)
    seconds = time.perf_counter() - started
    if on_step:
        on_step(1, 1)
    record = EpochRecord(1, loss, validate(factors) if validate else None, seconds)
    if on_epoch:
        on_epoch(record)
    return Fitted(
        factors,
        (record,),
        seconds,
        found={"item_l2": settings.l2, "item_power": settings.power, "popularity": settings.popularity},
    )


@dataclass(frozen=True, slots=True)
class Job:
    """The arguments of `fit` that decide the outcome, apart from the device; `baseline` follows from the others."""

    train: Ratings
    config: Config
    rating_scale: tuple[float, float] | None
    seed: int
    accumulate: int
    baseline: Factors | None

    def identity(self, device: torch.device) -> dict[str, Any]:
        """Return what a checkpoint must agree with to belong to this job, by JSON's types.

        The fingerprint of the ratings does not depend on the order of users, items and ratings, but the rows of the
        tables and the batches do: so the order has a digest of its own. The state of a random generator belongs to one
        type of device.
        """
        order = blake2b(digest_size=8)
        train = self.train
        for array in (train.user_idx, train.item_idx, train.user_hash, train.item_hash):
            order.update(array.tobytes())
        return {
            "ratings": train.fingerprint(),
            "order": order.hexdigest(),
            "device": device.type,
            "settings": self.config.as_record(),
            "scale": self.rating_scale,
            "seed": self.seed,
            "accumulate": self.accumulate,
        }


def fit_on(
    device: torch.device,
    job: Job,
    *,
    checkpoint: Checkpoint | None = None,
    restarts: bool = True,
    validate: Callable[[Factors], float] | None = None,
    on_epoch: Callable[[EpochRecord], None] | None = None,
    on_step: Callable[[int, int], None] | None = None,
) -> Fitted:
    """Train on one device, as `fit` describes.

    Raises:
        TrainingError: the checkpoint does not fit or cannot be used, or training diverged.
        RuntimeError, MemoryError: the device has too little memory, see `is_out_of_memory`.
    """
    config = job.config
    peak_rate, seconds, given_up = config.learning_rate, 0.0, list[Restart]()
    while True:
        started = time.perf_counter()
        run = build(job.train, config, job.rating_scale, torch.Generator(device).manual_seed(job.seed), job.baseline)
        run.peak_rate, run.restarts, run.seconds = peak_rate, given_up, seconds
        keeper = None
        if checkpoint is not None:
            keeper = Keeper(checkpoint, job.identity(device), run)
            # The file that a training given up has left is not of this one.
            if not given_up and keeper.restore():
                _log.info("training continues from a checkpoint", extra={"step": run.step, "steps": run.n_steps})
        run.seconds += time.perf_counter() - started

        def factors_so_far(run: Run = run) -> Factors:
            with run.optimizer.settled():
                return export(run, job.train, config)

        hooks = Hooks(
            on_step=on_step,
            validate=(lambda: validate(factors_so_far())) if validate else None,
            keep=keeper.keep if keeper else None,
            on_epoch=on_epoch,
        )
        try:
            watched = restarts and job.train.n_ratings >= _FEWEST_WATCHED and run.peak_rate >= _LOWEST_RATE
            train_run(run, accumulate=job.accumulate, hooks=hooks, may_rise=not watched)
            break
        except DivergedError as error:
            if not restarts or len(run.restarts) == _MAX_RESTARTS:
                raise
            loss = error.loss if math.isfinite(error.loss) else None
            given_up = [*run.restarts, Restart(run.peak_rate, error.epoch, loss)]
            seconds, peak_rate = run.seconds, run.peak_rate / 2 ** len(given_up)
            _log.warning("%s; training starts anew with learning rate %.3g", str(error).split(":")[0], peak_rate)
    trained = time.perf_counter()
    factors = export(run, job.train, config)
    if config.objective == "ranking":
        factors = with_ranking_constants(factors, run, job.train, config)
    seconds = run.seconds + time.perf_counter() - trained
    return Fitted(factors, tuple(run.history), seconds, tuple(run.restarts))
