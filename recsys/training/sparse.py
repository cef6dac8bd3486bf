"""Products of sparse matrices with dense tables, in which training spends most of its time.

A batch of ratings is a sparse user × item matrix. Its scores are inner products of rows sampled at the ratings. The
gradients of the two tables are that matrix, and its transpose, times the other table. No array of (batch, n_factors)
is ever made.

Legend of the shapes: `batch` cells of one step, `n_rows` and `n_columns` of a sparse matrix, `n_values` of its cells
that are not zero, `width` columns of a dense table.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, cached_property
from importlib import import_module
from importlib.util import find_spec
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

# torch warns once, at the first CSR tensor of a process, that the layout is in beta. The tensor is made here, so that
# the warning neither appears in the middle of a training nor has to be filtered for the whole process.
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    torch.sparse_csr_tensor(torch.tensor([0, 0]), torch.tensor([], dtype=torch.int64), torch.tensor([]), size=(1, 1))


_MAX_CELLS = 1 << 29
"""Largest number of scores of `catalogue_logsumexp` in memory at once: 2 GiB."""


class Pattern(NamedTuple):
    """The sparsity pattern of a matrix in CSR layout: the positions of its values, row by row.

    Attributes:
        starts: (n_rows + 1,) int32. Row r holds the values starts[r] to starts[r + 1].
        column: (n_values,) int32.
        n_columns: width of the matrix.
    """

    starts: Tensor
    column: Tensor
    n_columns: int

    @classmethod
    def from_counts(cls, n_of_row: Tensor, column: Tensor, n_columns: int) -> "Pattern":
        """Return the pattern of rows with these numbers of values: (n_rows,), (n_values,)."""
        starts = torch.zeros(len(n_of_row) + 1, dtype=torch.int32, device=n_of_row.device)
        torch.cumsum(n_of_row, 0, out=starts[1:])
        return cls(starts, column, n_columns)

    def with_values(self, value: Tensor) -> Tensor:
        """Return the matrix as a torch tensor: value (n_values,) → (n_rows, n_columns)."""
        size = (len(self.starts) - 1, self.n_columns)
        return torch.sparse_csr_tensor(self.starts, self.column, value, size=size, check_invariants=False)

    def matmul(self, value: Tensor, table: Tensor) -> Tensor:
        """Return the matrix with these values times a table: (n_values,), (n_columns, width) → (n_rows, width)."""
        matrix = self.with_values(value)
        if matrix.device.type != "cpu":
            return matrix @ table
        # `@` takes MKL's kernel where torch has it. This one gives the same bits on every build of torch.
        product: Tensor = torch.sparse.mm(matrix, table, "sum")
        return product


@dataclass(frozen=True, eq=False)
class Cells:
    """Pairs of users and items as the cells of a sparse user × item matrix.

    Attributes:
        user_idx, item_idx: (batch,) int32. The users ascend, except where `uses_kernels`: there no order is needed.
        n_users, n_items: shape of the matrix.
    """

    user_idx: Tensor
    item_idx: Tensor
    n_users: int
    n_items: int

    @cached_property
    def by_user(self) -> Pattern:
        """The pattern of the matrix. Its columns are the items of the cells."""
        return Pattern.from_counts(self.n_of_user, self.item_idx, self.n_items)

    @cached_property
    def by_item(self) -> Pattern:
        """The pattern of the transpose. Its columns are users."""
        return Pattern.from_counts(self.n_of_item, self.user_idx.index_select(0, self.order), self.n_users)

    @cached_property
    def order(self) -> Tensor:
        """(batch,) int64, the position in `by_user` of each cell of `by_item`."""
        return stable_argsort(self.item_idx, self.n_items)

    @cached_property
    def n_of_user(self) -> Tensor:
        """(n_users,) cells of each user."""
        return count(self.user_idx, self.n_users)

    @cached_property
    def n_of_item(self) -> Tensor:
        """(n_items,) cells of each item."""
        return count(self.item_idx, self.n_items)


class FixedMatrix(NamedTuple):
    """A sparse matrix that training does not change, with its transpose.

    Attributes:
        pattern, value: (n_rows, n_columns), its n_values values.
        transposed, transposed_value: (n_columns, n_rows), the same values in the order of the transpose.
    """

    pattern: Pattern
    value: Tensor
    transposed: Pattern
    transposed_value: Tensor

    @classmethod
    def from_rows(
        cls,
        starts: NDArray[np.int64],
        column: NDArray[np.int32],
        value: NDArray[np.float32],
        n_columns: int,
        device: torch.device,
    ) -> "FixedMatrix":
        """Return the matrix of these rows: starts (n_rows + 1,), column and value (n_values,)."""
        n_rows = len(starts) - 1
        row = np.repeat(np.arange(n_rows, dtype=np.int32), np.diff(starts))
        order = stable_argsort(torch.from_numpy(column), n_columns).numpy()
        transposed_starts = np.zeros(n_columns + 1, np.int32)
        np.cumsum(np.bincount(column, minlength=n_columns), out=transposed_starts[1:])

        def to_device(array: NDArray[Any]) -> Tensor:
            return torch.from_numpy(np.ascontiguousarray(array)).to(device)

        return cls(
            Pattern(to_device(starts.astype(np.int32)), to_device(column), n_columns),
            to_device(value),
            Pattern(to_device(transposed_starts), to_device(row[order]), n_rows),
            to_device(value[order]),
        )

    def select_rows(self, idx: Tensor) -> "FixedMatrix":
        """Return the matrix of these rows, with its transpose: (rows,)."""
        starts, n_columns = self.pattern.starts, self.pattern.n_columns
        first = starts.index_select(0, idx).long()
        n_of_row = starts.index_select(0, idx + 1).long() - first  # (rows,)
        ends = torch.cumsum(n_of_row, 0)
        n_values = int(ends[-1]) if len(idx) else 0
        row = torch.repeat_interleave(
            torch.arange(len(idx), dtype=torch.int32, device=idx.device), n_of_row, output_size=n_values
        )
        at = torch.arange(n_values, device=idx.device) + (first - ends + n_of_row).index_select(0, row)
        column, value = self.pattern.column.index_select(0, at), self.value.index_select(0, at)
        order = stable_argsort(column, n_columns)
        return FixedMatrix(
            Pattern.from_counts(n_of_row, column, n_columns),
            value,
            Pattern.from_counts(count(column, n_columns), row.index_select(0, order), len(idx)),
            value.index_select(0, order),
        )

    def matmul(self, table: Tensor) -> Tensor:
        """Return this matrix times a learned table: (n_columns, width) → (n_rows, width)."""
        product: Tensor = _FixedMatmul.apply(table, self)  # type: ignore[no-untyped-call]
        return product


def kernels() -> Any:
    """Return the module `kernels`, whose compiler only CUDA builds of torch bring along."""
    return import_module("recsys.training.kernels")


@contextmanager
def _tf32() -> Iterator[None]:
    """Let matrix products of float32 on CUDA round their factors to TF32: 10 bits of mantissa, 8 times the speed."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def stable_argsort(idx: Tensor, n: int) -> Tensor:
    """Return the stable order in which `idx` ascends: (batch,) of values below n → (batch,) int64."""
    if idx.device.type != "cpu":
        return torch.argsort(idx, stable=True)
    # numpy sorts 16 bits by radix, in a seventh of torch's time. Two stable passes sort 32 bits.
    values = idx.numpy()
    order = np.argsort(values.astype(np.uint16), kind="stable")
    if n > 1 << 16:
        order = order[np.argsort((values >> 16).astype(np.uint16)[order], kind="stable")]
    return torch.from_numpy(order)


