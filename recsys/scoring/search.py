"""Maximum inner product search with exclusions and a stable order of ties, exactly.

A list is found in two steps. All items are scored in float32, many users in one matrix product, and the items near the
top are selected. These few are scored again in float64. So a list does not depend on the number of users that were
scored with it, and items with equal factors get equal scores.
"""

from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from recsys.data.keyed import positions
from recsys.factors import Factors, Head, ItemWeights
from recsys.scoring.profile import Profile, added_scores
from recsys.scoring.score import Excluded, score_rows

DECIMALS = 6
"""Scores are rounded to this many decimals. Items with equal rounded scores are ordered by position."""

_BLOCK = 1 << 22
"""Scores held at once, 16 MiB of them: the more users in one product, the less each costs."""

_BLOCK_AFTER = 8192
"""Items whose exact scores are computed at a time."""

_GROUP = 64
"""Number of items whose best score stands for all of them in the first pass."""

_EPSILON = 2.0**-23
"""Distance between 1 and the next float32: twice the largest relative rounding error."""

_WORK_OF_PROFILE = 32
"""Multiplications that take as long as adding what a profile adds to one item's score."""

_BUFFER_SIZE, _MAX_BUFFERS = 1 << 21, 2
"""Score buffers that are kept for the next search: 8 MiB each, enough for 33 users and 62,000 items."""
_buffers: list[NDArray[np.float32]] = []


class TopN(NamedTuple):
    """The best items of one user.

    Attributes:
        item_idx: (≤ n,) int64 positions in the index, the best first.
        scores: (≤ n,) float64.
    """

    item_idx: NDArray[np.int64]
    scores: NDArray[np.float64]


