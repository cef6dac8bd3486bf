"""The benchmark of stability on little data."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks import stability


def test_it_writes_a_table_of_what_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = stability.generated(40, 30, 300, steepness=0.5, seed=0, values=stability.stars)
    kinds = {
        "small": lambda _: small,
        "equal": lambda _: (*small[:2], np.ones(len(small[2]))),
        "missing": lambda folder: stability.parquet_rows(folder, "none.parquet"),
    }
    monkeypatch.setattr(stability, "KINDS", kinds)
    stability.main(["--orders", "2", "--data", str(tmp_path), "--out", str(tmp_path / "out.md")])
    lines = (tmp_path / "out.md").read_text().splitlines()
    (row,) = (line for line in lines if line.startswith("| small"))
    rises = [float(cell) for cell in row.strip("| ").split(" | ")[2:]]
    assert len(rises) == 2
    assert all(0.5 < rise < 2 for rise in rises)
    assert any(line.startswith("| equal") and "all equal" in line for line in lines)
    assert not any("missing" in line for line in lines)


def test_an_order_changes_places_alone() -> None:
    columns = stability.generated(40, 30, 300, steepness=0.5, seed=0, values=stability.stars)
    assert len(set(zip(columns[0], columns[1], strict=True))) == len(columns[0])
    given, other = stability.ordered(columns, 0), stability.ordered(columns, 1)
    assert sorted(given.rating) == sorted(other.rating)
    assert sorted(given.item_counts()) == sorted(other.item_counts())
    assert not np.array_equal(given.user_idx, other.user_idx)
