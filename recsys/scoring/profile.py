"""The items that a user has, as weights between items see them."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from recsys.data.dataset import Ratings
from recsys.data.keyed import positions
from recsys.factors import Factors, ItemWeights, RankingConstants

MIN_WEIGHT = 0.05
"""Smallest weight of an item: the user chose even the one that they rated lowest."""


class Profile(NamedTuple):
    """The items of one user, and how much each of them counts.

    Attributes:
        item_idx: (n,) int32 positions, ascending.
        x: (n,) float32.
    """

    item_idx: NDArray[np.int32]
    x: NDArray[np.float32]

    @property
    def nbytes(self) -> int:
        return int(self.item_idx.nbytes + self.x.nbytes)


def liking(rating: NDArray[np.floating], constants: RankingConstants) -> NDArray[np.float64]:
    """Return how much each rated item counts: 1 + rating_weight · (r − mean) / span, but at least .05. (n,) → (n,)."""
    liked = 1 + constants.rating_weight * (rating.astype(np.float64) - constants.mean) / constants.span
    return np.maximum(liked, MIN_WEIGHT)


def make_profile(
    item_idx: NDArray[np.integer], rating: NDArray[np.floating], constants: RankingConstants | None
) -> Profile:
    """Return the profile of a user with some ratings.

    Every item of a user who liked none of them counts −1: what goes with these items comes last.

    Args:
        item_idx: (n,) positions of distinct items, in any order.
        rating: (n,).
        constants: of the version; `None`: every item counts 1.
    """
    order = np.argsort(item_idx, kind="stable")
    if constants is None:
        x = np.ones(len(order))
    elif len(rating) and rating.max() < constants.dislike_below:
        x = np.full(len(order), -1.0)
    else:
        x = liking(rating[order], constants)
    return Profile(item_idx[order].astype(np.int32), x.astype(np.float32))


def profiles_of(
    factors: Factors, ratings: Ratings, user_keys: NDArray[np.int64], item_keys: NDArray[np.int64]
) -> list[Profile] | None:
    """Return the profiles of users from their ratings; `None` if the model has no weights between items.

    Args:
        user_keys: (n,) keys of users; one without ratings has an empty profile.
        item_keys: (n_items,) keys of the items, ascending: positions count in these. Ratings of others are left out.
    """
    if factors.weights is None:
        return None
    constants = factors.constants if isinstance(factors.constants, RankingConstants) else None
    starts, order = ratings.by_user()
    item_of = positions(item_keys, ratings.item_keys)
    profiles = []
    for user in positions(ratings.user_keys, user_keys).tolist():
        rows = order[starts[user] : starts[user + 1]] if user >= 0 else order[:0]
        item_idx = item_of[ratings.item_idx[rows]]
        known = item_idx >= 0
        profiles.append(make_profile(item_idx[known], ratings.rating[rows][known], constants))
    return profiles


def added_scores(
    weights: ItemWeights | None, profiles: Sequence[Profile | None], n_items: int
) -> NDArray[np.float64] | None:
    """Return what users' items add to the scores: Σ_j x_j B_ji, (n_users, n_items); `None` if nothing is added.

    The sums are in float64 and in the order of the items, so they do not depend on which other users are scored.

    Args:
        profiles: (n_users,) the items that each user has; `None`: none.
        n_items: at least those of `weights`; later items get nothing, and have no weights of their own.
    """
    if weights is None or not any(profile is not None and len(profile.item_idx) for profile in profiles):
        return None
    known = [_known(profile, weights.n_items) for profile in profiles]
    per_item = np.diff(weights.starts)
    if sum(int(per_item[profile.item_idx].sum()) for profile in known) >= len(weights.values):
        return _products(weights, known, n_items)
    return np.stack([_sums(weights, profile, n_items) for profile in known])


def _known(profile: Profile | None, n_items: int) -> Profile:
    """Return a profile without the items that have no weights."""
    if profile is None:
        return Profile(np.zeros(0, np.int32), np.zeros(0, np.float32))
    known = profile.item_idx < n_items
    return profile if known.all() else Profile(profile.item_idx[known], profile.x[known])


def _products(weights: ItemWeights, profiles: list[Profile], n_items: int) -> NDArray[np.float64]:
    """Return the sums of many users by a product of sparse matrices, in a third of the time of single sums."""
    from scipy import sparse  # only models with weights need it

    starts = np.zeros(len(profiles) + 1, np.int64)
    np.cumsum([len(profile.item_idx) for profile in profiles], out=starts[1:])
    item_idx, x = (np.concatenate(arrays) for arrays in zip(*profiles, strict=True))
    shape = (weights.n_items, n_items)
    B = sparse.csr_array((weights.values.astype(np.float64), weights.item_idx, weights.starts), shape)
    X = sparse.csr_array((x.astype(np.float64), item_idx, starts), (len(profiles), weights.n_items))
    sums: NDArray[np.float64] = (X @ B).toarray()
    return sums


def _sums(weights: ItemWeights, profile: Profile, n_items: int) -> NDArray[np.float64]:
    """Return the sums of one user, without the conversion of all weights that a product begins with."""
    if not len(profile.item_idx):
        return np.zeros(n_items)
    rows = profile.item_idx
    starts, stops = weights.starts[rows], weights.starts[rows + 1]
    # Slices, which take half as long as picking the entries.
    entries = [slice(start, stop) for start, stop in zip(starts.tolist(), stops.tolist(), strict=True)]
    column = np.concatenate([weights.item_idx[part] for part in entries])
    values = np.concatenate([weights.values[part] for part in entries])
    values_of_user = values * np.repeat(profile.x.astype(np.float64), stops - starts)
    return np.bincount(column, values_of_user, n_items).astype(np.float64, copy=False)
