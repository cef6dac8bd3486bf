"""Lists for many rows at once are the lists of each row."""

import numpy as np
import pytest

from recsys.scoring.search import top_n, top_n_rows


@pytest.mark.parametrize("n", [0, 1, 3, 10, 25])
@pytest.mark.parametrize("distinct", [1, 2, 5, 1000])
def test_rows_equal_single_lists_ties_and_exclusions_included(n: int, distinct: int) -> None:
    random = np.random.default_rng(distinct * 100 + n)
    scores = random.integers(0, distinct, (40, 20)).astype(np.float32)
    scores[random.random((40, 20)) < 0.4] = -np.inf
    scores[7] = -np.inf  # a row with nothing left
    rows = top_n_rows(scores, n)
    assert rows.shape == (40, min(n, 20))
    for row, given in zip(scores, rows, strict=True):
        assert given[given >= 0].tolist() == top_n(row, n).tolist()
        assert (given[len(top_n(row, n)) :] == -1).all()


def test_equal_scores_are_listed_by_position() -> None:
    assert top_n_rows(np.array([[1, 2, 1, 2, 1]], np.float32), 4).tolist() == [[1, 3, 0, 2]]


def test_no_rows_give_no_lists() -> None:
    assert top_n_rows(np.empty((0, 5), np.float32), 3).shape == (0, 3)
    assert top_n_rows(np.empty((2, 0), np.float32), 3).shape == (2, 0)
