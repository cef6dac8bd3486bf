"""Weights between items, against an independent solution of each column's ridge regression."""

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import sparse

import recsys.training.item_weights as item_weights
from recsys.factors import ItemWeights
from recsys.training.item_weights import (
    penalties,
    solve_by_users,
    solve_columns,
    solve_weights,
    sorted_parts,
    squares_of,
)


def some_users(n_users: int = 60, n_items: int = 24, seed: int = 0) -> sparse.csr_array:
    random = np.random.default_rng(seed)
    taste = random.integers(3, size=(n_users, 1)) == np.arange(n_items) % 3
    has = random.random((n_users, n_items)) < np.where(taste, 0.5, 0.1)
    return sparse.csr_array((has * random.uniform(0.3, 2, has.shape)).astype(np.float32))


def regressions(X: sparse.csr_array, penalty: NDArray[np.float32]) -> NDArray[np.float64]:
    """Solve every column by itself: x_i by all other columns."""
    dense = X.toarray().astype(np.float64)
    B = np.zeros((dense.shape[1],) * 2)
    for i in range(len(B)):
        others = np.delete(np.arange(len(B)), i)
        A = dense[:, others]
        B[others, i] = np.linalg.solve(A.T @ A + np.diag(penalty[others].astype(np.float64)), A.T @ dense[:, i])
    return B


def dense(weights: ItemWeights) -> NDArray[np.float32]:
    B = np.zeros((weights.n_items,) * 2, np.float32)
    B[weights.rows(), weights.item_idx] = weights.values
    return B


def all_columns(X: sparse.csr_array, penalty: NDArray[np.float32]) -> NDArray[np.float64]:
    B = np.zeros((X.shape[1],) * 2)
    for part in solve_columns(X, penalty):
        B[np.ix_(part.rows, part.columns)] = part.values
    return B


def test_each_column_is_a_ridge_regression_on_the_others() -> None:
    X = some_users()
    penalty = penalties(squares_of(X), 3.0, 0.4)
    assert penalty == pytest.approx(3 + 0.4 / 0.6 * (X.toarray() ** 2).sum(0), rel=1e-5)
    expected = regressions(X, penalty)
    assert all_columns(X, penalty) == pytest.approx(expected, abs=1e-5)
    weights, loss = solve_weights(X, penalty, budget=24 * 24)
    assert dense(weights) == pytest.approx(expected, abs=1e-5)
    D = X.toarray()
    error = ((D - D @ expected) ** 2).sum(0) + (penalty[:, None] * expected**2).sum(0)
    assert loss == pytest.approx(error.sum() / D.size, rel=1e-4)


def test_few_users_give_the_same_weights_from_an_inverse_of_their_size() -> None:
    X = some_users(n_users=15, n_items=40)
    penalty = penalties(squares_of(X), 2.0, 0.3)
    B = np.concatenate([part.values for part in solve_by_users(X, penalty)], axis=1)
    assert pytest.approx(regressions(X, penalty), abs=1e-5) == B
    assert not np.diag(B).any()


def test_parts_are_exact_among_the_items_they_are_solved_with(monkeypatch: pytest.MonkeyPatch) -> None:
    X = some_users(n_users=80, n_items=48)
    penalty = penalties(squares_of(X), 2.0, 0.5)
    monkeypatch.setattr(item_weights, "MAX_INVERSE", 20)
    monkeypatch.setattr(item_weights, "_PART", 12)
    monkeypatch.setattr(item_weights, "_SHARED", 5)
    monkeypatch.setattr(item_weights, "_HEAD", 4)
    monkeypatch.setattr(item_weights, "UNIVERSE", 48)
    assert all_columns(X, penalty) == pytest.approx(regressions(X, penalty), abs=1e-5)
    monkeypatch.setattr(item_weights, "UNIVERSE", 16)
    for part in solve_columns(X, penalty):
        assert len(part.rows) == 16
        among = regressions(X.tocsc()[:, part.rows].tocsr(), penalty[part.rows])
        assert part.values == pytest.approx(among[:, np.searchsorted(part.rows, part.columns)], abs=1e-5)


def test_parts_hold_items_of_the_same_users() -> None:
    X = some_users(n_users=300, n_items=48)
    parts = sorted_parts(X, 24)
    assert sorted(np.concatenate(parts).tolist()) == list(range(48))
    mixed = [len(set((part % 3).tolist())) for part in sorted_parts(X, 12)]
    assert min(mixed) == 1  # a part of one taste


def test_the_largest_weights_are_kept_and_some_of_each_item(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(item_weights, "_FEWEST", 2)
    monkeypatch.setattr(item_weights, "COLUMNS", 5)
    X = some_users()
    penalty = penalties(squares_of(X), 3.0, 0.4)
    expected = regressions(X, penalty)
    kept = dense(solve_weights(X, penalty, budget=100)[0])
    assert 100 <= (kept != 0).sum() <= 102
    assert ((kept != 0).sum(0) >= 2).all()
    left_out = np.abs(expected[kept == 0])
    of_columns = np.sort(np.abs(expected), axis=0)[-2:]
    others = np.abs(expected)[(kept != 0) & (np.abs(expected) < of_columns[0] - 1e-9)]
    assert others.min() >= left_out.max() - 1e-6


@pytest.mark.parametrize("n_items", [1, 2])
def test_the_smallest_catalogues(n_items: int) -> None:
    X = sparse.csr_array(np.ones((3, n_items), np.float32))
    weights, loss = solve_weights(X, penalties(squares_of(X), 1.0, 0.5), budget=100 * n_items)
    assert weights.n_items == n_items
    assert len(weights.values) == (0 if n_items == 1 else 2)
    assert np.isfinite(loss)
