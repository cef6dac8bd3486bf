"""The memory that a training needs, and the error where the device has less."""

from pathlib import Path

import pytest
import torch

import recsys.training.memory as memory_module
from recsys.errors import TrainingError
from recsys.training.config import default_config
from recsys.training.fit import fit
from recsys.training.memory import available_memory, estimate_memory, format_bytes
from tests.training.made import checkerboard

CPU = torch.device("cpu")


def test_a_training_that_memory_is_too_short_for_is_refused_before_it_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train, _ = checkerboard()
    (tmp_path / "meminfo").write_text("MemTotal:  8000000 kB\nMemAvailable:    300 kB\n")
    monkeypatch.setattr(memory_module, "_MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(memory_module, "_CGROUP", tmp_path)
    assert available_memory(CPU) == 300 * 1024
    config = default_config("rating", train.n_ratings, n_epochs=1, n_factors=64)
    expected = r"training needs about 1 MiB of memory, and device cpu has 1 MiB left: use fewer factors \(--n-factors\)"
    with pytest.raises(TrainingError, match=expected):
        fit(train, config, device="cpu")
    fit(train, default_config("rating", train.n_ratings, n_epochs=1, n_factors=2), device="cpu")


def test_the_limit_of_a_container_counts_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_module, "_CGROUP", tmp_path)
    (tmp_path / "memory.current").write_text("400\n")
    (tmp_path / "memory.max").write_text("1000\n")
    assert available_memory(CPU) == 600
    (tmp_path / "memory.max").write_text("max\n")
    free = available_memory(CPU)
    assert free is not None
    assert free > 2**20
    monkeypatch.setattr(memory_module, "_MEMINFO", tmp_path / "missing")
    assert available_memory(CPU) is None


def test_the_estimate_counts_tables_ratings_and_scores() -> None:
    train, _ = checkerboard()

    def estimate(objective: str, **overrides: object) -> int:
        return estimate_memory(train, default_config(objective, train.n_ratings, **overrides))  # type: ignore[arg-type]

    tables = 120 * 9 * 4 * 5
    assert estimate("rating", n_factors=8, implicit=False) == tables + 12 * train.n_ratings
    assert estimate("rating", n_factors=8) == tables + 120 * 8 * 4 * 5 + 44 * train.n_ratings
    small, large = (estimate("ranking", n_factors=8, batch_size=size) for size in (100, 1000))
    assert large > small > estimate("ranking", n_factors=8, implicit=False, batch_size=100)
    assert estimate("rating", architecture="neural") > estimate("rating", n_factors=8)


@pytest.mark.parametrize(("n", "expected"), [(10, "1 MiB"), (340 << 20, "340 MiB"), (2254857830, "2.1 GiB")])
def test_bytes_are_short(n: int, expected: str) -> None:
    assert format_bytes(n) == expected
