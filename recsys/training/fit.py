"""Training: from ratings to factors, in one explicit loop."""

import logging
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from hashlib import blake2b
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recsys.data.dataset import Ratings
from recsys.data.features import Features
from recsys.data.keyed import positions
from recsys.data.scale import rating_range, validate_ratings
from recsys.errors import InputError, TrainingError
from recsys.evaluation.baselines import bias_only
from recsys.factors import Factors, FeatureEmbeddings, Head, RankingConstants, RatingConstants
from recsys.factors import Side as FactorSide
from recsys.scoring.fold_in import DEFAULT_RIDGE, FoldIn
from recsys.training.checkpoint import Checkpoint, State, load, restore, save, tensors_of
from recsys.training.config import Config
from recsys.training.models import DotProduct, NeuralCF, Side, embedding_width
from recsys.training.objectives import Loss, RankingLoss, RatingLoss
from recsys.training.optimizer import AdamW, Group
from recsys.training.sparse import Fixed, fixed

_RISE = 0.25
"""Share of the steps in which the learning rate rises."""
_FLOOR = 0.04
"""The learning rate of the first step, as a share of the peak."""

_RIDGE_USERS = 128
"""Users on whom is measured how strongly rows are held back."""

_log = logging.getLogger(__name__)


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
    accumulate: int = 1,
    checkpoint: Checkpoint | None = None,
    validate: Callable[[Factors], float] | None = None,
    on_epoch: Callable[[EpochRecord], None] | None = None,
    on_step: Callable[[int, int], None] | None = None,
) -> Fitted:
    """Train a model on ratings.

    AdamW (Loshchilov & Hutter, "Decoupled Weight Decay Regularization", ICLR 2019) on a one-cycle schedule
    (`one_cycle`), with the whole training set on the device. On the CPU the same seed gives the same bits on
    the same machine, torch and number of threads. Global random state is neither read nor changed.

    Args:
        train: users and items without ratings are left out of the model, unless they have features: then they get
            the row that their features make.
        rating_scale: lowest and highest rating there is; by default the lowest and highest in `train`.
        device: `auto` (CUDA where there is one with memory enough, else the CPU), `cpu` or `cuda`.
        accumulate: parts that a batch is cut into, one after the other on the device, for one step: less memory.
        checkpoint: where to keep the state, and to go on from if there is one. It stays when training is done.
        validate: asked after every epoch for a figure to put in its record.
        on_epoch: called after every epoch.
        on_step: called after every step with (steps done, steps in all).

    Raises:
        InputError: `accumulate` is below 1.
        TrainingError: there is nothing to train on, no such device, memory is short, the checkpoint is of another
            training, or training diverged.
    """
    if accumulate < 1:
        raise InputError(f"accumulate is {accumulate}: a batch can be cut into 1 part or more")
    train = validate_ratings(train, rating_scale)
    place = pick_device(device)
    job = _Job(train, config, rating_scale, seed, accumulate, checkpoint)
    hooks = _Hooks(validate, on_epoch, on_step)
    try:
        return _fit(job, place, hooks)
    except (RuntimeError, MemoryError) as error:
        if not _is_short_of_memory(error):
            raise
        if device != "auto" or place.type == "cpu":
            or_else = "" if place.type == "cpu" else ", or train with --device cpu"
            raise TrainingError(
                f"memory of device {place.type} is too short ({str(error).partition(chr(10))[0]}): cut batches into "
                f"parts with --accumulate {2 * accumulate}, or use fewer factors (--n-factors){or_else}"
            ) from error
    # Only here, where the error is gone, whose traceback holds the tensors of the failed training.
    _log.warning("GPU memory is too short for this training: training on the CPU")
    torch.cuda.empty_cache()
    return fit(
        train,
        config,
        rating_scale=rating_scale,
        device="cpu",
        seed=seed,
        accumulate=accumulate,
        validate=validate,
        on_epoch=on_epoch,
        on_step=on_step,
    )


def _is_short_of_memory(error: Exception) -> bool:
    """Of the CPU's memory torch says so in words only, and so do CUDA's own libraries of the GPU's."""
    words = ("DefaultCPUAllocator", "CUDA error: out of memory", "STATUS_ALLOC_FAILED")
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or any(said in str(error) for said in words)


