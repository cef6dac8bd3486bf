"""Parts of the held-out ratings that are compared by themselves: new items, users with few ratings, each category."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recsys.data.dataset import NO_TIME, Ratings
from recsys.data.keyed import positions

COLLAPSE = 0.3
"""A slice collapses if the new version surely loses more than this share of the live version's metric on it."""

_SURE = 3.0
"""Standard errors between a slice's mean and its bound: many slices are looked at, so each needs strong evidence."""

_MIN_USERS = 20
"""Users below whom a slice says nothing."""

_NEW_SHARE = 0.1
"""New items are those first rated in the latest part of this size of the training set."""


@dataclass(frozen=True, slots=True)
class SliceComparison:
    """The new and the live version on one slice.

    Attributes:
        n_users: users with held-out ratings in the slice.
        new, live: means over these users of the mean over their ratings: squared error, or gain of a listed item.
        collapsed: whether the new version surely loses more than `COLLAPSE` there.
    """

    name: str
    n_users: int
    new: float
    live: float
    collapsed: bool

    def as_record(self) -> dict[str, Any]:
        """Return the fields with JSON's types."""
        return asdict(self)


def slice_masks(judged: Ratings, training_set: Ratings) -> dict[str, NDArray[np.bool_]]:
    """Return the slices of the held-out ratings that are judged: name → (n_ratings,) mask."""
    masks: dict[str, NDArray[np.bool_]] = {}
    items = positions(training_set.item_keys, judged.item_keys)  # (n_items of judged,), −1 unknown
    timed = training_set.rated_at != NO_TIME
    if timed.any():
        first = np.full(training_set.n_items + 1, np.iinfo(np.int64).max)
        np.minimum.at(first, training_set.item_idx[timed], training_set.rated_at[timed])
        cut = np.quantile(training_set.rated_at[timed], 1 - _NEW_SHARE)
        masks["new items"] = (first >= cut)[items][judged.item_idx]
    n_rated = np.append(np.bincount(training_set.user_idx, minlength=training_set.n_users), 0)
    of_user = n_rated[positions(training_set.user_keys, judged.user_keys)]
    masks["users with few ratings"] = (of_user <= np.quantile(of_user, 1 / 3))[judged.user_idx]
    features = training_set.item_features
    if features is not None:
        of_items = features.of(judged.item_keys)
        row = np.repeat(np.arange(judged.n_items), np.diff(of_items.starts))
        for feature, name in enumerate(of_items.names):
            if name.startswith("category: "):
                has = np.zeros(judged.n_items, bool)
                has[row[of_items.idx == feature]] = True
                masks[name] = has[judged.item_idx]
    return masks


def compare_slices(
    judged: Ratings,
    masks: Mapping[str, NDArray[np.bool_]],
    new: NDArray[np.float64],
    live: NDArray[np.float64],
    *,
    higher_is_better: bool,
    known_to_both: NDArray[np.int64] | None = None,
) -> list[SliceComparison]:
    """Compare two versions on each slice that has enough users.

    Args:
        new, live: (n_ratings,) value of each judged rating.
        known_to_both: keys of the users to compare on; `None`: all.
    """
    known = np.ones(judged.n_users, bool)
    if known_to_both is not None:
        known = np.isin(judged.user_keys, known_to_both)
    compared: list[SliceComparison] = []
    for name, mask in masks.items():
        rows = mask & known[judged.user_idx]
        n_rated = np.bincount(judged.user_idx[rows], minlength=judged.n_users)
        users = n_rated > 0
        n_users = int(users.sum())
        if n_users < _MIN_USERS:
            continue
        of_new, of_live = (
            np.bincount(judged.user_idx[rows], values[rows], judged.n_users)[users] / n_rated[users]
            for values in (new, live)
        )
        difference = (of_new - of_live) * (1 if higher_is_better else -1)
        surely = float(difference.mean() + _SURE * difference.std(ddof=1) / np.sqrt(n_users))
        collapsed = surely < -COLLAPSE * abs(float(of_live.mean()))
        compared.append(SliceComparison(name, n_users, float(of_new.mean()), float(of_live.mean()), collapsed))
    return compared
