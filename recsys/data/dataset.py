"""Ratings as flat arrays over dense indices. numpy only."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from recsys.data.keyed import mix

if TYPE_CHECKING:  # features look up keys with `positions`
    from recsys.data.features import Features

NO_TIME = np.iinfo(np.int64).min
"""`rated_at` of a rating whose time is unknown."""


@dataclass(frozen=True, slots=True)
class Ratings:
    """Ratings as three flat columns over dense 0-based indices.

    Attributes:
        user_idx, item_idx: (n_ratings,) int32, positions in `user_keys` and `item_keys`.
        rating: (n_ratings,) float32.
        rated_at: (n_ratings,) int64, Unix milliseconds in UTC, `NO_TIME` where unknown.
        user_keys, item_keys: (n_users,), (n_items,) int64, ascending: the integer keys of the database
            (for ratings read straight from a file, the order in which the ids appeared).
        user_hash, item_hash: (n_users,), (n_items,) uint64, `hash_ids` of the external ids: the same in
            every database, so that a split by hash is too.
        user_features, item_features: what else is known of users and items, by the same keys, of more of them
            perhaps than have ratings; None: nothing.
    """

    user_idx: NDArray[np.int32]
    item_idx: NDArray[np.int32]
    rating: NDArray[np.float32]
    rated_at: NDArray[np.int64]
    user_keys: NDArray[np.int64]
    item_keys: NDArray[np.int64]
    user_hash: NDArray[np.uint64]
    item_hash: NDArray[np.uint64]
    user_features: "Features | None" = None
    item_features: "Features | None" = None

    @property
    def n_ratings(self) -> int:
        return len(self.rating)

    @property
    def n_users(self) -> int:
        return len(self.user_keys)

    @property
    def n_items(self) -> int:
        return len(self.item_keys)

    def select(self, rows: NDArray[np.bool_] | NDArray[np.int64]) -> "Ratings":
        """The given rows (a mask or positions), over the same users and items."""
        return replace(
            self,
            user_idx=self.user_idx[rows],
            item_idx=self.item_idx[rows],
            rating=self.rating[rows],
            rated_at=self.rated_at[rows],
        )

    def compact(self) -> "Ratings":
        """The same ratings without the users and items that have none, indices closed up."""
        user_idx, users = _close_up(self.user_idx, self.n_users)
        item_idx, items = _close_up(self.item_idx, self.n_items)
        return replace(
            self,
            user_idx=user_idx,
            item_idx=item_idx,
            user_keys=self.user_keys[users],
            item_keys=self.item_keys[items],
            user_hash=self.user_hash[users],
            item_hash=self.item_hash[items],
        )

    def described(self, users: "Features", items: "Features") -> "Ratings":
        """The same ratings with what else is known of users and items, where that is anything."""
        return replace(
            self,
            user_features=users if users.n_features else None,
            item_features=items if items.n_features else None,
        )

    def by_user(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Rows grouped by user.

        Returns:
            (starts, order): `order[starts[u]:starts[u + 1]]` are the rows of user `u`, in their given order.
        """
        order = np.argsort(self.user_idx, kind="stable")
        starts = np.zeros(self.n_users + 1, np.int64)
        np.cumsum(np.bincount(self.user_idx, minlength=self.n_users), out=starts[1:])
        return starts, order

    def item_counts(self) -> NDArray[np.int64]:
        """How many ratings each item has: (n_items,)."""
        return np.bincount(self.item_idx, minlength=self.n_items)

    def fingerprint(self) -> str:
        """A short digest of what was rated by whom and when, whatever the order of rows and the keys.

        The sum over rows of a 64-bit mix of (user hash, item hash, rating, rated_at): two databases that
        hold the same ratings have the same fingerprint. Features, where there are some, add theirs,
        which goes by keys.
        """
        mixed = mix(self.user_hash[self.user_idx])
        mixed = mix(mixed ^ self.item_hash[self.item_idx])
        mixed = mix(mixed ^ self.rating.astype(np.float64).view(np.uint64))
        mixed = mix(mixed ^ self.rated_at.view(np.uint64))
        total = np.add.reduce(mixed, dtype=np.uint64) if len(mixed) else np.uint64(0)
        known = (features.fingerprint() for features in (self.user_features, self.item_features) if features)
        return "-".join([f"{self.n_ratings:x}", f"{int(total):016x}", *known])


def ratings_from_keys(
    user_key: NDArray[np.int64],
    item_key: NDArray[np.int64],
    rating: NDArray[np.float64],
    rated_at: NDArray[np.int64],
    user_hash: NDArray[np.uint64],
    item_hash: NDArray[np.uint64],
) -> Ratings:
    """`Ratings` from columns of keys.

    Args:
        user_key, item_key, rating, rated_at: (n_ratings,) columns.
        user_hash, item_hash: hash of the external id, looked up by key: `user_hash[key]`.
    """
    user_idx, users = _close_up(user_key, len(user_hash))
    item_idx, items = _close_up(item_key, len(item_hash))
    return Ratings(
        user_idx=user_idx,
        item_idx=item_idx,
        rating=rating.astype(np.float32),
        rated_at=rated_at,
        user_keys=users,
        item_keys=items,
        user_hash=user_hash[users],
        item_hash=item_hash[items],
    )


def _close_up(keys: NDArray[np.int32] | NDArray[np.int64], size: int) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Dense positions of keys below `size`, and the distinct keys, ascending, in O(n + size)."""
    present = np.zeros(size, bool)
    present[keys] = True
    distinct = np.flatnonzero(present).astype(np.int64)
    position = np.cumsum(present, dtype=np.int32) - np.int32(1)
    return position[keys], distinct
