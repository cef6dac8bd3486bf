"""Train/test splits, and the protocol of a run on one: numpy only, for both environments.

Each run is a process of its own. It reads a case, trains, writes its predictions or lists to a file, and prints one
line of JSON: a `RunResult`.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

K = 10
"""Length of the lists."""

RELEVANT_FROM = 4.0
"""Lowest rating of a relevant test item."""

Answer = NDArray[np.float32] | NDArray[np.int64]
"""Predictions of all test ratings, (n_test,), or lists for `Case.list_users`, (n_list_users, ≤ K), padded with −1."""


@dataclass(frozen=True, slots=True)
class Case:
    """Training ratings and test ratings over the same dense indices.

    Attributes:
        user, item, rating: (n_train,) int32, int32 and float32.
        test_user, test_item, test_rating: (n_test,) int32, int32 and float32.
        n_users, n_items: counts; some users and items have no training ratings.
        is_implicit: whether the ratings are weights of events.
    """

    user: NDArray[np.int32]
    item: NDArray[np.int32]
    rating: NDArray[np.float32]
    test_user: NDArray[np.int32]
    test_item: NDArray[np.int32]
    test_rating: NDArray[np.float32]
    n_users: int
    n_items: int
    is_implicit: bool = False

    @property
    def relevant(self) -> NDArray[np.bool_]:
        """Which test ratings are relevant: (n_test,)."""
        return self.test_rating >= RELEVANT_FROM

    @property
    def list_users(self) -> NDArray[np.int32]:
        """The users who get lists, ascending: those with a relevant test item."""
        return np.unique(self.test_user[self.relevant])

    def hold_out(self, held_out: NDArray[np.bool_]) -> "Case":
        """Return a case whose test part is those of the training ratings: mask, (n_train,)."""
        return replace(
            self,
            user=self.user[~held_out],
            item=self.item[~held_out],
            rating=self.rating[~held_out],
            test_user=self.user[held_out],
            test_item=self.item[held_out],
            test_rating=self.rating[held_out],
        )

    def save(self, path: Path) -> Path:
        """Write the case to an .npz file, and return its path."""
        np.savez(path, **{field.name: getattr(self, field.name) for field in fields(self)})
        return path


def read_case(path: Path) -> Case:
    """Read a case that `Case.save` wrote."""
    with np.load(path) as file:
        columns = {name: file[name] for name in file.files}
    counts = {name: int(columns[name]) for name in ("n_users", "n_items")}
    return Case(**{**columns, **counts, "is_implicit": bool(columns["is_implicit"])})


class TrainingCost(NamedTuple):
    """Seconds of a training, and the peak resident memory of the process until its end in MiB."""

    seconds: float
    peak_mib: float


@dataclass(frozen=True, slots=True)
class RunResult:
    """Result of one process.

    Attributes:
        seconds: duration of the training, without reading the data.
        peak_mib: peak resident memory of the process until the end of training, imports and data included.
        versions: library → version.
        epoch_seconds: duration of each epoch after the first; empty if unknown.
        note: what was chosen.
    """

    seconds: float
    peak_mib: float
    versions: dict[str, str]
    epoch_seconds: list[float]
    note: str = ""


def measure_cost(train: Callable[[], object]) -> TrainingCost:
    """Call a training function and return its cost."""
    started = time.perf_counter()
    train()
    return TrainingCost(time.perf_counter() - started, peak_mib())


def peak_mib() -> float:
    """Return the peak resident memory of this process in MiB.

    Read from /proc, because the value of getrusage starts at the memory of the parent process.
    """
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    raise OSError("/proc/self/status has no VmHWM; the benchmarks need Linux")


def n_threads() -> int:
    """Return the number of threads of a run, which `benchmarks.compare` sets to the same value for all libraries."""
    return int(os.environ.get("OMP_NUM_THREADS", "2"))


def parse_arguments(description: str | None, names: list[str]) -> argparse.Namespace:
    """Parse the command line of a run: NAME CASE ANSWER --seed N."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("name", choices=names)
    parser.add_argument("case", type=Path, help="file of the split")
    parser.add_argument("answer", type=Path, help="file for the predictions or lists (.npy)")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def write_result(path: Path, answer: Answer, result: RunResult) -> None:
    """Write the answer to a file and the result to standard output."""
    np.save(path, answer)
    sys.stdout.write(json.dumps(asdict(result)) + "\n")
