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
from recsys.training.sparse import Cells, FixedMatrix, catalogue_logsumexp, cell_products, cells_matmul, uses_kernels

_GRAM_COLUMNS = 64
"""Columns of a Gram matrix of features that are computed at once: temporaries are (n, 64)."""


class SideModule(nn.Module):
    """The factors and biases of the users, or of the items.

        factors_u = own_u + Σ_{j ∈ N(u)} y_j / √|N(u)| + Σ_{f ∈ F(u)} w_f        bias_u = own bias_u + Σ_{f ∈ F(u)} c_f

    N(u) are the items that user u rated, whatever the rating (of an item: the users who rated it). The sum over them
    is the implicit term of SVD++: Koren, "Factorization Meets the Neighborhood", KDD 2008, eq. 15. F(u) are the
    features of u.

    Args:
        n: rows of this side.
        width: columns of its embedding.
        init_std: standard deviation of all factors before training.
        generator: draws them, so that no global random state is touched. Its device is the module's.
        history: (n, n of the other side), the weights 1 / √|N(u)|. `None`: no implicit term.
        features: (n, n_features), ones and zeros. `None`: no features.

    Attributes:
        own_factors: (n, width).
        own_bias: (n,), zeros before training.
        implicit_factors: (n of the other side, width), y; `None` without `history`.
        feature_factors, feature_bias: (n_features, width), w, and (n_features,), c; `None` without `features`.
    """

    def __init__(
        self,
        n: int,
        width: int,
        *,
        init_std: float,
        generator: torch.Generator,
        history: FixedMatrix | None = None,
        features: FixedMatrix | None = None,
    ) -> None:
        super().__init__()
        device = generator.device

        def normal(n_rows: int) -> nn.Parameter:
            return nn.Parameter(torch.randn(n_rows, width, generator=generator, device=device) * init_std)

        self.own_factors = normal(n)
        self.own_bias = nn.Parameter(torch.zeros(n, device=device))
        self.history, self.features = history, features
        self.implicit_factors = None if history is None else normal(history.pattern.n_columns)
        self.feature_factors = None if features is None else normal(features.pattern.n_columns)
        self.feature_bias = (
            None if features is None else nn.Parameter(torch.zeros(features.pattern.n_columns, device=device))
        )

    def factors(self) -> Tensor:
        """Return the factors of all rows: (n, width)."""
        factors: Tensor = self.own_factors
        if self.history is not None and self.implicit_factors is not None:
            factors = factors + self.history.matmul(self.implicit_factors)
        if self.features is not None and self.feature_factors is not None:
            factors = factors + self.features.matmul(self.feature_factors)
        return factors

    def dropped_factors(self, idx: Tensor, seen: Cells, dropout: float, generator: torch.Generator) -> Tensor:
        """Return the factors of some users with a random share of their ratings hidden: (users,) → (users, width).

        The remaining ratings are weighted up, so that the mean stays the same. A model that must predict the rated
        items can then not copy them from its input (Liang et al., "Variational Autoencoders for Collaborative
        Filtering", WWW 2018).

        Args:
            seen: (users) × items cells of the ratings of these users.
            dropout: share of the ratings to hide, from 0 to below 1.
        """
        factors: Tensor = self.own_factors
        if self.features is not None and self.feature_factors is not None:
            factors = factors + self.features.matmul(self.feature_factors)
        of_batch = nn.functional.embedding(idx, factors)  # (users, width)
        if self.implicit_factors is None:
            return of_batch
        share = seen.n_of_user.clamp(min=1).rsqrt().index_select(0, seen.user_idx)  # (batch,)
        if dropout > 0:
            kept = torch.rand(len(share), generator=generator, device=share.device) >= dropout
            share = share * kept / (1 - dropout)
        return of_batch + cells_matmul(seen, share, self.implicit_factors)

    def biases(self) -> Tensor:
        """Return the biases of all rows: (n,)."""
        bias: Tensor = self.own_bias
        if self.features is not None and self.feature_bias is not None:
            bias = bias + self.features.matmul(self.feature_bias[:, None])[:, 0]
        return bias

    @torch.no_grad()
    def start_biases(self, bias: Tensor, ridge: float = 1.0) -> None:
        """Set the biases before training to these values (n,), as far as possible by the features.

        An item without ratings then starts with the usual bias of its features: c minimises

            Σ_i (bias_i − Σ_{f ∈ F(i)} c_f)² + ridge · Σ_f c_f²

        and each row's own bias takes the rest.
        """
        self.own_bias.copy_(bias)
        if self.features is None or self.feature_bias is None:
            return
        X, n_features = self.features, self.features.pattern.n_columns
        eye = torch.eye(n_features, device=bias.device)
        # A few columns at a time, because the dense matrix (n, n_features) may not fit into memory.
        parts = (eye[:, first : first + _GRAM_COLUMNS].contiguous() for first in range(0, n_features, _GRAM_COLUMNS))
        columns = [X.transposed.matmul(X.transposed_value, X.pattern.matmul(X.value, part)) for part in parts]
        gram = torch.cat(columns, 1).double() + ridge * eye.double()  # (n_features, n_features)
        right = X.transposed.matmul(X.transposed_value.double(), bias.double()[:, None])[:, 0]  # (n_features,)
        self.feature_bias.copy_(torch.linalg.solve(gram, right))
        self.own_bias.sub_(self.features.matmul(self.feature_bias[:, None])[:, 0])


class Model(Protocol):
    """The interface between an objective and an architecture."""

    users: SideModule
    items: SideModule
    global_bias: nn.Parameter

    def score_pairs(self, at: Cells) -> Tensor:
        """Return the scores of the cells: (batch,)."""
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

    def score_pairs(self, at: Cells) -> Tensor:
        """Return z of the cells: (batch,)."""
        dot = cell_products(self.users.factors(), self.items.factors(), at)
        b_u = self.users.biases().index_select(0, at.user_idx)
        b_i = self.items.biases().index_select(0, at.item_idx)
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

    def score_pairs(self, at: Cells) -> Tensor:
        """Return z of the cells: (batch,)."""
        p, q = self.users.factors(), self.items.factors()
        # M p · q = p · Mᵀ q: M is applied to the smaller side.
        if len(p) < len(q):
            dot = cell_products(p @ self.projection.T, q, at)
        else:
            dot = cell_products(p, q @ self.projection, at)
        f = self._layers(self._first_layer(p, q, at))
        b_u = self.users.biases().index_select(0, at.user_idx)
        b_i = self.items.biases().index_select(0, at.item_idx)
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
