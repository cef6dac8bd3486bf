"""The item side as fold-in sees it: scores with their slopes, and samples that stand for a large catalogue."""

from typing import NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from recsys.factors import Factors, Head

F32 = NDArray[np.float32]


class ScoredItems(NamedTuple):
    """Scores z (n,) of items for one user, and their slopes in the user's vector (n, width)."""

    z: F32
    slopes: F32


class ItemSet(NamedTuple):
    """Vectors (n, width) and biases (n,) of some items."""

    vectors: F32
    bias: F32

    def score(self, user: F32, head: Head | None) -> ScoredItems:
        """Score the items for a user's vector (width,)."""
        items, bias = self
        if head is None:
            return ScoredItems(items @ user + bias, items)
        n_dot = head.n_dot
        z = items[:, :n_dot] @ user[:n_dot] + bias
        x = items[:, n_dot:] + user[n_dot:]
        active: list[NDArray[np.bool_]] = []
        for weight, layer_bias in head.layers:
            active.append(x > 0)
            x = np.maximum(x, 0) @ weight.T + layer_bias
        slope = np.ones((len(items), 1), np.float32)
        for (weight, _), is_active in zip(reversed(head.layers), reversed(active), strict=True):
            slope = (slope @ weight) * is_active
        return ScoredItems(z + x[:, 0], np.concatenate([items[:, :n_dot], slope], 1))


class UserMap:
    """The linear map from a user's own embedding to their vector: the identity, or a neural model's `user_map`."""

    def __init__(self, factors: Factors) -> None:
        head, width = factors.head, factors.n_factors
        # A neural version that was stored without its map has no own part.
        self.matrix = (
            None if head is None else np.zeros((width, 0), np.float32) if head.user_map is None else head.user_map
        )
        self.n_own = width if self.matrix is None else self.matrix.shape[1]

    def to_vector(self, own: NDArray[np.floating]) -> NDArray[np.floating]:
        """Map own embeddings to vectors: (…, n_own) → (…, width)."""
        return own if self.matrix is None else own @ self.matrix.T

    def to_own(self, gradient: NDArray[np.floating]) -> NDArray[np.floating]:
        """Map gradients in the vector to gradients in the own embedding: (…, width) → (…, n_own)."""
        return gradient if self.matrix is None else gradient @ self.matrix


def sample_softmax(z: F32, n_best: int, n_others: int) -> tuple[NDArray[np.int64], F32]:
    """Sample items that stand for all of them in Σ e^z.

    The `n_best` items with the highest z stand for themselves; `n_others` are drawn from the rest in proportion to e^z,
    systematically, so that the draws are the same each time. All items, if there are no more.

    Returns:
        Positions (n,), and what to add to the z of each, (n,): −log of how often it was expected to be drawn.
    """
    if len(z) <= n_best + n_others:
        idx = np.flatnonzero(np.isfinite(z))
        return idx, np.zeros(len(idx), np.float32)
    best = np.argpartition(z, -n_best)[-n_best:]
    best = best[np.isfinite(z[best])]
    share = np.exp(z - z.max()) if len(best) else np.zeros_like(z)
    share[best] = 0
    cumulative = np.cumsum(share, dtype=np.float64)
    if not cumulative[-1] > 0:
        return best, np.zeros(len(best), np.float32)
    drawn = np.searchsorted(cumulative, cumulative[-1] * (np.arange(n_others) + 0.5) / n_others)
    expected = n_others * share[drawn] / cumulative[-1]
    offset = np.concatenate([np.zeros(len(best)), -np.log(expected)]).astype(np.float32)
    return np.concatenate([best, drawn]), offset


def softmax(z: F32) -> tuple[F32, float]:
    """Return the softmax of scores (n,), and log Σ e^z."""
    if len(z) == 0:
        return z, 0.0
    highest = z.max()
    share = np.exp(z - highest)
    total = share.sum()
    return cast(F32, share / total), float(highest + np.log(total))
