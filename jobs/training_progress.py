"""Progress of a training for people: ratings per second, time left, losses, and the curve at the end."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from jobs.progress import say, stderr
from recsys.data.dataset import Ratings
from recsys.training.build import EpochRecord
from recsys.training.config import Config
from recsys.training.devices import pick_device
from recsys.training.memory import available_memory, estimate_memory, format_bytes

BARS = "▁▂▃▄▅▆▇█"


class TrainingProgress:
    """Shows a training on a terminal: `on_step` and `on_epoch` are hooks of `recsys.training.fit.fit`."""

    def __init__(self, bar: Progress, description: str, n_ratings: int, n_epochs: int, metric: str | None) -> None:
        self._bar, self._metric, self._n_units = bar, metric, n_ratings * n_epochs
        self._task = bar.add_task(description, total=self._n_units, rate="", loss="")
        self.records: list[EpochRecord] = []

    def on_step(self, step: int, n_steps: int) -> None:
        """Show the steps done."""
        done = self._n_units * step / n_steps
        if done < self._bar.tasks[0].completed:  # started anew with a lower learning rate
            self._bar.reset(self._task)
            self.records.clear()
        self._bar.update(self._task, completed=done)
        speed = self._bar.tasks[0].speed
        if speed is not None:
            self._bar.update(self._task, rate=f"{format_count(speed)} ratings/s")

    def on_epoch(self, record: EpochRecord) -> None:
        """Show the loss of an epoch, and a warning if it is higher than the one before."""
        text = f"epoch {record.epoch} loss {record.train_loss:.4g}"
        if self._metric is not None and record.valid is not None:
            text += f" {self._metric} {record.valid:.4f}"
        if self.records and record.train_loss > self.records[-1].train_loss:
            text += " [yellow](the loss rose)[/yellow]"
        self.records.append(record)
        self._bar.update(self._task, loss=text)


@contextmanager
def training_progress(
    train: Ratings, config: Config, device: str, metric: str | None, label: str = "training"
) -> Iterator[TrainingProgress]:
    """Say what memory a training needs, show its progress, and print its curve when it is done.

    Args:
        metric: name of the value that is measured after each epoch; `None` if none is.
        label: what is being done, before the objective.
    """
    chosen = torch.device("cpu") if config.architecture == "item" else pick_device(device)
    say(describe_memory(train, config, chosen))
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=20),
        TaskProgressColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[loss]}"),
    )
    with Progress(*columns, console=stderr, disable=not stderr.is_terminal, transient=True) as bar:
        shown = TrainingProgress(bar, f"{label} {config.objective}", train.n_ratings, config.n_epochs, metric)
        yield shown
    if len(shown.records) > 1:
        say(f"{config.objective}: {describe_curve(shown.records, metric)}")


def describe_memory(train: Ratings, config: Config, device: torch.device) -> str:
    """Return one line on the memory that a training needs, and what its device has left."""
    available = available_memory(device)
    left = "" if available is None else f" of the {format_bytes(available)} that {device.type} has left"
    return f"{config.objective}: needs about {format_bytes(estimate_memory(train, config))} of memory{left}"


def describe_curve(records: Sequence[EpochRecord], metric: str | None) -> str:
    """Return the curves of the loss and the metric as bars, one for each epoch, with their ends.

    >>> describe_curve([EpochRecord(1, 0.9, None, 1.0), EpochRecord(2, 0.6, None, 2.0)], None)
    'loss █▁ 0.9 to 0.6'
    """
    curves = {"loss": [record.train_loss for record in records]}
    measured = [record.valid for record in records if record.valid is not None]
    if metric is not None and len(measured) > 1:
        curves[metric] = measured
    return ", ".join(f"{name} {bars(curve)} {curve[0]:.4g} to {curve[-1]:.4g}" for name, curve in curves.items())


def bars(values: Sequence[float]) -> str:
    """Return a character for each value: the lowest is the lowest bar, the highest the highest."""
    low, high = min(values), max(values)
    span = (high - low) or 1.0
    return "".join(BARS[round((value - low) / span * (len(BARS) - 1))] for value in values)


def format_count(n: float) -> str:
    """Return a number for people: `850`, `12 k`, `3.4 M`."""
    if n >= 1e6:
        return f"{n / 1e6:.1f} M"
    return f"{n / 1e3:.0f} k" if n >= 1e3 else f"{n:.0f}"
