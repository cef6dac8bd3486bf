"""What a number of users, items and ratings needs: disk, memory and time, computed from measured costs of each.

`benchmarks.capacity` measures the costs. Every line says what it assumes.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import get_args

from recsys.errors import InputError
from recsys.results import CapacityLine, CapacityReport, Objective
from recsys.training.config import default_config
from recsys.training.memory import estimate_memory, format_bytes

KEPT_VERSIONS = 4
"""Versions in the database: a live one and a rollback target of each objective. Twins take half as much again."""

RATING_BYTES = 20
"""A rating in memory: two indices, the rating and its time."""


@dataclass(frozen=True, slots=True)
class Costs:
    """Costs of one rating, user or item. Bytes are of an SQLite file; seconds are those of one core's processor time.

    The defaults were measured on an AMD EPYC core of a machine that was busy with other work: a quiet one is faster.

    Attributes:
        rating_disk, user_disk, item_disk: bytes in the database.
        version_user_disk, version_item_disk: bytes of a row of a version beside its vectors.
        list_row_disk: bytes of one listed item in Parquet.
        server_base_memory, server_item_memory: bytes of a server process, and of an item beside its vectors.
        load_rating: seconds to load a rating.
        train_rating: seconds of a rating in an epoch of `rating`, for each factor.
        train_ranking: seconds of a rating in an epoch of `ranking`, for each factor.
        train_score: seconds of a score of the softmax of `ranking`, for each factor.
        search_item: seconds to score an item for a list, for each factor, with 16 lists together.
    """

    rating_disk: float = 23.0
    user_disk: float = 51.0
    item_disk: float = 124.0
    version_user_disk: float = 63.0
    version_item_disk: float = 217.0
    list_row_disk: float = 12.2
    server_base_memory: float = 73e6
    server_item_memory: float = 2900.0
    load_rating: float = 2.9e-6
    train_rating: float = 6.0e-8
    train_ranking: float = 1.7e-8
    train_score: float = 5.4e-10
    search_item: float = 1.13e-10

    @classmethod
    def read(cls, file: Path) -> "Costs":
        """Return the costs that `benchmarks.capacity` wrote to a file.

        Raises:
            InputError: the file cannot be read, or lacks a cost.
        """
        try:
            found = json.loads(file.read_text(encoding="utf-8"))
            return cls(**{each.name: float(found[each.name]) for each in fields(cls)})
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(f"{file} has no costs ({error}): write them with python -m benchmarks.capacity") from error


@dataclass(frozen=True, slots=True)
class Size:
    """Numbers of users, items and ratings."""

    n_users: int
    n_items: int
    n_ratings: int


def plan_capacity(
    size: Size, costs: Costs = Costs(), *, n_factors: int = 64, list_length: int = 10, lists_per_second: float = 100.0
) -> CapacityReport:
    """Compute what a size needs.

    Args:
        n_factors: of both objectives, and of the lists.
        list_length: items of a list.
        lists_per_second: how many lists servers make, each searched anew.
    """
    vector = 4 * n_factors
    of_versions = size.n_users * (vector + costs.version_user_disk) + size.n_items * (
        2 * vector + costs.version_item_disk
    )
    database = size.n_ratings * costs.rating_disk + size.n_users * costs.user_disk + size.n_items * costs.item_disk
    training = {objective: training_of(objective, size, costs, n_factors) for objective in get_args(Objective)}
    search = size.n_items * n_factors * costs.search_item
    server = costs.server_base_memory + size.n_items * (4 * vector + 4 * 8 * 2 + costs.server_item_memory)
    memory = max(need.memory for need in training.values())
    lines = [
        line("ratings, users and items on disk", "bytes", database, "SQLite; PostgreSQL was not measured"),
        line(
            f"{KEPT_VERSIONS} versions and their twins on disk",
            "bytes",
            1.5 * KEPT_VERSIONS * of_versions,
            "live and rollback target of two objectives; twins in half precision",
        ),
        line("loading", "core seconds", size.n_ratings * costs.load_rating, "one process; new ratings, from a file"),
        line(
            "memory of a night",
            "bytes",
            memory,
            "of one process; over several machines see cluster.md, which divides it",
        ),
        *(
            line(
                f"{objective}, a night",
                "core seconds",
                need.seconds,
                f"{need.n_epochs} epochs, twice: the twin and the refit; default settings",
            )
            for objective, need in training.items()
        ),
        line(
            "lists of all users",
            "core seconds",
            size.n_users * search,
            "searched exactly; shared among processes with --share",
        ),
        line("their files", "bytes", size.n_users * list_length * costs.list_row_disk, f"Parquet, {list_length} items"),
        line("memory of a server process", "bytes", server, "two live versions; each process has its own"),
        line("a list searched anew", "core seconds", search, "exact, 16 lists together; a kept list takes less"),
        line(
            f"{lists_per_second:,.0f} lists/s",
            "cores",
            lists_per_second * search,
            "the search alone; HTTP takes as long as an endpoint that does nothing, see results_serving.md",
        ),
    ]
    return CapacityReport(
        users=size.n_users, items=size.n_items, ratings=size.n_ratings, n_factors=n_factors, lines=lines
    )


@dataclass(frozen=True, slots=True)
class TrainingNeed:
    """What the training of an objective needs: bytes of memory, seconds of two trainings, epochs of each."""

    memory: float
    seconds: float
    n_epochs: int


def training_of(objective: Objective, size: Size, costs: Costs, n_factors: int) -> TrainingNeed:
    """Return what the trainings of a night need, with default settings."""
    config = default_config(objective, size.n_ratings, size.n_users, n_factors=n_factors)
    memory = estimate_memory(size, config) + 2 * RATING_BYTES * size.n_ratings  # the ratings, and their split
    if objective == "rating":
        epoch = size.n_ratings * n_factors * costs.train_rating
    else:
        n_scored = config.n_sampled_of(size.n_items) or size.n_items
        epoch = n_factors * (size.n_ratings * costs.train_ranking + size.n_users * n_scored * costs.train_score)
    return TrainingNeed(memory, 2 * config.n_epochs * epoch, config.n_epochs)


def line(name: str, unit: str, amount: float, assumes: str) -> CapacityLine:
    """Return a line of the report, with its amount for people."""
    texts: Mapping[str, str] = {"bytes": format_bytes(round(amount)), "cores": f"{amount:,.2g} cores"}
    return CapacityLine(
        name=name, unit=unit, amount=amount, text=texts.get(unit) or format_seconds(amount), assumes=assumes
    )


def format_seconds(seconds: float) -> str:
    """Return a time of a core for people: `3.1 ms`, `12 s`, `4.5 h`, `31 days`."""
    if seconds < 1:
        return f"{seconds * 1000:.2g} ms of a core"
    for limit, divisor, unit in ((120, 1, "s"), (7200, 60, "min"), (48 * 3600, 3600, "h")):
        if seconds < limit:
            return (
                f"{seconds / divisor:.2g} {unit} of a core"
                if seconds / divisor < 10
                else (f"{seconds / divisor:,.0f} {unit} of a core")
            )
    return f"{seconds / 86400:,.0f} days of a core"


def parse_count(text: str) -> int:
    """Return the number that a text such as `100`, `62k`, `10M` or `10G` stands for.

    Raises:
        InputError: it stands for none that is above 0.
    """
    factor = {"k": 10**3, "m": 10**6, "g": 10**9}.get(text[-1:].lower(), 1)
    digits = text if factor == 1 else text[:-1]
    try:
        number = round(float(digits.replace(",", "").replace("_", "")) * factor)
    except (ValueError, OverflowError) as error:
        raise InputError(f"{text!r} is no number: expected one such as 25000000, 62k, 10M or 10G") from error
    if number < 1:
        raise InputError(f"{text!r} is below 1: expected a number such as 25000000, 62k, 10M or 10G")
    return number
