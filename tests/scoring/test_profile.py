"""How much the items of a user count, and weights over other positions."""

import math

import numpy as np
import pytest

from recsys.factors import ItemWeights, RankingConstants
from recsys.scoring.profile import make_profile

CONSTANTS = RankingConstants(mean=3.0, span=4.0, n_items=10.0, ridge=20.0, rating_weight=2.0, dislike_below=3.0)


def profile(ratings: list[float], constants: RankingConstants | None = CONSTANTS) -> list[float]:
    found = make_profile(np.arange(len(ratings))[::-1], np.array(ratings[::-1], np.float32), constants)
    assert found.item_idx.tolist() == list(range(len(ratings)))
    return [round(float(x), 4) for x in found.x]


def test_high_ratings_count_more_and_low_ones_a_little() -> None:
    assert profile([5, 4, 3, 2, 1]) == [2.0, 1.5, 1.0, 0.5, 0.05]
    assert profile([]) == []
    assert profile([5, 1], None) == [1.0, 1.0]


def test_what_a_user_disliked_counts_against_its_like_if_they_liked_nothing() -> None:
    assert profile([2, 1]) == [-1.0, -1.0]
    assert profile([1, 1], RankingConstants(3.0, 4.0, 10.0, 20.0, dislike_below=-math.inf)) == [0.05, 0.05]


def test_weights_move_with_their_items() -> None:
    B = np.array([[0, 2, 3], [4, 0, 0], [0, 5, 0]], np.float32)
    row, column = np.nonzero(B)
    weights = ItemWeights.from_entries(row, column, B[row, column], 3)
    assert weights.moved(np.arange(3), 3) is weights
    apart = weights.moved(np.array([1, 2, 4]), 5)
    assert apart.starts.tolist() == [0, 0, 2, 3, 3, 4]
    assert apart.item_idx.tolist() == [2, 4, 1, 2]
    assert apart.values.tolist() == [2.0, 3.0, 4.0, 5.0]
    moved = weights.moved(np.array([3, -1, 0]), 4)
    assert [(r, c, v) for r, c, v in zip(moved.rows(), moved.item_idx, moved.values, strict=True)] == [(3, 0, 3.0)]
    assert weights.at(np.array([0, 1, 2, 7]), 1).tolist() == [2.0, 0.0, 5.0, 0.0]
    similar = weights.similarity()
    expected = (B + B.T) / 2
    for item in range(3):
        assert similar.at(np.arange(3), item).tolist() == expected[:, item].tolist()
    empty = ItemWeights.from_entries(row[:0], row[:0], np.empty(0, np.float32), 0)
    assert empty.similarity().n_items == 0


@pytest.mark.parametrize("n", [0, 1])
def test_the_smallest_matrices(n: int) -> None:
    empty = ItemWeights.from_entries(np.empty(0, int), np.empty(0, int), np.empty(0, np.float32), n)
    assert empty.n_items == n
    assert empty.moved(np.full(n, -1), 2).n_items == 2
