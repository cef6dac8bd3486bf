"""The training loop over ranks: the same steps, in the same order, on any number of ranks."""

import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch

from recsys.errors import DivergedError
from recsys.training.build import EpochRecord
from recsys.training.config import Config
from recsys.training.loop import MAX_RISE, one_cycle
from recsys.training.ranks.biases import Biases
from recsys.training.ranks.checkpoint import RankCheckpoint
from recsys.training.ranks.group import Group
from recsys.training.ranks.partition import Partition
from recsys.training.ranks.ranking import RankingSteps, users_of_batch
from recsys.training.ranks.rating import RatingSteps
from recsys.training.ranks.tables import Tables
from recsys.training.ranks.windows import Schedule, Window

_log = logging.getLogger(__name__)

FEWEST_WATCHED = 1000
"""Ratings below which the loss may rise."""


class Steps(Protocol):
    """What an objective does in the windows of an epoch."""

    def enter(self, window: Window) -> None:
        """Prepare for the steps of a window."""
        ...

    def step(self, number: int, learning_rate: float, beta1: float) -> None:
        """Take a step of the window."""
        ...

    def leave(self) -> float:
        """End the window, and return the sum of its losses of all ranks."""
        ...


@dataclass(slots=True)
class RankRun:
    """A training over ranks.

    Attributes:
        tables: of this rank.
        history: a record of each finished epoch.
        seconds: spent, with the parts before a continuation.
        cpu_seconds: of processor time of this rank since the start or the continuation.
        step_bytes: bytes that this rank sent in each step since then.
    """

    tables: Tables
    history: list[EpochRecord] = field(default_factory=list)
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    step_bytes: list[int] = field(default_factory=list)


def train_ranks(
    group: Group,
    data: Partition,
    config: Config,
    seed: int,
    *,
    biases: Biases | None = None,
    checkpoint: RankCheckpoint | None = None,
    on_step: Callable[[int, int], None] | None = None,
    on_epoch: Callable[[EpochRecord], None] | None = None,
) -> RankRun:
    """Train a dot product over ranks.

    AdamW on a one-cycle schedule, with as many steps as a training in one process: the batches, and the numbers that
    the tables start with, do not depend on the number of ranks.

    Args:
        biases: those that `rating` starts with.
        checkpoint: where to save the state, and to continue from.
        on_step: called after every step with (steps done, steps in all).
        on_epoch: called after every epoch with its record.

    Raises:
        DivergedError: the loss is not finite, or rises.
        TrainingError: a rank was lost, or the checkpoint cannot be used.
    """
    tables = Tables(group, data, config, seed)
    steps, schedule = build_steps(group, data, tables, config, seed)
    start_biases(tables, data, config, biases)
    run = RankRun(tables)
    n_steps = config.n_epochs * schedule.steps_per_epoch
    step, loss_sum = 0, 0.0
    if checkpoint is not None and (found := checkpoint.restore(tables)) is not None:
        step, loss_sum, run.seconds = found["step"], found["loss_sum"], found["seconds"]
        run.history = [EpochRecord(**record) for record in found["history"]]
        _log.info("training continues from a checkpoint", extra={"step": step, "steps": n_steps})
    started, cpu_started = time.perf_counter() - run.seconds, time.process_time()
    for plan in schedule.from_step(step, config.n_epochs):
        steps.enter(schedule.load(plan, tables.lanes))
        for number in range(plan.n_steps):
            before = group.n_bytes
            steps.step(number, *one_cycle(step, n_steps, config.learning_rate))
            run.step_bytes.append(group.n_bytes - before)
            step += 1
            if on_step:
                on_step(step, n_steps)
        loss_sum += steps.leave()
        run.seconds = time.perf_counter() - started
        if not math.isfinite(loss_sum):
            raise diverged(plan.epoch + 1, loss_sum, config, "is not finite")
        if step % schedule.steps_per_epoch == 0:
            loss = loss_sum / schedule.n_units
            record = EpochRecord(plan.epoch + 1, loss, None, run.seconds)
            before_ = run.history[-1].train_loss if run.history else math.inf
            if schedule.n_units >= FEWEST_WATCHED and loss - before_ > MAX_RISE * max(before_, 1e-5):
                raise diverged(record.epoch, loss, config, f"rose from {before_:.4g}")
            run.history.append(record)
            loss_sum = 0.0
            if on_epoch:
                on_epoch(record)
        if checkpoint is not None:
            checkpoint.keep(tables, numbers_of(run, step, loss_sum), is_last=step == n_steps)
    tables.settle()
    run.seconds, run.cpu_seconds = time.perf_counter() - started, time.process_time() - cpu_started
    return run


def build_steps(group: Group, data: Partition, tables: Tables, config: Config, seed: int) -> tuple[Steps, Schedule]:
    """Return the steps of the objective and the order of its batches."""
    if config.objective == "ranking":
        schedule = Schedule(data, "user", users_of_batch(data, config), seed)
        return RankingSteps(group, data, tables, config, seed), schedule
    return RatingSteps(group, data, tables, config), Schedule(data, "rating", config.batch_size, seed)


@torch.no_grad()
def start_biases(tables: Tables, data: Partition, config: Config, biases: Biases | None) -> None:
    """Set the biases of new tables, as `build.start_biases` does."""
    device = tables.item_bias.device
    mine = slice(tables.first_item, tables.first_item + len(tables.item_bias))
    if config.objective == "ranking":
        popularity = torch.from_numpy(data.item_counts).double().log()
        tables.item_bias.copy_((popularity - popularity.mean())[mine].float().to(device))
    elif biases is not None:
        tables.user_bias.copy_(torch.from_numpy(biases.user_bias).to(device))
        tables.item_bias.copy_(torch.from_numpy(biases.item_bias[mine]).to(device))
        tables.global_bias.fill_(biases.global_bias)


def numbers_of(run: RankRun, step: int, loss_sum: float) -> dict[str, Any]:
    """Return what a checkpoint keeps beside the tables."""
    history = [
        {"epoch": each.epoch, "train_loss": each.train_loss, "valid": each.valid, "seconds": each.seconds}
        for each in run.history
    ]
    return {"step": step, "loss_sum": loss_sum, "seconds": run.seconds, "history": history}


def diverged(epoch: int, loss: float, config: Config, what: str) -> DivergedError:
    """Return the error of a loss that is not finite or rose."""
    return DivergedError(
        f"the loss of epoch {epoch} is {loss:.4g} and {what}: training diverged; use a learning rate below "
        f"{config.learning_rate:g} (--set learning_rate=…)",
        epoch,
        loss,
    )
