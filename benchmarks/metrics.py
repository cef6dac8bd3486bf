"""One evaluator for everybody: predictions and lists against the test ratings of a case. numpy only."""

import numpy as np
from numpy.typing import NDArray

from benchmarks.case import Case, K


def rating_metrics(case: Case, predicted: NDArray[np.float32]) -> dict[str, float]:
    """RMSE and MAE over all test ratings.

    Raises:
        ValueError: there is not one finite prediction for each of them.
    """
    if predicted.shape != case.test_rating.shape or not np.isfinite(predicted).all():
        raise ValueError(
            f"{predicted.shape} predictions, or some not finite, for {case.test_rating.shape} test ratings"
        )
    error = predicted.astype(np.float64) - case.test_rating
    return {"RMSE": float(np.sqrt((error**2).mean())), "MAE": float(np.abs(error).mean())}


def ranking_metrics(case: Case, lists: NDArray[np.int64]) -> dict[str, float]:
    """NDCG@K, recall@K over min(K, relevant), and the share of the catalogue that is in somebody's list.

    Args:
        lists: (n_asked, ≤ K), for `Case.asked`; −1 where nothing is left.

    Raises:
        ValueError: the lists are of another shape, or one holds an item twice, or one that its user has rated in
            training or nobody has.
    """
    if len(lists) != len(case.asked) or lists.shape[1] > K:
        raise ValueError(f"lists of shape {lists.shape}; {len(case.asked)} of at most {K} were asked for")
    listed = lists >= 0
    row = np.nonzero(listed)[0]
    pair = _pairs(case.asked[row], lists[listed], case)
    if len(np.unique(pair)) < len(pair):
        raise ValueError("an item is in a list twice")
    if np.isin(pair, _pairs(case.user, case.item, case)).any():
        raise ValueError("a list holds an item that its user has rated in training")
    catalogue = np.unique(case.item)
    shown = np.unique(lists[listed])
    if not np.isin(shown, catalogue).all():
        raise ValueError("a list holds an item that nobody has rated in training")

    relevant = _pairs(case.test_user[case.relevant], case.test_item[case.relevant], case)
    n_relevant = np.bincount(np.searchsorted(case.asked, case.test_user[case.relevant]))  # (n_asked,)
    hit = np.zeros(lists.shape, bool)
    hit[listed] = np.isin(pair, relevant)
    n_users = len(np.unique(case.user))
    discount = 1 / np.log2(np.arange(2, K + 2))  # (K,)
    ideal = np.cumsum(discount)[np.minimum(n_relevant, K) - 1]
    return {
        f"NDCG@{K}": float((hit @ discount[: lists.shape[1]] / ideal).mean()),
        f"recall@{K}": float((hit.sum(1) / np.minimum(n_relevant, K)).mean()),
        "coverage": len(shown) / len(catalogue),
        "novelty": float(np.log2(n_users / np.bincount(case.item)[lists[listed]]).mean()),
    }


def _pairs(user: NDArray[np.int32], item: NDArray[np.int32] | NDArray[np.int64], case: Case) -> NDArray[np.int64]:
    """Each (user, item) as one number."""
    return user.astype(np.int64) * case.n_items + item
