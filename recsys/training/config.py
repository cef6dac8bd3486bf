"""The configuration of a training, and defaults that follow from the data."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from recsys.errors import InputError
from recsys.results import Architecture, Objective

MAX_FULL_CATALOGUE = 20_000
"""Largest catalogue over which the ranking loss of the dot product sums by default."""


_SPREAD_FROM, _SPREAD_POWER = 3500.0, 0.35
"""Effective items above which `ranking` needs less decay, and by which power of them."""


@dataclass(frozen=True, slots=True)
class Config:
    """The settings of one training: everything that decides the outcome, except the data, the seed and the device.

    >>> Learner.fit(data, config=replace(config, weight_decay=0.3))     # doctest: +SKIP

    Attributes:
        objective: `rating` or `ranking`.
        architecture: `dot`, `neural`, `item` or `blend`.
        n_factors: width of the embeddings. `None`: each side by `embedding_width`, only with `neural`; 0 with `item`.
        n_epochs: passes over the training set.
        batch_size: ratings per step. Under `ranking`, a batch is the users that have about that many.
        learning_rate: AdamW's learning rate at the peak of the one-cycle schedule.
        weight_decay: AdamW's decoupled decay of the own and the implicit factors.
        bias_weight_decay: AdamW's decoupled decay of the biases.
        l2: penalty inside the loss, once per rating, on the own factors of its user and item. Not the same number as
            `weight_decay`.
        damping: penalty inside the `rating` loss, once an epoch, on the own factors and bias of every user and item.
            No effect under `ranking`.
        implicit: whether the factors of a user include the implicit factors of the items they rated, and under
            `rating` those of an item the implicit factors of its users. See `SideModule`.
        user_implicit_l2, item_implicit_l2: penalty once an epoch on the implicit factors; `rating` only.
        implicit_dropout: share of a user's ratings hidden from their factors at each step; `ranking` only.
        features: whether factors and biases include those of the users' and items' features.
        feature_l2: penalty once an epoch on the features' factors and biases; `rating` only.
        feature_weight_decay: AdamW's decay of the features' factors. A feature learns from many rows at every step,
            and stronger decay leaves to each row what is its own.
        rating_weight: under `ranking`, how much more the highest rating weighs than the lowest, as a share of the
            mean weight.
        user_power: under `ranking`, the exponent by which users with more ratings weigh less per rating.
        n_sampled: under `ranking`, candidates that stand for the catalogue. 0: the whole catalogue; `None`: by its
            size.
        hidden: widths of the layers of the neural model.
        dropout: share of each layer's inputs left out at each step.
        batch_norm: whether each layer's inputs are normalised over the batch.
        layer_rate: learning rate of the layers as a share of `learning_rate`: layers learn from every rating,
            factors only from their own.
        layer_weight_decay: AdamW's decay of the layers.
        init_std: standard deviation of the factors before training.
        item_l2: λ, the penalty on the weights between items. `None`: found on a validation part of the training set.
            These fields are of `item` and `blend` only.
        item_power: power of its popularity by which an item's weights are divided. `None`: found there too.
        item_dropout: share of a user's items whose loss the weights between items are penalised for.
        popularity: strength of an item's popularity beside the weights. `None`: found there too.
        n_neighbours: weights that are kept for each item, in the mean.
        alpha: by how much the weights between items are multiplied in `blend`. `None`: found on the validation part.
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
    item_l2: float | None = None
    item_power: float | None = None
    item_dropout: float = 0.0
    popularity: float | None = None
    n_neighbours: int = 0
    alpha: float | None = None

    def as_record(self) -> dict[str, Any]:
        """Return the fields with JSON's types."""
        return {**asdict(self), "hidden": list(self.hidden)}

    def n_sampled_of(self, n_items: int) -> int:
        """Return the number of candidates that stand for a catalogue of `n_items` items; 0: the whole catalogue."""
        if self.n_sampled is not None:
            return self.n_sampled
        if self.architecture == "neural":
            return min(1024, n_items)
        return 8192 if n_items > MAX_FULL_CATALOGUE else 0

    def check(self) -> None:
        """Check that every setting is in its range.

        Raises:
            InputError: a setting is out of range.
        """
        for name in ("n_epochs", "batch_size"):
            if not getattr(self, name) >= 1:
                raise InputError(f"{name} is {getattr(self, name)}; it must be at least 1")
        for name in ("learning_rate", "init_std", "layer_rate"):
            if not 0 < getattr(self, name) < math.inf:
                raise InputError(f"{name} is {getattr(self, name)}; it must be above 0")
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
            if not 0 <= getattr(self, name) < math.inf:
                raise InputError(f"{name} is {getattr(self, name)}; it must not be negative")
        if self.n_sampled is not None and self.n_sampled < 0:
            raise InputError(f"n_sampled is {self.n_sampled}; it must be 0, for the whole catalogue, or more")
        for name in ("implicit_dropout", "dropout", "item_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}; it must be at least 0 and below 1")
        if self.architecture in ("item", "blend"):
            self._check_item()
        if self.architecture == "item":
            if self.n_factors:
                raise InputError(f"n_factors is {self.n_factors}; the item architecture has no factors: leave it out")
        elif self.n_factors is not None and self.n_factors < 1:
            raise InputError(f"n_factors is {self.n_factors}; it must be at least 1")
        if self.architecture != "neural":
            if self.n_factors is None:
                raise InputError("n_factors has no value: the dot product needs one width for both sides, such as 64")
            if self.hidden:
                raise InputError(
                    "hidden layers belong to the neural architecture: use --architecture neural, or leave them out"
                )
        elif not self.hidden or min(self.hidden) < 1:
            raise InputError(
                "the neural architecture needs at least one hidden layer of width 1 or more, such as 64,32"
            )

    def _check_item(self) -> None:
        """Check the settings of weights between items.

        Raises:
            InputError: a setting is out of range.
        """
        if self.objective != "ranking":
            raise InputError(
                "weights between items order lists and predict no ratings: use --objective ranking, or another "
                "architecture"
            )
        if self.item_l2 is not None and not 0 < self.item_l2 < math.inf:
            raise InputError(f"item_l2 is {self.item_l2}; it must be above 0")
        for name in ("item_power", "popularity", "alpha"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < math.inf:
                raise InputError(f"{name} is {value}; it must not be negative")
        if self.n_neighbours < 1:
            raise InputError(f"n_neighbours is {self.n_neighbours}; it must be at least 1")


def default_config(
    objective: Objective,
    n_ratings: int,
    n_users: int | None = None,
    effective_items: float | None = None,
    *,
    architecture: Architecture = "dot",
    **overrides: Any,
) -> Config:
    """Return settings that train well untuned, chosen by the numbers of ratings and users and by popularity.

    >>> default_config("ranking", 100_000, 943, n_factors=32).n_factors
    32

    They were found on validation parts of the training folds of MovieLens 100K and 1M, interpolated linearly in
    log(n_ratings), and checked on ml-latest-small and MovieTweetings 10K and 50K. More ratings allow more factors and
    larger batches and need less l2. Above 1M ratings the values are extrapolated. Fewer than 50 ratings per user need
    more decay to rank well, and popularity that is spread over many items needs less: found on validation parts of
    Yelp2018 and Gowalla. To predict ratings, they need less damping and a lower learning rate, found on MovieTweetings.

    Args:
        n_ratings: ratings of the training set.
        n_users: users of the training set. `None`: assume 50 ratings or more of each.
        effective_items: `Ratings.effective_items` of the training set. `None`: assume a few thousand or less.
        overrides: values of other fields of `Config`. `None` stands for the default.

    Raises:
        InputError: an override is out of range.
    """
    scale = math.log10(max(n_ratings, 1) / 1e5)  # 0 for MovieLens 100K, 1 for 1M
    sparse = 1.0 if n_users is None else min(max(math.sqrt(50 * n_users / max(n_ratings, 1)), 1.0), 4.0)
    if objective == "rating":
        chosen = Config(
            objective="rating",
            n_factors=64 if scale < 1.5 else 128,
            n_epochs=15 if scale < 0.5 else 10 if scale < 1.5 else 5,
            batch_size=power_of_two_within(1024 * (8 if scale > 0 else 4) ** scale, 64, 1 << 17),
            learning_rate=round_within(0.006 / sparse**0.6, 0.003, 0.006),
            weight_decay=0.0,
            bias_weight_decay=0.0,
            l2=round_within(0.08 * 0.4**scale, 0.01, 0.1),
            damping=round_within(4 / sparse, 2.5, 4),
            implicit=True,
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
        spread = max((effective_items or 0.0) / _SPREAD_FROM, 1.0)
        weight_decay = round_within(sparse * min(max(2 + scale, 2), 4) / spread**_SPREAD_POWER, 0.5, 16)
        chosen = Config(
            objective="ranking",
            n_factors=64 if scale < 0.5 else 128,
            n_epochs=20 if scale < 0.5 else 10,
            batch_size=power_of_two_within(8192 * 4**scale, 1024, 1 << 15),
            learning_rate=0.01,
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
            l2=round_within(2 * chosen.l2, 0.0, 0.2),
            dropout=0.3,
            layer_rate=0.03,
            layer_weight_decay=0.1,
        )
    given = {name: value for name, value in overrides.items() if value is not None}
    if architecture in ("item", "blend"):
        chosen = replace(chosen, architecture=architecture, item_dropout=0.5, n_neighbours=100)
    if architecture == "item":
        chosen = replace(chosen, n_factors=0, n_epochs=1, features=False)
        given.pop("n_factors", None)  # a setting of other architectures, as it may stand in recsys.toml
    if "hidden" in given:
        given["hidden"] = tuple(given["hidden"])
    config = replace(chosen, **given)
    config.check()
    return config


def config_for(
    objective: Objective,
    architecture: Architecture,
    n_ratings: int,
    n_users: int,
    effective_items: float,
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
    return default_config(objective, n_ratings, n_users, effective_items, architecture=architecture, **chosen)


def round_within(value: float, low: float, high: float) -> float:
    """Return `value`, limited to low … high, to two significant digits."""
    return float(f"{min(max(value, low), high):.2g}")


def power_of_two_within(value: float, low: int, high: int) -> int:
    """Return the power of two nearest to `value` in its logarithm, limited to low … high."""
    return int(min(max(2 ** round(math.log2(value)), low), high))
