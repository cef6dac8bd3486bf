"""A sweep: the same training with one setting at several values, each measured on held-out ratings."""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal, InvalidOperation
from typing import Literal, get_args

from recsys.data.dataset import Ratings
from recsys.data.scale import validate_ratings
from recsys.errors import InputError, TrainingError
from recsys.factors import Factors
from recsys.training.config import Config
from recsys.training.fit import fit, pick_device

Field = Literal["weight_decay", "l2", "damping", "learning_rate"]
FIELDS: tuple[Field, ...] = get_args(Field)

_MOST_VALUES = 20


@dataclass(frozen=True, slots=True)
class SweepRow:
    """One training.

    Attributes:
        value: of the setting.
        metric: on the held-out ratings; None where training diverged.
        train_loss: of the last epoch, penalty included; None where training diverged.
        seconds: training and measuring.
    """

    value: float
    metric: float | None
    train_loss: float | None
    seconds: float


def sweep(
    train: Ratings,
    config: Config,
    values: Sequence[float],
    measure: Callable[[Factors], float],
    *,
    field: Field = "weight_decay",
    rating_scale: tuple[float, float] | None = None,
    device: str = "auto",
    seed: int = 0,
    on_epoch: Callable[[], None] | None = None,
) -> Iterator[SweepRow]:
    """Train once for each value and measure; yields a row as soon as it is there.

    All trainings have the same seed, and so the same first factors and the same batches: what differs between two
    rows is the setting. The seed still leaves its mark on every row; differences of less than a seed makes mean
    nothing.

    Args:
        train: without the ratings that `measure` looks at.
        config: everything but the setting.
        measure: the metric of factors on held-out ratings. Held out of the training part, not the test: the best
            of several values on the same ratings is a little better there than anywhere else.
        field: the setting of `Config` to vary.
        on_epoch: called after every epoch.

    Raises:
        InputError: `field` is none of those that can be swept, or a value is out of range.
        TrainingError: there is nothing to train on, or no such device.
    """
    configs = [_with(config, field, value) for value in values]
    validate_ratings(train, rating_scale)
    pick_device(device)
    return _rows(train, configs, values, measure, rating_scale, device, seed, on_epoch)


def multiples_of_ten(text: str) -> list[float]:
    """`1e-3:1e1` → [.001, .01, .1, 1, 10]: from the lower end by tens to the upper, both included.

    Raises:
        InputError: not two numbers above 0, or the upper is not the lower times a power of ten.
    """
    example = "expected LOW:HIGH, as in 1e-3:1e1"
    ends = text.split(":")
    if len(ends) != 2:
        raise InputError(f"'{text}' is no range of values; {example}")
    try:
        low, high = (Decimal(end.strip()) for end in ends)
    except InvalidOperation:
        raise InputError(f"'{text}' is no range of values: its ends must be numbers; {example}") from None
    if not (low.is_finite() and high.is_finite() and 0 < low <= high):
        raise InputError(f"'{text}': both ends must be above 0 and the lower one first; {example}")
    n_tens = round(math.log10(high / low))
    if n_tens >= _MOST_VALUES:
        raise InputError(f"'{text}' holds {n_tens + 1} values, more than {_MOST_VALUES}; bring its ends together")
    if low.scaleb(n_tens) != high:
        raise InputError(
            f"'{text}': values are multiples of ten, and {ends[0].strip()} never becomes {ends[1].strip()}; "
            f"end with {float(low.scaleb(n_tens)):g}"
        )
    return [float(low.scaleb(n)) for n in range(n_tens + 1)]


def best(rows: Sequence[SweepRow], higher_is_better: bool) -> SweepRow:
    """The row with the best metric, the first of equals.

    Raises:
        TrainingError: every training diverged.
    """
    measured = [row for row in rows if row.metric is not None and math.isfinite(row.metric)]
    if not measured:
        raise TrainingError("training diverged at every value; sweep lower learning rates, or lower values of this one")
    sign = -1.0 if higher_is_better else 1.0
    return min(measured, key=lambda row: sign * (row.metric or 0.0))


def _with(config: Config, field: Field, value: float) -> Config:
    if field not in FIELDS:
        raise InputError(f"{field} cannot be swept; use one of {', '.join(FIELDS)}")
    above = value > 0 if field == "learning_rate" else value >= 0
    if not (above and math.isfinite(value)):
        raise InputError(
            f"{field} {value:g}: values must be {'above 0' if field == 'learning_rate' else '0 or above'} and finite"
        )
    match field:
        case "weight_decay":
            return replace(config, weight_decay=value)
        case "l2":
            return replace(config, l2=value)
        case "damping":
            return replace(config, damping=value)
        case "learning_rate":
            return replace(config, learning_rate=value)


def _rows(
    train: Ratings,
    configs: Sequence[Config],
    values: Sequence[float],
    measure: Callable[[Factors], float],
    rating_scale: tuple[float, float] | None,
    device: str,
    seed: int,
    on_epoch: Callable[[], None] | None,
) -> Iterator[SweepRow]:
    for config, value in zip(configs, values, strict=True):
        started = time.perf_counter()
        metric: float | None = None
        train_loss: float | None = None
        try:
            fitted = fit(
                train,
                config,
                rating_scale=rating_scale,
                device=device,
                seed=seed,
                on_epoch=(lambda _: on_epoch()) if on_epoch else None,
            )
            metric, train_loss = measure(fitted.factors), fitted.history[-1].train_loss
        except TrainingError:  # it diverged: data and device were looked at before
            pass
        yield SweepRow(value, metric, train_loss, time.perf_counter() - started)
