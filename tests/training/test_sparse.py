"""Sparse matrices against dense ones in numpy, and the gradients of their products against finite differences."""

import numpy as np
import pytest
import torch
from torch import Tensor

from recsys.training.sparse import (
    Cells,
    FixedMatrix,
    cell_products,
    cells_matmul,
    stable_argsort,
    weighted_squares,
)

SHAPES = [(6, 5), (1, 1), (4, 1), (1, 7), (3, 70_000), (70_000, 3)]


def made_pairs(n_users: int, n_items: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Distinct pairs whose users ascend and whose items do not: the first and the last of both, some in between."""
    random = np.random.default_rng(seed)
    places = np.append(random.integers(0, n_users * n_items, 12), [0, n_users * n_items - 1])
    user, item = np.divmod(random.permutation(np.unique(places)), n_items)
    order = np.argsort(user, kind="stable")
    return user[order].astype(np.int32), item[order].astype(np.int32)


def made_cells(n_users: int, n_items: int) -> tuple[Cells, np.ndarray, np.ndarray]:
    user, item = made_pairs(n_users, n_items)
    return Cells(torch.from_numpy(user), torch.from_numpy(item), n_users, n_items), user, item


def double(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, dtype=torch.float64, generator=generator, requires_grad=True)


@pytest.mark.parametrize(("n_users", "n_items"), SHAPES)
def test_cells_are_the_matrix_and_its_transpose(n_users: int, n_items: int) -> None:
    at, user, item = made_cells(n_users, n_items)
    value = np.arange(1.0, len(user) + 1)
    dense = np.zeros((n_users, n_items))
    dense[user, item] = value
    assert np.array_equal(at.user_idx.numpy(), user)
    assert np.array_equal(at.item_idx.numpy(), item)
    assert np.array_equal(at.by_user.with_values(torch.from_numpy(value)).to_dense().numpy(), dense)
    of_items = at.by_item.with_values(torch.from_numpy(value)[at.order])
    assert np.array_equal(of_items.to_dense().numpy(), dense.T)
    assert np.array_equal(at.order.numpy(), np.argsort(item, kind="stable"))
    assert np.array_equal(at.n_of_user.numpy(), (dense > 0).sum(1))
    assert np.array_equal(at.n_of_item.numpy(), (dense > 0).sum(0))


def test_rows_without_cells_are_empty() -> None:
    user, item = torch.tensor([1, 1, 4], dtype=torch.int32), torch.tensor([3, 0, 3], dtype=torch.int32)
    at = Cells(user, item, 6, 5)
    assert at.by_user.starts.tolist() == [0, 0, 2, 2, 2, 3, 3]
    assert at.by_item.starts.tolist() == [0, 1, 1, 1, 3, 3]
    assert at.by_item.column.tolist() == [1, 1, 4]
    assert at.order.tolist() == [1, 0, 2]
    nothing = Cells(user[:0], item[:0], 2, 3)
    assert nothing.by_user.matmul(torch.empty(0), torch.ones(3, 4)).tolist() == [[0.0] * 4] * 2


@pytest.mark.parametrize("n", [1, 2, 1000, 1 << 16, (1 << 16) + 1, 200_000, 1 << 24])
def test_ascending_is_numpys_stable_order(n: int) -> None:
    random = np.random.default_rng(n)
    few = random.integers(0, n, 50)  # many of each, so that stability shows
    idx = np.concatenate([few[random.integers(0, 50, 1000)], [n - 1, 0, n - 1], random.integers(0, n, 1000)])
    idx = random.permutation(idx).astype(np.int32)
    assert np.array_equal(stable_argsort(torch.from_numpy(idx), n).numpy(), np.argsort(idx, kind="stable"))


@pytest.mark.parametrize(("n_users", "n_items"), SHAPES)
def test_products_are_those_of_the_rows(n_users: int, n_items: int) -> None:
    at, user, item = made_cells(n_users, n_items)
    P, Q = double(n_users, 3, seed=1), double(n_items, 3, seed=2)
    expected = (P.detach().numpy()[user] * Q.detach().numpy()[item]).sum(1)
    assert cell_products(P, Q, at).detach().numpy() == pytest.approx(expected)
    single = cell_products(P.detach().float(), Q.detach().float(), at)
    assert single.dtype == torch.float32
    assert single.numpy() == pytest.approx(expected, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize(("n_users", "n_items"), SHAPES)
def test_products_have_the_gradients_of_dense_ones(n_users: int, n_items: int) -> None:
    at, user, item = made_cells(n_users, n_items)
    P, Q = double(n_users, 3, seed=1), double(n_items, 3, seed=2)
    of_cell = np.random.default_rng(0).normal(size=len(user))
    cell_products(P, Q, at).backward(torch.from_numpy(of_cell))
    G = np.zeros((n_users, n_items))
    G[user, item] = of_cell
    assert P.grad is not None
    assert Q.grad is not None
    assert P.grad.numpy() == pytest.approx(G @ Q.detach().numpy())
    assert Q.grad.numpy() == pytest.approx(G.T @ P.detach().numpy())


def test_products_have_the_gradient_of_finite_differences() -> None:
    at, _, _ = made_cells(6, 5)
    P, Q = double(6, 3, seed=1), double(5, 3, seed=2)
    assert torch.autograd.gradcheck(lambda P, Q: cell_products(P, Q, at), (P, Q))
    # A sum hands back one number for all cells, and transposed tables do not lie row by row.
    assert torch.autograd.gradcheck(lambda P, Q: cell_products(P, Q, at).sum(), (P, Q))
    assert torch.autograd.gradcheck(lambda P, Q: cell_products(P.T, Q.T, at), (double(3, 6), double(3, 5)))


def test_weighted_is_the_matrix_times_the_table() -> None:
    at, user, item = made_cells(6, 5)
    table, value = double(5, 3), np.random.default_rng(0).normal(size=len(user))
    dense = np.zeros((6, 5))
    dense[user, item] = value
    of_users = cells_matmul(at, torch.from_numpy(value), table)
    assert of_users.detach().numpy() == pytest.approx(dense @ table.detach().numpy())
    assert torch.autograd.gradcheck(lambda table: cells_matmul(at, torch.from_numpy(value), table), (table,))
    assert torch.autograd.gradcheck(lambda table: cells_matmul(at, torch.from_numpy(value), table).sum(), (table,))


def made_fixed(n_rows: int, n_columns: int, dtype: type = np.float64) -> tuple[FixedMatrix, np.ndarray]:
    """With rows and columns that are empty, and the same as a dense array."""
    row, column = made_pairs(n_rows, n_columns)
    value = np.random.default_rng(1).normal(size=len(row)).astype(dtype)
    starts = np.searchsorted(row, np.arange(n_rows + 1))
    dense = np.zeros((n_rows, n_columns), dtype)
    dense[row, column] = value
    return FixedMatrix.from_rows(starts, column, value, n_columns, torch.device("cpu")), dense


@pytest.mark.parametrize(("n_rows", "n_columns"), SHAPES)
def test_a_fixed_matrix_times_a_table_is_the_dense_product(n_rows: int, n_columns: int) -> None:
    matrix, dense = made_fixed(n_rows, n_columns)
    table = double(n_columns, 2)
    product = matrix.matmul(table)
    assert product.detach().numpy() == pytest.approx(dense @ table.detach().numpy())
    of_product = double(n_rows, 2, seed=5).detach()
    product.backward(of_product)
    assert table.grad is not None
    assert table.grad.numpy() == pytest.approx(dense.T @ of_product.numpy())


def test_a_fixed_matrix_has_the_gradient_of_finite_differences() -> None:
    matrix, _ = made_fixed(6, 5)
    assert torch.autograd.gradcheck(matrix.matmul, (double(5, 3),))
    assert torch.autograd.gradcheck(lambda table: matrix.matmul(table).sum(), (double(5, 3),))


def test_a_fixed_matrix_keeps_single_precision() -> None:
    matrix, dense = made_fixed(6, 5, np.float32)
    table = double(5, 3).detach().float()
    assert matrix.matmul(table).dtype == torch.float32
    assert matrix.matmul(table).numpy() == pytest.approx(dense @ table.numpy(), rel=1e-5, abs=1e-6)


def test_squares_are_weighted_and_have_their_gradient() -> None:
    table, bias = double(5, 3), double(5, seed=3)
    weight = torch.tensor([0.5, 0.0, 2.0, 1.0, 3.0], dtype=torch.float64)
    of_table = (weight.numpy() * (table.detach().numpy() ** 2).sum(1)).sum()
    assert weighted_squares(table, weight).item() == pytest.approx(of_table)
    assert weighted_squares(bias, weight).item() == pytest.approx((weight.numpy() * bias.detach().numpy() ** 2).sum())
    assert torch.autograd.gradcheck(lambda table: weighted_squares(table, weight), (table,))
    assert torch.autograd.gradcheck(lambda bias: 3 * weighted_squares(bias, weight), (bias,))


def test_squares_take_counts_as_weights() -> None:
    table = torch.ones(3, 2, requires_grad=True)
    counts = torch.tensor([2, 0, 5])
    total = weighted_squares(table, counts)
    total.backward()
    assert total.item() == 14
    assert table.grad is not None
    assert table.grad.tolist() == [[4, 4], [0, 0], [10, 10]]
