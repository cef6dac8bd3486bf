"""Re-ranked lists, by hand and against the formula."""

import numpy as np
import pytest

from recsys.scoring.diversity import diversify, pool_size


def test_without_diversity_the_order_is_that_of_the_scores() -> None:
    assert diversify(np.array([3.0, 2.0, 1.0]), np.ones((3, 3), np.float32), 2, 0.0).tolist() == [0, 1]
    assert diversify(np.array([3.0]), np.ones((1, 1), np.float32), 2, 1.0).tolist() == [0]
    assert diversify(np.empty(0), np.empty((0, 0), np.float32), 2, 1.0).tolist() == []


def test_an_item_like_the_first_gives_way_to_another() -> None:
    scores = np.array([10.0, 9.0, 8.0, 0.0])
    similar = np.eye(4, dtype=np.float32)
    similar[0, 1] = similar[1, 0] = 1.0
    assert diversify(scores, similar, 3, 0.05).tolist() == [0, 1, 2]  # .95 · .9 − .05 is more than .95 · .8
    assert diversify(scores, similar, 3, 0.2).tolist() == [0, 2, 1]  # .8 · .9 − .2 is less than .8 · .8
    assert diversify(scores, similar, 3, 1.0).tolist() == [0, 2, 3]
    assert diversify(np.full(4, 7.0), similar, 2, 0.5).tolist() == [0, 2]


@pytest.mark.parametrize("diversity", [0.1, 0.5, 0.9])
def test_each_item_has_the_highest_marginal_relevance(diversity: float) -> None:
    random = np.random.default_rng(0)
    scores, vectors = np.sort(random.normal(size=30))[::-1], random.normal(size=(30, 3))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    similar = (vectors @ vectors.T).astype(np.float32)
    relevance = (scores - scores[-1]) / (scores[0] - scores[-1])
    listed = [0]
    while len(listed) < 10:
        left = [item for item in range(30) if item not in listed]

        def value(item: int) -> float:
            most = max(0.0, *(float(similar[item, other]) for other in listed))
            return float((1 - diversity) * relevance[item] - diversity * most)

        listed.append(max(left, key=value))
    assert diversify(scores, similar, 10, diversity).tolist() == listed


def test_a_long_list_is_chosen_from_not_many_more() -> None:
    assert [pool_size(n) for n in (1, 10, 100, 1000)] == [5, 50, 500, 1400]
