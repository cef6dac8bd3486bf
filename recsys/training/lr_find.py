"""Learning-rate range test: one short training under an ever higher learning rate, and what its losses suggest.

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
from recsys.training.config import Config
from recsys.training.fit import pick_device, stepped, untrained

LOWEST, HIGHEST = 1e-5, 10.0
N_STEPS = 200

_KEPT = 0.98
"""Share of the smoothed loss that a step leaves: fastai's."""
_DIVERGED = 4.0
"""The test ends when the smoothed loss is this many times the lowest one: fastai's."""
_BETA1 = 0.9
"""Halfway between the ends that `one_cycle` moves it between."""
_WINDOW_DECADES = 0.5
"""Over how wide a range of learning rates a descent must last for `slide`."""

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class LrFind:
    """A learning-rate range test.

    Attributes:
        learning_rates: (n_steps,) growing by the same factor from step to step; ends early where training diverged.
        losses: (n_steps,) loss of each step's batch before the step, freed of what makes batches differ: less the
            loss of the untrained model on the same batch, plus the mean of those.
        smoothed: (n_steps,) the same, `smooth`ed.
        valley, slide: suggested peaks of the learning rate, by the functions of these names.
        fall: how far the smoothed loss fell, as a share of the first one. A test that fell by less than a
            hundredth saw little of the training, and its suggestions are worth as little.
    """

    learning_rates: Floats
    losses: Floats
    smoothed: Floats
    valley: float
    slide: float

    @property
    def fall(self) -> float:
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
    """Train under a growing learning rate and suggest one for `Config.learning_rate`.

        lr_t = lowest · (highest / lowest)^(t / (n_steps − 1)),   t = 0 … n_steps − 1

    Model, objective, batches and optimiser are those of `fit`; epochs begin anew until the steps are done. The test
    ends where a loss is no number, or the smoothed loss four times the lowest one. Global random state is neither
    read nor changed; on the CPU the same seed gives the same bits.

    Batches differ by more than a short training changes: one of eager users has a higher ranking loss than one of
    casual users. So every batch is also shown to the untrained model, and only the difference is looked at.

    Args:
        train: users and items without ratings are left out of the model.
        config: its `learning_rate` and `n_epochs` are without effect.
        rating_scale: as in `fit`.
        on_step: called after every step with (steps done, steps in all).

    Raises:
        InputError: no range of learning rates, or too few steps.
        TrainingError: there is nothing to train on, no such device, or the loss falls at no learning rate.
    """
    if not 0 < lowest < highest < math.inf:
        raise InputError(
            f"learning rates from {lowest:g} to {highest:g}: the lower must be above 0, the upper above it"
        )
    if n_steps < 20:
        raise InputError(f"{n_steps} steps are too few for a range test; use 20 or more (--steps {N_STEPS})")
    train = validate_ratings(train, rating_scale)
    generator = torch.Generator(pick_device(device)).manual_seed(seed)
    model, loss, _, optimizer = untrained(train, config, rating_scale, generator)
    first_model = copy.deepcopy(model)
    size = loss.units_of(config.batch_size)

    learning_rates = np.geomspace(lowest, highest, n_steps)
    gained, at_first = np.empty(n_steps), np.empty(n_steps)
    start, mean_gained, least = loss.n_units, 0.0, math.inf
    n_done = 0
    for step, learning_rate in enumerate(learning_rates.tolist()):
        if start >= loss.n_units:
            loss.shuffle(generator)
            start = 0
        stop = min(start + size, loss.n_units)
        with torch.no_grad():
            before = float(loss.batch(first_model, start, stop))
        after = float(stepped(model, loss, optimizer, start, stop, learning_rate, _BETA1))
        start = stop
        if on_step:
            on_step(step + 1, n_steps)
        if not math.isfinite(after):
            break
        gained[step], at_first[step] = after - before, before
        n_done = step + 1
        mean_gained = _KEPT * mean_gained + (1 - _KEPT) * gained[step]
        smoothed = at_first[:n_done].mean() + mean_gained / (1 - _KEPT**n_done)
        least = min(least, smoothed)
        if smoothed > _DIVERGED * least:
            break
    if n_done < 3:
        raise TrainingError(
            f"training diverged at once, at learning rate {lowest:g}; begin lower (--from {lowest / 100:g})"
        )

    losses = at_first[:n_done].mean() + gained[:n_done]
    curve = smooth(losses)
    tested = learning_rates[:n_done]
    return LrFind(tested, losses, curve, valley(tested, curve), slide(tested, curve))


