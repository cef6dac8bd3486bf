"""The evaluator of the benchmarks against cases computed by hand and against recsys.evaluation."""

import numpy as np
import pytest

from benchmarks import ours, peers
from benchmarks.case import Case
from benchmarks.metrics import ranking_metrics, rating_metrics
from recsys.evaluation.baselines import bias_only, popular
from recsys.evaluation.metrics import evaluate_ranking, evaluate_rating
from recsys.factors import Factors, Side
from recsys.results import Objective
from tests.benchmarks.made import case, parts

SEEDS = [0, 1, 2]


def random_factors(given: Case, objective: Objective, seed: int) -> Factors:
    """Of the users and items with ratings in training, as `fit` returns them."""
    random = np.random.default_rng(seed)
    users, items = np.unique(given.user).astype(np.int64), np.unique(given.item).astype(np.int64)
    return Factors(
        objective=objective,
        users=Side(
            users,
            random.normal(size=(len(users), 4)).astype(np.float32),
            random.normal(size=len(users)).astype(np.float32),
        ),
        items=Side(
            items,
            random.normal(size=(len(items), 4)).astype(np.float32),
            random.normal(size=len(items)).astype(np.float32),
        ),
        rating_range=(0.5, 5.5) if objective == "rating" else None,
    )


@pytest.mark.parametrize("seed", SEEDS)
def test_rating_metrics_agree_with_recsys(seed: int) -> None:
    given = case(seed=seed)
    train, test = parts(given)
    for factors in (random_factors(given, "rating", seed), bias_only(train)):
        expected = evaluate_rating(factors, test)
        found = rating_metrics(given, ours.predictions(given, factors))
        assert found == pytest.approx({"RMSE": expected.rmse, "MAE": expected.mae})


@pytest.mark.parametrize("seed", SEEDS)
def test_ranking_metrics_agree_with_recsys(seed: int) -> None:
    given = case(seed=seed)
    train, test = parts(given)
    for factors in (random_factors(given, "ranking", seed), popular(train, "ranking")):
        expected = evaluate_ranking(factors, train, test)
        found = ranking_metrics(given, ours.lists(given, factors))
        assert found["NDCG@10"] == pytest.approx(expected.ndcg)
        assert found["recall@10"] == pytest.approx(expected.recall)
        assert found["coverage"] == pytest.approx(expected.coverage)
        assert found["novelty"] == pytest.approx(expected.novelty)


def test_most_popular_equals_the_baseline() -> None:
    given = case()
    train, _ = parts(given)
    _, found = peers.most_popular(given, 0)
    assert found.tolist() == ours.lists(given, popular(train, "ranking")).tolist()


def tiny() -> Case:
    """Return a case: items 1 and 2 are relevant for user 0, item 3, which training does not have, for user 1."""
    return Case(
        user=np.array([0, 1, 2, 2], np.int32),
        item=np.array([0, 1, 2, 0], np.int32),
        rating=np.array([5, 5, 5, 5], np.float32),
        test_user=np.array([0, 0, 1, 2], np.int32),
        test_item=np.array([1, 2, 3, 1], np.int32),
        test_rating=np.array([4, 5, 5, 3], np.float32),
        n_users=3,
        n_items=4,
    )


def test_ranking_metrics_by_hand() -> None:
    found = ranking_metrics(tiny(), np.array([[2, -1], [0, 2]]))
    user_0 = 1 / (1 + 1 / np.log2(3))
    novelty = (2 * np.log2(3 / 1) + np.log2(3 / 2)) / 3  # item 2 is had by one of three
    assert found == pytest.approx({"NDCG@10": user_0 / 2, "recall@10": 0.25, "coverage": 2 / 3, "novelty": novelty})


def test_rating_metrics_by_hand() -> None:
    found = rating_metrics(tiny(), np.array([4, 4, 5, 5], np.float32))
    assert found == pytest.approx({"RMSE": (5 / 4) ** 0.5, "MAE": 3 / 4})


@pytest.mark.parametrize(
    ("lists", "message"),
    [
        ([[0, 1], [0, 2]], "rated in training"),
        ([[1, 1], [0, 2]], "twice"),
        ([[1, 2], [0, 3]], "without training ratings"),
        ([[1, 2]], "shape"),
    ],
)
def test_invalid_lists_are_refused(lists: list[list[int]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ranking_metrics(tiny(), np.array(lists))


def test_missing_predictions_are_refused() -> None:
    with pytest.raises(ValueError, match="not finite"):
        rating_metrics(tiny(), np.array([4, np.nan, 5, 5], np.float32))
