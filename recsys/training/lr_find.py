"""Learning-rate range test: one short training under a growing learning rate, and the rates that its losses suggest.

Smith, "Cyclical Learning Rates for Training Neural Networks", WACV 2017 (arXiv:1506.01186), section 3.3, with the
exponential growth and the smoothing of fastai's `lr_find`.
"""

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from recsys.data.dataset import Ratings
from recsys.data.scale import validate_ratings
from recsys.errors import InputError, TrainingError
from recsys.training.build import build
from recsys.training.config import Config
from recsys.training.devices import pick_device
from recsys.training.loop import train_step

LOWEST, HIGHEST = 1e-5, 10.0
N_STEPS = 200

_SMOOTHING = 0.98
"""Weight of the past in the smoothed loss: fastai's value."""
_DIVERGED = 4.0
"""The test ends when the smoothed loss is this many times the lowest one: fastai's value."""
_BETA1 = 0.9
"""The middle of the range of β₁ in `one_cycle`."""
_WINDOW_DECADES = 0.5
"""Width of the range of learning rates over which `slide` fits a line."""

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class LrFind:
    """The result of a learning-rate range test.

    Attributes:
        learning_rates: (n_steps,) growing by the same factor from step to step, fewer if training diverged.
        losses: (n_steps,) loss of each step's batch before the step, minus the loss of the untrained model on the
            same batch, plus the mean of the latter over all steps.
        smoothed: (n_steps,) `losses` after `smooth`.
        valley, slide: suggested peaks of the learning rate, by the functions of these names.
    """

    learning_rates: Floats
    losses: Floats
    smoothed: Floats
    valley: float
    slide: float

    @property
    def fall(self) -> float:
        """How far the smoothed loss fell, as a share of the first one.

        Below a hundredth, the test saw so little of the training that its suggestions are not reliable.
        """
        return float(1 - self.smoothed.min() / self.smoothed[0])


def lr_find(
    train: Ratings,
    config: Config,
    *,
    rating_scale: tuple[float, float] | None = None,
    lowest: float = LOWEST,
    highest: float = HIGHEST,
    n_steps: int = N_STEPS,
    device: str = "auto",
    seed: int = 0,
    on_step: Callable[[int, int], None] | None = None,
) -> LrFind:
    """Train under a growing learning rate and suggest a value for `Config.learning_rate`.

        lr_t = lowest · (highest / lowest)^(t / (n_steps − 1)),   t = 0 … n_steps − 1

    Model, objective, batches and optimiser are those of `fit`. Epochs follow each other until the steps are done. The
    test ends early if a loss is not finite, or the smoothed loss is four times the lowest one. Global random state is
    neither read nor changed. On the CPU the same seed gives the same bits.

    The losses of two batches differ by more than a short training changes them: users with many ratings have a higher
    ranking loss than users with few. So the loss of the untrained model on the same batch is subtracted.

    Args:
        train: users and items without ratings are left out of the model.
        config: its `learning_rate` and `n_epochs` have no effect.
        rating_scale: as in `fit`.
        on_step: called after every step with (steps done, steps in all).

    Raises:
        InputError: the range of learning rates is empty, or there are too few steps.
        TrainingError: there are no ratings to train on, the device is missing, or the loss falls at no learning rate.
    """
    if not 0 < lowest < highest < math.inf:
        raise InputError(
            f"learning rates from {lowest:g} to {highest:g}: the lower must be above 0, the upper above it"
        )
    if n_steps < 20:
        raise InputError(f"{n_steps} steps are too few for a range test; use 20 or more (--steps {N_STEPS})")
    train = validate_ratings(train, rating_scale)
    generator = torch.Generator(pick_device(device)).manual_seed(seed)
    run = build(train, config, rating_scale, generator)
    untrained_model = copy.deepcopy(run.model)
    loss = run.loss

    learning_rates = np.geomspace(lowest, highest, n_steps)
    change, untrained_loss = np.empty(n_steps), np.empty(n_steps)
    start, mean_change, lowest_loss = loss.n_units, 0.0, math.inf
    n_done = 0
    for step, learning_rate in enumerate(learning_rates.tolist()):
        if start >= loss.n_units:
            run.start_epoch()
            start = 0
        stop = min(start + run.batch_units, loss.n_units)
        with torch.no_grad():
            before = float(loss.batch(untrained_model, start, stop))
        after = float(train_step(run, start, stop, learning_rate, _BETA1))
        start = stop
        if on_step:
            on_step(step + 1, n_steps)
        if not math.isfinite(after):
            break
        change[step], untrained_loss[step] = after - before, before
        n_done = step + 1
        mean_change = _SMOOTHING * mean_change + (1 - _SMOOTHING) * change[step]
        smoothed = untrained_loss[:n_done].mean() + mean_change / (1 - _SMOOTHING**n_done)
        lowest_loss = min(lowest_loss, smoothed)
        if smoothed > _DIVERGED * lowest_loss:
            break
    if n_done < 3:
        raise TrainingError(
            f"training diverged at once, at learning rate {lowest:g}; begin lower (--from {lowest / 100:g})"
        )

    losses = untrained_loss[:n_done].mean() + change[:n_done]
    curve = smooth(losses)
    tested = learning_rates[:n_done]
    return LrFind(tested, losses, curve, valley(tested, curve), slide(tested, curve))


