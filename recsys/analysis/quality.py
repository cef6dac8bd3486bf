"""How well predictions fit ratings, by groups, and what lists have in common."""

from dataclasses import replace
from itertools import pairwise
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from recsys.data.dataset import Ratings
from recsys.data.keyed import evenly, positions
from recsys.factors import Factors
from recsys.scoring.profile import profiles_of
from recsys.scoring.score import predict_ratings
from recsys.scoring.search import Index

ResidualGroup = Literal["rating", "prediction", "activity", "popularity"]
MOST_RATINGS = 200_000
"""Ratings that residuals are computed from; a larger set is sampled."""


def residual_table(
    factors: Factors,
    ratings: Ratings,
    by: ResidualGroup = "prediction",
    seed: int = 0,
    n_ratings: NDArray[np.int64] | None = None,
) -> pd.DataFrame:
    """Return how far predictions are from ratings, in groups.

    A calibrated model has a mean rating equal to the mean prediction in each group of `prediction`.

    Args:
        factors: a rating model.
        ratings: any ratings; best those that the training did not see.
        by: `rating`, the value given; `prediction`, tenths of the predictions; `activity`, the number of ratings of
            the user; `popularity`, the number of ratings of the item. Numbers are grouped by powers of two.
        n_ratings: (factors.n_items,) for `popularity`; by default the counts in `ratings`.

    Returns:
        Index `group`; columns `n`, `mean_rating`, `mean_prediction`, `bias` (prediction minus rating), `rmse`.

    Raises:
        ValueError: the model was not trained to predict ratings.
    """
    chosen, prediction = _predicted(factors, ratings, seed)
    user, item = ratings.user_idx[chosen], ratings.item_idx[chosen]
    rating = ratings.rating[chosen].astype(np.float64)
    if by == "rating":
        group, names = np.unique(rating, return_inverse=True)[::-1]
        labels = [f"{value:g}" for value in names]
    elif by == "prediction":
        edges = np.unique(np.quantile(prediction, np.linspace(0, 1, 11))) if len(prediction) else np.zeros(2)
        group = np.clip(np.searchsorted(edges, prediction, side="right") - 1, 0, max(0, len(edges) - 2))
        labels = [f"{low:.2f}–{high:.2f}" for low, high in pairwise(edges)] or ["all"]
    else:
        counts = np.bincount(ratings.user_idx)
        if by == "popularity":
            at = positions(factors.item_keys, ratings.item_keys)
            counts = ratings.item_counts() if n_ratings is None else np.where(at >= 0, np.append(n_ratings, 0)[at], 0)
        group = np.floor(np.log2(np.maximum(counts[item if by == "popularity" else user], 1))).astype(np.int64)
        labels = ["1", *(f"{2**power}–{2 ** (power + 1) - 1}" for power in range(1, int(group.max(initial=0)) + 1))]
    frame = pd.DataFrame({"group": group, "rating": rating, "prediction": prediction})
    frame["squared"] = (frame.prediction - frame.rating) ** 2
    grouped = frame.groupby("group", sort=True)
    table = pd.DataFrame(
        {
            "n": grouped.size(),
            "mean_rating": grouped.rating.mean(),
            "mean_prediction": grouped.prediction.mean(),
            "bias": grouped.prediction.mean() - grouped.rating.mean(),
            "rmse": np.sqrt(grouped.squared.mean()),
        }
    )
    table.index = pd.Index([labels[number] for number in table.index.tolist()], name="group", dtype=object)
    return table


def user_residuals(factors: Factors, ratings: Ratings, seed: int = 0) -> pd.DataFrame:
    """Return how far predictions are from the ratings of each user, the worst first.

    Args:
        factors: a rating model.
        ratings: any ratings.

    Returns:
        Index `user_key`; columns `n`, `mean_rating`, `bias` (prediction minus rating), `rmse`.

    Raises:
        ValueError: the model was not trained to predict ratings.
    """
    chosen, prediction = _predicted(factors, ratings, seed)
    rating = ratings.rating[chosen].astype(np.float64)
    frame = pd.DataFrame({"user_key": ratings.user_keys[ratings.user_idx[chosen]], "rating": rating})
    frame["error"] = prediction - rating
    frame["squared"] = frame.error**2
    grouped = frame.groupby("user_key", sort=True)
    columns = {
        "n": grouped.size(),
        "mean_rating": grouped.rating.mean(),
        "bias": grouped.error.mean(),
        "rmse": np.sqrt(grouped.squared.mean()),
    }
    return pd.DataFrame(columns).sort_values("rmse", ascending=False, kind="stable")


