"""Splits whose held-out ratings are known."""

import numpy as np
import pytest

from recsys.data.dataset import NO_TIME, Ratings, ratings_from_keys
from recsys.data.keyed import hash_ids
from recsys.errors import InputError
from recsys.evaluation.splits import SPLITS, hold_out, known_share


def ratings(user: list[int], item: list[int], at: list[int] | None = None) -> Ratings:
    return ratings_from_keys(
        np.array(user),
        np.array(item),
        np.ones(len(user)),
        np.full(len(user), NO_TIME) if at is None else np.array(at),
        hash_ids([f"u{key}" for key in range(max(user) + 1)]),
        hash_ids([f"i{key}" for key in range(max(item) + 1)]),
    )


def test_the_last_tenth_by_time_is_held_out_at_least_one() -> None:
    user = [0] * 25 + [1] * 3 + [2]
    at = [*range(25), 30, 10, 20, 5]
    held = hold_out(ratings(user, [*range(25), 0, 1, 2, 0], at))
    assert np.flatnonzero(held).tolist() == [23, 24, 25]  # 2 of 25, 1 of 3, nothing of an only rating


def test_equal_times_are_settled_the_same_whatever_the_order_of_rows() -> None:
    made = ratings([0] * 40, list(range(40)), [5] * 40)
    held = set(made.item_idx[hold_out(made)].tolist())
    assert len(held) == 4
    shuffled = made.select(np.random.default_rng(0).permutation(40))
    assert set(shuffled.item_idx[hold_out(shuffled)].tolist()) == held


def test_without_times_a_stable_hash_decides() -> None:
    user, item = np.divmod(np.arange(20_000), 100)
    made = ratings(user.tolist(), item.tolist())
    held = hold_out(made)
    assert 0.09 < held.mean() < 0.11
    fewer = made.select(np.arange(20_000) % 3 > 0)  # the same pairs, whoever else is there
    assert (hold_out(fewer) == held[np.arange(20_000) % 3 > 0]).all()


def test_the_hash_never_takes_all_that_a_user_has() -> None:
    user = np.arange(3000)
    held = hold_out(ratings(user.tolist(), (user % 50).tolist()))
    assert not held.any()


def test_a_user_with_one_unknown_time_is_split_by_hash() -> None:
    item = list(range(200))
    timed = hold_out(ratings([0] * 200, item, list(range(200))))
    mixed = hold_out(ratings([0] * 200, item, [NO_TIME, *range(1, 200)]))
    hashed = hold_out(ratings([0] * 200, item), "hash")
    assert (mixed == hashed).all()
    assert (mixed != timed).any()


def test_leave_last_out_takes_one_of_each_user() -> None:
    held = hold_out(ratings([0, 0, 0, 1, 1, 2], [0, 1, 2, 0, 1, 0], [3, 9, 5, 8, 7, 1]), "leave-last-out")
    assert np.flatnonzero(held).tolist() == [1, 3]
    timeless = ratings([0] * 9 + [1] * 9, [*range(9), *range(9)])
    assert np.bincount(timeless.user_idx[hold_out(timeless, "leave-last-out")]).tolist() == [1, 1]


def test_a_random_share_depends_on_the_seed_alone() -> None:
    made = ratings([0] * 50 + [1] * 50, [*range(50), *range(50)])
    held = hold_out(made, "random", share=0.2, seed=3)
    assert held.sum() == 20
    assert (held == hold_out(made, "random", share=0.2, seed=3)).all()
    assert (held != hold_out(made, "random", share=0.2, seed=4)).any()


def test_a_cut_by_time_takes_the_end_of_everything_and_says_how_many_users_are_known() -> None:
    made = ratings([0, 0, 1, 1, 2, 2, 0, 3, 3, 3], [0, 1, 0, 1, 0, 1, 2, 0, 1, 2], list(range(10)))
    held = hold_out(made, "time-cut", share=0.4)
    assert np.flatnonzero(held).tolist() == [6, 7, 8, 9]
    assert known_share(made.select(~held), made.select(held)) == 0.25  # user 3 came after the cut
    with pytest.raises(InputError, match="2 of 2 ratings have no time"):
        hold_out(ratings([0, 0], [0, 1]), "time-cut")


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("share", [0.0, 1.0, -0.1])
def test_shares_out_of_range_are_refused(split: str, share: float) -> None:
    with pytest.raises(InputError, match="between 0 and 1"):
        hold_out(ratings([0, 0], [0, 1], [1, 2]), split, share=share)


def test_a_second_hold_out_without_times_picks_others() -> None:
    """What one hash left, it leaves again: each turn has a hash of its own."""
    rng = np.random.default_rng(0)
    pairs = np.unique(rng.integers(0, 4000, 2000))
    hashes = rng.integers(1, 2**63, 200).astype(np.uint64)
    times = np.full(len(pairs), NO_TIME)
    ratings = ratings_from_keys(pairs // 40, pairs % 40, np.ones(len(pairs)), times, hashes, hashes)
    rest = ratings.select(~hold_out(ratings))
    assert not hold_out(rest).any()
    second = hold_out(rest, turn=1)
    assert 0.05 < second.mean() < 0.2
    assert 0.05 < hold_out(rest.select(~second), turn=2).mean() < 0.2
