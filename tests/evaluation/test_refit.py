"""Refits beside their twins, on lists that are worked out by hand."""

from dataclasses import replace

import numpy as np
import pytest

from recsys.data.dataset import Ratings
from recsys.evaluation.refit import check_refit, losses_on_seen, mean_list_overlap
from recsys.factors import Factors, Side

RATINGS = Ratings(
    np.array([0, 1], np.int32),
    np.array([0, 4], np.int32),
    np.array([5, 4], np.float32),
    np.array([0, 0], np.int64),
    np.arange(2),
    np.arange(5),
    np.arange(2, dtype=np.uint64),
    np.arange(5, dtype=np.uint64),
)


def factors(bias: list[float]) -> Factors:
    """A model that lists items by their biases."""
    return Factors(
        objective="ranking",
        users=Side(np.arange(2), np.zeros((2, 1), np.float32), np.zeros(2, np.float32)),
        items=Side(np.arange(5), np.zeros((5, 1), np.float32), np.array(bias, np.float32)),
    )


UP, DOWN = factors([1, 2, 3, 4, 5]), factors([5, 4, 3, 2, 1])


def test_the_overlap_of_known_lists() -> None:
    # Lists of two without the rated item: user 0 (rated item 0) gets 4, 3 and 1, 2; user 1 (rated 4) 3, 2 and 0, 1.
    assert mean_list_overlap(UP, DOWN, RATINGS, k=2) == 0
    # Of three: 4, 3, 2 and 1, 2, 3 have two in common; so have 3, 2, 1 and 0, 1, 2.
    assert mean_list_overlap(UP, DOWN, RATINGS, k=3) == pytest.approx(2 / 3)
    assert mean_list_overlap(UP, UP, RATINGS, k=3) == 1
    assert mean_list_overlap(UP, DOWN, RATINGS, k=10) == 1  # all four that are left


def test_the_losses_are_of_the_same_ratings_among_the_same_items(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("recsys.evaluation.refit.N_CANDIDATES", 500)
    # Item 0 has the lowest score of the rising biases and item 4 the highest: z_j − z_i is 0 to 4 and −4 to 0.
    expected = np.mean([np.log1p(100 * np.exp(sign * np.arange(5)).sum()) for sign in (1, -1)])
    loss, twin_loss = losses_on_seen(UP, UP, RATINGS)
    assert loss == twin_loss == pytest.approx(expected, rel=0.03)  # 500 random items, about 100 of each
    best = replace(UP, items=replace(UP.items, bias=np.array([9, 0, 0, 0, 9], np.float32)))
    assert losses_on_seen(best, UP, RATINGS)[0] < twin_loss
    rating = replace(UP, objective="rating", rating_range=(0.0, 1e-9), global_bias=0.0)
    assert losses_on_seen(rating, rating, RATINGS) == pytest.approx(((25 + 16) / 2,) * 2)


def test_a_refit_must_be_finite_and_its_loss_near_its_twins(monkeypatch: pytest.MonkeyPatch) -> None:
    broken = replace(UP, users=replace(UP.users, bias=np.array([0, np.nan], np.float32)))
    assert check_refit(broken, UP, RATINGS, RATINGS).problem == "the refit has numbers that are not finite"
    for loss, problem in ((1.05, None), (1.06, "the loss of the refit is 1.0600, and that of its twin 1.0000")):
        monkeypatch.setattr("recsys.evaluation.refit.losses_on_seen", lambda *_, loss=loss: (loss, 1.0))
        assert check_refit(UP, UP, RATINGS, RATINGS).problem == problem


def test_a_refit_must_list_what_its_twin_lists(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("recsys.evaluation.refit.losses_on_seen", lambda *_: (1.0, 1.0))
    monkeypatch.setattr(mean_list_overlap, "__kwdefaults__", {"k": 3, "n_users": 1000})
    found = check_refit(DOWN, UP, RATINGS, RATINGS)
    assert found.problem == "the lists of the refit have 66.6% in common with its twin's, less than 70%"
