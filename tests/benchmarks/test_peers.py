"""The parts of the peers' runs that need none of their libraries."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks.case import read_case
from benchmarks.peers import ease, ease_weights
from tests.benchmarks.made import case

ROOT = Path(__file__).parents[2]


def test_ease_is_the_direct_formula() -> None:
    X = (np.random.default_rng(0).random((12, 5)) < 0.5).astype(np.float32)
    P = np.linalg.inv(X.T.astype(np.float64) @ X + 3 * np.eye(5))
    direct = np.array([[0 if i == j else -P[i, j] / P[j, j] for j in range(5)] for i in range(5)])
    assert ease_weights(X, 3.0) == pytest.approx(direct, abs=1e-6)


def test_ease_predicts_each_item_by_ridge_on_the_others() -> None:
    X = (np.random.default_rng(1).random((30, 6)) < 0.5).astype(np.float32)
    B = ease_weights(X, 2.0)
    others = X[:, 1:].astype(np.float64)
    ridge = np.linalg.solve(others.T @ others + 2 * np.eye(5), others.T @ X[:, 0])
    assert B[1:, 0] == pytest.approx(ridge, abs=1e-5)


def test_lists_contain_no_seen_and_no_unknown_items() -> None:
    given = case()
    _, lists = ease(given, 0)
    assert lists.shape == (len(given.list_users), 10)
    seen = set(zip(given.user.tolist(), given.item.tolist(), strict=True))
    pairs = {(user, item) for user, row in zip(given.list_users.tolist(), lists.tolist(), strict=True) for item in row}
    assert not pairs & seen
    assert lists.max() < given.n_items - 1


def test_peers_import_nothing_of_this_project() -> None:
    code = "import sys, benchmarks.peers; sys.exit(any(name.split('.')[0] == 'recsys' for name in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


def test_a_case_is_unchanged_after_save_and_read(tmp_path: Path) -> None:
    given = case()
    kept = read_case(given.save(tmp_path / "case.npz"))
    assert kept.test_user.tolist() == given.test_user.tolist()
    assert kept.rating.dtype == np.float32
    assert (kept.n_users, kept.n_items) == (given.n_users, given.n_items)
