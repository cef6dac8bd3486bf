"""The inferred scale, values far outside it, and feedback as a training takes it."""

from dataclasses import replace

import numpy as np
import pytest

from recsys.data.dataset import Ratings, ratings_from_keys
from recsys.data.feedback import as_preferences, prepare
from recsys.data.rating_scale import infer_scale, relevant_from, summarize
from recsys.errors import NothingToTrainError

STARS = np.tile([1.0, 2.0, 3.0, 4.0, 5.0], 100)


@pytest.mark.parametrize(
    ("ratings", "scale"),
    [
        (STARS, (1, 5)),
        ([500, *STARS], (1, 5)),
        ([-99, *STARS], (1, 5)),
        ([10, *STARS], (1, 5)),
        (np.clip(STARS, 3, 5), (1, 5)),
        (STARS - 0.5, (0.5, 5)),
        (STARS * 2, (1, 10)),
        (np.tile(np.arange(11), 50), (0, 10)),
        (np.tile([-10, 10, 3], 50), (-10, 10)),
        (np.tile([0, 1], 50), (0, 1)),
        (np.tile([-1, 1], 50), (-1, 1)),
        (np.tile([20, 40, 60, 80, 100], 50), (0, 100)),
        (np.tile(np.arange(1, 8), 50), (1, 7)),
        (np.full(50, 5), (1, 5)),
    ],
)
def test_scales(ratings: np.ndarray, scale: tuple[float, float]) -> None:
    assert infer_scale(np.array(ratings, float)) == scale


def test_counts_unary_and_unrated_values_are_recognised() -> None:
    counts = np.array([1.0] * 300 + [2.0] * 100 + [30.0] * 20 + [5000.0])
    assert summarize(counts).is_open_ended
    assert summarize(np.ones(50)).is_unary
    assert summarize(np.array([0.0] * 60 + [5.0, 7.0, 9.0, 10.0] * 10)).unrated == 0
    assert summarize(np.array([-1.0] * 60 + [5.0, 7.0, 9.0, 10.0] * 10)).unrated == -1
    for usual in (STARS, STARS - 1, np.tile([-1.0, 1.0], 50)):
        found = summarize(usual)
        assert not found.is_open_ended
        assert found.unrated is None
    assert summarize(np.array([500, *STARS])).outliers == (500.0,)


def made(rows: list[tuple[int, int, float, bool]]) -> Ratings:
    user, item, rating, implicit = (np.array(column) for column in zip(*rows, strict=True))
    hashes = np.arange(10, dtype=np.uint64)
    found = ratings_from_keys(user, item, rating.astype(float), np.zeros(len(rows), np.int64), hashes, hashes)
    return replace(found, is_implicit=implicit) if implicit.any() else found


def test_ranking_takes_events_as_relevant_ratings_and_the_rating_where_a_pair_has_both() -> None:
    rows = [(0, 0, 2.0, False), (0, 0, 50.0, True), (0, 1, 3.0, True), (1, 1, 5.0, False)]
    ratings, notices = prepare(made(rows), "ranking")
    assert notices == []
    assert ratings.scale == (1, 5)
    assert ratings.n_ratings == 3
    assert ratings.rating[0] == 2
    assert relevant_from((1, 5)) == 4 <= ratings.rating[1] < 5
    only, _ = prepare(made(rows), "rating")
    assert only.rating.tolist() == [2, 5]


def test_events_alone_train_ranking_and_skip_rating() -> None:
    rows = [(0, 0, 1.0, True), (0, 1, 100.0, True)]
    ratings, _ = prepare(made(rows), "ranking")
    assert ratings.scale == (0, 1)
    assert (ratings.rating >= relevant_from((0, 1))).all()
    with pytest.raises(NothingToTrainError, match="events and no ratings"):
        prepare(made(rows), "rating")
    with pytest.raises(NothingToTrainError, match="all ratings are 5"):
        prepare(made([(0, 0, 5.0, False), (0, 1, 5.0, False)]), "rating")
    assert np.all(np.diff(as_preferences(np.array([0.1, 1, 10, 100, 1000.0]), (1, 5), 100)) >= 0)
