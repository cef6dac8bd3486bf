"""Triton kernels for CUDA devices, with one plain function for each.

Rows of tables are added up by atomic operations, in an order that differs from run to run, so that sums differ in their
last bits. `sparse.uses_kernels` says when they are used.

Legend of the shapes: `batch` cells of one step, `width` columns of a table. All tables are contiguous float32 on one
CUDA device.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

_ELEMENTS = 2048
"""Elements of a table that one program of a row kernel holds at once."""
_MAX_WIDTH = 128
"""Columns that one program of a row kernel reads at once."""
_BLOCK = 2048
"""Elements that one program of an elementwise kernel holds at once."""


def pair_products(P: Tensor, Q: Tensor, user_idx: Tensor, item_idx: Tensor) -> Tensor:
    """Return p_u · q_i of each pair: (n_users, width), (n_items, width), (batch,) int32 twice → (batch,)."""
    n, width = len(user_idx), P.shape[1]
    out = torch.empty(n, device=P.device)
    if n:
        rows, columns = _tile(width)
        _pair_products[(triton.cdiv(n, rows),)](P, Q, user_idx, item_idx, out, n, width, ROWS=rows, COLUMNS=columns)
    return out


def add_rows(out: Tensor, row: Tensor, value: Tensor, table: Tensor, column: Tensor) -> Tensor:
    """Add multiples of rows of a table to rows of `out`, and return `out`.

        out[row_k] += value_k · table[column_k]

    Args:
        out: (n_rows, width), changed in place.
        row, column: (batch,) int32. A row may come many times.
        value: (batch,).
        table: (n_columns, width).
    """
    n, width = len(row), table.shape[1]
    if n:
        rows, columns = _tile(width)
        _add_rows[(triton.cdiv(n, rows),)](out, row, value, table, column, n, width, ROWS=rows, COLUMNS=columns)
    return out


def adamw(theta: Tensor, gradient: Tensor, mean: Tensor, variance: Tensor, scalars: Tensor) -> None:
    """Take one step of AdamW, as `optimizer.AdamW` defines it, in place.

    Args:
        theta, gradient, mean, variance: of one shape.
        scalars: (5,) the share of θ that the decay leaves, β₁, β₂, the learning rate / (1 − β₁ᵗ) and √(1 − β₂ᵗ). They
            are read on the device, so that a CUDA graph of this step can be replayed with others.
    """
    n = theta.numel()
    _adamw[(triton.cdiv(n, _BLOCK),)](theta, gradient, mean, variance, scalars, n, BLOCK=_BLOCK)


def row_logsumexp(z: Tensor) -> Tensor:
    """Return log Σ_j exp z_ij, reading z once: (n_rows, n_columns) → (n_rows,)."""
    out = torch.empty(len(z), device=z.device)
    if len(z):
        _row_logsumexp[(len(z),)](z, out, z.shape[1], BLOCK=_BLOCK)
    return out


def exp_of_difference(z: Tensor, shift: Tensor) -> Tensor:
    """Replace z_ij by exp(z_ij − shift_i), and return it: (n_rows, n_columns), (n_rows,)."""
    n_rows, n_columns = z.shape
    if n_rows:
        _exp_of_difference[(n_rows, triton.cdiv(n_columns, _BLOCK))](z, shift, n_columns, BLOCK=_BLOCK)
    return z


def _tile(width: int) -> tuple[int, int]:
    """Return the rows and columns that one program of a row kernel holds at once: powers of two."""
    columns = min(triton.next_power_of_2(width), _MAX_WIDTH)
    return max(1, _ELEMENTS // columns), columns


@triton.jit  # type: ignore[untyped-decorator]
def _pair_products(P, Q, user, item, out, n, width: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr):  # type: ignore[no-untyped-def]  # fmt: skip
    k = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    inside = k < n
    p_start = P + tl.load(user + k, mask=inside, other=0).to(tl.int64) * width
    q_start = Q + tl.load(item + k, mask=inside, other=0).to(tl.int64) * width
    total = tl.zeros((ROWS,), tl.float32)
    for first in range(0, width, COLUMNS):
        column = first + tl.arange(0, COLUMNS)
        mask = inside[:, None] & (column < width)[None, :]
        p = tl.load(p_start[:, None] + column[None, :], mask=mask, other=0.0)
        q = tl.load(q_start[:, None] + column[None, :], mask=mask, other=0.0)
        total += tl.sum(p * q, 1)
    tl.store(out + k, total, mask=inside)


@triton.jit  # type: ignore[untyped-decorator]
def _add_rows(out, row, value, table, source, n, width: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr):  # type: ignore[no-untyped-def]  # fmt: skip
    k = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    inside = k < n
    target = out + tl.load(row + k, mask=inside, other=0).to(tl.int64) * width
    start = table + tl.load(source + k, mask=inside, other=0).to(tl.int64) * width
    factor = tl.load(value + k, mask=inside, other=0.0)
    for first in range(0, width, COLUMNS):
        column = first + tl.arange(0, COLUMNS)
        mask = inside[:, None] & (column < width)[None, :]
        x = tl.load(start[:, None] + column[None, :], mask=mask, other=0.0)
        tl.atomic_add(target[:, None] + column[None, :], factor[:, None] * x, mask=mask, sem="relaxed")


@triton.jit  # type: ignore[untyped-decorator]
def _adamw(theta, gradient, mean, variance, scalars, n, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    k = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = k < n
    kept, beta1, beta2 = tl.load(scalars), tl.load(scalars + 1), tl.load(scalars + 2)
    rate, root = tl.load(scalars + 3), tl.load(scalars + 4)
    g = tl.load(gradient + k, mask=inside)
    m = tl.load(mean + k, mask=inside)
    v = tl.load(variance + k, mask=inside)
    m = beta1 * m + (1 - beta1) * g
    v = beta2 * v + (1 - beta2) * g * g
    moved = kept * tl.load(theta + k, mask=inside) - rate * m / (tl.sqrt(v) / root + 1e-8)
    tl.store(mean + k, m, mask=inside)
    tl.store(variance + k, v, mask=inside)
    tl.store(theta + k, moved, mask=inside)


@triton.jit  # type: ignore[untyped-decorator]
def _row_logsumexp(z, out, n_columns, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    row = tl.program_id(0).to(tl.int64)
    # Each lane keeps a maximum and a sum relative to it. −1e30 in place of −∞, whose difference to itself is no number.
    best = tl.full((BLOCK,), -1e30, tl.float32)
    total = tl.zeros((BLOCK,), tl.float32)
    for first in range(0, n_columns, BLOCK):
        column = first + tl.arange(0, BLOCK)
        x = tl.load(z + row * n_columns + column, mask=column < n_columns, other=-1e30)
        larger = tl.maximum(best, x)
        total = total * tl.exp(best - larger) + tl.exp(x - larger)
        best = larger
    top = tl.max(best, 0)
    tl.store(out + row, top + tl.log(tl.sum(total * tl.exp(best - top), 0)))


@triton.jit  # type: ignore[untyped-decorator]
def _exp_of_difference(z, shift, n_columns, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = column < n_columns
    at = z + row * n_columns + column
    tl.store(at, tl.exp(tl.load(at, mask=inside, other=-1e30) - tl.load(shift + row)), mask=inside)
