"""Models as torch modules: they take numbers and tensors, never a configuration.

Legend of the shapes: `batch` pairs of one user and one item, `users` users of one step.
"""

from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn


class Pairs(NamedTuple):
    """Scores of (user, item) pairs, and what each was made of: all (batch,).

    Attributes:
        z: scores.
        user_squared_norm, item_squared_norm: ‖p_u‖² and ‖q_i‖².
        user_bias, item_bias: b_u and b_i.
    """

    z: Tensor
    user_squared_norm: Tensor
    item_squared_norm: Tensor
    user_bias: Tensor
    item_bias: Tensor


class Model(Protocol):
    """What an objective asks of an architecture."""

    def pairs(self, user_idx: Tensor, item_idx: Tensor) -> Pairs:
        """Scores of (user, item) pairs.

        Args:
            user_idx, item_idx: (batch,) int32.
        """
        ...

    def catalogue(self, user_idx: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Scores of every item for some users, and the squared norms of the rows behind them.

        Args:
            user_idx: (users,) int32.

        Returns:
            (z, user_squared_norm, item_squared_norm): (users, n_items), (users,), (n_items,).
        """
        ...


class DotProduct(nn.Module):
    """Matrix factorisation with biases (Koren, Bell & Volinsky, "Matrix Factorization Techniques for
    Recommender Systems", IEEE Computer 2009).

        z_ui = p_u · q_i + b_u + b_i + b

    `pairs` and `catalogue` are the two ways to ask for z.

    Attributes:
        user_factors, item_factors: (n_users, n_factors), (n_items, n_factors): p and q, drawn from
            N(0, init_std²) with `generator`, so that no global random state is touched.
        user_bias, item_bias: (n_users,), (n_items,): b_u and b_i, zero at first.
        global_bias: (): b.
    """

    def __init__(
        self, n_users: int, n_items: int, n_factors: int, *, init_std: float, generator: torch.Generator
    ) -> None:
        super().__init__()
        device = generator.device

        def normal(n: int) -> nn.Parameter:
            return nn.Parameter(torch.randn(n, n_factors, generator=generator, device=device) * init_std)

        self.user_factors = normal(n_users)
        self.item_factors = normal(n_items)
        self.user_bias = nn.Parameter(torch.zeros(n_users, device=device))
        self.item_bias = nn.Parameter(torch.zeros(n_items, device=device))
        self.global_bias = nn.Parameter(torch.zeros((), device=device))

    def pairs(self, user_idx: Tensor, item_idx: Tensor) -> Pairs:
        """z of pairs; see `Model.pairs`."""
        user_idx, item_idx = user_idx.long(), item_idx.long()
        product: tuple[Tensor, Tensor, Tensor] = RowProduct.apply(
            self.user_factors, self.item_factors, user_idx, item_idx
        )  # type: ignore[no-untyped-call]
        dot, user_squared_norm, item_squared_norm = product  # (batch,) each
        b_u, b_i = self.user_bias.gather(0, user_idx), self.item_bias.gather(0, item_idx)  # (batch,)
        return Pairs(dot + b_u + b_i + self.global_bias, user_squared_norm, item_squared_norm, b_u, b_i)

    def catalogue(self, user_idx: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """z of all items (users, n_items) and squared norms; see `Model.catalogue`.

        Without b_u and b: they shift all of a user's scores alike, which the softmax does not see.
        """
        p = rows(self.user_factors, user_idx.long())  # (users, n_factors)
        z = torch.addmm(self.item_bias, p, self.item_factors.T)  # (users, n_items)
        return z, p.square().sum(1), self.item_factors.square().sum(1)


class RowProduct(torch.autograd.Function):
    """p_u · q_i, ‖p_u‖² and ‖q_i‖² of pairs, (batch,) each, from tables P (n_users, n_factors) and
    Q (n_items, n_factors).

    What autograd would do by itself, with the gradients

        ∂P[u] += g_dot · q_i + 2 g_u · p_u        ∂Q[i] += g_dot · p_u + 2 g_i · q_i

    written out: a third of the arrays of (batch, n_factors), which is where the time of a step goes.
    """

    @staticmethod
    def forward(ctx: Any, P: Tensor, Q: Tensor, user_idx: Tensor, item_idx: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        p, q = rows(P, user_idx), rows(Q, item_idx)  # (batch, n_factors)
        ctx.save_for_backward(p, q, user_idx, item_idx)
        ctx.n_users, ctx.n_items = len(P), len(Q)
        vecdot = torch.linalg.vecdot
        return (p * q).sum(1), vecdot(p, p), vecdot(q, q)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None, None]:
        p, q, user_idx, item_idx = ctx.saved_tensors
        dot, of_user, of_item = (gradient[:, None] for gradient in gradients)  # (batch, 1)
        for_rows = (q * dot).addcmul_(p, of_user, value=2)  # (batch, n_factors)
        for_P = rows_added(ctx.n_users, user_idx, for_rows)
        torch.mul(p, dot, out=for_rows).addcmul_(q, of_item, value=2)
        return for_P, rows_added(ctx.n_items, item_idx, for_rows), None, None


def rows(table: Tensor, idx: Tensor) -> Tensor:
    """`table[idx]`: (n, width) and (batch,) int64 → (batch, width)."""
    return table.gather(0, idx[:, None].expand(-1, table.shape[1]))


def rows_added(n: int, idx: Tensor, added: Tensor) -> Tensor:
    """The transpose of `rows`: zeros (n, width), with row b of `added` (batch, width) added to row idx[b].

    Like `rows` over an index that is expanded, not copied: for that form torch sorts the index and adds rows in
    parallel, which on the CPU takes half the time of the backward pass of `embedding`.
    """
    width = added.shape[1]
    return added.new_zeros(n, width).scatter_add_(0, idx[:, None].expand(-1, width), added)