def smooth(losses: Floats, smoothing: float = _SMOOTHING) -> Floats:
    """Return the exponential moving average, corrected for its start at 0: (n,) → (n,).

        m_t = s · m_{t−1} + (1 − s) · loss_t,   m_0 = 0,   smoothed_t = m_t / (1 − s^t),   s = `smoothing`

    Kingma & Ba, "Adam", ICLR 2015, section 3. fastai's `lr_find` has s = .98 too.
    """
    smoothed = np.empty(len(losses))
    mean = 0.0
    for t, loss in enumerate(losses.tolist(), start=1):
        mean = smoothing * mean + (1 - smoothing) * loss
        smoothed[t - 1] = mean / (1 - smoothing**t)
    return smoothed


def valley(learning_rates: Floats, smoothed: Floats) -> float:
    """Return the learning rate two thirds along the longest descent, on the logarithmic axis of the learning rate.

    The longest descent is the longest subsequence of losses in which each is lower than the one before; it may skip
    losses. After fastai's `valley` (fastai/callback/schedule.py), the default of its `lr_find`. Its documentation says
    two thirds; its code, which adds a third and half a third, takes the middle.

    Args:
        learning_rates, smoothed: (n,) of each step, ascending in the learning rate.

    Raises:
        TrainingError: the loss never falls.
    """
    n = len(smoothed)
    length = np.ones(n, np.int64)  # of the longest descent that ends here
    begins = np.arange(n)
    for end in range(1, n):
        reachable = np.where(smoothed[:end] > smoothed[end], length[:end], 0)
        via = end - 1 - int(reachable[::-1].argmax())  # the last of equal ones: a plateau is not a descent
        if reachable[via]:
            length[end], begins[end] = reachable[via] + 1, begins[via]
    end = int(length.argmax())
    if length[end] < 2:
        raise no_descent(learning_rates)
    low, high = np.log(learning_rates[[begins[end], end]])
    return float(np.exp(low + (high - low) * 2 / 3))


def slide(learning_rates: Floats, smoothed: Floats) -> float:
    """Return the middle of the steepest sustained descent.

    Of all windows of half a decade of learning rates it takes the one with the lowest least-squares slope

        slope = Σ (x − x̄) · y / Σ (x − x̄)²,   x = log lr, y = smoothed loss

    so that one batch with a low loss does not count as a descent. This makes Smith's reading of the plot a rule.
    fastai's `slide` walks in from the right until the gradient differs little, which depends on the scale of the loss
    and the number of steps.

    Args:
        learning_rates, smoothed: (n,) of each step, growing by the same factor from step to step.

    Raises:
        TrainingError: the loss falls in no such window.
    """
    x = np.log(learning_rates)
    width = round(_WINDOW_DECADES * math.log(10) / (x[1] - x[0])) + 1
    width = min(max(width, 3), len(x))
    offset = x[:width] - x[:width].mean()  # (width,), the same in every window
    slopes = np.lib.stride_tricks.sliding_window_view(smoothed, width) @ offset / (offset @ offset)
    first = int(slopes.argmin())
    if not slopes[first] < 0:
        raise no_descent(learning_rates)
    return float(np.exp(x[first : first + width].mean()))


def no_descent(learning_rates: Floats) -> TrainingError:
    """Return the error for a loss that falls at no learning rate."""
    return TrainingError(
        f"the loss falls nowhere between learning rates {learning_rates[0]:.3g} and {learning_rates[-1]:.3g}: "
        "the biases explain these ratings already, or the range is too high; begin lower (--from) or load more ratings"
    )
