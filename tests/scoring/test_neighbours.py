"""Neighbours found once after a training give the list that a search gives, or none."""

import numpy as np
import pytest
from numpy.typing import NDArray

from recsys.factors import NO_NEIGHBOUR, Factors, Neighbours, Side
from recsys.scoring.neighbours import best_of_neighbours, find_neighbours, inverse_norms
from recsys.scoring.search import TopN

NO_OTHERS = TopN(np.empty(0, np.int64), np.empty(0))


def model(n_items: int = 40, seed: int = 0) -> Factors:
    draw = np.random.default_rng(seed)
    vectors = draw.standard_normal((n_items, 6)).astype(np.float32)
    vectors[7], vectors[8] = vectors[3], 0
    return Factors("ranking", Side(np.arange(n_items), vectors, np.zeros(n_items, np.float32)), Side.empty(6))


def by_cosine(factors: Factors, item_idx: int, among: NDArray[np.bool_]) -> list[int]:
    vectors = factors.item_factors.astype(np.float64)
    norms = np.linalg.norm(vectors, axis=1)
    cosines = np.round(vectors @ vectors[item_idx] / np.maximum(norms * norms[item_idx], 1e-9), 6)
    rest = [idx for idx in np.flatnonzero(among).tolist() if idx != item_idx]
    return sorted(rest, key=lambda idx: (-cosines[idx], idx))


def near(factors: Factors, pool: NDArray[np.bool_], n: int) -> Neighbours:
    found = find_neighbours(factors, pool, n)
    assert found is not None
    return found


def test_neighbours_are_the_items_of_the_pool_by_cosine() -> None:
    factors = model()
    pool = np.arange(40) % 3 > 0
    found = near(factors, pool, 5)
    for item_idx in range(40):
        assert found.item_idx[item_idx].tolist() == by_cosine(factors, item_idx, pool)[:5]
    assert found.scores[3][found.item_idx[3] == 7].tolist() == [1.0]


def test_a_small_pool_has_fewer() -> None:
    found = near(model(), np.arange(40) < 3, 5)
    assert found.item_idx[0].tolist()[2:] == [NO_NEIGHBOUR] * 3
    assert found.item_idx[9].tolist()[3:] == [NO_NEIGHBOUR] * 2


@pytest.mark.parametrize("seed", range(4))
def test_a_list_is_the_one_that_a_search_finds_or_none(seed: int) -> None:
    """With items that left the pool, items that came, and lists longer than the neighbours."""
    draw = np.random.default_rng(seed)
    factors = model(seed=seed)
    pool = draw.random(40) < 0.6
    found = near(factors, pool, 8)
    listed = np.where(draw.random(40) < 0.8, pool, draw.random(40) < 0.1)
    scale = inverse_norms(factors.item_factors).astype(np.float64)
    n_lists = 0
    for item_idx in range(40):
        allowed = listed.copy()
        allowed[item_idx] = False
        others = np.flatnonzero(allowed & ~pool)
        vectors = factors.item_factors.astype(np.float64)
        cosines = np.round(vectors[others] @ vectors[item_idx] * scale[others] * scale[item_idx], 6)
        for n in (1, 3, 8, 20):
            best = best_of_neighbours(found, item_idx, n, allowed[found.item_idx[item_idx]], TopN(others, cosines))
            if best is not None:
                assert best.item_idx.tolist() == by_cosine(factors, item_idx, allowed)[:n]
                n_lists += 1
    assert n_lists > 40


def test_a_list_is_left_to_a_search_where_the_neighbours_end() -> None:
    factors = model()
    everything = np.ones(40, bool)
    found = near(factors, everything, 5)
    of_one = everything[found.item_idx[0]]
    assert best_of_neighbours(found, 0, 4, of_one, NO_OTHERS) is not None
    assert best_of_neighbours(found, 0, 5, of_one, NO_OTHERS) is None  # the sixth might be equal to the fifth
    assert best_of_neighbours(found, 0, 6, of_one, NO_OTHERS) is None


def test_moved_neighbours_are_those_of_the_same_items() -> None:
    found = near(model(), np.arange(40) % 3 > 0, 5)
    position = np.arange(40)[::-1] + 2
    moved = found.moved(position, 45)
    assert moved.item_idx[position[4]].tolist() == position[found.item_idx[4]].tolist()
    assert moved.scores[position[4]].tolist() == found.scores[4].tolist()
    assert moved.in_pool[position].tolist() == found.in_pool.tolist()
    assert not moved.in_pool[:2].any()
    assert (moved.item_idx[0] == NO_NEIGHBOUR).all()
    assert near(model(), np.arange(40) < 2, 5).moved(position, 45).item_idx[position[0]].tolist()[1:] == [-1] * 4


def test_without_vectors_or_with_too_many_items_there_are_none() -> None:
    assert find_neighbours(model(), np.ones(40, bool), max_items=39) is None
    assert find_neighbours(model(), np.zeros(40, bool)) is None
