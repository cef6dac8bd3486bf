"""One side of a model, the users or the items: embeddings, biases, and what history and features add to them.

Legend of the shapes: `n` rows of the side, `rows` of a step, `batch` ratings, `width` columns of an embedding.
"""

import torch
from torch import Tensor, nn

from recsys.training.rows import HeldTerms, SideRows, add_held, take_rows
from recsys.training.sparse import Cells, FixedMatrix, cells_matmul

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
        held: the implicit and feature terms while they are held for a block of steps, else `None`.
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
        self.held: HeldTerms | None = None

    def factors(self) -> Tensor:
        """Return the factors of all rows: (n, width)."""
        factors: Tensor = self.own_factors
        if self.history is not None and self.implicit_factors is not None:
            factors = factors + self.history.matmul(self.implicit_factors)
        if self.features is not None and self.feature_factors is not None:
            factors = factors + self.features.matmul(self.feature_factors)
        return factors

    @torch.no_grad()
    def hold(self, block: int, idx: Tensor | None) -> None:
        """Compute the implicit and feature terms of some rows for a block of steps, unless they are held already.

        Args:
            block: number that tells one block from another.
            idx: (rows,) ascending; `None`: all rows.
        """
        if self.held is not None and self.held.block == block:
            return
        history = self.history if self.history is None or idx is None else self.history.select_rows(idx)
        features = self.features if self.features is None or idx is None else self.features.select_rows(idx)
        n_rows = 0 if history is None and features is None else len(self.own_factors) if idx is None else len(idx)
        factors = self.own_factors.new_zeros(n_rows, self.own_factors.shape[1])
        implicit_squares = feature_squares = factors.new_zeros(())
        bias = None
        if history is not None and self.implicit_factors is not None:
            factors += history.pattern.matmul(history.value, self.implicit_factors)
            implicit_squares = self.implicit_factors.square().sum()
        if features is not None and self.feature_factors is not None and self.feature_bias is not None:
            factors += features.pattern.matmul(features.value, self.feature_factors)
            bias = features.pattern.matmul(features.value, self.feature_bias[:, None])[:, 0]
            feature_squares = self.feature_factors.square().sum() + self.feature_bias.square().sum()
        bias_grad = None if bias is None else torch.zeros_like(bias)
        self.held = HeldTerms(
            block,
            history,
            features,
            factors,
            torch.zeros_like(factors),
            bias,
            bias_grad,
            implicit_squares,
            feature_squares,
        )

    @torch.no_grad()
    def release(self, implicit_penalty: float, feature_penalty: float) -> None:
        """Give the tables of the held terms the gradients of the block, and hold nothing.

        Args:
            implicit_penalty, feature_penalty: weights of the squares of the tables in the sum of the block's losses.
        """
        held, self.held = self.held, None
        if held is None:
            return
        if held.history is not None and self.implicit_factors is not None:
            gradient = held.history.transposed.matmul(held.history.transposed_value, held.factors_grad)
            self.implicit_factors.grad = gradient.add_(self.implicit_factors, alpha=2 * implicit_penalty)
        if held.features is not None and self.feature_factors is not None and self.feature_bias is not None:
            assert held.bias_grad is not None
            X = held.features
            gradient = X.transposed.matmul(X.transposed_value, held.factors_grad)
            self.feature_factors.grad = gradient.add_(self.feature_factors, alpha=2 * feature_penalty)
            gradient = X.transposed.matmul(X.transposed_value, held.bias_grad[:, None])[:, 0].contiguous()
            self.feature_bias.grad = gradient.add_(self.feature_bias, alpha=2 * feature_penalty)

    def rows(self, idx: Tensor | None = None, held_idx: Tensor | None = None) -> SideRows:
        """Return some rows of the side, with the terms that are held, or else computed now.

        Args:
            idx: (rows,) distinct rows, whose gradients will be sparse; `None`: all rows.
            held_idx: (rows,) positions of these rows among the held terms; `None`: all of them, in order.
        """
        own_factors: Tensor = self.own_factors
        own_bias: Tensor = self.own_bias
        if self.held is None:
            if idx is not None and (self.implicit_factors is not None or self.feature_factors is not None):
                raise ValueError("the terms of single rows must be held before they are taken")
            if idx is None:
                return SideRows(own_factors, own_bias, self.factors(), self.biases())
        if idx is not None:
            # Biases are small enough to be moved as a whole, which takes fewer operations.
            own_factors, own_bias = take_rows(own_factors, idx), own_bias.index_select(0, idx)
        factors, bias, held = own_factors, own_bias, self.held
        if held is not None and (held.history is not None or held.features is not None):
            factors = add_held(own_factors, held.factors, held.factors_grad, held_idx)
            if held.bias is not None and held.bias_grad is not None:
                bias = add_held(own_bias, held.bias, held.bias_grad, held_idx)
        return SideRows(own_factors, own_bias, factors, bias)

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
