"""How good factors are on ratings they have not seen: RMSE and MAE, NDCG, recall, hit rate, coverage and novelty."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recsys.data.dataset import Ratings
from recsys.data.keyed import positions
from recsys.errors import InputError
from recsys.factors import Factors
from recsys.scoring.profile import profiles_of
from recsys.scoring.score import predict_ratings
from recsys.scoring.search import Index, as_matrix, index_over

_BLOCK = 1 << 22
"""Cells of users and items held at once."""


@dataclass(frozen=True, slots=True)
class RatingMetrics:
    """How far predictions are from ratings.

    Attributes:
        rmse: √(mean (r̂ − r)²) over all test ratings.
        mae: mean |r̂ − r|.
        user_keys: (n_users,) users with at least one test rating, ascending.
        user_squared_error: (n_users,) mean (r̂ − r)² of each: what the gate compares in pairs.
        squared_error: (n_test,) (r̂ − r)² of each test rating.
    """

    rmse: float
    mae: float
    user_keys: NDArray[np.int64]
    user_squared_error: NDArray[np.float64]
    squared_error: NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class RankingMetrics:
    """How good lists of k are, as means over users with at least one relevant test item.

    Attributes:
        ndcg: DCG / ideal DCG, DCG = Σ_{rank ≤ k} rel / log2(rank + 1) with rel 0 or 1; the ideal list begins
            with min(k, relevant) relevant items (Järvelin & Kekäläinen, "Cumulated Gain-Based Evaluation of
            IR Techniques", TOIS 2002).
        recall: relevant items listed / min(k, relevant items).
        hit_rate: share of users with a relevant item in their list.
        coverage: share of the catalogue that is in at least one list.
        novelty: mean over all listed items of −log2 of the share of users in `train` who have it, in bits (Zhou et
            al., "Solving the Apparent Diversity-Accuracy Dilemma of Recommender Systems", PNAS 2010).
        user_keys: (n_users,) those users, ascending.
        user_ndcg: (n_users,) NDCG of each: what the gate compares in pairs.
        gains: (n_relevant,) of each relevant test rating, in their order: 1 / log2(rank + 1) if the item is listed,
            else 0.
    """

    ndcg: float
    recall: float
    hit_rate: float
    coverage: float
    novelty: float
    user_keys: NDArray[np.int64]
    user_ndcg: NDArray[np.float64]
    gains: NDArray[np.float64]


def evaluate_rating(factors: Factors, test: Ratings) -> RatingMetrics:
    """Predict every test rating; of a user or item that the model does not know, from the biases it has.

    Raises:
        InputError: there are no test ratings.
    """
    if test.n_ratings == 0:
        raise InputError("there are no test ratings to measure on; give a test file with at least one")
    user_idx = positions(factors.user_keys, test.user_keys)[test.user_idx]
    item_idx = positions(factors.item_keys, test.item_keys)[test.item_idx]
    error = predict_ratings(factors, user_idx, item_idx).astype(np.float64) - test.rating
    n_rated = np.bincount(test.user_idx, minlength=test.n_users)
    squared = np.bincount(test.user_idx, error**2, test.n_users)
    rated = n_rated > 0
    return RatingMetrics(
        rmse=float(np.sqrt((error**2).mean())),
        mae=float(np.abs(error).mean()),
        user_keys=test.user_keys[rated],
        user_squared_error=squared[rated] / n_rated[rated],
        squared_error=error**2,
    )


def evaluate_ranking(
    factors: Factors, train: Ratings, test: Ratings, *, k: int = 10, relevant_from: float | None = 4.0
) -> RankingMetrics:
    """Rank the whole catalogue for every user with a relevant test item, and look at the first k.

    The catalogue is the items of `train`, without those that a model knows by their features only; what a user has
    in `train` is not listed. Relevant are test ratings of at least `relevant_from` (None: all). A relevant item
    outside the catalogue, or unknown to the model, cannot be reached but counts. A user whom the model does not
    know gets the list by number of ratings in `train`, as in serving. Weights between items see the ratings in `train`.

    Args:
        factors: may come from other data than `train`; aligned by keys.

    Raises:
        InputError: nothing in `test` is relevant.
    """
    train = train.compact()
    relevant = np.ones(test.n_ratings, bool) if relevant_from is None else test.rating >= relevant_from
    if not relevant.any():
        raise InputError(
            f"no test rating is {relevant_from} or more, so there is no ranking to measure; "
            "lower --relevant-from (`relevant_from`), or give more test ratings"
        )
    test = test.select(relevant).compact()
    n_relevant = np.bincount(test.user_idx, minlength=test.n_users)

    catalogue = index_over(factors, train.item_keys)
    n_rated = train.item_counts()
    popularity = Index(np.zeros((train.n_items, 0), np.float32), n_rated.astype(np.float32))
    no_vectors = np.zeros((test.n_users, 0), np.float32)
    model_user = positions(factors.user_keys, test.user_keys)  # (n_users,), −1 unknown
    train_user = positions(train.user_keys, test.user_keys)
    wanted_item = positions(train.item_keys, test.item_keys)[test.item_idx]  # (n_relevant ratings,), −1 unreachable
    profiles = profiles_of(factors, train, test.user_keys, train.item_keys)
    starts, order = test.by_user()
    seen_starts, seen_order = train.by_user()

    discount = 1 / np.log2(np.arange(2, k + 2))  # (k,)
    ideal = np.concatenate([[0], np.cumsum(discount)])[np.minimum(n_relevant, k)]
    gain = np.zeros(test.n_users)
    n_hits = np.zeros(test.n_users)
    n_shown = np.zeros(train.n_items, np.int64)
    gains = np.zeros(test.n_ratings)

    size = max(1, _BLOCK // train.n_items)
    for first in range(0, test.n_users, size):
        users = np.arange(first, min(first + size, test.n_users))
        known = model_user[users] >= 0
        seen = [
            train.item_idx[seen_order[seen_starts[user] : seen_starts[user + 1]]] if user >= 0 else None
            for user in train_user[users].tolist()
        ]
        lists = np.empty((len(users), k), np.int64)  # −1 where nothing is left
        for mine, rows, among in (
            (known, factors.user_factors[model_user[users[known]]], catalogue),
            (~known, no_vectors[: int((~known).sum())], popularity),
        ):
            excluded = [seen[at] for at in np.flatnonzero(mine)]
            theirs = None if profiles is None else [profiles[user] for user in users[mine].tolist()]
            lists[mine] = as_matrix(among.best(rows, [k] * len(rows), excluded, theirs), k)

        is_wanted = np.zeros((len(users), train.n_items + 1), bool)
        row, rating = _rows_of(starts, order, users)
        is_wanted[row, wanted_item[rating]] = True
        is_wanted[:, -1] = False  # where −1 points, both for an unreachable item and an empty position
        hits = np.take_along_axis(is_wanted, lists, 1)
        gain[users] = hits @ discount[: lists.shape[1]]
        n_hits[users] = hits.sum(1)
        discount_of = np.zeros((len(users), train.n_items + 1), np.float32)  # of each listed item
        np.put_along_axis(discount_of, lists, discount.astype(np.float32)[None], 1)
        discount_of[:, -1] = 0
        gains[rating] = discount_of[row, wanted_item[rating]]
        n_shown += np.bincount(lists[lists >= 0], minlength=train.n_items)

    ndcg = gain / ideal
    return RankingMetrics(
        ndcg=float(ndcg.mean()),
        recall=float((n_hits / np.minimum(n_relevant, k)).mean()),
        hit_rate=float((n_hits > 0).mean()),
        coverage=float((n_shown > 0).mean()),
        novelty=float(n_shown @ -np.log2(n_rated / train.n_users) / max(n_shown.sum(), 1)),
        user_keys=test.user_keys,
        user_ndcg=ndcg,
        gains=gains,
    )


def _rows_of(
    starts: NDArray[np.int64], order: NDArray[np.int64], groups: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows of several groups at once.

    Args:
        starts, order: as `Ratings.by_user` gives them.
        groups: (n,) which users; −1 has no rows.

    Returns:
        (position in `groups`, row), one of each per row.
    """
    n = np.where(groups >= 0, starts[groups + 1] - starts[groups], 0)
    position = np.repeat(np.arange(len(groups)), n)
    before = np.cumsum(n) - n
    return position, order[np.arange(len(position)) + (starts[groups] - before)[position]]
