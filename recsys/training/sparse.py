"""Sparse matrices beside dense tables: the products in which training spends its time.

A batch of ratings is a sparse user × item matrix. Its scores are products of rows sampled at the ratings, and the
gradients of the two tables are that matrix, and its transpose, times the other table: no array of (batch, n_factors)
is ever made.
"""

import warnings
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # said once, at the first CSR tensor: that the layout is in beta
    torch.sparse_csr_tensor(torch.tensor([0, 0]), torch.tensor([], dtype=torch.int64), torch.tensor([]), size=(1, 1))


class Rows(NamedTuple):
    """Where the values of a sparse matrix stand, row by row.

    Attributes:
        starts: (n_rows + 1,) int32: row r has the places starts[r] to starts[r + 1].
        column: (n_values,) int32.
        n_columns: how wide the matrix is.
    """

    starts: Tensor
    column: Tensor
    n_columns: int

    def with_values(self, value: Tensor) -> Tensor:
        """The matrix as a torch tensor: value (n_values,) → (n_rows, n_columns)."""
        size = (len(self.starts) - 1, self.n_columns)
        return torch.sparse_csr_tensor(self.starts, self.column, value, size=size, check_invariants=False)

    def times(self, value: Tensor, table: Tensor) -> Tensor:
        """The matrix times a table (n_columns, width): (n_rows, width)."""
        matrix = self.with_values(value)
        if matrix.device.type != "cpu":
            return matrix @ table
        # The same on every build of torch, with MKL or without.
        product: Tensor = torch.sparse.mm(matrix, table, "sum")
        return product


class Cells(NamedTuple):
    """Pairs of users and items as the cells of a sparse user × item matrix.

    Attributes:
        user_idx: (batch,) int32, ascending.
        by_user: the cells row by row; its columns are the items of the cells.
        by_item: the transpose; its columns are users.
        order: (batch,) int64: where each cell of `by_item` stands in `by_user`.
        n_of_user, n_of_item: (n_users,), (n_items,) cells of each.
    """

    user_idx: Tensor
    by_user: Rows
    by_item: Rows
    order: Tensor
    n_of_user: Tensor
    n_of_item: Tensor

    @property
    def item_idx(self) -> Tensor:
        """(batch,) int32."""
        return self.by_user.column


def cells(user_idx: Tensor, item_idx: Tensor, n_users: int, n_items: int) -> Cells:
    """Cells of pairs whose users ascend: (batch,) int32 each."""
    order = ascending(item_idx, n_items)
    n_of_user = torch.bincount(user_idx, minlength=n_users)
    n_of_item = torch.bincount(item_idx, minlength=n_items)
    return Cells(
        user_idx,
        Rows(_starts(n_of_user), item_idx, n_items),
        Rows(_starts(n_of_item), user_idx.index_select(0, order), n_users),
        order,
        n_of_user,
        n_of_item,
    )


def ascending(idx: Tensor, n: int) -> Tensor:
    """The stable order in which `idx` ascends: (batch,) below n → (batch,) int64."""
    if idx.device.type != "cpu":
        return torch.argsort(idx, stable=True)
    # numpy sorts 16 bits by radix, in a seventh of the time that torch takes.
    values = idx.numpy()
    order = np.argsort(values.astype(np.uint16), kind="stable")
    if n > 1 << 16:
        order = order[np.argsort((values >> 16).astype(np.uint16)[order], kind="stable")]
    return torch.from_numpy(order)


class Fixed(NamedTuple):
    """A sparse matrix that training does not change, and its transpose, with their values.

    Attributes:
        rows, value: (n_rows, n_columns) and its values.
        transposed, transposed_value: (n_columns, n_rows).
    """

    rows: Rows
    value: Tensor
    transposed: Rows
    transposed_value: Tensor

    def times(self, table: Tensor) -> Tensor:
        """This matrix times a table (n_columns, width) that is learned: (n_rows, width)."""
        product: Tensor = _FixedTimes.apply(table, self)  # type: ignore[no-untyped-call]
        return product


