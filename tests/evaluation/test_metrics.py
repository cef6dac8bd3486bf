"""Metrics against cases worked out by hand, and against a slow, plain definition."""

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from recsys.data.dataset import Ratings
from recsys.data.scale import logit
from recsys.errors import InputError
from recsys.evaluation.baselines import bias_only, popular
from recsys.evaluation.metrics import evaluate_ranking, evaluate_rating
from recsys.factors import Factors, Side
from recsys.results import Objective
from recsys.scoring.score import predict_ratings, score_users
from tests.training.made import checkerboard, columns, ratings, split


def made_factors(
    user_keys: list[int], item_keys: list[int], z: list[list[float]], objective: Objective = "ranking"
) -> Factors:
    """Factors whose score of user u and item i is z[u][i]: the items are the axes."""
    n_items = len(item_keys)
    return Factors(
        objective=objective,
        users=Side(
            np.array(user_keys, np.int64),
            np.array(z, np.float32).reshape(len(user_keys), n_items),
            np.zeros(len(user_keys), np.float32),
        ),
        items=Side(np.array(item_keys, np.int64), np.eye(n_items, dtype=np.float32), np.zeros(n_items, np.float32)),
        rating_range=(0.5, 5.5) if objective == "rating" else None,
    )


# Catalogue of items 0…4 by train; users 0 and 1 know nothing but item 4 and item 0.
TRAIN = ratings([(0, 4, 5), (1, 0, 5), (2, 1, 5), (2, 2, 5), (2, 3, 5)])


def test_ndcg_recall_and_hit_rate_by_hand() -> None:
    factors = made_factors([0, 1, 2], [0, 1, 2, 3, 4], [[5, 4, 3, 2, 9], [1, 2, 3, 4, 5], [0, 0, 0, 0, 0]])
    # User 0's list of 2 is 0, 1 (4 is seen). Relevant: 1 and 3 (rated 4 or more), not 2 (rated 3).
    # User 1's list is 4, 3. Relevant: 2. A miss.
    test = ratings([(0, 1, 4), (0, 3, 5), (0, 2, 3), (1, 2, 4)])
    metrics = evaluate_ranking(factors, TRAIN, test, k=2)
    user_0 = (1 / np.log2(3)) / (1 + 1 / np.log2(3))
    assert metrics.user_keys.tolist() == [0, 1]
    assert metrics.user_ndcg == pytest.approx([user_0, 0])
    assert metrics.ndcg == pytest.approx(user_0 / 2)
    assert metrics.recall == pytest.approx((1 / 2 + 0) / 2)
    assert metrics.hit_rate == pytest.approx(1 / 2)
    assert metrics.coverage == pytest.approx(4 / 5)


def test_what_was_seen_in_training_is_not_listed() -> None:
    factors = made_factors([0], [0, 1, 2, 3, 4], [[1, 2, 3, 4, 9]])
    metrics = evaluate_ranking(factors, TRAIN, ratings([(0, 3, 5)]), k=1)
    assert metrics.ndcg == 1.0


def test_ties_are_listed_in_the_order_of_items() -> None:
    factors = made_factors([0], [0, 1, 2, 3, 4], [[1, 1, 1, 1, 1]])
    assert evaluate_ranking(factors, TRAIN, ratings([(0, 1, 5)]), k=2).hit_rate == 1.0
    assert evaluate_ranking(factors, TRAIN, ratings([(0, 2, 5)]), k=2).hit_rate == 0.0


def test_all_test_ratings_are_relevant_without_a_threshold() -> None:
    factors = made_factors([0], [0, 1, 2, 3, 4], [[5, 4, 3, 2, 1]])
    assert evaluate_ranking(factors, TRAIN, ratings([(0, 0, 1)]), k=1, relevant_from=None).hit_rate == 1.0
    with pytest.raises(InputError, match=r"no test rating is 4\.0 or more"):
        evaluate_ranking(factors, TRAIN, ratings([(0, 0, 1)]), k=1)


def test_an_unknown_item_counts_as_relevant_and_cannot_be_reached() -> None:
    factors = made_factors([0], [0, 1, 2, 3, 4], [[5, 4, 3, 2, 1]])
    metrics = evaluate_ranking(factors, TRAIN, ratings([(0, 0, 5), (0, 77, 5)]), k=2)
    assert metrics.recall == pytest.approx(1 / 2)
    assert metrics.ndcg == pytest.approx(1 / (1 + 1 / np.log2(3)))