def smooth(losses: Floats, kept: float = _KEPT) -> Floats:
    """Exponential moving average without the pull to zero of its start: (n,) → (n,).

        m_t = kept · m_{t−1} + (1 − kept) · loss_t,   m_0 = 0,   smoothed_t = m_t / (1 − kept^t)

    Kingma & Ba, "Adam", ICLR 2015, section 3; fastai's `lr_find` smooths with kept = .98 too.
    """
    smoothed = np.empty(len(losses))
    mean = 0.0
    for t, loss in enumerate(losses.tolist(), start=1):
        mean = kept * mean + (1 - kept) * loss
        smoothed[t - 1] = mean / (1 - kept**t)
    return smoothed


def valley(learning_rates: Floats, smoothed: Floats) -> float:
    """The point two thirds along the longest descent, on the logarithmic axis of the learning rate.

    The longest descent is the longest subsequence of losses in which each is lower than the one before; bumps may
    lie between. After fastai's `valley` (fastai/callback/schedule.py), the default of its `lr_find`, which is
    described as lying two thirds along, though its code, which adds a third and half a third, takes the middle.

    Args:
        learning_rates, smoothed: (n,) of each step, ascending in the learning rate.

    Raises:
        TrainingError: the loss nowhere falls.
    """
    n = len(smoothed)
    length = np.ones(n, np.int64)  # of the longest descent that ends here
    begins = np.arange(n)
    for end in range(1, n):
        reachable = np.where(smoothed[:end] > smoothed[end], length[:end], 0)
        via = end - 1 - int(reachable[::-1].argmax())  # the last of equals: a level stretch is no descent
        if reachable[via]:
            length[end], begins[end] = reachable[via] + 1, begins[via]
    end = int(length.argmax())
    if length[end] < 2:
        raise _nowhere(learning_rates)
    low, high = np.log(learning_rates[[begins[end], end]])
    return float(np.exp(low + (high - low) * 2 / 3))


def slide(learning_rates: Floats, smoothed: Floats) -> float:
    """The middle of the steepest sustained descent.

    Of all stretches of half a decade of learning rates the one with the lowest

        slope = Σ (x − x̄) · y / Σ (x − x̄)²,   x = log lr, y = smoothed loss,

    the least-squares line through it, so that a single lucky batch is no descent. Smith's reading of the plot made
    a rule; fastai's `slide`, which walks in from the right until the gradient differs little, depends on the scale of
    the loss and the number of steps.

    Args:
        learning_rates, smoothed: (n,) of each step, growing by the same factor from step to step.

    Raises:
        TrainingError: the loss nowhere falls over such a stretch.
    """
    x = np.log(learning_rates)
    width = round(_WINDOW_DECADES * math.log(10) / (x[1] - x[0])) + 1
    width = min(max(width, 3), len(x))
    offset = x[:width] - x[:width].mean()  # (width,), the same in every stretch
    slopes = np.lib.stride_tricks.sliding_window_view(smoothed, width) @ offset / (offset @ offset)
    first = int(slopes.argmin())
    if not slopes[first] < 0:
        raise _nowhere(learning_rates)
    return float(np.exp(x[first : first + width].mean()))


def _nowhere(learning_rates: Floats) -> TrainingError:
    return TrainingError(
        f"the loss falls nowhere between learning rates {learning_rates[0]:.3g} and {learning_rates[-1]:.3g}: "
        "the biases explain these ratings already, or the range is too high; begin lower (--from) or load more ratings"
    )
