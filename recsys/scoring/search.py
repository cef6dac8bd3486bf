"""The best of a vector of scores, with exclusions and a stable order on ties: maximum inner product search, exactly.

A list is found in two steps. All items are scored in float32, many users in one matrix product, and those near the top
are taken; these few are scored again in float64. So a list is the same however many users were scored with it, and
items with equal factors are equal.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from recsys.factors import Head, score_rows

Excluded = NDArray[np.integer] | NDArray[np.bool_] | None
"""Positions, or a mask (n_items,), of items that a list must not have."""

DECIMALS = 6
"""To how many decimals scores are told. Scores that are told alike are ordered by position."""

_BLOCK = 1 << 22
"""Scores held at once, 16 MiB of them: the more users in one product, the less each costs."""

_GROUP = 64
"""Items whose best score stands for all of them, at first."""

_EPSILON = 2.0**-23
"""Of float32; and twice what a product may be rounded by."""

_ROOM, _MOST_ROOMS = 1 << 21, 2
"""Memory that is kept to be used again: 8 MiB, which is 33 users and 62,000 items, twice."""
_rooms: list[NDArray[np.float32]] = []


@dataclass(frozen=True)
class Scored:
    """What users are scored against: p_u · q_i · s_i + b_i, or what the layers of a neural model make of it.

    Attributes:
        items: (n_items, width) q. A product with few users is fastest where its transpose is contiguous.
        bias: (n_items,) b; an item with −inf is never listed.
        head: the layers of a neural model.
        scale: (n_items,) s; None: 1.
    """

    items: NDArray[np.float32]
    bias: NDArray[np.float32]
    head: Head | None = None
    scale: NDArray[np.float32] | None = None

    @cached_property
    def longest(self) -> float:
        """max_i ‖q_i‖ · s_i."""
        square = np.einsum("nf,nf->n", self.items, self.items)
        if self.scale is not None:
            square *= self.scale**2
        return float(np.sqrt(square.max(initial=0.0)))


class Best(NamedTuple):
    """Positions of the listed items, the best first, and their scores: (≤ n,) int64 and float64."""

    places: NDArray[np.int64]
    scores: NDArray[np.float64]


def best_items(users: NDArray[np.float32], among: Scored, n: Sequence[int], excluded: Sequence[Excluded]) -> list[Best]:
    """The `n` best items of every user.

    Args:
        users: (n_users, width).
        n: (n_users,) how many; fewer come back where fewer are left.
        excluded: (n_users,) of each.
    """
    size = max(1, _BLOCK // max(len(among.bias), 1))
    found: list[Best] = []
    for start in range(0, len(users), size):
        part = slice(start, start + size)
        found += _best_of_block(users[part], among, n[part], excluded[part])
    return found


def _best_of_block(
    users: NDArray[np.float32], among: Scored, n: Sequence[int], excluded: Sequence[Excluded]
) -> list[Best]:
    room = _take_room(len(users) * _width(among))
    try:
        scores = _scores(users, among, room)
        for row, without in zip(scores[:, : len(among.bias)], excluded, strict=True):
            if without is not None:
                row[without] = -np.inf
        user, place = _near_the_top(scores, n, _slack(users, among))
    finally:
        if len(_rooms) < _MOST_ROOMS and room.size <= _ROOM:
            _rooms.append(room)
    told = np.round(pair_scores(users[user], among, place), DECIMALS)
    order = np.lexsort((place, -told, user))
    place, told = place[order], told[order]
    ends = np.bincount(user, minlength=len(users)).cumsum().tolist()
    starts = [0, *ends[:-1]]
    lasts = [min(start + count, end) for start, end, count in zip(starts, ends, n, strict=True)]
    return [Best(place[start:last], told[start:last]) for start, last in zip(starts, lasts, strict=True)]


def _take_room(size: int) -> NDArray[np.float32]:
    """Memory for scores that nobody else uses: new memory costs time, since every page of it is cleared first."""
    try:
        room = _rooms.pop()
    except IndexError:
        room = None
    return room if room is not None and room.size >= size else np.empty(size, np.float32)


def _width(among: Scored) -> int:
    return -(-len(among.bias) // _GROUP) * _GROUP


def _scores(users: NDArray[np.float32], among: Scored, room: NDArray[np.float32]) -> NDArray[np.float32]:
    """Scores in float32, written to `room`: (n_users, n_items and up to `_GROUP` − 1 of −inf)."""
    n_items, width = len(among.bias), _width(among)
    scores: NDArray[np.float32] = room[: len(users) * width].reshape(len(users), width)
    scores[:, n_items:] = -np.inf
    score_rows(users, among.items, among.bias, among.head, scale=among.scale, out=scores[:, :n_items])
    return scores


def _slack(users: NDArray[np.float32], among: Scored) -> NDArray[np.float32]:
    """How far below the n-th best in float32 may lie what is told like the true one, (n_users,).

    Products in float32 lie ε · d/2 · ‖p‖ · max ‖q‖ beside the true ones at most, and two scores that are told alike are
    less than their last decimal apart. The sum with the bias is rounded too: see `_borders`.
    """
    lengths: NDArray[np.float32] = np.sqrt(np.einsum("nf,nf->n", users, users))
    return lengths * np.float32(among.longest * _EPSILON * users.shape[1]) + np.float32(10.0**-DECIMALS)


def pair_scores(users: NDArray[np.float32], among: Scored, place: NDArray[np.int64]) -> NDArray[np.float64]:
    """Scores of pairs in float64: users (n, width), positions of items (n,) → (n,)."""
    exact, items = users.astype(np.float64), among.items[place].astype(np.float64)
    n_dot = exact.shape[1] if among.head is None else among.head.n_dot
    scores: NDArray[np.float64] = np.einsum("nf,nf->n", exact[:, :n_dot], items[:, :n_dot])
    if among.scale is not None:
        scores *= among.scale[place]
    scores += among.bias[place]
    return scores if among.head is None else scores + among.head(exact[:, n_dot:] + items[:, n_dot:])


def _near_the_top(
    scores: NDArray[np.float32], n: Sequence[int], slack: NDArray[np.float32]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows and positions of whatever may be among the n best of its row: (rows, size) → (n_near,) each.

    The n-th best of the groups' best scores is no higher than the n-th best of all scores; and what is not below it
    lies in a group whose best is not below it.
    """
    n_rows, size = scores.shape
    n_groups = size // _GROUP
    if n_groups < 2 * max(n, default=0):  # a long list, or few items
        row, place = np.nonzero(scores >= _borders(scores, n, slack)[:, None])
        return row, place
    # A group is every n_groups-th item, so that the maximum goes over whole lines of memory at once.
    grouped = scores.reshape(n_rows, _GROUP, n_groups)
    tops = grouped.max(1)  # (rows, n_groups)
    border = _borders(tops, n, slack)
    row, group = np.nonzero(tops >= border[:, None])
    pair, line = np.nonzero(grouped[row, :, group] >= border[row, None])
    return row[pair], line * n_groups + group[pair]