def test_an_item_the_model_does_not_know_is_never_listed() -> None:
    factors = made_factors([0], [0, 1], [[-5, -4]])
    metrics = evaluate_ranking(factors, TRAIN, ratings([(0, 2, 5), (0, 1, 5)]), k=5)
    assert metrics.recall == pytest.approx(1 / 2)
    assert metrics.coverage == pytest.approx(2 / 5)


def test_an_unknown_user_gets_the_popularity_list_without_what_they_have() -> None:
    train = ratings([(0, 2, 5), (1, 2, 5), (3, 2, 5), (0, 1, 5), (1, 1, 5), (0, 0, 1)])
    factors = made_factors([0, 1], [0, 1, 2], [[9, 0, 0], [9, 0, 0]])
    # User 3 has item 2 in train: popularity leaves 1, then 0. User 9 is new everywhere: 2 first.
    assert evaluate_ranking(factors, train, ratings([(3, 1, 5)]), k=1).hit_rate == 1.0
    assert evaluate_ranking(factors, train, ratings([(9, 2, 5)]), k=1).hit_rate == 1.0
    assert evaluate_ranking(factors, train, ratings([(9, 0, 5)]), k=1).hit_rate == 0.0


def test_a_model_of_other_data_is_aligned_by_keys() -> None:
    # The live version knows users 1, 5 and items 3, 4, 9; the catalogue of today is 0…4.
    factors = made_factors([1, 5], [3, 4, 9], [[1, 2, 9], [9, 9, 9]])
    metrics = evaluate_ranking(factors, TRAIN, ratings([(1, 4, 5), (1, 3, 5)]), k=2)
    assert metrics.ndcg == 1.0


