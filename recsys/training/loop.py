"""The training loop: one explicit pass over epochs and steps, under a one-cycle schedule."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from recsys.errors import TrainingError
from recsys.training.build import EpochRecord, Run
from recsys.training.graphs import GraphedStep, can_graph

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


def train_run(run: Run, *, accumulate: int = 1, hooks: Hooks | None = None) -> None:
    """Train from the run's step to the end.

    Args:
        accumulate: parts that a batch is cut into, see `train_step`.

    Raises:
        TrainingError: the mean loss of an epoch is not finite.
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
        run.seconds = time.perf_counter() - started
        if hooks.on_step:
            hooks.on_step(run.step, n_steps)
        record = None
        if stop == n_units:
            epoch = run.step // steps_per_epoch
            train_loss = float(run.loss_sum) / n_units
            if not math.isfinite(train_loss):
                raise TrainingError(
                    f"the loss of epoch {epoch} is {train_loss}: training diverged; "
                    f"use a learning rate below {run.peak_rate:g}"
                )
            valid = hooks.validate() if hooks.validate else None
            run.seconds = time.perf_counter() - started
            record = EpochRecord(epoch, train_loss, valid, run.seconds)
            run.history.append(record)
        if hooks.keep:
            hooks.keep()
        if record is not None and hooks.on_epoch:
            hooks.on_epoch(record)


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
