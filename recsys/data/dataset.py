"""Ratings as flat arrays over dense indices. Needs numpy only."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from recsys.data.keyed import dense_positions, mix

if TYPE_CHECKING:
    from recsys.data.features import Features

NO_TIME = np.iinfo(np.int64).min
"""`rated_at` of a rating without a time."""


@dataclass(frozen=True, slots=True)
class Ratings:
    """Ratings as three flat columns over dense 0-based indices.

    >>> load_ratings("ratings.csv").ratings.n_ratings                   # doctest: +SKIP

    Attributes:
        user_idx, item_idx: (n_ratings,) int32, positions in `user_keys` and `item_keys`.
        rating: (n_ratings,) float32.
        rated_at: (n_ratings,) int64, Unix milliseconds in UTC, `NO_TIME` if unknown.
        user_keys, item_keys: (n_users,), (n_items,) int64, ascending: the integer keys of the database. For ratings
            from a file or a data frame they are the positions in the order in which the ids appeared.
        user_hash, item_hash: (n_users,), (n_items,) uint64, `hash_ids` of the external ids. They are equal in every
            database, so a split by hash is too.
        user_features, item_features: features of users and items by the same keys, possibly of more rows than have
            ratings; `None` if there are none.
        is_implicit: (n_ratings,) mask of the rows that are sums of the weights of events; `None` if none is.
        scale: lowest and highest rating, once `recsys.data.feedback.prepare` has found them.
        weight_top: the weight that stands for the highest rating; `None` without events.
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
    is_implicit: NDArray[np.bool_] | None = None
    scale: tuple[float, float] | None = None
    weight_top: float | None = None

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
        """Return the given rows (a mask or positions) over the same users and items."""
        return replace(
            self,
            user_idx=self.user_idx[rows],
            item_idx=self.item_idx[rows],
            rating=self.rating[rows],
            rated_at=self.rated_at[rows],
            is_implicit=None if self.is_implicit is None else self.is_implicit[rows],
        )

    def compact(self) -> "Ratings":
        """Return the ratings without users and items that have none; `self` if every one has a rating."""
        user_idx, users = dense_positions(self.user_idx, self.n_users)
        item_idx, items = dense_positions(self.item_idx, self.n_items)
        if len(users) == self.n_users and len(items) == self.n_items:
            return self
        return replace(
            self,
            user_idx=user_idx,
            item_idx=item_idx,
            user_keys=self.user_keys[users],
            item_keys=self.item_keys[items],
            user_hash=self.user_hash[users],
            item_hash=self.item_hash[items],
        )

    def with_features(self, users: "Features", items: "Features") -> "Ratings":
        """Return the ratings with features of users and items; an empty set of features becomes `None`."""
        return replace(
            self,
            user_features=users if users.n_features else None,
            item_features=items if items.n_features else None,
        )

    def by_user(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Group the rows by user.

        Returns:
            (starts, order): `order[starts[u]:starts[u + 1]]` are the rows of user `u`, in their given order.
        """
        order = np.argsort(self.user_idx, kind="stable")
        starts = np.zeros(self.n_users + 1, np.int64)
        np.cumsum(np.bincount(self.user_idx, minlength=self.n_users), out=starts[1:])
        return starts, order

    def item_counts(self) -> NDArray[np.int64]:
        """Return the number of ratings of each item: (n_items,)."""
        return np.bincount(self.item_idx, minlength=self.n_items)

    def effective_items(self) -> float:
        """Return the number of equally popular items whose popularity would be as uncertain: exp(−Σ_i s_i log s_i).

        s_i is the share of item i in all ratings. It is at most the number of items, and far less where a few items
        have most of the ratings. 0 without ratings.
        """
        counts = self.item_counts()
        share = counts[counts > 0] / max(self.n_ratings, 1)
        return float(np.exp(-(share * np.log(share)).sum())) if len(share) else 0.0

    def fingerprint(self) -> str:
        """Return a short digest of the ratings that does not depend on the order of rows or on the keys.

        It is the sum over rows of a 64-bit mix of (user hash, item hash, rating, rated_at), so two databases with the
        same ratings have the same fingerprint. Features append their own digest, which does depend on the keys.
        """
        mixed = mix(self.user_hash[self.user_idx])
        mixed = mix(mixed ^ self.item_hash[self.item_idx])
        mixed = mix(mixed ^ self.rating.astype(np.float64).view(np.uint64))
        mixed = mix(mixed ^ self.rated_at.view(np.uint64))
        if self.is_implicit is not None:
            mixed = mix(mixed ^ self.is_implicit.astype(np.uint64))
        total = np.add.reduce(mixed, dtype=np.uint64) if len(mixed) else np.uint64(0)
        digests = (features.fingerprint() for features in (self.user_features, self.item_features) if features)
        return "-".join([f"{self.n_ratings:x}", f"{int(total):016x}", *digests])


def ratings_from_keys(
    user_key: NDArray[np.int64],
    item_key: NDArray[np.int64],
    rating: NDArray[np.float64],
    rated_at: NDArray[np.int64],
    user_hash: NDArray[np.uint64],
    item_hash: NDArray[np.uint64],
) -> Ratings:
    """Build `Ratings` from columns of keys.

    Args:
        user_key, item_key, rating, rated_at: (n_ratings,) columns.
        user_hash, item_hash: hash of the external id at the position of its key: `user_hash[key]`.
    """
    user_idx, users = dense_positions(user_key, len(user_hash))
    item_idx, items = dense_positions(item_key, len(item_hash))
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
