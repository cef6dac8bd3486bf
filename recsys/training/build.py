"""From ratings and a configuration to a `Run`: model, loss and optimiser before the first step."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recsys.data.dataset import Ratings
from recsys.data.features import Features
from recsys.data.scale import rating_range
from recsys.evaluation.baselines import bias_only
from recsys.factors import Factors
from recsys.training.config import Config
from recsys.training.models import DotProduct, NeuralCF, embedding_width
from recsys.training.objectives import Loss, RankingLoss
from recsys.training.optimizer import AdamW
from recsys.training.rating_loss import RatingLoss
from recsys.training.side import SideModule
from recsys.training.sparse import FixedMatrix

_BLOCKS = 4
"""Blocks of an epoch of `rating`, and so moves of the implicit and feature factors: more are dearer and no better."""
_BLOCK_UNITS = 1_000_000
"""Most ratings of a block: the rows of its users should fit into the cache."""
_MOVED_UNITS = 16_000_000
"""Ratings times moves of the items' implicit terms in an epoch, as far as two moves allow."""


@dataclass(frozen=True, slots=True)
class EpochRecord:
    """One epoch of training.

    Attributes:
        epoch: from 1.
        train_loss: mean loss of the epoch's batches, penalties included.
        valid: the value that `validate` returned; `None` without it.
        seconds: since the training started.
    """

    epoch: int
    train_loss: float
    valid: float | None
    seconds: float


@dataclass(frozen=True, slots=True)
class Restart:
    """A training that was given up because its loss rose, and started anew with a lower rate.

    Attributes:
        learning_rate: peak of the schedule of the training that was given up.
        epoch: in which the loss rose, from 1.
        train_loss: mean of that epoch so far; `None` if it was not a finite number.
    """

    learning_rate: float
    epoch: int
    train_loss: float | None


