"""The evaluator of all models: metrics of predictions and lists on the test ratings of a case. numpy only."""

import numpy as np
from numpy.typing import NDArray

from benchmarks.case import Case, K


def rating_metrics(case: Case, predicted: NDArray[np.float32]) -> dict[str, float]:
    """Return RMSE and MAE over all test ratings.

    Raises:
        ValueError: there is not one finite prediction for each test rating.
    """
    if predicted.shape != case.test_rating.shape or not np.isfinite(predicted).all():
        raise ValueError(
            f"expected {len(case.test_rating)} finite predictions, got shape {predicted.shape}, or some are not finite"
        )
    error = predicted.astype(np.float64) - case.test_rating
    return {"RMSE": float(np.sqrt((error**2).mean())), "MAE": float(np.abs(error).mean())}


def ranking_metrics(case: Case, lists: NDArray[np.int64]) -> dict[str, float]:
    """Return the mean NDCG@K, recall@K and novelty of lists, and their coverage.

    Recall is relative to min(K, relevant items). Coverage is the share of the catalogue in at least one list.
    Novelty is the mean of −log2 of the share of users who rated the item in training.

    Args:
        case: the split.
        lists: (n_list_users, ≤ K) items for `Case.list_users`, padded with −1.

    Raises:
        ValueError: the shape is another one, or a list contains an item twice, an item that its user rated in
            training, or an item without training ratings.
    """
    ndcg, recall = user_metrics(case, lists)
    catalogue = np.unique(case.item)
    is_item = lists >= 0
    n_users = len(np.unique(case.user))
    return {
        f"NDCG@{K}": float(ndcg.mean()),
        f"recall@{K}": float(recall.mean()),
        "coverage": len(np.unique(lists[is_item])) / len(catalogue),
        "novelty": float(np.log2(n_users / np.bincount(case.item)[lists[is_item]]).mean()),
    }


def user_metrics(case: Case, lists: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return NDCG@K and recall@K of each user's list: (n_list_users,) each. See `ranking_metrics`.

    Raises:
        ValueError: the lists are not valid.
    """
    if len(lists) != len(case.list_users) or lists.shape[1] > K:
        raise ValueError(f"lists of shape {lists.shape}, expected ({len(case.list_users)}, at most {K})")
    is_item = lists >= 0
    row = np.nonzero(is_item)[0]
    pair = pair_numbers(case.list_users[row], lists[is_item], case)
    if len(np.unique(pair)) < len(pair):
        raise ValueError("an item is in a list twice")
    if np.isin(pair, pair_numbers(case.user, case.item, case)).any():
        raise ValueError("a list contains an item that its user rated in training")
    if not np.isin(lists[is_item], case.item).all():
        raise ValueError("a list contains an item without training ratings")

    relevant = pair_numbers(case.test_user[case.relevant], case.test_item[case.relevant], case)
    n_relevant = np.bincount(np.searchsorted(case.list_users, case.test_user[case.relevant]))  # (n_list_users,)
    hit = np.zeros(lists.shape, bool)
    hit[is_item] = np.isin(pair, relevant)
    discount = 1 / np.log2(np.arange(2, K + 2))  # (K,)
    ideal = np.cumsum(discount)[np.minimum(n_relevant, K) - 1]
    return hit @ discount[: lists.shape[1]] / ideal, hit.sum(1) / np.minimum(n_relevant, K)


def pair_numbers(user: NDArray[np.int32], item: NDArray[np.int32] | NDArray[np.int64], case: Case) -> NDArray[np.int64]:
    """Return one number for each (user, item) pair."""
    return user.astype(np.int64) * case.n_items + item
