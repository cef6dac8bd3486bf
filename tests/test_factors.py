"""Scores and predictions against their formulas, one pair after the other."""

from itertools import pairwise

import numpy as np
import pytest
from numpy.typing import NDArray

from recsys.factors import Factors, Head, Side
from recsys.scoring.score import predict_ratings, score_rows, score_users, to_rating_scale

N_DOT, N_FIRST = 3, 5


def normal(*shape: int, seed: int) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def made_head(*hidden: int) -> Head:
    """Layers over a first one that is N_FIRST wide."""
    widths = [N_FIRST, *hidden, 1]
    layers = [(normal(n_out, n_in, seed=n_in), normal(n_out, seed=n_out + 50)) for n_in, n_out in pairwise(widths)]
    return Head(n_dot=N_DOT, layers=tuple(layers))


HEADS = [None, made_head(), made_head(4), made_head(6, 2)]
WITH_AND_WITHOUT = pytest.mark.parametrize("head", HEADS, ids=["dot", "one map", "two maps", "three maps"])


def made(head: Head | None, rating_range: tuple[float, float] | None = (0.5, 5.5)) -> Factors:
    """4 users and 6 items."""
    width = N_DOT if head is None else N_DOT + N_FIRST
    return Factors(
        objective="ranking" if rating_range is None else "rating",
        users=Side(np.arange(4) * 10, normal(4, width, seed=1), normal(4, seed=3)),
        items=Side(np.arange(6) * 7, normal(6, width, seed=2), normal(6, seed=4)),
        global_bias=0.25,
        rating_range=rating_range,
        head=head,
    )


def f(head: Head, first: np.ndarray) -> float:
    """The layers of one pair, number by number."""
    x = [float(value) for value in first]
    for weight, bias in head.layers:
        rectified = [max(value, 0.0) for value in x]
        x = [float(row.astype(float) @ rectified) + float(b) for row, b in zip(weight, bias, strict=True)]
    (result,) = x
    return result


def pair(p: np.ndarray, q: np.ndarray, head: Head | None) -> float:
    """What user and item score together, beside their biases."""
    if head is None:
        return float(p.astype(float) @ q)
    return float(p[:N_DOT].astype(float) @ q[:N_DOT]) + f(head, p[N_DOT:] + q[N_DOT:])


@pytest.mark.parametrize("head", HEADS[1:], ids=["one map", "two maps", "three maps"])
def test_a_head_is_its_formula(head: Head) -> None:
    first = normal(20, N_FIRST, seed=9)
    result = head(first)
    assert result.shape == (20,)
    assert result.dtype == np.float32
    assert result == pytest.approx([f(head, row) for row in first], rel=1e-4, abs=1e-5)


def test_a_head_leaves_its_input_as_it_is() -> None:
    first = normal(20, N_FIRST, seed=9)
    before = first.copy()
    made_head(4)(first)
    assert np.array_equal(first, before)


@WITH_AND_WITHOUT
def test_rows_are_scored_by_their_formula(head: Head | None) -> None:
    factors = made(head)
    users, items = factors.user_factors[[2, 0]].copy(), factors.item_factors.copy()
    scores = score_rows(users, items, factors.item_bias, head)
    expected = [[pair(p, q, head) + b for q, b in zip(items, factors.item_bias, strict=True)] for p in users]
    assert scores == pytest.approx(np.array(expected), rel=1e-4, abs=1e-5)
    assert scores.dtype == np.float32
    assert np.array_equal(users, factors.user_factors[[2, 0]])
    assert np.array_equal(items, factors.item_factors)


@WITH_AND_WITHOUT
def test_no_users_have_no_scores(head: Head | None) -> None:
    assert score_users(made(head), np.array([], np.int64)).shape == (0, 6)


@WITH_AND_WITHOUT
def test_scores_add_the_biases_of_users_and_of_all(head: Head | None) -> None:
    factors = made(head)
    users = np.array([3, 1])
    rows = score_rows(factors.user_factors[users], factors.item_factors, factors.item_bias, head)
    assert score_users(factors, users) == pytest.approx(rows + factors.user_bias[users, None] + 0.25, rel=1e-5)


@WITH_AND_WITHOUT
def test_pairs_are_predicted_by_their_formula(head: Head | None) -> None:
    factors = made(head)
    user, item = np.array([0, 3, 3, 1]), np.array([5, 0, 1, 1])
    z = score_users(factors, user)[np.arange(4), item].astype(float)
    expected = 0.5 + 5 / (1 + np.exp(-z))
    assert predict_ratings(factors, user, item) == pytest.approx(expected, rel=1e-5)


@WITH_AND_WITHOUT
def test_who_is_unknown_is_predicted_by_biases_alone(head: Head | None) -> None:
    """Neither product nor layers, whose answer to a row of zeros would mean nothing."""
    factors = made(head)
    b_u, b_i = factors.user_bias[2], factors.item_bias[4]
    z = np.array([b_u + 0.25, b_i + 0.25, 0.25])
    predicted = predict_ratings(factors, np.array([2, -1, -1]), np.array([-1, 4, -1]))
    assert predicted == pytest.approx(0.5 + 5 / (1 + np.exp(-z)), rel=1e-5)


@WITH_AND_WITHOUT
def test_no_pairs_are_predicted_as_none(head: Head | None) -> None:
    assert predict_ratings(made(head), np.array([], np.int64), np.array([], np.int64)).shape == (0,)


@WITH_AND_WITHOUT
def test_a_ranking_model_predicts_no_ratings(head: Head | None) -> None:
    with pytest.raises(ValueError, match="a model trained for ranking orders items"):
        predict_ratings(made(head, None), np.array([0]), np.array([0]))


def test_extreme_scores_are_the_ends_of_the_range() -> None:
    assert to_rating_scale(np.array([-1e4, 1e4], np.float32), (0.5, 5.5)).tolist() == [0.5, 5.5]


@WITH_AND_WITHOUT
def test_embeddings_are_what_is_multiplied(head: Head | None) -> None:
    factors = made(head)
    assert factors.embeddings.shape == (6, N_DOT)
    assert np.array_equal(factors.embeddings, factors.item_factors[:, :N_DOT])
    assert (factors.n_users, factors.n_items) == (4, 6)
