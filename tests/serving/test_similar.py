"""Similar items from stored neighbours are those that a search finds."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from recsys.database.items import StoredItem
from recsys.factors import Factors, Side
from recsys.scoring.neighbours import find_neighbours
from recsys.serving.catalogue import Catalogue
from recsys.serving.filters import Filters
from recsys.serving.live_model import LiveModel
from recsys.serving.searches import run_searches
from recsys.serving.similar import SimilarItems

N_TRAINED, N_ITEMS = 150, 160


def both(seed: int) -> tuple[SimilarItems, SimilarItems]:
    """Similar items with and without stored neighbours, of the same catalogue: some items were rated since, some lost
    ratings, some are hidden, and ten are newer than the training."""
    draw = np.random.default_rng(seed)
    vectors = draw.standard_normal((N_TRAINED, 5)).astype(np.float32)
    vectors[20:24] = vectors[19]
    keys = np.arange(1, N_ITEMS + 1)
    n_ratings = draw.integers(5, 40, N_ITEMS)
    factors = Factors(
        "ranking",
        Side(keys[:N_TRAINED], vectors, np.zeros(N_TRAINED, np.float32)),
        Side.empty(5),
        neighbours=None,
    )
    near = find_neighbours(factors, n_ratings[:N_TRAINED] >= 10, 12)
    counts = (keys, n_ratings + draw.integers(-2, 3, N_ITEMS), 3.0 * n_ratings)
    items = [
        StoredItem(key, f"i{key}", None, ("even",) if key % 2 == 0 else ("odd",), {}, key % 11 == 0)
        for key in keys.tolist()
    ]
    catalogue = Catalogue.from_items(items, counts)
    stored: Any = SimpleNamespace(number=1)
    without = LiveModel.from_version(stored, factors, catalogue)
    with_neighbours = LiveModel.from_version(
        stored, Factors("ranking", factors.items, factors.users, neighbours=near), catalogue
    )
    return SimilarItems(catalogue, with_neighbours), SimilarItems(catalogue, without)


@pytest.mark.parametrize("seed", range(3))
def test_stored_neighbours_give_the_list_that_a_search_finds(seed: int) -> None:
    near, searched = both(seed)
    n_known = 0
    for item in range(1, N_TRAINED + 1):
        for n, filters, exclude in (
            (3, Filters(), ()),
            (6, Filters(), (0, 19, 21)),
            (4, Filters(categories=("odd",)), (2,)),
            (12, Filters(), ()),
            (60, Filters(), ()),
        ):
            left_out = np.array(exclude, np.int64)
            search = searched.search(f"i{item}", n, filters, left_out)
            expected = searched.finish(search, run_searches([search])[0])
            found = near.near(f"i{item}", n, filters, left_out)
            if found is not None:
                n_known += 1
                assert found.best.item_idx.tolist() == expected.best.item_idx.tolist()
                assert found.best.scores.tolist() == expected.best.scores.tolist()
                assert found._replace(best=expected.best) == expected
    assert n_known > N_TRAINED


def test_what_the_neighbours_cannot_tell_is_searched() -> None:
    near, searched = both(0)
    assert near.near("i1", 60) is None  # longer than the neighbours
    assert near.near("i155", 3) is None  # newer than the training
    assert near.near("nothing", 3) is None
    assert searched.near("i1", 3) is None
