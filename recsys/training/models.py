"""Models as torch modules: they take numbers and tensors, never a configuration.

Legend of the shapes: `batch` ratings of one step, `users` users of one step, `n` users or items of a side.
"""

import math
from collections.abc import Sequence
from typing import Protocol, cast

import numpy as np
import torch
from torch import Tensor, nn

from recsys.factors import Head
from recsys.training.sparse import Cells, Fixed, products, weighted

_COLUMNS = 64
"""Features that are compared with all others at once: arrays of (n, 64)."""


class Side(nn.Module):
    """The rows and biases of the users, or of the items.

        row_u = own_u + Σ_{j ∈ N(u)} y_j / √|N(u)| + Σ_{f ∈ F(u)} w_f        bias_u = own bias + Σ_{f ∈ F(u)} c_f

    N(u) are the items that user u rated, whatever the rating (of an item: the users who rated it): what SVD++ adds,
    Koren, "Factorization Meets the Neighborhood", KDD 2008, eq. 15. F(u) is what is known of u beside the ratings.

    Attributes:
        own: (n, width), drawn from N(0, init_std²) with `generator`, so that no global random state is touched.
        bias: (n,), zero at first.
        implicit: (n of the other side, width) y, or None.
        feature_rows, feature_bias: (n_features, width) w and (n_features,) c, or None.
    """

    def __init__(
        self,
        n: int,
        width: int,
        *,
        init_std: float,
        generator: torch.Generator,
        history: Fixed | None = None,
        features: Fixed | None = None,
    ) -> None:
        super().__init__()
        device = generator.device

        def normal(n_rows: int) -> nn.Parameter:
            return nn.Parameter(torch.randn(n_rows, width, generator=generator, device=device) * init_std)

        self.own = normal(n)
        self.bias = nn.Parameter(torch.zeros(n, device=device))
        self.history, self.features = history, features
        self.implicit = None if history is None else normal(history.rows.n_columns)
        self.feature_rows = None if features is None else normal(features.rows.n_columns)
        self.feature_bias = (
            None if features is None else nn.Parameter(torch.zeros(features.rows.n_columns, device=device))
        )

    def table(self) -> Tensor:
        """All rows: (n, width)."""
        table: Tensor = self.own
        if self.history is not None and self.implicit is not None:
            table = table + self.history.times(self.implicit)
        if self.features is not None and self.feature_rows is not None:
            table = table + self.features.times(self.feature_rows)
        return table

    def rows(self, idx: Tensor, seen: Cells, dropout: float, generator: torch.Generator) -> Tensor:
        """Rows of some: (users,) → (users, width), as if a share of what they rated were unknown.

        Left out at random, and the rest weighted up: so a model that is asked for what was rated cannot copy it
        from the input (Liang et al., "Variational Autoencoders for Collaborative Filtering", WWW 2018).

        Args:
            seen: (users) × items cells of what these users rated.
        """
        table: Tensor = self.own
        if self.features is not None and self.feature_rows is not None:
            table = table + self.features.times(self.feature_rows)
        rows = nn.functional.embedding(idx, table)
        if self.implicit is None:
            return rows
        share = seen.n_of_user.clamp(min=1).rsqrt().index_select(0, seen.user_idx)  # (batch,)
        if dropout > 0:
            kept = torch.rand(len(share), generator=generator, device=share.device) >= dropout
            share = share * kept / (1 - dropout)
        return rows + weighted(seen, share, self.implicit)

    def biases(self) -> Tensor:
        """All biases: (n,)."""
        bias: Tensor = self.bias
        if self.features is not None and self.feature_bias is not None:
            bias = bias + self.features.times(self.feature_bias[:, None])[:, 0]
        return bias

    @torch.no_grad()
    def start_biases(self, bias: Tensor, ridge: float = 1.0) -> None:
        """Begin with these biases (n,), as much of them as the features explain in c, the rest in each own bias.

        So that an item without ratings begins with what is usual for its kind: c minimises
        Σ_i (bias_i − Σ_f c_f)² + ridge · Σ_f c_f².
        """
        self.bias.copy_(bias)
        if self.features is None or self.feature_bias is None:
            return
        X, n_features = self.features, self.features.rows.n_columns
        eye = torch.eye(n_features, device=bias.device)
        # Some columns at a time, since all of the dense matrix (n, n_features) may not fit into memory.
        some = (eye[:, first : first + _COLUMNS].contiguous() for first in range(0, n_features, _COLUMNS))
        columns = [X.transposed.times(X.transposed_value, X.rows.times(X.value, part)) for part in some]
        gram = torch.cat(columns, 1).double() + ridge * eye.double()
        about = X.transposed.times(X.transposed_value.double(), bias.double()[:, None])[:, 0]  # (n_features,)
        self.feature_bias.copy_(torch.linalg.solve(gram, about))
        self.bias.sub_(self.features.times(self.feature_bias[:, None])[:, 0])