def uses_kernels(device: torch.device) -> bool:
    """Return whether products on this device go through `recsys.training.kernels`.

    They do on CUDA, where sorting each batch would cost more than the products. The kernels add up in an order that
    differs between runs; after `torch.use_deterministic_algorithms(True)` the slower products of the CPU are used.
    """
    return device.type == "cuda" and _has_triton() and not torch.are_deterministic_algorithms_enabled()


@cache
def _has_triton() -> bool:
    """Return whether the compiler of the kernels is there; CUDA builds of torch for Linux bring it along."""
    return find_spec("triton") is not None


def count(idx: Tensor, n: int) -> Tensor:
    """Return how often each of 0 … n − 1 occurs: (batch,) int32 → (n,) int64."""
    if idx.device.type == "cpu":
        return torch.bincount(idx, minlength=n)
    # On CUDA `bincount` waits for the device to learn the largest index.
    return torch.zeros(n, dtype=torch.int64, device=idx.device).index_add_(
        0, idx, torch.ones((), dtype=torch.int64, device=idx.device).expand(len(idx))
    )


def cells_matmul(at: Cells, value: Tensor, table: Tensor) -> Tensor:
    """Return the cells with these values times a learned table: (batch,), (n_items, width) → (n_users, width)."""
    product: Tensor = _CellsMatmul.apply(table, value, at)  # type: ignore[no-untyped-call]
    return product


def cell_products(P: Tensor, Q: Tensor, at: Cells) -> Tensor:
    """Return p_u · q_i of the cells, differentiable in both tables: (n_users, width), (n_items, width) → (batch,).

    The gradients are ∂P = G Q and ∂Q = Gᵀ P, where G is the sparse matrix of the gradients of the cells.
    """
    product: Tensor = _CellProducts.apply(P, Q, at)  # type: ignore[no-untyped-call]
    return product


def products_at(P: Tensor, Q: Tensor, at: Cells) -> Tensor:
    """Return p_u · q_i of the cells: (n_users, width), (n_items, width) → (batch,)."""
    if uses_kernels(P.device):
        products: Tensor = kernels().pair_products(P, Q, at.user_idx, at.item_idx)
        return products
    zeros = at.by_user.with_values(P.new_zeros(len(at.user_idx)))
    product: Tensor = torch.sparse.sampled_addmm(zeros, P, Q.T, beta=0.0).values()
    return product


