"""Which ratings to hold out: every split as a mask over the ratings. numpy only."""

from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from recsys.data.dataset import NO_TIME, Ratings
from recsys.data.keyed import mix, positions
from recsys.errors import InputError

Split = Literal["last-tenth", "hash", "random", "time-cut", "leave-last-out"]
SPLITS: tuple[Split, ...] = get_args(Split)


def hold_out(
    ratings: Ratings, split: Split = "last-tenth", *, share: float = 0.1, seed: int = 0, turn: int = 0
) -> NDArray[np.bool_]:
    """Hold out ratings to measure on.

    >>> held_out = hold_out(data.ratings)                               # doctest: +SKIP
    >>> Learner.fit(data.select(~held_out)).evaluate(data.select(held_out))     # doctest: +SKIP

    - `last-tenth`: each user's last `share` by time, at least one; the same ones every night. A user with a rating
      whose time is unknown is split by `hash`.
    - `hash`: the pairs that a stable hash of (user_id, item_id) picks, in every database the same.
    - `random`: a share of all ratings, by the seed.
    - `time-cut`: the last `share` of all ratings by time. Users may be unknown before it: see `known_share`.
    - `leave-last-out`: each user's last rating by time; without times the one the hash says.

    All but `random` and `time-cut` leave every user at least one rating, and take nothing of an only one.

    Args:
        share: of the ratings to hold out.
        seed: of `random`.
        turn: how often ratings were held out of these already. Each turn has a hash of its own: what one hash left, it
            leaves again.

    Returns:
        (n_ratings,) mask.

    Raises:
        InputError: a cut by time is asked for and times are unknown, or `share` is not between 0 and 1.
    """
    if not 0 < share < 1:
        raise InputError(f"share {share:g}: a share of the ratings between 0 and 1 can be held out")
    if split == "last-tenth":
        return _last_by_user(ratings, share, turn)
    if split == "hash":
        return _by_hash(ratings, share, turn)
    if split == "random":
        return _random(ratings, share, seed)
    if split == "time-cut":
        return _after_cut(ratings, share)
    has_others = _n_rated(ratings) >= 2
    last: NDArray[np.bool_] = (_from_end(ratings) == 0) & has_others[ratings.user_idx]
    return last


def known_share(train: Ratings, test: Ratings) -> float:
    """Share of the ratings in `test` whose user has ratings in `train`."""
    known = positions(train.compact().user_keys, test.user_keys) >= 0  # (n_users of test,)
    return float(known[test.user_idx].mean()) if test.n_ratings else 0.0


def _last_by_user(ratings: Ratings, share: float, turn: int) -> NDArray[np.bool_]:
    n_rated = _n_rated(ratings)
    n_held = np.where(n_rated >= 2, np.maximum(1, (n_rated * share).astype(np.int64)), 0)
    timeless = np.zeros(ratings.n_users, bool)
    timeless[ratings.user_idx[ratings.rated_at == NO_TIME]] = True
    by_time = _from_end(ratings) < n_held[ratings.user_idx]
    held: NDArray[np.bool_] = np.where(timeless[ratings.user_idx], _by_hash(ratings, share, turn), by_time)
    return held


def _by_hash(ratings: Ratings, share: float, turn: int) -> NDArray[np.bool_]:
    picked = _pair_hash(ratings, turn) < np.uint64(int(share * 2.0**64))
    takes_all = np.bincount(ratings.user_idx[picked], minlength=ratings.n_users) == _n_rated(ratings)
    held: NDArray[np.bool_] = picked & ~takes_all[ratings.user_idx]
    return held


def _random(ratings: Ratings, share: float, seed: int) -> NDArray[np.bool_]:
    held = np.zeros(ratings.n_ratings, bool)
    held[np.random.default_rng(seed).permutation(ratings.n_ratings)[: round(share * ratings.n_ratings)]] = True
    return held


def _after_cut(ratings: Ratings, share: float) -> NDArray[np.bool_]:
    n_timeless = int((ratings.rated_at == NO_TIME).sum())
    if n_timeless:
        raise InputError(
            f"{n_timeless:,} of {ratings.n_ratings:,} ratings have no time, so there is no cut by time: "
            "load them with their times, or use another split"
        )
    held = np.zeros(ratings.n_ratings, bool)
    order = np.lexsort((_pair_hash(ratings), ratings.rated_at))
    held[order[ratings.n_ratings - round(share * ratings.n_ratings) :]] = True
    return held


def _from_end(ratings: Ratings) -> NDArray[np.int64]:
    """Return how many ratings of the same user come after each rating by time; the hash orders equal times."""
    order = np.lexsort((_pair_hash(ratings), ratings.rated_at, ratings.user_idx))
    ends = np.cumsum(_n_rated(ratings))
    from_end = np.empty(ratings.n_ratings, np.int64)
    from_end[order] = ends[ratings.user_idx[order]] - 1 - np.arange(ratings.n_ratings)
    return from_end


def _n_rated(ratings: Ratings) -> NDArray[np.int64]:
    return np.bincount(ratings.user_idx, minlength=ratings.n_users)


def _pair_hash(ratings: Ratings, turn: int = 0) -> NDArray[np.uint64]:
    """Return a stable 64-bit hash of (user_id, item_id) for each rating."""
    # The 1 makes it another hash than the one that the fingerprint begins with.
    return mix(mix(ratings.user_hash[ratings.user_idx]) ^ ratings.item_hash[ratings.item_idx] ^ np.uint64(1 + turn))
