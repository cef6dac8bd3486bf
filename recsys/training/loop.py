"""The training loop: one explicit pass over epochs and steps, under a one-cycle schedule."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from recsys.errors import DivergedError
from recsys.training.build import EpochRecord, Run
from recsys.training.graphs import GraphedStep, can_graph

MAX_RISE = 0.05
"""Largest rise of the training loss from one epoch to the next, as a share."""
_MAX_RISE_WITHIN = 0.5
"""Largest rise of the mean loss of a part of an epoch over the epoch before: the parts of an epoch differ."""
_CHECKS = 4
"""Times that the loss is looked at in an epoch. On a GPU, each one waits for the device."""

_RISE = 0.25
"""Share of the steps in which the learning rate rises."""
_FLOOR = 0.04
"""Learning rate of the first step as a share of the peak."""


@dataclass(frozen=True, slots=True)
class Hooks:
    """Functions that the loop calls. None of them changes the outcome.

    Attributes:
        on_step: called after every step with (steps done, steps in all).
        validate: called after every epoch; returns the value for its record.
        keep: called after every step, of the last one in an epoch when the history has its record: the run is between
            two steps, so that its state can be saved.
        on_epoch: called after every epoch with its record.
    """

    on_step: Callable[[int, int], None] | None = None
    validate: Callable[[], float] | None = None
    keep: Callable[[], None] | None = None
    on_epoch: Callable[[EpochRecord], None] | None = None


def train_run(run: Run, *, accumulate: int = 1, hooks: Hooks | None = None, may_rise: bool = True) -> None:
    """Train from the run's step to the end.

    Args:
        accumulate: parts that a batch is cut into, see `train_step`.
        may_rise: whether the loss may rise from one epoch to the next by more than `MAX_RISE`.

    Raises:
        DivergedError: the loss is not finite, or rises although it may not.
    """
    hooks = hooks or Hooks()
    started = time.perf_counter() - run.seconds
    n_units, steps_per_epoch, n_steps = run.loss.n_units, run.steps_per_epoch, run.n_steps
    graphed = GraphedStep(run) if accumulate == 1 and can_graph(run) else None
    while run.step < n_steps:
        position = run.step % steps_per_epoch
        if position == 0:
            run.start_epoch()
        start = position * run.batch_units
        stop = min(start + run.batch_units, n_units)
        learning_rate, beta1 = one_cycle(run.step, n_steps, run.peak_rate)
        if graphed and graphed.is_ready(stop - start):
            batch_loss = graphed.step(start, stop, learning_rate, beta1)
        else:
            batch_loss = train_step(run, start, stop, learning_rate, beta1, accumulate=accumulate)
        run.loss_sum += batch_loss * (stop - start)
        run.step += 1
        if stop == n_units or (position + 1) % max(1, steps_per_epoch // _CHECKS) == 0:
            check_loss(run, float(run.loss_sum) / stop, may_rise=may_rise, whole=stop == n_units)
        run.seconds = time.perf_counter() - started
        if hooks.on_step:
            hooks.on_step(run.step, n_steps)
        record = None
        if stop == n_units:
            epoch = run.step // steps_per_epoch
            train_loss = float(run.loss_sum) / n_units
            valid = hooks.validate() if hooks.validate else None
            run.seconds = time.perf_counter() - started
            record = EpochRecord(epoch, train_loss, valid, run.seconds)
            run.history.append(record)
        if hooks.keep:
            hooks.keep()
        if record is not None and hooks.on_epoch:
            hooks.on_epoch(record)
    run.optimizer.settle()


def check_loss(run: Run, loss: float, *, may_rise: bool, whole: bool) -> None:
    """Check the mean loss of the current epoch so far.

    Args:
        may_rise: whether it may be higher than that of the epoch before.
        whole: whether the epoch is over.

    Raises:
        DivergedError: it is not finite, or higher than allowed.
    """
    epoch = -(-run.step // run.steps_per_epoch)
    advice = f"training diverged; use a learning rate below {run.peak_rate:g}"
    if not math.isfinite(loss):
        raise DivergedError(f"the loss of epoch {epoch} is {loss}: {advice}", epoch, loss)
    if may_rise or not run.history:
        return
    before = run.history[-1].train_loss
    # A loss of nearly 0, as where all ratings are equal, rises and falls by chance.
    low, high = run.rating_range or (0.0, 10.0)
    if loss - before > (MAX_RISE if whole else _MAX_RISE_WITHIN) * max(before, 1e-5 * (high - low) ** 2):
        raise DivergedError(f"the loss rose from {before:.4g} to {loss:.4g} in epoch {epoch}: {advice}", epoch, loss)


def train_step(run: Run, start: int, stop: int, learning_rate: float, beta1: float, *, accumulate: int = 1) -> Tensor:
    """Take one step on the units `start` to `stop` and return their mean loss before it: ().

    Args:
        learning_rate, beta1: of AdamW in this step.
        accumulate: parts of nearly the same size to cut the units into, at most one for each unit. They go through the
            model one after the other and their gradients add up, which takes less memory.
    """
    run.optimizer.zero_grad()
    total = torch.zeros((), device=run.model.global_bias.device)
    n_parts = min(accumulate, stop - start)
    for first, last in pairwise(start + (stop - start) * part // n_parts for part in range(n_parts + 1)):
        loss = run.loss.batch(run.model, first, last) * ((last - first) / (stop - start))
        loss.backward()  # type: ignore[no-untyped-call]
        total += loss.detach()
    run.loss.finish(run.model, stop)
    run.optimizer.set_schedule(learning_rate, beta1)
    run.optimizer.step()
    return total


def one_cycle(step: int, n_steps: int, peak: float) -> tuple[float, float]:
    """Return the learning rate and β₁ of a step of the one-cycle schedule.

    The rate rises to the peak in the first quarter of the steps and falls to almost 0 in the rest, both along a
    cosine. β₁ moves the opposite way, between .95 and .85.

    Smith, "A Disciplined Approach to Neural Network Hyper-Parameters", 2018 (arXiv:1803.09820).

    Args:
        step: 0 to `n_steps` − 1.
        peak: highest learning rate.
    """
    rise = _RISE * n_steps
    share = step / rise if step < rise else (n_steps - step) / (n_steps - rise)
    floor = _FLOOR if step < rise else 0.0
    height = (1 - math.cos(math.pi * share)) / 2
    return peak * (floor + (1 - floor) * height), 0.95 - 0.1 * height
