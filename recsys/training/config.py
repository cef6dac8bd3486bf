"""How to train: the settings, and defaults that follow the data."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from recsys.errors import InputError
from recsys.results import Architecture, Objective

MOST_IMPLICIT = 5_000_000
"""Ratings up to which the implicit terms are on by default: every step multiplies all of them."""

MOST_CATALOGUE = 20_000
"""Items up to which the ranking loss of the dot product sums over the whole catalogue by default."""


@dataclass(frozen=True, slots=True)
class Config:
    """How to train: everything that decides the outcome, except the data, the seed and the device.

    Attributes:
        objective: `rating` or `ranking`.
        architecture: `dot` or `neural`.
        n_factors: width of the embeddings; None: each side by `embedding_width`, which the dot product cannot do.
        n_epochs: passes over the training set.
        batch_size: ratings per step; under `ranking` as many users as have about that many.
        learning_rate: AdamW's, at the peak of the one-cycle schedule.
        weight_decay: AdamW's decoupled decay of the embeddings.
        bias_weight_decay: the same, of the biases.
        l2: penalty inside the loss on the user's and the item's own row of each rating. Not the same number as
            `weight_decay`.
        damping: penalty inside the `rating` loss on every row and every bias once an epoch, however many ratings it
            has; without effect under `ranking`.
        implicit: whether what a user rated, whatever the rating, is part of their row; under `rating` also whether
            who rated an item is part of its row. See `Side`.
        user_implicit_l2, item_implicit_l2: penalty once an epoch on what these add; `rating` only.
        implicit_dropout: share of what a user rated that is hidden from their row at each step; `ranking` only.
        features: whether metadata, where there is some, is part of the rows.
        feature_l2: penalty once an epoch on what metadata adds; `rating` only.
        feature_weight_decay: AdamW's decay of what metadata adds: a feature learns from many rows at every step, and
            must leave the rows what is their own.
        rating_weight: how much more, under `ranking`, the best rating counts than the worst, as a share of the mean.
        user_power: to what power of how much a user has they count less, under `ranking`.
        n_sampled: candidates that stand for the catalogue under `ranking`; 0: all of it; None: by its size.
        hidden: widths of the layers of the neural model.
        dropout: share of each layer's inputs left out at each step.
        batch_norm: whether each layer's inputs are normalised over the batch.
        layer_rate: the layers' learning rate, as a share of the others': layers learn from every rating, a row from
            its own.
        layer_weight_decay: AdamW's decay of the layers.
        init_std: standard deviation of the embeddings before training.
    """

    objective: Objective
    n_factors: int | None
    n_epochs: int
    batch_size: int
    learning_rate: float
    weight_decay: float
    bias_weight_decay: float
    l2: float
    damping: float
    implicit: bool
    user_implicit_l2: float
    item_implicit_l2: float
    implicit_dropout: float
    features: bool
    feature_l2: float
    feature_weight_decay: float
    rating_weight: float
    user_power: float
    n_sampled: int | None
    init_std: float
    architecture: Architecture = "dot"
    hidden: tuple[int, ...] = ()
    dropout: float = 0.0
    batch_norm: bool = False
    layer_rate: float = 1.0
    layer_weight_decay: float = 0.0

    def as_record(self) -> dict[str, Any]:
        """The fields as JSON has them."""
        return {**asdict(self), "hidden": list(self.hidden)}

    def n_sampled_of(self, n_items: int) -> int:
        """How many candidates stand for a catalogue of so many items under `ranking`; 0: all of it."""
        if self.n_sampled is not None:
            return self.n_sampled
        if self.architecture == "neural":
            return min(1024, n_items)
        return 8192 if n_items > MOST_CATALOGUE else 0


def default_config(
    objective: Objective,
    n_ratings: int,
    n_users: int | None = None,
    *,
    architecture: Architecture = "dot",
    **overrides: Any,
) -> Config:
    """Settings that train well untuned, chosen from the number of ratings, and of users.

    Found on validation parts carved from the training folds of MovieLens 100K and 1M, joined by straight lines
    in log(n_ratings), and looked at on ml-latest-small and MovieTweetings 10K and 50K: more ratings bear more
    factors and larger batches and need less l2. Above 1M they are extrapolated. Fewer than 50 ratings a user need
    more decay to order lists.

    Args:
        n_users: None: enough ratings of each.
        overrides: fields of `Config` to set instead; None means the default.

    Raises:
        InputError: an override is out of range.
    """
    scale = math.log10(max(n_ratings, 1) / 1e5)  # 0 for MovieLens 100K, 1 for 1M
    sparse = 1.0 if n_users is None else min(max(math.sqrt(50 * n_users / max(n_ratings, 1)), 1.0), 4.0)
    if objective == "rating":
        chosen = Config(
            objective="rating",
            n_factors=64 if scale < 1.5 else 128,
            n_epochs=10 if scale < 1.5 else 5,
            batch_size=_power_of_two(1024 * (16 if scale > 0 else 4) ** scale, 64, 1 << 17),
            learning_rate=_between(0.005 * 2 ** abs(scale), 0.005, 0.015),
            weight_decay=0.0,
            bias_weight_decay=0.0,
            l2=_between(0.08 * 0.4**scale, 0.01, 0.1),
            damping=2.5,
            implicit=n_ratings <= MOST_IMPLICIT,
            user_implicit_l2=100.0,
            item_implicit_l2=10.0,
            implicit_dropout=0.0,
            features=True,
            feature_l2=1000.0,
            feature_weight_decay=0.0,
            rating_weight=0.0,
            user_power=0.0,
            n_sampled=0,
            init_std=0.01,
        )
    else:
        weight_decay = _between(sparse * min(max(2 + scale, 2), 4), 2, 16)
        chosen = Config(
            objective="ranking",
            n_factors=64 if scale < 0.5 else 128,
            n_epochs=20 if scale < 0.5 else 30 if scale < 1.5 else 10,
            batch_size=_power_of_two(8192 * 4**scale, 1024, 1 << 15),
            learning_rate=0.03,
            weight_decay=weight_decay,
            bias_weight_decay=0.0,
            l2=0.0,
            damping=0.0,
            implicit=True,
            user_implicit_l2=0.0,
            item_implicit_l2=0.0,
            implicit_dropout=0.5,
            features=True,
            feature_l2=0.0,
            feature_weight_decay=5 * weight_decay,
            rating_weight=2.0,
            user_power=0.5,
            n_sampled=None,
            init_std=0.01,
        )
    if architecture == "neural":
        chosen = replace(
            chosen,
            architecture="neural",
            n_factors=None,
            hidden=(64, 32),
            l2=_between(2 * chosen.l2, 0.0, 0.2),
            dropout=0.3,
            layer_rate=0.03,
            layer_weight_decay=0.1,
        )
    given = {name: value for name, value in overrides.items() if value is not None}
    if "hidden" in given:
        given["hidden"] = tuple(given["hidden"])
    return _checked(replace(chosen, **given))


def config_for(
    objective: Objective,
    architecture: Architecture,
    n_ratings: int,
    n_users: int,
    tuned: Mapping[str, Any],
    overrides: Mapping[str, Any] | None = None,
) -> Config:
    """Return the default config, with the tuned values in place of the defaults, and `overrides` in place of both.

    Args:
        tuned: fields of `Config` → values. Names that are not fields, as of another version, are left out.
        overrides: fields of `Config` → values; `None` values leave the field as it is.

    Raises:
        InputError: an override is out of range.
    """
    names = {field.name for field in fields(Config)}
    chosen = {name: value for name, value in tuned.items() if name in names}
    chosen |= {name: value for name, value in (overrides or {}).items() if value is not None}
    return default_config(objective, n_ratings, n_users, architecture=architecture, **chosen)


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
    for name in ("n_epochs", "batch_size"):
        if not getattr(config, name) >= 1:
            raise InputError(f"{name} is {getattr(config, name)}; it must be at least 1")
    if config.n_factors is not None and config.n_factors < 1:
        raise InputError(f"n_factors is {config.n_factors}; it must be at least 1")
    for name in ("learning_rate", "init_std", "layer_rate"):
        if not 0 < getattr(config, name) < math.inf:
            raise InputError(f"{name} is {getattr(config, name)}; it must be above 0")
    for name in (
        "weight_decay",
        "bias_weight_decay",
        "layer_weight_decay",
        "feature_weight_decay",
        "l2",
        "damping",
        "user_implicit_l2",
        "item_implicit_l2",
        "feature_l2",
        "rating_weight",
        "user_power",
    ):
        if not 0 <= getattr(config, name) < math.inf:
            raise InputError(f"{name} is {getattr(config, name)}; it must not be negative")
    if config.n_sampled is not None and config.n_sampled < 0:
        raise InputError(f"n_sampled is {config.n_sampled}; it must be 0, for the whole catalogue, or more")
    for name in ("implicit_dropout", "dropout"):
        if not 0 <= getattr(config, name) < 1:
            raise InputError(f"{name} is {getattr(config, name)}; it must be at least 0 and below 1")
    if config.architecture == "dot":
        if config.n_factors is None:
            raise InputError("n_factors has no value: the dot product needs one width for both sides, such as 64")
        if config.hidden:
            raise InputError(
                "hidden layers belong to the neural architecture: use --architecture neural, or leave them out"
            )
    elif not config.hidden or min(config.hidden) < 1:
        raise InputError("the neural architecture needs at least one hidden layer of width 1 or more, such as 64,32")
    return config
