"""Models as torch modules: they take numbers and tensors, never a configuration.

Legend of the shapes: `batch` pairs of one user and one item, `users` users of one step.
"""

from typing import Protocol

import torch
from torch import Tensor, nn


class Model(Protocol):
    """What an objective asks of an architecture."""

    def pairs(self, user_idx: Tensor, item_idx: Tensor) -> tuple[Tensor, Tensor]:
        """Scores of (user, item) pairs, and the squared norm of the rows that each score was made of.

        Args:
            user_idx, item_idx: (batch,) int32.

        Returns:
            (z, squared_norm), both (batch,).
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

    def zero_grad(self, set_to_none: bool = True) -> None: ...


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

    def pairs(self, user_idx: Tensor, item_idx: Tensor) -> tuple[Tensor, Tensor]:
        """z and squared norms of pairs, both (batch,); see `Model.pairs`."""
        user_idx, item_idx = user_idx.long(), item_idx.long()
        p = rows(self.user_factors, user_idx)  # (batch, n_factors)
        q = rows(self.item_factors, item_idx)  # (batch, n_factors)
        b_u, b_i = self.user_bias.gather(0, user_idx), self.item_bias.gather(0, item_idx)  # (batch,)
        z = (p * q).sum(1) + b_u + b_i + self.global_bias  # (batch,)
        return z, p.square().sum(1) + q.square().sum(1)

    def catalogue(self, user_idx: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """z of all items (users, n_items) and squared norms; see `Model.catalogue`.

        Without b_u and b: they shift all of a user's scores alike, which the softmax does not see.
        """
        p = rows(self.user_factors, user_idx.long())  # (users, n_factors)
        z = torch.addmm(self.item_bias, p, self.item_factors.T)  # (users, n_items)
        return z, p.square().sum(1), self.item_factors.square().sum(1)


def rows(table: Tensor, idx: Tensor) -> Tensor:
    """`table[idx]`: (n, width) and (batch,) int64 → (batch, width).

    As `gather` over an index that is expanded, not copied: the backward pass of that form sorts the index
    and adds rows in parallel, which takes half the time of `embedding`'s on the CPU.
    """
    return table.gather(0, idx[:, None].expand(-1, table.shape[1]))