@dataclass(frozen=True)
class Index:
    """Items that can be searched: z_ui = p_u · q_i · s_i + b_i, or the score of a neural model's layers.

    With `weights`, what a user's profile adds is part of the score.

    Attributes:
        items: (n_items, width) q. A product with few users is fastest if the transpose is contiguous.
        bias: (n_items,) b; an item with −inf is never found.
        head: the layers of a neural model.
        scale: (n_items,) s; `None`: 1.
        weights: between items; `None`: profiles add nothing. They may lack the last items of the index.
    """

    items: NDArray[np.float32]
    bias: NDArray[np.float32]
    head: Head | None = None
    scale: NDArray[np.float32] | None = None
    weights: ItemWeights | None = None

    @cached_property
    def max_norm(self) -> float:
        """max_i ‖q_i‖ · s_i."""
        square = np.einsum("nf,nf->n", self.items, self.items)
        if self.scale is not None:
            square *= self.scale**2
        return float(np.sqrt(square.max(initial=0.0)))

    @property
    def work(self) -> int:
        """About how many multiplications the search of one list takes."""
        return self.items.size + (0 if self.weights is None else _WORK_OF_PROFILE * len(self.bias))

    def best(
        self,
        vectors: NDArray[np.float32],
        n: Sequence[int],
        excluded: Sequence[Excluded] | None = None,
        profiles: Sequence[Profile | None] | None = None,
        helper: Executor | None = None,
    ) -> list[TopN]:
        """Return the `n` best items for each vector.

        Args:
            vectors: (n_users, width).
            n: (n_users,) length of each list; a list is shorter if fewer items are left.
            excluded: (n_users,) items to leave out of each list.
            profiles: (n_users,) the items that each user has; `None`: none.
            helper: a thread that takes a share of the work; the lists are the same.
        """
        excluded = [None] * len(vectors) if excluded is None else excluded
        profiles = [None] * len(vectors) if profiles is None else profiles
        size = max(1, _BLOCK // max(len(self.bias), 1))
        found: list[TopN] = []
        for start in range(0, len(vectors), size):
            block = slice(start, start + size)
            found += self._best_of_block(vectors[block], n[block], excluded[block], profiles[block], helper)
        return found

    def best_after(
        self, vector: NDArray[np.float32], n: int, excluded: Excluded, after: int, profile: Profile | None = None
    ) -> TopN:
        """Return the `n` best items that come after an item, by exact scores of all items: much slower than `best`.

        Args:
            vector: (width,).
            after: position of the item; its score is that for this vector and profile.
            profile: the items that the user has; `None`: none.
        """
        scores = np.empty(len(self.bias))
        for start in range(0, len(scores), _BLOCK_AFTER):
            item_idx = np.arange(start, min(start + _BLOCK_AFTER, len(scores)))
            scores[item_idx] = self.pair_scores(np.broadcast_to(vector, (len(item_idx), len(vector))), item_idx)
        if (added := self.added([profile])) is not None:
            scores += added[0]
        scores = np.round(scores, DECIMALS)
        is_after = (scores < scores[after]) & (scores > -np.inf)
        is_after[after + 1 :] |= scores[after + 1 :] == scores[after]
        if excluded is not None:
            is_after[excluded] = False
        left = np.flatnonzero(is_after)
        best = left[np.argsort(-scores[left], kind="stable")[:n]]
        return TopN(best, scores[best])

    def added(self, profiles: Sequence[Profile | None]) -> NDArray[np.float64] | None:
        """Return what the items that users have add to all scores, (n_users, n_items); `None`: nothing."""
        return added_scores(self.weights, profiles, len(self.bias))

    def pair_scores(self, vectors: NDArray[np.float32], item_idx: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the scores of pairs in float64, without what profiles add: (n, width), positions (n,) → (n,)."""
        p, q = vectors.astype(np.float64), self.items[item_idx].astype(np.float64)
        n_dot = p.shape[1] if self.head is None else self.head.n_dot
        scores: NDArray[np.float64] = np.einsum("nf,nf->n", p[:, :n_dot], q[:, :n_dot])
        if self.scale is not None:
            scores *= self.scale[item_idx]
        scores += self.bias[item_idx]
        return scores if self.head is None else scores + self.head(p[:, n_dot:] + q[:, n_dot:])

    def _best_of_block(
        self,
        vectors: NDArray[np.float32],
        n: Sequence[int],
        excluded: Sequence[Excluded],
        profiles: Sequence[Profile | None],
        helper: Executor | None,
    ) -> list[TopN]:
        n_items = len(self.bias)
        added = self.added(profiles)
        padded = -(-n_items // _GROUP) * _GROUP
        buffer = _take_buffer(len(vectors) * padded)
        try:
            scores = buffer[: len(vectors) * padded].reshape(len(vectors), padded)
            scores[:, n_items:] = -np.inf
            score_rows(
                vectors,
                self.items,
                self.bias,
                self.head,
                scale=self.scale,
                out=scores[:, :n_items],
                excluded=excluded,
                helper=helper,
            )
            margin = self._margin(vectors)
            if added is not None:
                scores[:, :n_items] += added.astype(np.float32)
                # The term and both sums with it are rounded.
                largest = np.maximum(added.max(1, initial=0.0), -added.min(1, initial=0.0))
                margin += (4 * _EPSILON * largest).astype(np.float32)
            user, item_idx = _candidates(scores, n, margin)
        finally:
            if len(_buffers) < _MAX_BUFFERS and buffer.size <= _BUFFER_SIZE:
                _buffers.append(buffer)
        exact = self.pair_scores(vectors[user], item_idx)
        if added is not None:
            exact += added[user, item_idx]
        exact = np.round(exact, DECIMALS)
        order = np.lexsort((item_idx, -exact, user))
        item_idx, exact = item_idx[order], exact[order]
        ends = np.bincount(user, minlength=len(vectors)).cumsum().tolist()
        starts = [0, *ends[:-1]]
        lasts = [min(start + count, end) for start, end, count in zip(starts, ends, n, strict=True)]
        return [TopN(item_idx[start:last], exact[start:last]) for start, last in zip(starts, lasts, strict=True)]

    def _margin(self, vectors: NDArray[np.float32]) -> NDArray[np.float32]:
        """Margin within which a float32 score may still belong to the exact top n, (n_users,).

        A float32 product differs from the exact one by at most ε · d/2 · ‖p‖ · max ‖q‖, and two scores with equal
        rounded values differ by less than one unit of the last decimal. `_thresholds` adds the rounding of the sum
        with the bias.
        """
        norms: NDArray[np.float32] = np.sqrt(np.einsum("nf,nf->n", vectors, vectors))
        return norms * np.float32(self.max_norm * _EPSILON * vectors.shape[1]) + np.float32(10.0**-DECIMALS)


def index_over(factors: Factors, item_keys: NDArray[np.int64]) -> Index:
    """Return the given items as an index; an item that the model does not know has the bias −inf and is never found.

    Args:
        item_keys: (n_items,) ascending.
    """
    position = positions(factors.item_keys, item_keys)
    known = position >= 0
    item_factors = np.zeros((len(item_keys), factors.n_factors), np.float32)
    item_factors[known] = factors.item_factors[position[known]]
    item_bias = np.full(len(item_keys), -np.inf, np.float32)
    item_bias[known] = factors.item_bias[position[known]]
    weights = None
    if factors.weights is not None:
        weights = factors.weights.moved(positions(item_keys, factors.item_keys), len(item_keys))
    return Index(item_factors, item_bias, factors.head, weights=weights)


def _take_buffer(size: int) -> NDArray[np.float32]:
    """Return a score buffer that no other search uses. New memory is slow: the system clears each page first."""
    try:
        buffer = _buffers.pop()
    except IndexError:
        buffer = None
    return buffer if buffer is not None and buffer.size >= size else np.empty(size, np.float32)


def _candidates(
    scores: NDArray[np.float32], n: Sequence[int], margin: NDArray[np.float32]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return rows and positions of all items that may be among the n best of their row: (rows, size) → (n_found,) each.

    The n-th best of the groups' maxima is no higher than the n-th best of all scores. An item that reaches it lies in
    a group whose maximum reaches it.
    """
    n_rows, size = scores.shape
    n_groups = size // _GROUP
    if n_groups < 2 * max(n, default=0):  # a long list, or few items
        row, item_idx = np.nonzero(scores >= _thresholds(scores, n, margin)[:, None])
        return row, item_idx
    # A group is every n_groups-th item, so that the maximum runs over whole lines of memory at once.
    grouped = scores.reshape(n_rows, _GROUP, n_groups)
    maxima = grouped.max(1)  # (rows, n_groups)
    threshold = _thresholds(maxima, n, margin)
    row, group = np.nonzero(maxima >= threshold[:, None])
    pair, line = np.nonzero(grouped[row, :, group] >= threshold[row, None])
    return row[pair], line * n_groups + group[pair]


def _thresholds(scores: NDArray[np.float32], n: Sequence[int], margin: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return a lower bound of each row's n-th best score, above −inf: (rows, size) → (rows,)."""
    n_rows, size = scores.shape
    least, most = min(n, default=0), max(n, default=0)
    threshold: NDArray[np.float32]
    if not size or most <= 0:
        return np.full(n_rows, np.inf, np.float32)
    if least == most <= size:
        threshold = np.partition(scores, size - most, axis=1)[:, size - most].copy()
    else:
        nth = [min(max(size - count, 0), size - 1) for count in n]
        threshold = np.partition(scores, sorted(set(nth)), axis=1)[np.arange(n_rows), nth]
    threshold -= margin + np.abs(threshold) * np.float32(2 * _EPSILON)
    if least <= 0:
        threshold[np.array(n) <= 0] = np.inf
    return np.maximum(threshold, np.finfo(np.float32).min)  # fewer than n are left: all of them


def as_matrix(lists: Sequence[TopN], n: int) -> NDArray[np.int64]:
    """Return the positions of several lists as one array: (n_lists, n), −1 where a list is shorter."""
    rows = np.full((len(lists), n), -1, np.int64)
    for row, best in zip(rows, lists, strict=True):
        row[: len(best.item_idx)] = best.item_idx
    return rows
