"""A sweep: the same training with several values of one field, each measured on held-out ratings."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal, InvalidOperation
from typing import Any, Literal, get_args

from recsys.data.dataset import Ratings
from recsys.data.scale import validate_ratings
from recsys.errors import InputError, TrainingError
from recsys.factors import Factors
from recsys.training.config import Config
from recsys.training.devices import pick_device
from recsys.training.trial import train_and_measure

SweptField = Literal["weight_decay", "l2", "damping", "learning_rate"]
"""Fields of `Config` that can be swept."""

MOST_VALUES = 20
"""Most values of one sweep."""


@dataclass(frozen=True, slots=True)
class SweepRow:
    """One training of a sweep.

    Attributes:
        value: of the field.
        metric: on the held-out ratings; `None` if training diverged.
        train_loss: of the last epoch, penalty included; `None` if training diverged.
        seconds: duration of training and measuring.
    """

    value: float
    metric: float | None
    train_loss: float | None
    seconds: float


def sweep_values(
    train: Ratings,
    config: Config,
    values: Sequence[float],
    measure: Callable[[Factors], float],
    *,
    field: SweptField = "weight_decay",
    rating_scale: tuple[float, float] | None = None,
    device: str = "auto",
    seed: int = 0,
    on_epoch: Callable[[], None] | None = None,
) -> Iterator[SweepRow]:
    """Train once for each value and measure; yields each row when it is done.

    All trainings have the same seed, and so the same first factors and the same batches: two rows differ by the value
    alone. A difference smaller than that between two seeds means nothing.

    Args:
        train: without the ratings that `measure` looks at.
        config: all other fields.
        measure: returns the metric of factors on held-out ratings. They are held out of the training part, not of the
            test: the best of several values on the same ratings is a little better there than anywhere else.
        field: the field of `Config` to vary.
        on_epoch: called after every epoch.

    Raises:
        InputError: `field` cannot be swept, or a value is out of range.
        TrainingError: there is nothing to train on, or no such device.
    """
    configs = [with_value(config, field, value) for value in values]
    validate_ratings(train, rating_scale)
    pick_device(device)

    def rows() -> Iterator[SweepRow]:
        for each, value in zip(configs, values, strict=True):
            outcome = train_and_measure(
                train, each, measure, rating_scale=rating_scale, device=device, seed=seed, on_epoch=on_epoch
            )
            yield SweepRow(value, outcome.metric, outcome.train_loss, outcome.seconds)

    return rows()


def with_value(config: Config, field: SweptField, value: float) -> Config:
    """Return a config with one field set.

    Raises:
        InputError: the field cannot be swept, or the value is out of range.
    """
    if field not in get_args(SweptField):
        raise InputError(f"{field} cannot be swept; use one of {', '.join(get_args(SweptField))}")
    in_range = value > 0 if field == "learning_rate" else value >= 0
    if not (in_range and math.isfinite(value)):
        raise InputError(
            f"{field} {value:g}: values must be {'above 0' if field == 'learning_rate' else '0 or above'} and finite"
        )
    changed: dict[str, Any] = {field: value}
    return replace(config, **changed)


def multiples_of_ten(text: str) -> list[float]:
    """Return the values of a range in powers of ten: `1e-3:1e1` is [.001, .01, .1, 1, 10].

    Raises:
        InputError: the text is not two numbers above 0, or the upper is not the lower times a power of ten.
    """
    example = "expected LOW:HIGH, as in 1e-3:1e1"
    ends = text.split(":")
    if len(ends) != 2:
        raise InputError(f"'{text}' is not a range of values; {example}")
    try:
        low, high = (Decimal(end.strip()) for end in ends)
    except InvalidOperation:
        raise InputError(f"'{text}' is not a range of values: its ends must be numbers; {example}") from None
    if not (low.is_finite() and high.is_finite() and 0 < low <= high):
        raise InputError(f"'{text}': both ends must be above 0 and the lower one first; {example}")
    n_tens = round(math.log10(high / low))
    if n_tens >= MOST_VALUES:
        raise InputError(f"'{text}' holds {n_tens + 1} values, more than {MOST_VALUES}; bring its ends together")
    if low.scaleb(n_tens) != high:
        raise InputError(
            f"'{text}': values are multiples of ten, and {ends[0].strip()} never becomes {ends[1].strip()}; "
            f"end with {float(low.scaleb(n_tens)):g}"
        )
    return [float(low.scaleb(n)) for n in range(n_tens + 1)]


def best_row(rows: Sequence[SweepRow], higher_is_better: bool) -> SweepRow:
    """Return the row with the best metric, the first of equals.

    Raises:
        TrainingError: every training diverged.
    """
    measured = [row for row in rows if row.metric is not None and math.isfinite(row.metric)]
    if not measured:
        raise TrainingError(
            "training diverged at every value; sweep lower learning rates, or lower values of this field"
        )
    sign = -1.0 if higher_is_better else 1.0
    return min(measured, key=lambda row: sign * (row.metric or 0.0))