@dataclass(slots=True)
class Run:
    """One training between two steps: everything that changes while it trains, and the settings that it needs.

    Attributes:
        model, loss, optimizer: on the device of `generator`.
        rating_range: ends of the sigmoid; `None` under `ranking`.
        generator: source of all randomness: the order of the units, hidden ratings, dropout and candidates.
        n_epochs: epochs of the whole training.
        batch_units: units of the loss in one step.
        peak_rate: learning rate at the peak of the schedule.
        step: steps done, the position in the schedule.
        loss_sum: (), float64, sum over the units of the current epoch of their loss.
        epoch_state: state of `generator` before the units of the current epoch were shuffled.
        history: a record of each finished epoch.
        seconds: time spent on the steps done.
        restarts: the trainings given up before this one.
    """

    model: DotProduct | NeuralCF
    loss: Loss
    optimizer: AdamW
    rating_range: tuple[float, float] | None
    generator: torch.Generator
    n_epochs: int
    batch_units: int
    peak_rate: float
    step: int = 0
    loss_sum: Tensor = field(init=False)
    epoch_state: Tensor = field(init=False)
    history: list[EpochRecord] = field(default_factory=list)
    seconds: float = 0.0
    restarts: list[Restart] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.loss_sum = torch.zeros((), dtype=torch.float64, device=self.generator.device)
        self.epoch_state = self.generator.get_state()

    @property
    def steps_per_epoch(self) -> int:
        """Number of steps in an epoch; its last one may be smaller."""
        return -(-self.loss.n_units // self.batch_units)

    @property
    def n_steps(self) -> int:
        """Number of steps of the whole training."""
        return self.n_epochs * self.steps_per_epoch

    def start_epoch(self) -> None:
        """Put the units into a new random order and the sum of losses to zero."""
        self.epoch_state = self.generator.get_state()
        self.loss.shuffle(self.generator)
        self.loss_sum.zero_()

    def state_dict(self) -> dict[str, Any]:
        """Return all that the training needs to continue: tensors, numbers, lists and dicts of them.

        The tensors are those of the run, not copies, as in torch's own state dicts.
        """
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "loss_sum": self.loss_sum,
            "epoch_state": self.epoch_state,
            "generator": self.generator.get_state(),
            "held": {name: side.held.state_dict() for name, side in self._sides() if side.held is not None},
            "history": [asdict(record) for record in self.history],
            "seconds": self.seconds,
            "peak_rate": self.peak_rate,
            "restarts": [asdict(restart) for restart in self.restarts],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from the state of an equal run.

        Raises:
            KeyError, RuntimeError, ValueError: the state is of a model of another shape.
        """
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.seconds, self.peak_rate = state["step"], state["seconds"], state["peak_rate"]
        self.restarts = [Restart(**restart) for restart in state["restarts"]]
        self.loss_sum.copy_(state["loss_sum"])
        self.history = [EpochRecord(**record) for record in state["history"]]
        self.epoch_state = state["epoch_state"]
        # The order of the units is not stored: it is drawn again.
        self.generator.set_state(self.epoch_state)
        self.loss.shuffle(self.generator)
        self.generator.set_state(state["generator"])
        if state["held"]:
            self.loss.enter(self.model, self.step % self.steps_per_epoch * self.batch_units)
            for name, side in self._sides():
                if name in state["held"] and side.held is not None:
                    side.held.load_state_dict(state["held"][name])

    def _sides(self) -> list[tuple[str, SideModule]]:
        """Return the sides of the model by name."""
        return [("users", self.model.users), ("items", self.model.items)]


def build(
    train: Ratings,
    config: Config,
    rating_scale: tuple[float, float] | None,
    generator: torch.Generator,
    baseline: Factors | None = None,
) -> Run:
    """Return a run before its first step, on the device of `generator`.

    Args:
        train: as `validate_ratings` returns it.
        rating_scale: lowest and highest possible rating; `None`: the lowest and highest in `train`.
        baseline: `bias_only` of `train`, where the caller has it already.
        generator: draws the factors, and everything else that is random in the run.
    """
    device = generator.device
    features_of_users = feature_matrix(train.user_features, train.user_keys, device) if config.features else None
    features_of_items = feature_matrix(train.item_features, train.item_keys, device) if config.features else None
    items_of_users, users_of_items = None, None
    if config.implicit:
        items_of_users = history_matrix(train.user_idx, train.item_idx, train.n_users, train.n_items, device)
    if config.implicit and config.objective == "rating":
        users_of_items = history_matrix(train.item_idx, train.user_idx, train.n_items, train.n_users, device)

    def side(n: int, history: FixedMatrix | None, features: FixedMatrix | None) -> SideModule:
        width = embedding_width(n) if config.n_factors is None else config.n_factors
        return SideModule(n, width, init_std=config.init_std, generator=generator, history=history, features=features)

    users = side(train.n_users, items_of_users, features_of_users)
    items = side(train.n_items, users_of_items, features_of_items)
    model: DotProduct | NeuralCF
    if config.architecture in ("dot", "blend"):
        model = DotProduct(users, items, generator)
    else:
        model = NeuralCF(
            users, items, config.hidden, dropout=config.dropout, batch_norm=config.batch_norm, generator=generator
        )
    loss: Loss
    range_ends = None
    if config.objective == "rating":
        range_ends = rating_range(train.rating, rating_scale)
        loss = build_rating_loss(train, config, range_ends, device)
    else:
        loss = build_ranking_loss(train, config, generator)
    start_biases(model, train, config, rating_scale, baseline)
    return Run(
        model=model,
        loss=loss,
        optimizer=AdamW(parameter_groups(model, config)),
        rating_range=range_ends,
        generator=generator,
        n_epochs=config.n_epochs,
        batch_units=loss.units_of(config.batch_size),
        peak_rate=config.learning_rate,
    )


def build_rating_loss(
    train: Ratings, config: Config, range_ends: tuple[float, float], device: torch.device
) -> RatingLoss:
    """Return the loss of the `rating` objective over a training set."""
    block_steps, item_blocks = None, 1
    n_steps = -(-train.n_ratings // config.batch_size)
    # On a GPU products of all ratings are cheap, and picking rows would wait for the number of them at every step.
    if device.type == "cpu" and n_steps > _BLOCKS:
        block_steps = -(-n_steps // max(_BLOCKS, -(-train.n_ratings // _BLOCK_UNITS)))
        n_blocks = -(-n_steps // block_steps)
        item_blocks = -(-n_blocks // min(max(_MOVED_UNITS // train.n_ratings, 2), n_blocks))
    return RatingLoss(
        train,
        batch_units=config.batch_size,
        block_steps=block_steps,
        item_blocks=item_blocks,
        rating_range=range_ends,
        l2=config.l2,
        damping=config.damping,
        user_implicit_l2=config.user_implicit_l2,
        item_implicit_l2=config.item_implicit_l2,
        feature_l2=config.feature_l2,
        device=device,
    )


def build_ranking_loss(train: Ratings, config: Config, generator: torch.Generator) -> RankingLoss:
    """Return the loss of the `ranking` objective over a training set."""
    return RankingLoss(
        train,
        rating_weight=config.rating_weight,
        user_power=config.user_power,
        l2=config.l2,
        dropout=config.implicit_dropout,
        n_sampled=config.n_sampled_of(train.n_items),
        width=config.hidden[0] if config.hidden else 1,
        generator=generator,
    )


@torch.no_grad()
def start_biases(
    model: DotProduct | NeuralCF,
    train: Ratings,
    config: Config,
    rating_scale: tuple[float, float] | None,
    baseline: Factors | None,
) -> None:
    """Set the biases of a new model to those of the baseline that it must beat.

    A short training does not bring the biases of users and items with few ratings there by itself. Under `rating` they
    start as the bias-only baseline. Under `ranking` an item's bias starts as log n_i less the mean of these, at which
    the softmax of each item is its share of all ratings.
    """
    device = model.global_bias.device

    def to_device(bias: NDArray[np.float64] | NDArray[np.float32]) -> Tensor:
        return torch.from_numpy(bias.astype(np.float32)).to(device)

    if config.objective == "ranking":
        popularity = np.log(train.item_counts())
        model.items.start_biases(to_device(popularity - popularity.mean()))
        return
    if baseline is None:
        baseline = bias_only(train, rating_scale)
    model.users.start_biases(to_device(baseline.user_bias))
    model.items.start_biases(to_device(baseline.item_bias))
    model.global_bias.fill_(baseline.global_bias)


def parameter_groups(model: DotProduct | NeuralCF, config: Config) -> list[dict[str, Any]]:
    """Return the parameter groups of `AdamW`.

    Factors, factors of features, biases and layers each have a decay of their own; the global bias has none.
    """
    sides = (model.users, model.items)
    factors = [table for side in sides for table in (side.own_factors, side.implicit_factors)]
    features = [side.feature_factors for side in sides]
    biases = [bias for side in sides for bias in (side.own_bias, side.feature_bias)]
    groups: list[dict[str, Any]] = [
        {"params": [table for table in factors if table is not None], "weight_decay": config.weight_decay},
        {"params": [table for table in features if table is not None], "weight_decay": config.feature_weight_decay},
        {"params": [bias for bias in biases if bias is not None], "weight_decay": config.bias_weight_decay},
        {"params": [model.global_bias], "weight_decay": 0.0},
    ]
    grouped = {id(parameter) for group in groups for parameter in group["params"]}
    layers = [parameter for parameter in model.parameters() if id(parameter) not in grouped]
    if layers:
        groups.append({"params": layers, "weight_decay": config.layer_weight_decay, "lr_share": config.layer_rate})
    return groups


def feature_matrix(features: Features | None, keys: NDArray[np.int64], device: torch.device) -> FixedMatrix | None:
    """Return the (n, n_features) matrix of ones at the features of these keys; `None` if there are no features."""
    if features is None or features.n_features == 0:
        return None
    rows = features.of(keys)
    ones = np.ones(len(rows.idx), np.float32)
    return FixedMatrix.from_rows(rows.starts, rows.idx, ones, rows.n_features, device)


def history_matrix(
    row: NDArray[np.int32], column: NDArray[np.int32], n_rows: int, n_columns: int, device: torch.device
) -> FixedMatrix:
    """Return the (n_rows, n_columns) matrix of 1 / √(number of ratings of the row) at each rating.

    Args:
        row, column: (n_ratings,) the two indices of each rating.
    """
    order = np.argsort(row, kind="stable")
    counts = np.bincount(row, minlength=n_rows)
    starts = np.zeros(n_rows + 1, np.int64)
    np.cumsum(counts, out=starts[1:])
    value = (1 / np.sqrt(counts))[row[order]].astype(np.float32)
    return FixedMatrix.from_rows(starts, column[order], value, n_columns, device)
