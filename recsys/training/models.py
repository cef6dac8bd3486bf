"""The architectures as torch modules. They take numbers and tensors, never a configuration.

Legend of the shapes: `batch` ratings of one step, `users` users of one step, `n_candidates` items that are scored for
each of them, `n` users or items of a side, `width` columns of an embedding.
"""

import math
from collections.abc import Sequence
from typing import Protocol, cast

import numpy as np
import torch
from torch import Tensor, nn

from recsys.factors import Head
from recsys.training.rows import SideRows
from recsys.training.side import SideModule
from recsys.training.sparse import Cells, catalogue_logsumexp, cell_products, uses_kernels


class Model(Protocol):
    """The interface between an objective and an architecture."""

    users: SideModule
    items: SideModule
    global_bias: nn.Parameter

    def score_pairs(self, at: Cells, users: SideRows | None = None, items: SideRows | None = None) -> Tensor:
        """Return the scores of the cells: (batch,).

        Args:
            at: positions in `users` and `items`.
            users, items: the rows of the batch; `None`: all rows of the side.
        """
        ...

    def score_lists(
        self, user_idx: Tensor, seen: Cells, dropout: float, candidates: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Return the scores of candidates for some users, and of the items that these users have.

        Both are without b_u and b, which shift all scores of a user alike and cancel in the softmax.

        Args:
            user_idx: (users,) int32.
            seen: (users) × items cells.
            dropout: share of `seen` to hide from the users' factors.
            candidates: (n_candidates,) item indices; `None`: all items.

        Returns:
            (users, n_candidates) and (batch,).
        """
        ...

    def score_catalogue(self, user_idx: Tensor, seen: Cells, dropout: float) -> tuple[Tensor, Tensor]:
        """Return log Σ_i e^{z_ui} over the catalogue for some users, and the scores of the items that they have.

        As `score_lists` with all items as candidates: (users,) and (batch,).
        """
        ...


class DotProduct(nn.Module):
    """Matrix factorisation with biases.

        z_ui = p_u · q_i + b_u + b_i + b

    with p_u, q_i the factors and b_u, b_i the biases of the two sides. Koren, Bell & Volinsky, "Matrix Factorization
    Techniques for Recommender Systems", IEEE Computer 2009.
    """

    def __init__(self, users: SideModule, items: SideModule, generator: torch.Generator) -> None:
        super().__init__()
        self.users, self.items = users, items
        self.global_bias = nn.Parameter(torch.zeros((), device=generator.device))
        self._generator = generator

    def score_pairs(self, at: Cells, users: SideRows | None = None, items: SideRows | None = None) -> Tensor:
        """Return z of the cells, as `Model.score_pairs` describes: (batch,)."""
        users, items = users or self.users.rows(), items or self.items.rows()
        dot = cell_products(users.factors, items.factors, at)
        b_u = users.bias.index_select(0, at.user_idx)
        b_i = items.bias.index_select(0, at.item_idx)
        return dot + (b_u + b_i + self.global_bias)

    def score_lists(
        self, user_idx: Tensor, seen: Cells, dropout: float, candidates: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Return the scores that `Model.score_lists` describes."""
        p = self.users.dropped_factors(user_idx, seen, dropout, self._generator)  # (users, width)
        q, b_i = self.items.factors(), self.items.biases()
        if candidates is None:
            z = torch.addmm(b_i, p, q.T)  # (users, n_items)
            return z, z[seen.user_idx.long(), seen.item_idx.long()]
        chosen = nn.functional.embedding(candidates, q)  # (n_candidates, width)
        z = torch.addmm(b_i.index_select(0, candidates), p, chosen.T)  # (users, n_candidates)
        return z, cell_products(p, q, seen) + b_i.index_select(0, seen.item_idx)

    def score_catalogue(self, user_idx: Tensor, seen: Cells, dropout: float) -> tuple[Tensor, Tensor]:
        """Return the sums and scores that `Model.score_catalogue` describes."""
        if not uses_kernels(user_idx.device):
            z, z_seen = self.score_lists(user_idx, seen, dropout, None)
            return z.logsumexp(1), z_seen
        p = self.users.dropped_factors(user_idx, seen, dropout, self._generator)  # (users, width)
        q, b_i = self.items.factors(), self.items.biases()
        return catalogue_logsumexp(p, q, b_i), cell_products(p, q, seen) + b_i.index_select(0, seen.item_idx)

    def user_vectors(self, factors: Tensor) -> Tensor:
        """Return the vectors of `Factors` for factors of users: themselves."""
        return factors

    def item_vectors(self, factors: Tensor) -> Tensor:
        """Return the vectors of `Factors` for factors of items, without `item_base`: themselves."""
        return factors

    def item_base(self) -> Tensor:
        """Return the part that every item's vector includes: zeros (width,)."""
        return self.items.own_factors.new_zeros(self.items.own_factors.shape[1])

    def head(self) -> None:
        """Return `None`: the dot product has no layers."""


class NeuralCF(nn.Module):
    """A dot product and a multilayer perceptron over the same embeddings, with biases.

        z_ui = M p_u · q_i + f(U p_u + V q_i + c) + b_u + b_i + b

    f is, for each layer, a rectifier, batch normalisation if `batch_norm`, dropout and a linear map, the last one to
    one number. After He et al., "Neural Collaborative Filtering", WWW 2017, with three differences: one pair of
    embeddings in place of two; widths that may differ, which M maps to each other; and the product kept beside the
    layers, since layers hardly learn one (Rendle et al., "Neural Collaborative Filtering vs. Matrix Factorization
    Revisited", RecSys 2020).

    Args:
        hidden: widths of the layers, the first one that of U p_u.
        dropout: share of each layer's inputs that is left out in training.
        batch_norm: whether each layer's inputs are normalised over the batch.
        generator: draws the layers and the dropout.
    """

    def __init__(
        self,
        users: SideModule,
        items: SideModule,
        hidden: Sequence[int],
        *,
        dropout: float,
        batch_norm: bool,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.users, self.items = users, items
        device = generator.device
        self.global_bias = nn.Parameter(torch.zeros((), device=device))
        self._generator, self._dropout = generator, dropout
        user_width, item_width = users.own_factors.shape[1], items.own_factors.shape[1]

        def uniform(n_out: int, n_in: int, bound: float) -> nn.Parameter:
            drawn = torch.rand(n_out, n_in, generator=generator, device=device)
            return nn.Parameter((2 * drawn - 1) * bound)

        self.projection = nn.Parameter(torch.eye(item_width, user_width, device=device))  # M
        first = hidden[0]
        bound = (user_width + item_width) ** -0.5
        self.user_layer = uniform(first, user_width, bound)  # U
        self.item_layer = uniform(first, item_width, bound)  # V
        self.first_bias = nn.Parameter(torch.zeros(first, device=device))  # c
        outs = [*hidden[1:], 1]
        self.weights = nn.ParameterList(
            [uniform(n_out, n_in, n_in**-0.5) for n_in, n_out in zip(hidden, outs, strict=True)]
        )
        self.biases = nn.ParameterList([nn.Parameter(torch.zeros(n_out, device=device)) for n_out in outs])
        self.norms = nn.ModuleList([nn.BatchNorm1d(n_in, device=device) for n_in in hidden] if batch_norm else [])

    def score_pairs(self, at: Cells, users: SideRows | None = None, items: SideRows | None = None) -> Tensor:
        """Return z of the cells, as `Model.score_pairs` describes: (batch,)."""
        users, items = users or self.users.rows(), items or self.items.rows()
        p, q = users.factors, items.factors
        # M p · q = p · Mᵀ q: M is applied to the smaller side.
        if len(p) < len(q):
            dot = cell_products(p @ self.projection.T, q, at)
        else:
            dot = cell_products(p, q @ self.projection, at)
        f = self._layers(self._first_layer(p, q, at))
        b_u = users.bias.index_select(0, at.user_idx)
        b_i = items.bias.index_select(0, at.item_idx)
        return dot + f + (b_u + b_i + self.global_bias)

    def score_lists(
        self, user_idx: Tensor, seen: Cells, dropout: float, candidates: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Return the scores that `Model.score_lists` describes.

        Candidates and seen items go through the layers together, so that batch normalisation treats both alike.
        """
        p = self.users.dropped_factors(user_idx, seen, dropout, self._generator)  # (users, user_width)
        q, b_i = self.items.factors(), self.items.biases()
        if candidates is None:
            candidates = torch.arange(len(q), device=q.device)
        chosen = nn.functional.embedding(candidates, q)  # (n_candidates, item_width)
        projected = p @ self.projection.T  # (users, item_width)
        # (users, n_candidates, hidden[0])
        every = (p @ self.user_layer.T)[:, None] + (chosen @ self.item_layer.T + self.first_bias)
        n = every.shape[0] * every.shape[1]
        f = self._layers(torch.cat([every.flatten(0, 1), self._first_layer(p, q, seen)]))  # (n + batch,)
        z = torch.addmm(b_i.index_select(0, candidates), projected, chosen.T) + f[:n].view(every.shape[:2])
        return z, cell_products(projected, q, seen) + f[n:] + b_i.index_select(0, seen.item_idx)

    def score_catalogue(self, user_idx: Tensor, seen: Cells, dropout: float) -> tuple[Tensor, Tensor]:
        """Return the sums and scores that `Model.score_catalogue` describes."""
        z, z_seen = self.score_lists(user_idx, seen, dropout, None)
        return z.logsumexp(1), z_seen

    def _first_layer(self, p: Tensor, q: Tensor, at: Cells) -> Tensor:
        """Return U p_u + V q_i + c of the cells: (batch, hidden[0])."""
        of_users = linear_of_rows(p, at.user_idx, self.user_layer)
        return of_users + linear_of_rows(q, at.item_idx, self.item_layer) + self.first_bias

    def _layers(self, x: Tensor) -> Tensor:
        """Return f(x): (rows, hidden[0]) → (rows,)."""
        for layer, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            x = x.relu()
            if len(self.norms):
                norm = cast(nn.BatchNorm1d, self.norms[layer])
                if len(x) > 1:
                    x = norm(x)
                else:  # a single row has no variance: it is normalised by the running statistics
                    x = nn.functional.batch_norm(
                        x, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=norm.eps
                    )
            if self._dropout > 0 and self.training:
                kept = torch.rand(x.shape, generator=self._generator, device=x.device) >= self._dropout
                x = x * kept / (1 - self._dropout)
            x = nn.functional.linear(x, weight, bias)
        return x[:, 0]

    def user_vectors(self, factors: Tensor) -> Tensor:
        """Return (M p, U p) of factors of users: (n, user_width) → (n, item_width + hidden[0])."""
        return torch.cat([factors @ self.projection.T, factors @ self.user_layer.T], 1)

    def item_vectors(self, factors: Tensor) -> Tensor:
        """Return (q, V q) of factors of items: (n, item_width) → (n, item_width + hidden[0])."""
        return torch.cat([factors, factors @ self.item_layer.T], 1)

    def item_base(self) -> Tensor:
        """Return (0, c), which every item's vector includes: (item_width + hidden[0],)."""
        return torch.cat([self.first_bias.new_zeros(self.items.own_factors.shape[1]), self.first_bias])

    @torch.no_grad()
    def head(self) -> Head:
        """Return the layers as arrays, batch normalisation folded into the linear map that follows it.

        `user_map` is (M; U), which maps factors of users to their vectors.

        With running mean m, variance v, scale g and shift s of the normalisation:

            W' = W · g / √(v + ε)        b' = b + W (s − m · g / √(v + ε))
        """
        layers = []
        for layer, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            W, b = weight, bias
            if len(self.norms):
                norm = cast(nn.BatchNorm1d, self.norms[layer])
                mean, variance = norm.running_mean, norm.running_var
                assert mean is not None
                assert variance is not None
                scale = norm.weight * (variance + norm.eps).rsqrt()
                b = b + W @ (norm.bias - mean * scale)
                W = W * scale
            layers.append((W.cpu().numpy().astype(np.float32), b.cpu().numpy().astype(np.float32)))
        user_map = torch.cat([self.projection, self.user_layer]).cpu().numpy()
        return Head(n_dot=self.items.own_factors.shape[1], layers=tuple(layers), user_map=user_map)


def linear_of_rows(table: Tensor, idx: Tensor, weight: Tensor) -> Tensor:
    """Return (table Wᵀ)[idx] by the cheaper order of the two: (n, width), (batch,), (n_out, width) → (batch, n_out)."""
    if len(idx) < len(table):
        return nn.functional.linear(nn.functional.embedding(idx, table), weight)
    return nn.functional.embedding(idx, nn.functional.linear(table, weight))


def embedding_width(n: int) -> int:
    """Return the width of an embedding of n rows: min(600, round(1.6 · n^0.56)), fastai's rule of thumb."""
    return min(600, round(1.6 * math.pow(n, 0.56)))