def test_blocks_of_users_agree_with_a_slow_definition(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("recsys.evaluation.metrics._BLOCK", 100)
    random = np.random.default_rng(0)
    pairs = [(u, i) for u in range(40) for i in range(30) if random.random() < 0.4]
    rows = [(u, i, int(random.integers(1, 6))) for u, i in pairs]
    held = random.random(len(rows)) < 0.3
    train = ratings([row for row, out in zip(rows, held, strict=True) if not out])
    test = ratings([row for row, out in zip(rows, held, strict=True) if out])
    z = random.integers(0, 4, (40, 30)).astype(np.float32)  # many ties
    metrics = evaluate_ranking(
        made_factors(list(range(40)), list(range(30)), z.tolist()), train, test, k=7, relevant_from=3
    )

    ndcg, recall, hit, bits, shown = [], [], [], [], set()
    n_rated = np.bincount([i for _, i, _ in rows_of(train)], minlength=30)
    test_items = {u: {i for v, i, r in rows_of(test) if v == u and r >= 3} for u in range(40)}
    for user, relevant in test_items.items():
        if not relevant:
            continue
        seen = np.array([i for v, i, _ in rows_of(train) if v == user], np.int64)
        unseen = np.setdiff1d(np.arange(30), seen)
        best = unseen[np.argsort(-z[user][unseen], kind="stable")][:7].tolist()
        gains = [1 / np.log2(rank + 2) for rank, item in enumerate(best) if item in relevant]
        ndcg.append(sum(gains) / sum(1 / np.log2(rank + 2) for rank in range(min(7, len(relevant)))))
        recall.append(len(gains) / min(7, len(relevant)))
        hit.append(len(gains) > 0)
        bits += [np.log2(train.n_users / n_rated[item]) for item in best]
        shown |= set(best)
    assert metrics.user_ndcg == pytest.approx(ndcg)
    assert metrics.ndcg == pytest.approx(np.mean(ndcg))
    assert metrics.recall == pytest.approx(np.mean(recall))
    assert metrics.hit_rate == pytest.approx(np.mean(hit))
    assert metrics.coverage == pytest.approx(len(shown) / 30)
    assert metrics.novelty == pytest.approx(np.mean(bits))


def rows_of(data: Ratings) -> list[tuple[int, int, float]]:
    return list(
        zip(
            data.user_keys[data.user_idx].tolist(),
            data.item_keys[data.item_idx].tolist(),
            data.rating.tolist(),
            strict=True,
        )
    )


def test_rmse_and_mae_by_hand() -> None:
    z = logit(np.array([[4.0, 2.0], [3.0, 5.0]]), 0.5, 5.5)
    factors = made_factors([10, 20], [7, 8], z.tolist(), "rating")
    metrics = evaluate_rating(factors, ratings([(10, 7, 5), (10, 8, 5), (20, 8, 5)]))  # off by 1, 3 and 0
    assert metrics.rmse == pytest.approx(np.sqrt(10 / 3), rel=1e-5)
    assert metrics.mae == pytest.approx(4 / 3, rel=1e-5)
    assert metrics.user_keys.tolist() == [10, 20]
    assert metrics.user_squared_error == pytest.approx([5, 0], abs=1e-5)


def test_users_and_items_the_model_does_not_know_are_measured_too() -> None:
    plain = made_factors([10], [7], [[2.0]], "rating")
    factors = replace(
        plain,
        users=replace(plain.users, bias=np.array([0.5], np.float32)),
        items=replace(plain.items, bias=np.array([-1.0], np.float32)),
        global_bias=0.25,
    )
    rows = [(10, 7, 3), (10, 9, 3), (11, 7, 3), (11, 9, 3)]
    z = np.array([2 + 0.5 - 1 + 0.25, 0.5 + 0.25, -1 + 0.25, 0.25])
    error = 0.5 + 5 / (1 + np.exp(-z)) - 3
    metrics = evaluate_rating(factors, ratings(rows))
    assert metrics.rmse == pytest.approx(np.sqrt((error**2).mean()), rel=1e-5)
    assert metrics.user_squared_error == pytest.approx([(error[:2] ** 2).mean(), (error[2:] ** 2).mean()], rel=1e-5)


def test_nothing_to_measure_is_said() -> None:
    with pytest.raises(InputError, match="there are no test ratings"):
        evaluate_rating(bias_only(TRAIN), ratings([]))


def test_popular_ranks_by_count_and_predicts_the_damped_mean() -> None:
    train = ratings([(0, 0, 5), (1, 0, 4), (2, 0, 3), (0, 1, 1), (1, 2, 2), (2, 2, 3)])
    by_count = popular(train, "ranking")
    assert score_users(by_count, np.array([0]))[0].tolist() == [3, 1, 2]
    mean = 18 / 6
    predicted = predict_ratings(popular(train, "rating", (1, 5)), np.array([0, 1, 2]), np.array([0, 1, 2]))
    expected = [(12 + 5 * mean) / 8, (1 + 5 * mean) / 6, (5 + 5 * mean) / 7]
    assert predicted == pytest.approx(expected, rel=1e-5)


def test_bias_only_is_the_minimum_of_its_formula() -> None:
    train, _ = checkerboard(12, 8)
    biases = bias_only(train, (1, 5))
    low, high = biases.rating_range or (0, 0)
    b_u, b_i = biases.user_bias.astype(float), biases.item_bias.astype(float)

    def cost(b_u: NDArray[np.float64], b_i: NDArray[np.float64]) -> float:
        z = b_u[train.user_idx] + b_i[train.item_idx] + biases.global_bias
        error = low + (high - low) / (1 + np.exp(-z)) - train.rating
        return float((error**2).sum() + 5 * ((high - low) / 4) ** 2 * ((b_u**2).sum() + (b_i**2).sum()))

    best = cost(b_u, b_i)
    random = np.random.default_rng(0)
    for size in (0.03, 0.3):
        for _ in range(20):
            assert cost(b_u + size * random.normal(size=12), b_i + size * random.normal(size=12)) > best


def test_bias_only_beats_item_means_where_users_differ() -> None:
    random = np.random.default_rng(0)
    user, item = np.nonzero(random.random((100, 50)) < 0.4)
    taste, quality = random.normal(size=100), random.normal(size=50)
    rating = np.clip(np.round(3 + 0.8 * taste[user] + 0.8 * quality[item]), 1, 5)
    train, test = split(columns(user, item, rating), random)
    with_users = evaluate_rating(bias_only(train), test).rmse
    assert with_users < 0.5
    assert evaluate_rating(popular(train, "rating"), test).rmse > 1.5 * with_users


def test_baselines_are_evaluated_under_either_objective() -> None:
    """Bias-only orders a catalogue by item bias; popularity ranks the same for every user."""
    train = ratings([(0, 0, 5), (1, 0, 5), (2, 1, 1), (3, 1, 1), (4, 2, 3)])
    assert evaluate_ranking(bias_only(train), train, ratings([(4, 0, 5)]), k=1).hit_rate == 1.0