class _Job(NamedTuple):
    """What to train: the arguments of `fit` that decide the outcome, and the checkpoint."""

    train: Ratings
    config: Config
    rating_scale: tuple[float, float] | None
    seed: int
    accumulate: int
    checkpoint: Checkpoint | None

    def identity(self, device: torch.device) -> dict[str, Any]:
        """What a checkpoint must agree with.

        The fingerprint leaves out the order of users, items and ratings, which rows of tables and batches go by; and
        the state of a random generator is of one kind of device.
        """
        train = self.train
        order = blake2b(digest_size=8)
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


class _Hooks(NamedTuple):
    """Whom to tell, as `fit` describes."""

    validate: Callable[[Factors], float] | None
    on_epoch: Callable[[EpochRecord], None] | None
    on_step: Callable[[int, int], None] | None


def _fit(job: _Job, device: torch.device, hooks: _Hooks) -> Fitted:
    started = time.perf_counter()
    config = job.config
    generator = torch.Generator(device).manual_seed(job.seed)
    begun = untrained(job.train, config, job.rating_scale, generator)
    model, loss, optimizer = begun.model, begun.loss, begun.optimizer
    size = loss.units_of(config.batch_size)
    starts = range(0, loss.n_units, size)
    n_steps = config.n_epochs * len(starts)

    history: list[EpochRecord] = []
    step, total = 0, torch.zeros((), dtype=torch.float64, device=device)
    at_epoch = generator.get_state()
    identity = job.identity(device) if job.checkpoint else {}
    kept = _kept(job, identity, model, optimizer)
    if kept is not None:
        extra, progress = kept
        step, history = progress["step"], [EpochRecord(**record) for record in progress["history"]]
        total.copy_(extra["total"])
        at_epoch = extra["at_epoch"]
        started -= progress["seconds"]
        _log.info("training goes on from a checkpoint", extra={"step": step, "steps": n_steps})
    last_kept = time.perf_counter()

    for epoch in range(step // len(starts) + 1, config.n_epochs + 1):
        done = step % len(starts)
        generator.set_state(at_epoch)
        loss.shuffle(generator)
        if kept is not None and done:
            generator.set_state(kept[0]["now"])
        kept = None
        for start in starts[done:]:
            stop = min(start + size, loss.n_units)
            learning_rate, beta1 = one_cycle(step, n_steps, config.learning_rate)
            batch_loss = stepped(model, loss, optimizer, start, stop, learning_rate, beta1, accumulate=job.accumulate)
            total += batch_loss * (stop - start)
            step += 1
            if hooks.on_step:
                hooks.on_step(step, n_steps)
            if (
                job.checkpoint is not None
                and stop < loss.n_units
                and time.perf_counter() - last_kept >= job.checkpoint.every_seconds
            ):
                extra = {"total": total, "at_epoch": at_epoch, "now": generator.get_state()}
                _keep(job, identity, model, optimizer, extra, step, history, time.perf_counter() - started)
                last_kept = time.perf_counter()
        at_epoch = generator.get_state()
        record = EpochRecord(
            epoch=epoch,
            train_loss=_finite(float(total) / loss.n_units, epoch, config),
            valid=hooks.validate(_factors(model, job, begun.rating_range)) if hooks.validate else None,
            seconds=time.perf_counter() - started,
        )
        history.append(record)
        total.zero_()
        if job.checkpoint is not None and time.perf_counter() - last_kept >= job.checkpoint.every_seconds:
            extra = {"total": total, "at_epoch": at_epoch, "now": at_epoch.clone()}
            _keep(job, identity, model, optimizer, extra, step, history, time.perf_counter() - started)
            last_kept = time.perf_counter()
        if hooks.on_epoch:
            hooks.on_epoch(record)
    factors = _factors(model, job, begun.rating_range)
    if config.objective == "ranking":
        factors = replace(factors, constants=_ranking_constants(model.users.own, factors, job.train, config))
    return Fitted(factors, tuple(history), time.perf_counter() - started)


def _keep(
    job: _Job,
    identity: dict[str, Any],
    model: torch.nn.Module,
    optimizer: AdamW,
    extra: dict[str, Tensor],
    step: int,
    history: list[EpochRecord],
    seconds: float,
) -> None:
    assert job.checkpoint is not None
    progress = {"step": step, "history": [asdict(record) for record in history], "seconds": seconds}
    save(job.checkpoint.path, State(tensors_of(model, optimizer, extra), identity, progress))


def _kept(
    job: _Job, identity: dict[str, Any], model: torch.nn.Module, optimizer: AdamW
) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """Put the state of a checkpoint in place, where there is one; returns the extra tensors and the progress."""
    if job.checkpoint is None:
        return None
    state = load(job.checkpoint.path, identity)
    return None if state is None else (restore(model, optimizer, state), dict(state.progress))


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

    model: DotProduct | NeuralCF
    loss: Loss
    rating_range: tuple[float, float] | None
    optimizer: AdamW


def untrained(
    train: Ratings,
    config: Config,
    rating_scale: tuple[float, float] | None,
    generator: torch.Generator,
) -> Untrained:
    """Model, loss and optimiser before the first step, on the device of `generator`.

    Args:
        train: as `checked` returns it.
    """
    device = generator.device
    of_users = _matrix(train.user_features, train.user_keys, config, device)
    of_items = _matrix(train.item_features, train.item_keys, config, device)
    items_of_users, users_of_items = None, None
    if config.implicit:
        items_of_users = _history(train.user_idx, train.item_idx, train.n_users, train.n_items, device)
    if config.implicit and config.objective == "rating":
        users_of_items = _history(train.item_idx, train.user_idx, train.n_items, train.n_users, device)

    def side(n: int, history: Fixed | None, features: Fixed | None) -> Side:
        width = embedding_width(n) if config.n_factors is None else config.n_factors
        return Side(n, width, init_std=config.init_std, generator=generator, history=history, features=features)

    users = side(train.n_users, items_of_users, of_users)
    items = side(train.n_items, users_of_items, of_items)
    model: DotProduct | NeuralCF
    if config.architecture == "dot":
        model = DotProduct(users, items, generator)
    else:
        model = NeuralCF(
            users, items, config.hidden, dropout=config.dropout, batch_norm=config.batch_norm, generator=generator
        )
    loss, ends = _objective(train, config, model, rating_scale, generator)
    return Untrained(model, loss, ends, AdamW(_groups(model, config)))


def stepped(
    model: DotProduct | NeuralCF,
    loss: Loss,
    optimizer: AdamW,
    start: int,
    stop: int,
    learning_rate: float,
    beta1: float,
    *,
    accumulate: int = 1,
) -> Tensor:
    """Take one step on the units `start` to `stop`; returns their mean loss before it: ().

    Args:
        accumulate: parts to cut the units into; the gradients of all are summed before the step.
    """
    optimizer.zero_grad()
    total = torch.zeros((), device=model.global_bias.device)
    for first, last in _parts(start, stop, accumulate):
        part = loss.batch(model, first, last) * ((last - first) / (stop - start))
        part.backward()  # type: ignore[no-untyped-call]
        total += part.detach()
    optimizer.step(learning_rate, beta1)
    return total


def _parts(start: int, stop: int, n: int) -> Iterator[tuple[int, int]]:
    """`start` to `stop` in up to `n` parts of nearly the same size."""
    n = min(n, stop - start)
    bounds = [start + (stop - start) * place // n for place in range(n + 1)]
    return pairwise(bounds)


def _matrix(features: Features | None, keys: NDArray[np.int64], config: Config, device: torch.device) -> Fixed | None:
    """Features of these rows as a matrix (n, n_features); None where there are none to learn from."""
    if features is None or features.n_features == 0 or not config.features:
        return None
    return _ones(features.of(keys), device)


def _ones(features: Features, device: torch.device) -> Fixed:
    """(n_rows, n_features), 1 for each feature that a row has."""
    return fixed(features.starts, features.idx, np.ones(len(features.idx), np.float32), features.n_features, device)


def _history(of: NDArray[np.int32], what: NDArray[np.int32], n: int, n_other: int, device: torch.device) -> Fixed:
    """Who rated what as a matrix (n, n_other) of 1 / √(how many it has)."""
    order = np.argsort(of, kind="stable")
    counts = np.bincount(of, minlength=n)
    starts = np.zeros(n + 1, np.int64)
    np.cumsum(counts, out=starts[1:])
    value = (1 / np.sqrt(counts))[of[order]].astype(np.float32)
    return fixed(starts, what[order], value, n_other, device)


def _objective(
    train: Ratings,
    config: Config,
    model: DotProduct | NeuralCF,
    rating_scale: tuple[float, float] | None,
    generator: torch.Generator,
) -> tuple[Loss, tuple[float, float] | None]:
    """The loss of the configured objective, and the ends of the rating range if it has one.

    The biases start as what the baseline knows, since few steps of a gradient do not bring those of users and
    items with few ratings there: as bias-only under `rating`; under `ranking` as log n_i, for which the softmax
    is each item's share of all ratings.
    """
    device = generator.device

    def at(bias: NDArray[np.float64] | NDArray[np.float32]) -> Tensor:
        return torch.from_numpy(bias.astype(np.float32)).to(device)

    if config.objective == "ranking":
        popularity = np.log(train.item_counts())
        model.items.start_biases(at(popularity - popularity.mean()))
        loss = RankingLoss(
            train,
            rating_weight=config.rating_weight,
            user_power=config.user_power,
            l2=config.l2,
            dropout=config.implicit_dropout,
            n_sampled=config.n_sampled_of(train.n_items),
            width=config.hidden[0] if config.hidden else 1,
            generator=generator,
        )
        return loss, None
    ends = rating_range(train.rating, rating_scale)
    biases = bias_only(train, rating_scale)
    model.users.start_biases(at(biases.user_bias))
    model.items.start_biases(at(biases.item_bias))
    with torch.no_grad():
        model.global_bias.fill_(biases.global_bias)
    rating_loss = RatingLoss(
        train,
        rating_range=ends,
        l2=config.l2,
        damping=config.damping,
        user_implicit_l2=config.user_implicit_l2,
        item_implicit_l2=config.item_implicit_l2,
        feature_l2=config.feature_l2,
        device=device,
    )
    return rating_loss, ends


def _groups(model: DotProduct | NeuralCF, config: Config) -> list[Group]:
    """Embeddings, biases and layers decay on their own, the global bias not at all."""
    sides = (model.users, model.items)
    embeddings = [table for side in sides for table in (side.own, side.implicit)]
    features = [side.feature_rows for side in sides]
    biases = [bias for side in sides for bias in (side.bias, side.feature_bias)]
    groups = [
        Group([table for table in embeddings if table is not None], config.weight_decay),
        Group([table for table in features if table is not None], config.feature_weight_decay),
        Group([bias for bias in biases if bias is not None], config.bias_weight_decay),
        Group([model.global_bias], 0.0),
    ]
    grouped = {id(parameter) for group in groups for parameter in group.parameters}
    layers = [parameter for parameter in model.parameters() if id(parameter) not in grouped]
    if layers:
        groups.append(Group(layers, config.layer_weight_decay, config.layer_rate))
    return groups


def _finite(train_loss: float, epoch: int, config: Config) -> float:
    if not math.isfinite(train_loss):
        raise TrainingError(
            f"the loss of epoch {epoch} is {train_loss}: training diverged; "
            f"use a learning rate below {config.learning_rate:g}"
        )
    return train_loss


@torch.no_grad()
def _factors(model: DotProduct | NeuralCF, job: _Job, rating_range: tuple[float, float] | None) -> Factors:
    """What the model has learned so far, as arrays of its own."""
    train, config = job.train, job.config
    user_keys, users, user_bias = _rows(model.users, train.user_keys, train.user_features)
    item_keys, items, item_bias = _rows(model.items, train.item_keys, train.item_features)
    implicit = None
    if model.users.implicit is not None:
        implicit = items.new_zeros(len(item_keys), model.users.implicit.shape[1])
        implicit[torch.from_numpy(positions(item_keys, train.item_keys)).to(items.device)] = model.users.implicit

    def array(tensor: Tensor) -> NDArray[np.float32]:
        result: NDArray[np.float32] = tensor.detach().cpu().numpy().copy()
        return result

    def of_users(rows: Tensor) -> Tensor:
        """Rows as they are stored: of a neural model what they give to the product and to the first layer."""
        return torch.cat([rows @ model.meet.T, rows @ model.user_layer.T], 1) if isinstance(model, NeuralCF) else rows

    def of_items(rows: Tensor) -> Tensor:
        return torch.cat([rows, rows @ model.item_layer.T], 1) if isinstance(model, NeuralCF) else rows

    base = of_items(items.new_zeros(items.shape[1]).unsqueeze(0))[0]
    if isinstance(model, NeuralCF):
        base[items.shape[1] :] = model.first_bias

    def feature_rows(side: Side, features: Features | None, map_rows: Any, base: Tensor) -> FeatureEmbeddings | None:
        if side.feature_rows is None or side.feature_bias is None or features is None:
            return None
        return FeatureEmbeddings(
            features.names, array(base), array(map_rows(side.feature_rows)), array(side.feature_bias)
        )

    head: Head | None = None
    if isinstance(model, NeuralCF):
        head = replace(model.head(), user_map=array(torch.cat([model.meet, model.user_layer])))
    return Factors(
        objective=config.objective,
        users=FactorSide(
            keys=user_keys,
            factors=array(of_users(users)),
            bias=array(user_bias),
            features=feature_rows(model.users, train.user_features, of_users, torch.zeros_like(base)),
        ),
        items=FactorSide(
            keys=item_keys,
            factors=array(of_items(items) + base),
            bias=array(item_bias),
            implicit=None if implicit is None else array(of_users(implicit)),
            features=feature_rows(model.items, train.item_features, of_items, base),
        ),
        global_bias=model.global_bias.item(),
        rating_range=rating_range,
        head=head,
        constants=RatingConstants(config.l2, config.damping) if config.objective == "rating" else None,
    )


def _ranking_constants(own: Tensor, factors: Factors, train: Ratings, config: Config) -> RankingConstants:
    """What fold-in is to know of this training; the ridge is measured on some of its users."""
    mean, span = float(train.rating.mean(dtype=np.float64)), float(np.ptp(train.rating)) or 1.0
    constants = RankingConstants(
        mean, span, train.n_ratings / train.n_users, DEFAULT_RIDGE, config.rating_weight, config.user_power
    )
    fold_in = FoldIn(replace(factors, constants=constants))
    starts, order = train.by_user()
    place = positions(factors.item_keys, train.item_keys)
    some = np.unique(np.linspace(0, train.n_users - 1, _RIDGE_USERS).astype(np.int64))
    rows = (order[starts[user] : starts[user + 1]] for user in some)
    rated = [(place[train.item_idx[of_user]], train.rating[of_user]) for of_user in rows]
    user_rows = factors.user_factors[positions(factors.user_keys, train.user_keys[some])]
    own_rows: NDArray[np.float32] = own.detach()[torch.from_numpy(some).to(own.device)].cpu().numpy()
    return replace(constants, ridge=fold_in.measure_ridge(rated, user_rows, own_rows))


def _rows(side: Side, keys: NDArray[np.int64], features: Features | None) -> tuple[NDArray[np.int64], Tensor, Tensor]:
    """Keys, rows and biases of a side, with those that have features and no ratings."""
    table, bias = side.table(), side.biases()
    if side.feature_rows is None or side.feature_bias is None or features is None:
        return keys, table, bias
    described = features.keys[np.diff(features.starts) > 0]
    new = np.setdiff1d(described, keys)
    if len(new) == 0:
        return keys, table, bias
    X = _ones(features.of(new), table.device)
    table = torch.cat([table, X.times(side.feature_rows)])
    bias = torch.cat([bias, X.times(side.feature_bias[:, None])[:, 0]])
    every = np.concatenate([keys, new])
    order = np.argsort(every, kind="stable")
    by_key = torch.from_numpy(order).to(table.device)
    return every[order], table.index_select(0, by_key), bias.index_select(0, by_key)
