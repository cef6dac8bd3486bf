"""The `item` architecture: weights between items, and a part of each score for the item's popularity."""

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from recsys.data.dataset import Ratings
from recsys.data.keyed import evenly, positions
from recsys.data.rating_scale import relevant_from
from recsys.evaluation.splits import hold_out
from recsys.factors import Factors, ItemWeights, RankingConstants, Side
from recsys.scoring.fold_in import DEFAULT_RIDGE
from recsys.scoring.profile import liking
from recsys.training.config import Config
from recsys.training.item_weights import (
    F32,
    MAX_INVERSE,
    Among,
    columns_of_part,
    gram,
    penalties,
    solve_weights,
    solved_parts,
    squares_of,
)

MAX_WEIGHTS = 20_000_000
"""Most weights of a model: 160 MB."""

K = 10
"""Length of the lists that settings are chosen by."""
FIRST_L2, L2_STEP, L2_RANGE = (100.0, 400.0), 4.0, (1.0, 25_600.0)
"""λ that are tried first, the factor between neighbours, and the ends."""
POWERS = (0.0, 0.25, 0.5)
"""Powers of popularity by which weights are divided that are tried."""
POPULARITIES = (0.001, 0.01, 0.03, 0.1, 0.3, 1.0)
"""Strengths of popularity that are tried. The smallest only orders items that the weights say nothing of."""
DEFAULT_L2, DEFAULT_POWER, DEFAULT_POPULARITY = 400.0, 0.0, 0.03
"""Where there is nothing to choose them by."""
TURN = 3
"""Ratings were held out before by the gate (0), by a night or `recsys tune` (1) and by its confirmation (2)."""
_SEARCH_ITEMS, _SEARCH_USERS = 4000, 1000
"""Most items and users that settings are chosen by: the most rated items."""
_SEARCH_PARTS, _PART_USERS = 4, 500
"""Parts of a larger catalogue that settings are chosen by, and most users of each: the most rated items alone would say
nothing of how popularity should count among all others."""


class ItemSettings(NamedTuple):
    """The settings of weights between items that follow from the data.

    Attributes:
        l2: λ, see `recsys.training.item_weights`.
        power: by which power of its popularity the weights of an item are divided.
        popularity: strength of popularity in the scores.
    """

    l2: float
    power: float
    popularity: float


def ranking_constants(train: Ratings, config: Config) -> RankingConstants:
    """Return the constants of a `ranking` training, with the default ridge."""
    mean, span = float(train.rating.mean(dtype=np.float64)), float(np.ptp(train.rating)) or 1.0
    dislike_below = -math.inf if train.scale is None else (train.scale[0] + train.scale[1]) / 2
    n_items = train.n_ratings / train.n_users
    return RankingConstants(mean, span, n_items, DEFAULT_RIDGE, config.rating_weight, config.user_power, dislike_below)


def user_matrix(train: Ratings, constants: RankingConstants, *, weighted: bool) -> sparse.csr_array:
    """Return how much each user has of each item, (n_users, n_items): see `liking`.

    Args:
        weighted: multiply each user's row by the root of their weight in the loss, (mean number / number of items)^p.
    """
    x = liking(train.rating, constants)
    if weighted:
        counts = np.bincount(train.user_idx, minlength=train.n_users)
        x *= (constants.n_items / np.maximum(counts, 1))[train.user_idx] ** (constants.user_power / 2)
    return sparse.csr_array(
        (x.astype(np.float32), (train.user_idx, train.item_idx)), shape=(train.n_users, train.n_items)
    )


def popularity_bias(train: Ratings, strength: float) -> F32:
    """Return the part of each score for the item's popularity: strength · log(1 + n_i) / log(1 + max n), (n_items,)."""
    logs = np.log1p(train.item_counts())
    bias: F32 = (strength * logs / max(float(logs.max(initial=0.0)), 1e-12)).astype(np.float32)
    return bias


def popularity_scale(train: Ratings, power: float) -> F32:
    """Return what the weights of each item are multiplied by: (n_i / mean n)^−power, (n_items,)."""
    counts = np.maximum(train.item_counts(), 1)
    scale: F32 = ((counts / counts.mean()) ** -power).astype(np.float32)
    return scale