def sum_by_user(value: Tensor, Q: Tensor, at: Cells) -> Tensor:
    """Return the cells with these values times a table of items: (batch,), (n_items, width) → (n_users, width)."""
    if uses_kernels(Q.device):
        out = Q.new_zeros(at.n_users, Q.shape[1])
        summed: Tensor = kernels().add_rows(out, at.user_idx, value, Q, at.item_idx)
        return summed
    return at.by_user.matmul(value, Q)


def sum_by_item(value: Tensor, P: Tensor, at: Cells) -> Tensor:
    """Return the transpose of the cells times a table of users: (batch,), (n_users, width) → (n_items, width)."""
    if uses_kernels(P.device):
        out = P.new_zeros(at.n_items, P.shape[1])
        summed: Tensor = kernels().add_rows(out, at.item_idx, value, P, at.user_idx)
        return summed
    return at.by_item.matmul(value.index_select(0, at.order), P)


def catalogue_logsumexp(P: Tensor, Q: Tensor, bias: Tensor) -> Tensor:
    """Return log Σ_i exp(p_u · q_i + b_i) on a CUDA device, differentiable in all three.

    (users, width), (n_items, width), (n_items,) → (users,). The scores of a few users at a time are computed, and
    computed again for the gradients, so that memory does not grow with users × n_items. Products are in TF32.
    """
    total: Tensor = _CatalogueLogSumExp.apply(P, Q, bias)  # type: ignore[no-untyped-call]
    return total


def weighted_squares(table: Tensor, weight: Tensor) -> Tensor:
    """Return Σ_r weight_r · ‖row r‖², with the gradient 2 weight_r · row r.

    Args:
        table: (n, width) or (n,).
        weight: (n,), not differentiated.
    """
    total: Tensor = _WeightedSquares.apply(table, weight)  # type: ignore[no-untyped-call]
    return total


class _CellProducts(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, P: Tensor, Q: Tensor, at: Cells) -> Tensor:
        ctx.save_for_backward(P, Q)
        ctx.at = at
        return products_at(P, Q, at)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        P, Q = ctx.saved_tensors
        gradient = gradients[0].contiguous()  # cuSPARSE refuses values with strides
        return sum_by_user(gradient, Q, ctx.at), sum_by_item(gradient, P, ctx.at), None


class _CellsMatmul(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, table: Tensor, value: Tensor, at: Cells) -> Tensor:
        ctx.save_for_backward(value)
        ctx.at = at
        if uses_kernels(table.device):
            out = table.new_zeros(at.n_users, table.shape[1])
            kernels().add_rows(out, at.user_idx, value, table, at.item_idx)
            return out
        return at.by_user.matmul(value, table)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (value,) = ctx.saved_tensors
        at: Cells = ctx.at
        gradient = gradients[0].contiguous()
        if uses_kernels(value.device):
            out = gradient.new_zeros(at.n_items, gradient.shape[1])
            return kernels().add_rows(out, at.item_idx, value, gradient, at.user_idx), None, None
        return at.by_item.matmul(value.index_select(0, at.order), gradient), None, None


class _CatalogueLogSumExp(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, P: Tensor, Q: Tensor, bias: Tensor) -> Tensor:
        users = max(1, _MAX_CELLS // len(Q))
        with _tf32():
            log_sums = [kernels().row_logsumexp(torch.addmm(bias, part, Q.T)) for part in torch.split(P, users)]
        log_sum = torch.cat(log_sums)
        ctx.save_for_backward(P, Q, bias, log_sum)
        return log_sum

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        P, Q, bias, log_sum = ctx.saved_tensors
        users = max(1, _MAX_CELLS // len(Q))
        of_users, of_items, of_bias = [], torch.zeros_like(Q), torch.zeros_like(bias)
        parts = (torch.split(table, users) for table in (P, log_sum, gradients[0]))
        with _tf32():
            for p, shift, gradient in zip(*parts, strict=True):
                softmax = kernels().exp_of_difference(torch.addmm(bias, p, Q.T), shift)  # (users, n_items)
                of_users.append((softmax @ Q) * gradient[:, None])
                of_items.addmm_(softmax.T, p * gradient[:, None])
                of_bias.addmv_(softmax.T, gradient)
        return torch.cat(of_users), of_items, of_bias


class _FixedMatmul(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, table: Tensor, matrix: FixedMatrix) -> Tensor:
        ctx.matrix = matrix
        return matrix.pattern.matmul(matrix.value, table)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        matrix: FixedMatrix = ctx.matrix
        return matrix.transposed.matmul(matrix.transposed_value, gradients[0].contiguous()), None


class _WeightedSquares(torch.autograd.Function):
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
