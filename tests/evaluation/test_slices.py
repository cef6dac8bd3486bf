"""Parts of the held-out ratings: which ratings belong to each, and when a version collapses on one."""

import numpy as np
import pytest

from recsys.data.dataset import Ratings
from recsys.data.features import build_features
from recsys.evaluation.gate import Judge, Measured, decide
from recsys.evaluation.slices import compare_slices, slice_masks

N = 30


def ratings(user_idx: list[int], item_idx: list[int], rated_at: list[int]) -> Ratings:
    """Ratings of 30 users and 3 items; item 2 is the only thriller."""
    none = build_features([0], [[]], [{}])
    return Ratings(
        np.array(user_idx, np.int32),
        np.array(item_idx, np.int32),
        np.full(len(user_idx), 4, np.float32),
        np.array(rated_at, np.int64),
        np.arange(N),
        np.arange(3),
        np.arange(N, dtype=np.uint64),
        np.arange(3, dtype=np.uint64),
    ).with_features(none, build_features([0, 1, 2], [["Drama"], ["Drama"], ["Thriller"]], [{}] * 3, min_rows=1))


# Everybody rated item 0 early; the users from 10 on rated item 1 late, which is new then.
TRAIN = ratings([*range(N), *range(10, N)], [0] * N + [1] * 20, [*range(N), *range(1000, 1020)])
JUDGED = ratings([*range(N), *range(N)], [1] * N + [2] * N, [2000] * (2 * N))


def test_the_slices_of_known_ratings() -> None:
    masks = slice_masks(JUDGED, TRAIN)
    assert masks["category: Thriller"].tolist() == [False] * N + [True] * N
    # A tenth of the ratings is later than the first of item 1. Item 2 has none, so it is the newest of all.
    assert masks["new items"].tolist() == [False] * N + [True] * N
    late = slice_masks(JUDGED, ratings([*range(N)], [0] * (N - 1) + [1], [*range(N)]))
    assert late["new items"].tolist() == [True] * (2 * N)
    assert masks["users with few ratings"].tolist() == ([True] * 10 + [False] * 20) * 2


def test_a_version_that_collapses_on_a_slice_is_not_published() -> None:
    judge = Judge("ranking", TRAIN, JUDGED, (1, 5))
    live = np.full(2 * N, 0.5)
    new = np.concatenate([np.full(N, 0.9), np.full(N, 0.1)])  # better in all, much worse on the thriller
    by_name = {each.name: each for each in judge.slices(measured(new), measured(live))}
    assert by_name["category: Thriller"].collapsed
    assert not by_name["category: Drama"].collapsed
    assert (by_name["category: Thriller"].new, by_name["category: Thriller"].live) == pytest.approx((0.1, 0.5))
    decision = decide(measured(new), measured(live / 10), measured(live / 2), 0.02, None, slices=list(by_name.values()))
    assert decision.reason.startswith("much worse than the live version on a part: ")
    assert "category: Thriller 0.1000 against 0.5000 (30 users)" in decision.reason
    assert not decision.publish


def test_few_users_and_a_spread_that_explains_the_loss_say_nothing() -> None:
    mask = {"part": np.arange(2 * N) < N}
    live = np.full(2 * N, 0.5)
    few = np.arange(19)
    assert compare_slices(JUDGED, mask, live * 0, live, higher_is_better=True, known_to_both=few) == []
    spread = np.where(np.arange(2 * N) % 2, 2.0, -1.8)  # mean .1 against .5, standard error .35
    [compared] = compare_slices(JUDGED, mask, spread, live, higher_is_better=True)
    assert not compared.collapsed


def measured(values: np.ndarray) -> Measured:
    of_users = values.reshape(2, N).mean(0)
    return Measured("NDCG@10", float(of_users.mean()), True, np.arange(N), of_users, values)
