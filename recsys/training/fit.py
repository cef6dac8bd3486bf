"""Training: from ratings to factors, in one explicit loop."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recsys.data.dataset import Ratings
from recsys.errors import InputError, TrainingError
from recsys.factors import Architecture, Factors, Objective
from recsys.training.baselines import bias_only
from recsys.training.models import DotProduct
from recsys.training.objectives import Loss, RankingLoss, RatingLoss, checked, rating_range

_BETA2 = 0.999
_RISE = 0.25
"""Share of the steps in which the learning rate rises."""
_FLOOR = 0.04
"""The learning rate of the first step, as a share of the peak."""


@dataclass(frozen=True, slots=True)
class Config:
    """How to train: everything that decides the outcome, except the data, the seed and the device.

    Attributes:
        objective: `rating` or `ranking`.
        architecture: `dot`.
        n_factors: width of the factors.
        n_epochs: passes over the training set.
        batch_size: ratings per step; under `ranking` as many users as have about that many.
        learning_rate: AdamW's, at the peak of the one-cycle schedule.
        weight_decay: AdamW's decoupled decay of the factors.
        bias_weight_decay: the same, of the biases.
        l2: penalty inside the loss on the factors of the user and item of each rating. Not the same number as
            `weight_decay`.
        damping: penalty inside the `rating` loss on every row of factors and every bias once an epoch, however
            many ratings it has; without effect under `ranking`.
        init_std: standard deviation of the factors before training.
    """

    objective: Objective
    n_factors: int
    n_epochs: int
    batch_size: int
    learning_rate: float
    weight_decay: float
    bias_weight_decay: float
    l2: float
    damping: float
    init_std: float
    architecture: Architecture = "dot"


@dataclass(frozen=True, slots=True)
class EpochRecord:
    """One epoch of training.

    Attributes:
        epoch: from 1.
        train_loss: mean loss of the epoch's batches, penalty included.
        valid: what `validate` answered.
        seconds: since the start.
    """

    epoch: int
    train_loss: float
    valid: float | None
    seconds: float


@dataclass(frozen=True, slots=True)
class Fitted:
    """What `fit` returns: the factors, a record of every epoch, and how long it took."""

    factors: Factors
    history: tuple[EpochRecord, ...]
    seconds: float


def default_config(objective: Objective, n_ratings: int, **overrides: float | None) -> Config:
    """Settings that train well untuned, chosen from the number of ratings.

    Found on validation parts carved from the training folds of MovieLens 100K and 1M, joined by straight lines
    in log(n_ratings), and looked at on ml-latest-small and MovieTweetings 10K and 50K: more ratings bear more
    factors and larger batches and need less l2. Above 1M they are extrapolated.

    Args:
        overrides: fields of `Config` to set instead; None means the default.

    Raises:
        InputError: an override is out of range.
    """
    scale = math.log10(max(n_ratings, 1) / 1e5)  # 0 for MovieLens 100K, 1 for 1M
    if objective == "rating":
        chosen = Config(
            objective="rating",
            n_factors=64 if scale < 0.5 else 128,
            n_epochs=10 if scale < 0.5 else 8 if scale < 1.5 else 5,
            batch_size=_power_of_two(1024 * 4**scale, 64, 1 << 15),
            learning_rate=_between(0.005 * 0.5**scale, 0.002, 0.01),
            weight_decay=0.0,
            bias_weight_decay=0.0,
            l2=_between(0.05 * 0.4**scale, 0.01, 0.1),
            damping=2.5,
            init_std=0.01,
        )
    else:
        chosen = Config(
            objective="ranking",
            n_factors=64 if scale < 0.5 else 128,
            n_epochs=30 if scale < 1.5 else 10,
            batch_size=_power_of_two(8192 * 4**scale, 1024, 1 << 15),
            learning_rate=0.03,
            weight_decay=_between(2 - 1.5 * scale, 2, 4),
            bias_weight_decay=0.0,
            l2=0.0,
            damping=0.0,
            init_std=0.01,
        )
    given: dict[str, Any] = {name: value for name, value in overrides.items() if value is not None}
    return _checked(replace(chosen, **given))


def _between(wanted: float, low: float, high: float) -> float:
    """`wanted` to two significant digits, but not outside the two others."""
    return float(f"{min(max(wanted, low), high):.2g}")


def _power_of_two(wanted: float, low: int, high: int) -> int:
    """The power of two nearest to `wanted`, but not outside the two others."""
    return int(min(max(2 ** round(math.log2(wanted)), low), high))


def _checked(config: Config) -> Config:
    """The same configuration.

    Raises:
        InputError: a setting is out of range.
    """
    for name in ("n_factors", "n_epochs", "batch_size"):
        if not getattr(config, name) >= 1:
            raise InputError(f"{name} is {getattr(config, name)}; it must be at least 1")
    for name in ("learning_rate", "init_std"):
        if not 0 < getattr(config, name) < math.inf:
            raise InputError(f"{name} is {getattr(config, name)}; it must be above 0")
    for name in ("weight_decay", "bias_weight_decay", "l2", "damping"):
        if not 0 <= getattr(config, name) < math.inf:
            raise InputError(f"{name} is {getattr(config, name)}; it must not be negative")
    return config


def pick_device(name: str) -> torch.device:
    """The device to train on.

    Raises:
        TrainingError: CUDA was asked for and there is none, or the name is unknown.
    """
    if name not in ("auto", "cpu", "cuda"):
        raise TrainingError(f"device '{name}' is unknown; use auto, cpu or cuda")
    has_cuda = torch.cuda.is_available()
    if name == "cuda" and not has_cuda:
        raise TrainingError(
            "device cuda: no CUDA device can be used here; use --device cpu or auto, "
            "or install a CUDA build of torch and the driver"
        )
    return torch.device("cuda" if has_cuda and name != "cpu" else "cpu")


def fit(
    train: Ratings,
    config: Config,
    *,
    rating_scale: tuple[float, float] | None = None,
    device: str = "auto",
    seed: int = 0,
    validate: Callable[[Factors], float] | None = None,
    on_epoch: Callable[[EpochRecord], None] | None = None,
    on_step: Callable[[int, int], None] | None = None,
) -> Fitted:
    """Train a model on ratings.

    AdamW (Loshchilov & Hutter, "Decoupled Weight Decay Regularization", ICLR 2019) on a one-cycle schedule
    (`one_cycle`), with the whole training set on the device. On the CPU the same seed gives the same bits on
    the same machine, torch and number of threads. Global random state is neither read nor changed.

    Args:
        train: users and items without ratings are left out of the model.
        rating_scale: lowest and highest rating there is; by default the lowest and highest in `train`.
        device: `auto` (CUDA where there is one), `cpu` or `cuda`.
        validate: asked after every epoch for a figure to put in its record.
        on_epoch: called after every epoch.
        on_step: called after every step with (steps done, steps in all).

    Raises:
        TrainingError: there is nothing to train on, no such device, or training diverged.
    """
    started = time.perf_counter()
    train = checked(train, rating_scale)
    place = pick_device(device)
    generator = torch.Generator(place).manual_seed(seed)
    model, loss, ends, optimizer = untrained(train, config, rating_scale, generator)

    size = loss.units_of(config.batch_size)
    n_steps = config.n_epochs * math.ceil(loss.n_units / size)
    step = 0
    history: list[EpochRecord] = []
    for epoch in range(1, config.n_epochs + 1):
        loss.shuffle(generator)
        total = torch.zeros((), dtype=torch.float64, device=place)
        for start in range(0, loss.n_units, size):
            stop = min(start + size, loss.n_units)
            learning_rate, beta1 = one_cycle(step, n_steps, config.learning_rate)
            total += stepped(model, loss, optimizer, start, stop, learning_rate, beta1) * (stop - start)
            step += 1
            if on_step:
                on_step(step, n_steps)
        record = EpochRecord(
            epoch=epoch,
            train_loss=_finite(float(total) / loss.n_units, epoch, config),
            valid=validate(_factors(model, train, config.objective, ends)) if validate else None,
            seconds=time.perf_counter() - started,
        )
        history.append(record)
        if on_epoch:
            on_epoch(record)
    factors = _factors(model, train, config.objective, ends)
    return Fitted(factors, tuple(history), time.perf_counter() - started)


def one_cycle(step: int, n_steps: int, peak: float) -> tuple[float, float]:
    """Learning rate and β₁ of a step.

    The rate rises to the peak in the first quarter of the steps and falls to nothing in the rest, both along
    a cosine; β₁ goes the other way, between .95 and .85.

    Smith, "A Disciplined Approach to Neural Network Hyper-Parameters", 2018 (arXiv:1803.09820).

    Args:
        step: 0 to `n_steps` − 1.
        peak: the highest learning rate.
    """
    rise = _RISE * n_steps
    share = step / rise if step < rise else (n_steps - step) / (n_steps - rise)
    floor = _FLOOR if step < rise else 0.0
    height = (1 - math.cos(math.pi * share)) / 2
    return peak * (floor + (1 - floor) * height), 0.95 - 0.1 * height


class Untrained(NamedTuple):
    """What the first step needs.

    Attributes:
        model: before training.
        loss: over the training set.
        rating_range: the ends of the rating range, where the objective has one.
        optimizer: AdamW over the model's parameter groups.
    """

    model: DotProduct
    loss: Loss
    rating_range: tuple[float, float] | None
    optimizer: torch.optim.Optimizer


def untrained(
    train: Ratings, config: Config, rating_scale: tuple[float, float] | None, generator: torch.Generator
) -> Untrained:
    """Model, loss and optimiser before the first step, on the device of `generator`.

    Args:
        train: as `checked` returns it.
    """
    model = DotProduct(train.n_users, train.n_items, config.n_factors, init_std=config.init_std, generator=generator)
    loss, ends = _objective(train, config, model, rating_scale, generator.device)
    optimizer = torch.optim.AdamW(_groups(model, config), lr=config.learning_rate, fused=True)
    return Untrained(model, loss, ends, optimizer)


def stepped(
    model: DotProduct,
    loss: Loss,
    optimizer: torch.optim.Optimizer,
    start: int,
    stop: int,
    learning_rate: float,
    beta1: float,
) -> Tensor:
    """Take one step on the units `start` to `stop`; returns their mean loss before it: ()."""
    for group in optimizer.param_groups:
        group["lr"], group["betas"] = learning_rate, (beta1, _BETA2)
    batch_loss = loss.batch(model, start, stop)
    optimizer.zero_grad()
    batch_loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    return batch_loss.detach()


def _objective(
    train: Ratings,
    config: Config,
    model: DotProduct,
    rating_scale: tuple[float, float] | None,
    device: torch.device,
) -> tuple[Loss, tuple[float, float] | None]:
    """The loss of the configured objective, and the ends of the rating range if it has one.

    The biases start as what the baseline knows, since few steps of a gradient do not bring those of users and
    items with few ratings there: as bias-only under `rating`; under `ranking` as log n_i, for which the softmax
    is each item's share of all ratings.
    """
    if config.objective == "ranking":
        popularity = np.log(train.item_counts())
        with torch.no_grad():
            model.item_bias.copy_(torch.from_numpy((popularity - popularity.mean()).astype(np.float32)))
        return RankingLoss(train, l2=config.l2, device=device), None
    ends = rating_range(train.rating, rating_scale)
    biases = bias_only(train, rating_scale)
    with torch.no_grad():
        model.user_bias.copy_(torch.from_numpy(biases.user_bias))
        model.item_bias.copy_(torch.from_numpy(biases.item_bias))
        model.global_bias.fill_(biases.global_bias)
    return RatingLoss(train, rating_range=ends, l2=config.l2, damping=config.damping, device=device), ends


def _groups(model: DotProduct, config: Config) -> list[dict[str, Any]]:
    """AdamW's parameter groups: factors and biases decay on their own, the global bias not at all."""
    return [
        {"params": [model.user_factors, model.item_factors], "weight_decay": config.weight_decay},
        {"params": [model.user_bias, model.item_bias], "weight_decay": config.bias_weight_decay},
        {"params": [model.global_bias], "weight_decay": 0.0},
    ]


def _finite(train_loss: float, epoch: int, config: Config) -> float:
    if not math.isfinite(train_loss):
        raise TrainingError(
            f"the loss of epoch {epoch} is {train_loss}: training diverged; "
            f"use a learning rate below {config.learning_rate:g}"
        )
    return train_loss


def _factors(
    model: DotProduct, train: Ratings, objective: Objective, rating_range: tuple[float, float] | None
) -> Factors:
    """What the model has learned so far, as arrays of its own."""

    def array(tensor: Tensor) -> NDArray[np.float32]:
        result: NDArray[np.float32] = tensor.detach().cpu().numpy().copy()
        return result

    return Factors(
        objective=objective,
        user_keys=train.user_keys,
        item_keys=train.item_keys,
        user_factors=array(model.user_factors),
        item_factors=array(model.item_factors),
        user_bias=array(model.user_bias),
        item_bias=array(model.item_bias),
        global_bias=model.global_bias.item(),
        rating_range=rating_range,
    )
