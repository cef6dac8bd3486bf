"""The memory of a training, estimated before it starts, and the memory that its device has."""

from pathlib import Path
from typing import Protocol

import torch

from recsys.data.dataset import Ratings
from recsys.errors import TrainingError
from recsys.training.config import Config
from recsys.training.item import n_weights
from recsys.training.item_weights import COLUMNS, MAX_INVERSE
from recsys.training.models import embedding_width
from recsys.training.objectives import MAX_SCORES

_MEMINFO = Path("/proc/meminfo")
_CGROUP = Path("/sys/fs/cgroup")

_NUMBERS_OF_PARAMETER = 5
"""Arrays of the size of a parameter: itself, its gradient, m, v, and its copy in the factors."""


class Counts(Protocol):
    """Anything with numbers of users, items and ratings."""

    @property
    def n_users(self) -> int: ...

    @property
    def n_items(self) -> int: ...

    @property
    def n_ratings(self) -> int: ...


def estimate_memory(train: Counts, config: Config) -> int:
    """Return about how many bytes a training allocates beside its ratings and the libraries.

    Counted are the tables with gradients and the state of AdamW, the ratings by user and by item, and the scores of a
    batch. Without features, whose part is small.
    """
    if config.architecture == "item":
        return item_memory(train, config)
    widths = [
        embedding_width(n) if config.n_factors is None else config.n_factors for n in (train.n_users, train.n_items)
    ]
    sides = [train.n_users * (widths[0] + 1), train.n_items * (widths[1] + 1)]
    n_parameters = sum(sides)
    per_rating = 3 * 4  # by user: item, rating or weight, and the order of a block
    if config.implicit:
        per_rating += 4 * 4  # history of the users and its transpose: index and value each
        n_parameters += train.n_items * widths[0]
        if config.objective == "rating":
            per_rating += 4 * 4
            n_parameters += train.n_users * widths[1]
    total = 4 * _NUMBERS_OF_PARAMETER * n_parameters + per_rating * train.n_ratings
    if config.objective == "ranking":
        n_scored = config.n_sampled_of(train.n_items) or train.n_items
        n_users = max(1, round(config.batch_size * train.n_users / train.n_ratings))
        total += 4 * 3 * min(n_users * n_scored, MAX_SCORES)
    elif config.hidden:
        total += 4 * 4 * min(config.batch_size, train.n_ratings) * sum(config.hidden)
    return total


def item_memory(train: Counts, config: Config) -> int:
    """Return about how many bytes weights between items take: the matrix to invert, columns, and weights kept twice."""
    n = min(train.n_items, MAX_INVERSE if train.n_users > MAX_INVERSE else max(train.n_users, MAX_INVERSE))
    of_weights = 12 * 4 * n_weights(train.n_items, config)
    return 4 * (2 * n**2 + 6 * COLUMNS * train.n_items) + of_weights + 6 * 12 * train.n_ratings


def available_memory(device: torch.device) -> int | None:
    """Return the bytes that can be allocated on a device; `None` if that is unknown."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    try:
        lines = dict(line.split(":") for line in _MEMINFO.read_text().splitlines())
        available = int(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return None
    try:  # of a container
        limit = int((_CGROUP / "memory.max").read_text())
        return min(available, limit - int((_CGROUP / "memory.current").read_text()))
    except (OSError, ValueError):  # no limit is the word "max"
        return available


def check_memory(train: Ratings, config: Config, device: torch.device) -> None:
    """Check that a device has the memory for a training, before the system ends the process for want of it.

    Raises:
        TrainingError: it has not.
    """
    needed, available = estimate_memory(train, config), available_memory(device)
    if available is not None and needed > available:
        fewer = (
            "fewer weights (--set n_neighbours=20)" if config.architecture == "item" else "fewer factors (--n-factors)"
        )
        raise TrainingError(
            f"training needs about {format_bytes(needed)} of memory, and device {device.type} has "
            f"{format_bytes(available)} left: use {fewer}, or a machine with more memory"
        )


def format_bytes(n: int) -> str:
    """Return a number of bytes for people: `340 MiB`, `2.1 GiB`."""
    return f"{n / 2**30:.1f} GiB" if n >= 2**30 else f"{max(1, round(n / 2**20))} MiB"
