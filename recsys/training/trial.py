"""One training with one config, measured: the step that a sweep and a search repeat."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

from recsys.data.dataset import Ratings
from recsys.errors import TrainingError
from recsys.factors import Factors
from recsys.training.config import Config
from recsys.training.fit import fit


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one training came to.

    Attributes:
        metric: on the held-out ratings; `None` if training diverged, or did not fit into the memory of the device.
        train_loss: of the last epoch, penalty included; `None` as for `metric`.
        seconds: duration of training and measuring.
    """

    metric: float | None
    train_loss: float | None
    seconds: float


def train_and_measure(
    train: Ratings,
    config: Config,
    measure: Callable[[Factors], float],
    *,
    rating_scale: tuple[float, float] | None,
    device: str,
    seed: int,
    on_epoch: Callable[[], None] | None = None,
) -> Outcome:
    """Train with a config and measure the factors; a training that diverges is an outcome, not an error.

    The caller has checked the ratings and the device, so that a `TrainingError` can only come from the config.

    Args:
        measure: returns the metric of factors on held-out ratings.
        on_epoch: called after every epoch.
    """
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
            restarts=False,  # with a lower rate it would be the outcome of another config
            on_epoch=(lambda _: on_epoch()) if on_epoch else None,
        )
        measured = measure(fitted.factors)
        if math.isfinite(measured):
            metric, train_loss = measured, fitted.history[-1].train_loss
    except TrainingError:
        pass
    return Outcome(metric, train_loss, time.perf_counter() - started)
