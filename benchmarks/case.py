"""One split to train and measure on, and how a run on it answers: numpy only, for both environments.

Each run is a process of its own. It reads a case, trains, writes its predictions or lists to a file, and prints one
line of JSON: a `Run`.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

K = 10
"""Length of the lists."""

RELEVANT_FROM = 4.0
"""The lowest rating of a test item that a list should hold."""

Answer = NDArray[np.float32] | NDArray[np.int64]
"""Predictions of all test ratings, (n_test,), or lists for `Case.asked`, (n_asked, ≤ K), −1 where nothing is left."""


@dataclass(frozen=True, slots=True)
class Case:
    """Ratings to train on and ratings to measure on, over the same dense indices.

    Attributes:
        user, item, rating: (n_train,) int32, int32 and float32.
        test_user, test_item, test_rating: (n_test,) the same.
        n_users, n_items: counts; not every one has ratings in the training part.
    """

    user: NDArray[np.int32]
    item: NDArray[np.int32]
    rating: NDArray[np.float32]
    test_user: NDArray[np.int32]
    test_item: NDArray[np.int32]
    test_rating: NDArray[np.float32]
    n_users: int
    n_items: int

    @property
    def relevant(self) -> NDArray[np.bool_]:
        """Which test ratings a list should hold: (n_test,)."""
        return self.test_rating >= RELEVANT_FROM

    @property
    def asked(self) -> NDArray[np.int32]:
        """The users with a relevant test item, ascending: those who get lists."""
        return np.unique(self.test_user[self.relevant])

    def save(self, path: Path) -> Path:
        np.savez(path, **{field.name: getattr(self, field.name) for field in fields(self)})
        return path


def read_case(path: Path) -> Case:
    with np.load(path) as file:
        columns = {name: file[name] for name in file.files}
    return Case(**{**columns, "n_users": int(columns["n_users"]), "n_items": int(columns["n_items"])})


class Trained(NamedTuple):
    """Seconds of a training, and the highest resident memory of the process until its end, in MiB."""

    seconds: float
    peak_mib: float


@dataclass(frozen=True, slots=True)
class Run:
    """What one process reports.

    Attributes:
        seconds: of the training alone, data in memory before it.
        peak_mib: highest resident memory of the process until the end of training, imports and data included.
        versions: of the libraries that did the work.
        epoch_seconds: of each epoch, where they are known.
    """

    seconds: float
    peak_mib: float
    versions: dict[str, str]
    epoch_seconds: list[float]


def timed(train: Callable[[], object]) -> Trained:
    started = time.perf_counter()
    train()
    return Trained(time.perf_counter() - started, peak_mib())


def peak_mib() -> float:
    """The highest resident memory of this process so far.

    From /proc: what getrusage says begins with the memory of the process that started this one.
    """
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    raise OSError("/proc/self/status has no VmHWM; the benchmarks need Linux")


def n_threads() -> int:
    """How many threads a run may use; `benchmarks.compare` sets it for all libraries alike."""
    return int(os.environ.get("OMP_NUM_THREADS", "2"))


def arguments(description: str | None, names: list[str]) -> argparse.Namespace:
    """The command line of a run: NAME CASE ANSWER --seed N."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("name", choices=names)
    parser.add_argument("case", type=Path, help="the split, as Case.save wrote it")
    parser.add_argument("answer", type=Path, help="where predictions or lists go (.npy)")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def report(path: Path, answer: Answer, run: Run) -> None:
    np.save(path, answer)
    sys.stdout.write(json.dumps(asdict(run)) + "\n")
