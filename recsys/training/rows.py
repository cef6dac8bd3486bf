"""Rows of the embedding tables that a step needs, and terms that many rows share, computed once for several steps.

A step touches the rows of its batch only: their gradients are sparse tensors, which `AdamW` applies to these rows. The
implicit terms and the feature terms of a row are sums over other tables, which cost more than the rest of the step. So
they are held for a block of steps, while their gradients add up, and their tables move once at the end of the block.

Legend of the shapes: `rows` of a step, `n` rows of a side, `width` columns of an embedding.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from recsys.training.sparse import FixedMatrix


class SideRows(NamedTuple):
    """Some rows of a side.

    Attributes:
        own_factors, own_bias: (rows, width), (rows,), what belongs to each row alone.
        factors, bias: (rows, width), (rows,), with the implicit and the feature terms.
    """

    own_factors: Tensor
    own_bias: Tensor
    factors: Tensor
    bias: Tensor


@dataclass(slots=True)
class HeldTerms:
    """The implicit and feature terms of some rows while a block of steps lasts, and the gradients of these steps.

    Attributes:
        block: number that tells one block from another.
        history, features: the weights of the rows' terms; `None` where a side has none.
        factors, factors_grad: (rows, width), the terms and the sum of their gradients.
        bias, bias_grad: (rows,), the same of the biases; `None` without features.
        implicit_squares, feature_squares: Σ of the squares of the tables, which the penalty needs.
    """

    block: int
    history: FixedMatrix | None
    features: FixedMatrix | None
    factors: Tensor
    factors_grad: Tensor
    bias: Tensor | None
    bias_grad: Tensor | None
    implicit_squares: Tensor
    feature_squares: Tensor

    def state_dict(self) -> dict[str, Tensor]:
        """Return the gradients so far; everything else is computed again from the tables."""
        state = {"factors_grad": self.factors_grad}
        if self.bias_grad is not None:
            state["bias_grad"] = self.bias_grad
        return state

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Continue with the gradients of an equal block."""
        self.factors_grad.copy_(state["factors_grad"])
        if self.bias_grad is not None:
            self.bias_grad.copy_(state["bias_grad"])


def take_rows(table: Tensor, idx: Tensor) -> Tensor:
    """Return rows of a table, whose gradient is sparse: (n, …), (rows,) distinct → (rows, …)."""
    rows: Tensor = _TakeRows.apply(table, idx)  # type: ignore[no-untyped-call]
    return rows


def add_held(own: Tensor, held: Tensor, held_grad: Tensor, idx: Tensor | None) -> Tensor:
    """Return own + held[idx], and in the backward pass add the gradient to `held_grad` at these rows.

    Args:
        own: (rows, …).
        held, held_grad: (n, …).
        idx: (rows,) distinct positions in `held`; `None`: all, in order.
    """
    total: Tensor = _AddHeld.apply(own, held, held_grad, idx)  # type: ignore[no-untyped-call]
    return total


class _TakeRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, table: Tensor, idx: Tensor) -> Tensor:
        ctx.save_for_backward(idx)
        ctx.shape = table.shape
        return table.index_select(0, idx)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (idx,) = ctx.saved_tensors
        gradient = torch.sparse_coo_tensor(
            idx[None].long(), gradients[0], ctx.shape, check_invariants=False, is_coalesced=True
        )
        return gradient, None


class _AddHeld(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, own: Tensor, held: Tensor, held_grad: Tensor, idx: Tensor | None) -> Tensor:
        ctx.held_grad, ctx.idx = held_grad, idx
        return own + (held if idx is None else held.index_select(0, idx))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        if ctx.idx is None:
            ctx.held_grad.add_(gradients[0])
        else:
            ctx.held_grad.index_add_(0, ctx.idx, gradients[0])
        return gradients[0], None, None, None
