"""Scores of users and items, and predictions on the rating scale. The one definition, in evaluation and in serving."""

from collections.abc import Sequence
from concurrent.futures import Executor

import numpy as np
from numpy.typing import NDArray

from recsys.factors import Factors, Head

Excluded = NDArray[np.integer] | NDArray[np.bool_] | None
"""Items that a list must not have: their positions, or a mask (n_items,)."""

EXACT_ITEMS = 20_000
"""Largest catalogue of which the layers of a neural model score every item for each list: it takes milliseconds."""
N_CANDIDATES = 2_000
"""Number of items of a larger catalogue that the layers score."""

_CHUNK_ITEMS = 16_384
"""Items that are scored at a time, so that the products are still in the processor's cache when biases are added."""


SHARED_WORK = 2_000_000
"""Fewest multiplications that are shared with another thread: half a millisecond of work."""


def score_rows(
    users: NDArray[np.float32],
    items: NDArray[np.float32],
    item_bias: NDArray[np.float32],
    head: Head | None,
    *,
    scale: NDArray[np.float32] | None = None,
    out: NDArray[np.float32] | None = None,
    excluded: Sequence[Excluded] | None = None,
    helper: Executor | None = None,
) -> NDArray[np.float32]:
    """Return the scores of every item for every user, without b_u and b: (n, width), (n_items, width) → (n, n_items).

    Exact, with one exception: in a neural model of more than `EXACT_ITEMS` items only the `N_CANDIDATES` items with the
    best product and bias go through the layers. The other items score −inf, so no list has them.

    Args:
        scale: (n_items,) factor of each product; `None`: 1.
        out: array to write the scores to; `None`: a new array.
        excluded: (n,) items that score −inf for each user. They take no place among the `N_CANDIDATES` items.
        helper: a thread that takes a share of the products where they are many; the scores are the same.
    """
    scores = np.empty((len(users), len(items)), np.float32) if out is None else out
    n_dot = users.shape[1] if head is None else head.n_dot
    p, q = users[:, :n_dot], items[:, :n_dot].T
    starts = iter(range(0, len(items), _CHUNK_ITEMS))  # each thread takes the next one

    def score_chunks() -> None:
        for start in starts:
            chunk = slice(start, start + _CHUNK_ITEMS)
            np.matmul(p, q[:, chunk], out=scores[:, chunk])
            if scale is not None:
                scores[:, chunk] *= scale[chunk]
            scores[:, chunk] += item_bias[chunk]

    is_shared = helper is not None and len(items) > _CHUNK_ITEMS and len(users) * q.size >= SHARED_WORK
    share = helper.submit(score_chunks) if helper is not None and is_shared else None
    try:
        score_chunks()
    finally:
        if share is not None and not share.cancel():  # one that has not begun yet has nothing left to do
            share.result()
    for row, left_out in enumerate(excluded or ()):
        if left_out is not None and left_out.dtype == np.bool_:
            # Ten times as fast as an assignment by mask: twice the lowest float32 is −∞, and −0 changes nothing.
            lowest = left_out.astype(np.float32)
            lowest *= np.finfo(np.float32).min
            with np.errstate(over="ignore"):
                scores[row] += lowest
                scores[row] += lowest
        elif left_out is not None:
            scores[row, left_out] = -np.inf
    if head is None:
        return scores
    inputs = items[:, n_dot:]
    for row, user in enumerate(users):
        if len(items) <= EXACT_ITEMS:
            scores[row] += head(inputs + user[n_dot:])
            continue
        best = np.argpartition(scores[row], -N_CANDIDATES)[-N_CANDIDATES:]
        exact = scores[row, best] + head(inputs[best] + user[n_dot:])
        scores[row] = -np.inf
        scores[row, best] = exact
    return scores


def score_users(factors: Factors, user_idx: NDArray[np.int64]) -> NDArray[np.float32]:
    """Return the scores of all items for some users, without what profiles add: (n,) → (n, n_items)."""
    scores = score_rows(factors.user_factors[user_idx], factors.item_factors, factors.item_bias, factors.head)
    scores += factors.user_bias[user_idx, None] + np.float32(factors.global_bias)
    return scores


def predict_ratings(factors: Factors, user_idx: NDArray[np.int64], item_idx: NDArray[np.int64]) -> NDArray[np.float32]:
    """Return the predicted ratings of pairs: (n,), (n,) → (n,).

    Args:
        user_idx, item_idx: positions in the model; −1 for a user or item that the model does not know.

    Raises:
        ValueError: the model was not trained to predict ratings.
    """
    known_user, known_item = user_idx >= 0, item_idx >= 0
    z = np.full(len(user_idx), factors.global_bias, np.float32)
    z += np.where(known_user, factors.user_bias[user_idx], 0)
    z += np.where(known_item, factors.item_bias[item_idx], 0)
    both = known_user & known_item
    p, q = factors.user_factors[user_idx[both]], factors.item_factors[item_idx[both]]
    n_dot = factors.n_dot
    product: NDArray[np.float32] = np.einsum("nf,nf->n", p[:, :n_dot], q[:, :n_dot], optimize=False)
    z[both] += product if factors.head is None else product + factors.head(p[:, n_dot:] + q[:, n_dot:])
    return to_rating_scale(z, factors.rating_range)


def to_rating_scale(z: NDArray[np.float32], rating_range: tuple[float, float] | None) -> NDArray[np.float32]:
    """Return scores as ratings: low + (high − low) / (1 + exp(−z)), (n,) → (n,).

    Raises:
        ValueError: there is no rating range, as under the `ranking` objective.
    """
    if rating_range is None:
        raise ValueError("a model trained for ranking orders items; it predicts no ratings")
    low, high = rating_range
    with np.errstate(over="ignore"):
        rating: NDArray[np.float32] = (low + (high - low) / (1 + np.exp(-z))).astype(np.float32)
    return rating