def fit_weights(train: Ratings, config: Config, l2: float, power: float) -> tuple[ItemWeights, float]:
    """Return the weights between items, and their mean squared error before they are scaled.

    See `recsys.training.item_weights` and `popularity_scale`.
    """
    X = user_matrix(train, ranking_constants(train, config), weighted=True)
    budget, scale = n_weights(train.n_items, config), popularity_scale(train, power)
    return solve_weights(X, penalties(squares_of(X), l2, config.item_dropout), budget, scale)


def n_weights(n_items: int, config: Config) -> int:
    """Return the number of weights to keep in a catalogue."""
    return min(config.n_neighbours * n_items, n_items**2, MAX_WEIGHTS)


def fit_item(train: Ratings, config: Config) -> tuple[Factors, float, ItemSettings]:
    """Fit the `item` architecture.

        z_ui = Σ_{j ∈ N(u)} x_uj B_ji (n_i / mean n)^−power + b_i

    with N(u) the items that the user has, x_uj how much they count (`liking`), B in closed form, and n_i and b_i for
    the popularity of the item. What the config leaves open is chosen on a validation part of the training set.

    Returns:
        The factors, without columns; the mean squared error; the settings.
    """
    settings = find_settings(train, config)
    weights, loss = fit_weights(train, config, settings.l2, settings.power)
    factors = Factors(
        objective="ranking",
        users=Side(train.user_keys, np.zeros((train.n_users, 0), np.float32), np.zeros(train.n_users, np.float32)),
        items=Side(
            train.item_keys,
            np.zeros((train.n_items, 0), np.float32),
            popularity_bias(train, settings.popularity),
        ),
        constants=ranking_constants(train, config),
        weights=weights,
    )
    return factors, loss, settings


def find_settings(train: Ratings, config: Config) -> ItemSettings:
    """Return the settings of the config; those that it leaves open are chosen on a validation part.

    λ is found by steps of `L2_STEP` as long as NDCG@10 rises, for some users over the most rated items, or over some
    parts of a catalogue that is solved in parts.
    """
    if config.item_l2 is not None and config.item_power is not None and config.popularity is not None:
        return ItemSettings(config.item_l2, config.item_power, config.popularity)
    default = ItemSettings(
        DEFAULT_L2 if config.item_l2 is None else config.item_l2,
        DEFAULT_POWER if config.item_power is None else config.item_power,
        DEFAULT_POPULARITY if config.popularity is None else config.popularity,
    )
    held_out = hold_out(train, turn=TURN)
    if not held_out.any() or held_out.all():
        return default
    trials = trials_of(train, held_out, config)
    if not trials:
        return default
    powers = POWERS if config.item_power is None else (config.item_power,)
    strengths = POPULARITIES if config.popularity is None else (config.popularity,)
    found: dict[float, tuple[float, ItemSettings]] = {}  # λ → the best NDCG, and what it was reached with

    def measure(l2: float) -> float:
        if l2 not in found:
            found[l2] = best_of(trials, l2, powers, strengths)
        return found[l2][0]

    if config.item_l2 is not None:
        measure(config.item_l2)
    else:
        low, high = FIRST_L2
        step = L2_STEP if measure(high) >= measure(low) else 1 / L2_STEP
        here = high if step > 1 else low
        while L2_RANGE[0] <= here * step <= L2_RANGE[1] and measure(here * step) > found[here][0]:
            here *= step
    return max(found.values(), key=lambda each: each[0])[1]


class Trial(NamedTuple):
    """Users with ratings held out, whose lists have items of one part of the catalogue.

    Attributes:
        among: the part, and the items that it is solved among.
        squares: (n,) ‖x_j‖² of these.
        x: (n_users, n) what the measured users have of these.
        popularity: (n_part,) of strength 1.
        counts: (n_part,) over the mean number of ratings.
        wanted: (n_users, n_part) mask of the relevant items that were held out.
        dropout: as `Config.item_dropout`.
    """

    among: Among
    squares: F32
    x: sparse.csr_array
    popularity: F32
    counts: F32
    wanted: NDArray[np.bool_]
    dropout: float

    def scores(self, l2: float) -> F32:
        """Return the scores with one λ, without popularity: (n_users, n_part)."""
        part = np.searchsorted(self.among.items, self.among.part)
        solved = columns_of_part(self.among, penalties(self.squares, l2, self.dropout))
        scores: F32 = np.concatenate([self.x @ columns.values for columns in solved], axis=1)
        scores[self.x.tocsc()[:, part].nonzero()] = -np.inf
        return scores

    def ndcg(self, scores: F32, power: float, strength: float) -> float:
        """Return the mean NDCG@10 of the users with one power and strength of popularity."""
        scores = scores * self.counts**-power + np.float32(strength) * self.popularity
        return mean_ndcg(scores, self.wanted, self.wanted.sum(1))