class Model(Protocol):
    """What an objective asks of an architecture."""

    users: Side
    items: Side
    global_bias: nn.Parameter

    def pairs(self, at: Cells) -> Tensor:
        """Scores of the cells: (batch,)."""
        ...

    def lists(self, user_idx: Tensor, seen: Cells, dropout: float, candidates: Tensor | None) -> tuple[Tensor, Tensor]:
        """Scores of candidates for some users, and of what those users have.

        Without b_u and b: they shift all of a user's scores alike, which the softmax does not see.

        Args:
            user_idx: (users,) int32.
            seen: (users) × items cells.
            dropout: share of `seen` that the users' rows are not to know.
            candidates: (n_candidates,) item indices; None: all items.

        Returns:
            (users, n_candidates) and (batch,).
        """
        ...


class DotProduct(nn.Module):
    """Matrix factorisation with biases (Koren, Bell & Volinsky, "Matrix Factorization Techniques for
    Recommender Systems", IEEE Computer 2009).

        z_ui = p_u · q_i + b_u + b_i + b

    with p_u, q_i, b_u and b_i the rows and biases of the two sides.
    """

    def __init__(self, users: Side, items: Side, generator: torch.Generator) -> None:
        super().__init__()
        self.users, self.items = users, items
        self.global_bias = nn.Parameter(torch.zeros((), device=generator.device))
        self._generator = generator

    def pairs(self, at: Cells) -> Tensor:
        """z of the cells; see `Model.pairs`."""
        return products(self.users.table(), self.items.table(), at) + _bias(self, at)

    def lists(self, user_idx: Tensor, seen: Cells, dropout: float, candidates: Tensor | None) -> tuple[Tensor, Tensor]:
        """See `Model.lists`."""
        p = self.users.rows(user_idx, seen, dropout, self._generator)  # (users, width)
        Q, b_i = self.items.table(), self.items.biases()
        if candidates is None:
            z = torch.addmm(b_i, p, Q.T)  # (users, n_items)
            return z, z[seen.user_idx.long(), seen.item_idx.long()]
        chosen = nn.functional.embedding(candidates, Q)
        z = torch.addmm(b_i.index_select(0, candidates), p, chosen.T)  # (users, n_candidates)
        return z, products(p, Q, seen) + b_i.index_select(0, seen.item_idx)


