"""The users of the generated sample: their tastes, how much they rate, what, how high and when."""

from datetime import UTC, datetime

import numpy as np
from numpy.typing import NDArray

from recsys.data.sample.catalogue import FIRST_YEAR, Catalogue
from recsys.data.sample.words import CROWDS, GENRES

START_SECONDS = int(datetime(FIRST_YEAR, 1, 1, tzinfo=UTC).timestamp())
N_DAYS = 3 * 365

PULL = 2.2
"""How strongly taste decides which items a crowd rates."""
LIKING = 1.1
"""Stars by which taste moves a rating."""
NOISE = 0.75
"""Standard deviation of the unexplained part of a rating, in stars."""


def crowd_tastes() -> NDArray[np.float32]:
    """Return the tastes of each crowd: (n_crowds, n_genres + 1), the last column for new over old items."""
    genres = list(GENRES)
    taste = np.zeros((len(CROWDS), len(genres) + 1), np.float32)
    for crowd, (_, loved, avoided, new) in enumerate(CROWDS):
        for genre in loved.split(", "):
            taste[crowd, genres.index(genre)] = 1.0
        for genre in avoided.split(", "):
            taste[crowd, genres.index(genre)] = -1.0
        taste[crowd, -1] = 0.4 * new
    return taste


def draw_activity(rng: np.random.Generator, n_users: int, n_items: int, n_ratings: int) -> NDArray[np.int64]:
    """Draw the number of items each user rates: (n_users,), heavy-tailed, with the sum `n_ratings`."""
    most = max(1, int(0.7 * n_items))
    least = min(20, n_ratings // (3 * n_users))
    weight = rng.lognormal(0, 1.0, n_users)
    above: NDArray[np.int64] = ((n_ratings - least * n_users) * weight / weight.sum()).astype(np.int64)
    n_rated = np.minimum(least + above, most)
    while (short := n_ratings - int(n_rated.sum())) > 0:
        room = rng.permutation(np.flatnonzero(n_rated < most))[:short]
        n_rated[room] += np.minimum(max(1, short // len(room)), most - n_rated[room])
    return n_rated


def draw_pairs(
    rng: np.random.Generator,
    n_rated: NDArray[np.int64],
    crowds: NDArray[np.int64],
    log_weight: NDArray[np.float64],
    affinity: NDArray[np.float32],
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Draw the (user, item) pairs: (n_ratings,) users, ascending, and their items; no pair twice.

    Each draw follows the user's first crowd, the second crowd, or the popularity with all users. An item drawn twice
    is drawn again, which is sampling without replacement.

    Args:
        n_rated: (n_users,) number of items each user rates.
        crowds: (n_users, 2) the crowds of each user.
        log_weight: (n_items,) logarithm of the popularity with all users.
        affinity: (n_crowds, n_items) how much each crowd likes each item.
    """
    n_users, (n_crowds, n_items) = len(n_rated), affinity.shape
    appeal = np.vstack([log_weight + PULL * affinity, log_weight, np.zeros(n_items)])
    chance = np.exp(appeal - appeal.max(axis=1, keepdims=True))
    # Row c of the cumulative chances lies in c…c + 1, so that one search serves all crowds.
    steps = (np.cumsum(chance, axis=1) / chance.sum(axis=1, keepdims=True)).clip(max=1)
    steps = (steps + np.arange(len(steps))[:, None]).ravel()
    all_users, uniform = n_crowds, n_crowds + 1

    taken = np.empty(0, np.int64)  # user · n_items + item, ascending
    missing = n_rated.copy()
    attempt = 0
    while missing.any():
        user = np.repeat(np.arange(n_users), missing + missing // 3)
        which = rng.random(len(user))
        crowd = np.where(which < 0.65, crowds[user, 0], np.where(which < 0.85, crowds[user, 1], all_users))
        if attempt >= 10:  # these users rated nearly all items of their crowds: further draws would hardly end
            crowd[:] = uniform
        item = np.searchsorted(steps, crowd + rng.random(len(user)), side="right") - crowd * n_items
        pair = user * n_items + np.minimum(item, n_items - 1)
        distinct, first = np.unique(pair, return_index=True)
        repeated = np.isin(distinct, taken, assume_unique=True)
        new = np.sort(first[~repeated])  # in the order of the draws: cutting by pair would favour low items
        by_user = np.bincount(user[new], minlength=n_users)
        nth = np.arange(len(new)) - np.repeat(np.cumsum(by_user) - by_user, by_user)  # of its user
        new = new[nth < missing[user[new]]]
        taken = np.sort(np.concatenate([taken, pair[new]]), kind="stable")
        missing -= np.bincount(user[new], minlength=n_users)
        attempt += 1
    user, item = np.divmod(taken, n_items)
    return user.astype(np.int32), item.astype(np.int32)


def draw_ratings(
    rng: np.random.Generator,
    user_idx: NDArray[np.int32],
    item_idx: NDArray[np.int32],
    taste: NDArray[np.float32],
    catalogue: Catalogue,
) -> NDArray[np.float32]:
    """Draw the rating of each pair: (n_ratings,) whole stars from 1 to 5."""
    user_bias = rng.normal(0, 0.38, len(taste)).astype(np.float32)
    stars = rng.normal(2.95, NOISE, len(user_idx)).astype(np.float32)
    stars += user_bias[user_idx] + catalogue.quality[item_idx]
    # In parts: the gathered vectors of all pairs would take gigabytes at the sizes of the benchmarks.
    for start in range(0, len(stars), 1 << 20):
        part = slice(start, start + (1 << 20))
        vectors = taste[user_idx[part]], catalogue.loading[item_idx[part]]
        stars[part] += LIKING * np.einsum("nf,nf->n", *vectors, optimize=False)
    return np.clip(np.rint(stars), 1, 5)


def draw_times(rng: np.random.Generator, user_idx: NDArray[np.int32], n_rated: NDArray[np.int64]) -> NDArray[np.int64]:
    """Draw the time of each rating: (n_ratings,) Unix milliseconds.

    Users come in sessions, mostly in the evening, and rate about a dozen items in a row.
    """
    n_users = len(n_rated)
    n_sessions = -(-n_rated // 12)
    first_session = np.cumsum(n_sessions) - n_sessions
    user = np.repeat(np.arange(n_users), n_sessions)  # of each session
    joined = rng.uniform(0, 0.95 * N_DAYS, n_users)
    active_days = np.minimum(rng.exponential(0.3 * N_DAYS, n_users), N_DAYS - joined)
    day = np.floor(joined[user] + rng.random(len(user)) * active_days[user])
    hour = rng.normal(20, 3, len(user)) % 24  # evenings, mostly
    starts = START_SECONDS + (day * 24 + hour) * 3600

    session = first_session[user_idx] + (rng.random(len(user_idx)) * n_sessions[user_idx]).astype(np.int64)
    order = np.argsort(session + rng.random(len(session)))  # by session, shuffled inside it
    session = session[order]
    elapsed = np.cumsum(8 + rng.exponential(35, len(session)))
    opening = np.flatnonzero(np.diff(session, prepend=-1))
    elapsed -= np.repeat(elapsed[opening], np.diff(opening, append=len(session)))
    rated_at = np.empty(len(session), np.int64)
    rated_at[order] = (starts[session] + elapsed).astype(np.int64) * 1000
    return rated_at