def _predicted(factors: Factors, ratings: Ratings, seed: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return the rows of at most `MOST_RATINGS` ratings, and their predictions."""
    chosen = np.arange(ratings.n_ratings)
    if len(chosen) > MOST_RATINGS:
        chosen = np.sort(np.random.default_rng(seed).choice(len(chosen), MOST_RATINGS, replace=False))
    prediction = predict_ratings(
        factors,
        positions(factors.user_keys, ratings.user_keys)[ratings.user_idx[chosen]],
        positions(factors.item_keys, ratings.item_keys)[ratings.item_idx[chosen]],
    )
    return chosen, prediction.astype(np.float64)


def lists_of(factors: Factors, n: int = 10, ratings: Ratings | None = None, n_users: int = 1000) -> NDArray[np.int64]:
    """Return the lists of evenly chosen users: (n_users, n) positions of items, −1 where a list is short.

    Args:
        factors: with users.
        ratings: what users have seen is left out, and is what weights between items see; `None` leaves nothing out.
        n_users: largest number of users.
    """
    chosen = evenly(factors.n_users, n_users)
    if not len(chosen):
        return np.zeros((0, n), np.int64)
    excluded = None
    if ratings is not None:
        starts, order = ratings.by_user()
        item_of = positions(factors.item_keys, ratings.item_keys)
        rows = positions(ratings.user_keys, factors.user_keys[chosen])
        excluded = []
        for row in rows.tolist():
            seen = (
                item_of[ratings.item_idx[order[starts[row] : starts[row + 1]]]] if row >= 0 else np.empty(0, np.int64)
            )
            excluded.append(seen[seen >= 0])
    index = Index(factors.item_factors, factors.item_bias, factors.head, weights=factors.weights)
    profiles = None if ratings is None else profiles_of(factors, ratings, factors.user_keys[chosen], factors.item_keys)
    found = np.full((len(chosen), n), -1, np.int64)
    for at, best in enumerate(index.best(factors.user_factors[chosen], [n] * len(chosen), excluded, profiles)):
        found[at, : len(best.item_idx)] = best.item_idx
    return found


def select_users(factors: Factors, keys: NDArray[np.int64]) -> Factors:
    """Return a model with some of its users only: those with the given keys, ascending, all of which it knows."""
    at, users = positions(factors.user_keys, keys), factors.users
    return replace(factors, users=replace(users, keys=keys, factors=users.factors[at], bias=users.bias[at]))


def gini(counts: NDArray[np.integer]) -> float:
    """Return the Gini coefficient of counts: 0 where all are equal, near 1 where a few have everything.

    G = Σ_i (2 i − n − 1) x_i / (n Σ x),   x ascending, i = 1 … n
    """
    n, total = len(counts), float(counts.sum())
    if n == 0 or total == 0:
        return 0.0
    ascending = np.sort(counts).astype(np.float64)
    return float(((2 * np.arange(1, n + 1) - n - 1) * ascending).sum() / (n * total))


def list_summary(lists: NDArray[np.int64], n_ratings: NDArray[np.int64]) -> dict[str, float]:
    """Return what lists have in common.

    Args:
        lists: (n_users, n) of `lists_of`.
        n_ratings: (n_items,).

    Returns:
        `users`, `coverage` (share of the catalogue in at least one list), `gini` (of how often items are listed),
        `popular_share` (share of the places taken by the tenth of the items with the most ratings) and
        `mean_ratings` (of a listed item).
    """
    listed = lists[lists >= 0]
    counts = np.bincount(listed, minlength=len(n_ratings))
    most = np.zeros(len(n_ratings), bool)
    most[np.argsort(-n_ratings, kind="stable")[: max(1, round(len(n_ratings) / 10))]] = True
    return {
        "users": float(len(lists)),
        "coverage": float((counts > 0).mean()) if len(counts) else 0.0,
        "gini": gini(counts),
        "popular_share": float(most[listed].mean()) if len(listed) else 0.0,
        "mean_ratings": float(n_ratings[listed].mean()) if len(listed) else 0.0,
    }