class NeuralCF(nn.Module):
    """A dot product and a multilayer perceptron over the same embeddings, with biases.

        z_ui = M p_u · q_i + f(U p_u + V q_i + c) + b_u + b_i + b

    f is, for each layer, a rectifier, batch normalisation if asked for, dropout and a linear map, the last one to one
    number. After He et al., "Neural Collaborative Filtering", WWW 2017, with one pair of embeddings in place of two, of
    widths that may differ (M makes them meet), and the product kept beside the layers, since layers hardly learn one
    (Rendle et al., "Neural Collaborative Filtering vs. Matrix Factorization Revisited", RecSys 2020).
    """

    def __init__(
        self,
        users: Side,
        items: Side,
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
        user_width, item_width = users.own.shape[1], items.own.shape[1]

        def uniform(n_out: int, n_in: int, bound: float) -> nn.Parameter:
            drawn = torch.rand(n_out, n_in, generator=generator, device=device)
            return nn.Parameter((2 * drawn - 1) * bound)

        self.meet = nn.Parameter(torch.eye(item_width, user_width, device=device))  # M
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

    def pairs(self, at: Cells) -> Tensor:
        """z of the cells; see `Model.pairs`."""
        p, q = self.users.table(), self.items.table()
        # M on the smaller side: M p · q = p · Mᵀ q
        dot = products(p @ self.meet.T, q, at) if len(p) < len(q) else products(p, q @ self.meet, at)
        return dot + self._layers(self._first(p, q, at)) + _bias(self, at)

    def lists(self, user_idx: Tensor, seen: Cells, dropout: float, candidates: Tensor | None) -> tuple[Tensor, Tensor]:
        """See `Model.lists`. One pass through the layers, so that batch normalisation treats both alike."""
        p = self.users.rows(user_idx, seen, dropout, self._generator)  # (users, user_width)
        q, b_i = self.items.table(), self.items.biases()
        if candidates is None:
            candidates = torch.arange(len(q), device=q.device)
        chosen = nn.functional.embedding(candidates, q)  # (n_candidates, item_width)
        met = p @ self.meet.T  # (users, item_width)
        every = (p @ self.user_layer.T)[:, None] + (chosen @ self.item_layer.T + self.first_bias)
        n = every.shape[0] * every.shape[1]
        f = self._layers(torch.cat([every.flatten(0, 1), self._first(p, q, seen)]))  # (n + batch,)
        z = torch.addmm(b_i.index_select(0, candidates), met, chosen.T) + f[:n].view(every.shape[:2])
        return z, products(met, q, seen) + f[n:] + b_i.index_select(0, seen.item_idx)

    def _first(self, p: Tensor, q: Tensor, at: Cells) -> Tensor:
        """What the first rectifier sees of each cell: (batch, hidden[0])."""
        return _drawn(p, at.user_idx, self.user_layer) + _drawn(q, at.item_idx, self.item_layer) + self.first_bias

    def _layers(self, first: Tensor) -> Tensor:
        """f without the sum that it is given: (rows, hidden[0]) → (rows,)."""
        x = first
        for place, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            x = x.relu()
            if len(self.norms):
                x = _normalised(cast(nn.BatchNorm1d, self.norms[place]), x)
            if self._dropout > 0 and self.training:
                kept = torch.rand(x.shape, generator=self._generator, device=x.device) >= self._dropout
                x = x * kept / (1 - self._dropout)
            x = nn.functional.linear(x, weight, bias)
        return x[:, 0]

    @torch.no_grad()
    def head(self) -> Head:
        """The layers as arrays, batch normalisation folded into the linear map that follows it."""
        layers = []
        for place, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            W, b = weight, bias
            if len(self.norms):
                norm = cast(nn.BatchNorm1d, self.norms[place])
                mean, variance = norm.running_mean, norm.running_var
                assert mean is not None
                assert variance is not None
                scale = norm.weight * (variance + norm.eps).rsqrt()
                b = b + W @ (norm.bias - mean * scale)
                W = W * scale
            layers.append((W.cpu().numpy().astype(np.float32), b.cpu().numpy().astype(np.float32)))
        return Head(n_dot=self.items.own.shape[1], layers=tuple(layers))


def _normalised(norm: nn.BatchNorm1d, x: Tensor) -> Tensor:
    """x (rows, n) normalised; a single row, which has no variance, by what was seen before."""
    if len(x) > 1:
        normalised: Tensor = norm(x)
        return normalised
    return nn.functional.batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=norm.eps)


def _drawn(table: Tensor, idx: Tensor, weight: Tensor) -> Tensor:
    """(table Wᵀ)[idx], whichever way is less work: (n, width), (batch,), (n_out, width) → (batch, n_out)."""
    embedding = nn.functional.embedding
    if len(idx) < len(table):
        return nn.functional.linear(embedding(idx, table), weight)
    return embedding(idx, nn.functional.linear(table, weight))


def embedding_width(n: int) -> int:
    """Width of an embedding by the number of its rows: min(600, round(1.6 · n^0.56)), fastai's rule of thumb."""
    return min(600, round(1.6 * math.pow(n, 0.56)))


def _bias(model: DotProduct | NeuralCF, at: Cells) -> Tensor:
    """b_u + b_i + b of the cells: (batch,)."""
    b_u, b_i = model.users.biases(), model.items.biases()
    return b_u.index_select(0, at.user_idx) + b_i.index_select(0, at.item_idx) + model.global_bias