def _borders(scores: NDArray[np.float32], n: Sequence[int], slack: NDArray[np.float32]) -> NDArray[np.float32]:
    """What no score of a row's n best is below, and above −inf: (rows, size) → (rows,)."""
    n_rows, size = scores.shape
    least, most = min(n, default=0), max(n, default=0)
    border: NDArray[np.float32]
    if not size or most <= 0:
        return np.full(n_rows, np.inf, np.float32)
    if least == most <= size:
        border = np.partition(scores, size - most, axis=1)[:, size - most].copy()
    else:
        nth = [min(max(size - count, 0), size - 1) for count in n]
        border = np.partition(scores, sorted(set(nth)), axis=1)[np.arange(n_rows), nth]
    border -= slack + np.abs(border) * np.float32(2 * _EPSILON)
    if least <= 0:
        border[np.array(n) <= 0] = np.inf
    return np.maximum(border, np.finfo(np.float32).min)  # fewer than n are left: all of them


def as_rows(lists: Sequence[Best], n: int) -> NDArray[np.int64]:
    """Positions of several lists as one array: (n_lists, n), −1 where a list has fewer."""
    rows = np.full((len(lists), n), -1, np.int64)
    for row, best in zip(rows, lists, strict=True):
        row[: len(best.places)] = best.places
    return rows