def trials_of(ratings: Ratings, held_out: NDArray[np.bool_], config: Config) -> list[Trial]:
    """Return what settings are chosen by; nothing if no relevant rating was held out."""
    train, test = ratings.select(~held_out), ratings.select(held_out)
    test = relevant_ratings(test, train.scale)
    constants = ranking_constants(train, config)
    X = user_matrix(train, constants, weighted=True)
    by_column = user_matrix(train, constants, weighted=False).tocsc()
    popularity, counts = popularity_bias(train, 1.0), popularity_scale(train, -1.0)
    boards: Iterable[Among]
    if train.n_items <= MAX_INVERSE:
        items = np.sort(np.argsort(-train.item_counts(), kind="stable")[:_SEARCH_ITEMS])
        boards, most_users = [Among(gram(X.tocsc()[:, items].tocsr()), items, items)], _SEARCH_USERS
    else:
        penalty = penalties(squares_of(X), DEFAULT_L2, config.item_dropout)
        boards, most_users = solved_parts(X, penalty, _SEARCH_PARTS), _PART_USERS
    trials = []
    for among in boards:
        place = positions(among.part, np.arange(test.n_items))  # of each item in the part
        users = np.unique(test.user_idx[place[test.item_idx] >= 0]).astype(np.int64)
        if not len(users):
            continue
        users = users[evenly(len(users), most_users)]
        trials.append(
            Trial(
                among,
                np.diagonal(among.gram).copy(),
                by_column[:, among.items].tocsr()[users],
                popularity[among.part],
                counts[among.part],
                wanted_items(test, users, place, len(among.part))[0],
                config.item_dropout,
            )
        )
    return trials


def best_of(
    trials: Sequence[Trial], l2: float, powers: Sequence[float], strengths: Sequence[float]
) -> tuple[float, ItemSettings]:
    """Return the highest NDCG@10 with one λ, and its settings: the power first, then the strength of popularity."""
    scores = [trial.scores(l2) for trial in trials]
    n_users = [len(trial.wanted) for trial in trials]

    def measure(power: float, strength: float) -> float:
        values = [trial.ndcg(z, power, strength) for trial, z in zip(trials, scores, strict=True)]
        return float(np.average(values, weights=n_users))

    power = max(powers, key=lambda power: measure(power, strengths[0])) if len(powers) > 1 else powers[0]
    value, least = max((measure(power, strength), -strength) for strength in strengths)
    return value, ItemSettings(l2, power, -least)


def relevant_ratings(test: Ratings, scale: tuple[float, float] | None) -> Ratings:
    """Return the ratings that lists should have: three quarters up the scale, or the highest if none is."""
    scale = scale or (float(test.rating.min()), float(test.rating.max()))
    return test.select(test.rating >= min(relevant_from(scale), float(test.rating.max())))


def wanted_items(
    test: Ratings, users: NDArray[np.int64], items: NDArray[np.int64], n_items: int
) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
    """Return which items each user should get, and how many in all.

    Args:
        users: (n,) positions in `test`, ascending.
        items: the position of each item of `test` among `n_items`; −1: it is none of these.

    Returns:
        (n, n_items) mask, and (n,) numbers that count the other items too.
    """
    user, item = positions(users, test.user_idx.astype(np.int64)), items[test.item_idx]
    wanted = np.zeros((len(users), n_items), bool)
    inside = (user >= 0) & (item >= 0)
    wanted[user[inside], item[inside]] = True
    return wanted, np.bincount(user[user >= 0], minlength=len(users))


def mean_ndcg(scores: F32, wanted: NDArray[np.bool_], n_wanted: NDArray[np.int64]) -> float:
    """Return the mean NDCG@10 of scores: (n, n_items), (n, n_items), (n,)."""
    k = min(K, scores.shape[1])
    top = np.argpartition(-scores, k - 1, axis=1)[:, :k]
    top = np.take_along_axis(top, np.argsort(-np.take_along_axis(scores, top, 1), axis=1, kind="stable"), 1)
    discount = 1 / np.log2(np.arange(2, K + 2))
    ideal = np.cumsum(discount)[np.minimum(n_wanted, K) - 1]
    return float((np.take_along_axis(wanted, top, 1) @ discount[:k] / ideal).mean())