def fixed(
    starts: NDArray[np.int64],
    column: NDArray[np.int32],
    value: NDArray[np.float32],
    n_columns: int,
    device: torch.device,
) -> Fixed:
    """A fixed matrix from rows: starts (n_rows + 1,), column and value (n_values,)."""
    n_rows = len(starts) - 1
    row = np.repeat(np.arange(n_rows, dtype=np.int32), np.diff(starts))
    order = ascending(torch.from_numpy(column), n_columns).numpy()
    transposed_starts = np.zeros(n_columns + 1, np.int32)
    np.cumsum(np.bincount(column, minlength=n_columns), out=transposed_starts[1:])

    def at(array: NDArray[Any]) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(device)

    return Fixed(
        Rows(at(starts.astype(np.int32)), at(column), n_columns),
        at(value),
        Rows(at(transposed_starts), at(row[order]), n_rows),
        at(value[order]),
    )


def weighted(at: Cells, value: Tensor, table: Tensor) -> Tensor:
    """`value` (batch,) in the cells as a matrix, times a table (n_items, width) that is learned: (n_users, width)."""
    product: Tensor = _Weighted.apply(table, value, at)  # type: ignore[no-untyped-call]
    return product


def products(P: Tensor, Q: Tensor, at: Cells) -> Tensor:
    """p_u · q_i of the cells, differentiable in both tables: (n_users, width), (n_items, width) → (batch,).

    With gradients ∂P = G Q and ∂Q = Gᵀ P, where G is the sparse matrix of the gradients of the cells.
    """
    product: Tensor = _Products.apply(P, Q, at)  # type: ignore[no-untyped-call]
    return product


class _Products(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, P: Tensor, Q: Tensor, at: Cells) -> Tensor:
        ctx.save_for_backward(P, Q)
        ctx.at = at
        zeros = at.by_user.with_values(P.new_zeros(len(at.user_idx)))
        product: Tensor = torch.sparse.sampled_addmm(zeros, P, Q.T, beta=0.0).values()
        return product

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        P, Q = ctx.saved_tensors
        gradient = gradients[0].contiguous()  # cuSPARSE takes values without strides
        at: Cells = ctx.at
        return at.by_user.times(gradient, Q), at.by_item.times(gradient.index_select(0, at.order), P), None


class _Weighted(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, table: Tensor, value: Tensor, at: Cells) -> Tensor:
        ctx.save_for_backward(value)
        ctx.at = at
        return at.by_user.times(value, table)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (value,) = ctx.saved_tensors
        at: Cells = ctx.at
        return at.by_item.times(value.index_select(0, at.order), gradients[0].contiguous()), None, None


class _FixedTimes(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, table: Tensor, matrix: Fixed) -> Tensor:
        ctx.matrix = matrix
        return matrix.rows.times(matrix.value, table)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        matrix: Fixed = ctx.matrix
        return matrix.transposed.times(matrix.transposed_value, gradients[0].contiguous()), None


def squares(table: Tensor, weight: Tensor) -> Tensor:
    """Σ_r weight_r · ‖row r‖²: (n, width) or (n,), and (n,) → (); gradient 2 weight_r · row r."""
    total: Tensor = _Squares.apply(table, weight)  # type: ignore[no-untyped-call]
    return total


class _Squares(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, table: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(table, weight)
        if table.ndim == 1:
            return (table.square() * weight).sum()
        total: Tensor = torch.linalg.vecdot(table, table) @ weight.to(table.dtype)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        table, weight = ctx.saved_tensors
        twice = weight * (2 * gradients[0])
        return table * (twice if table.ndim == 1 else twice[:, None]), None


def _starts(counts: Tensor) -> Tensor:
    starts = torch.zeros(len(counts) + 1, dtype=torch.int32, device=counts.device)
    torch.cumsum(counts, 0, out=starts[1:])
    return starts
