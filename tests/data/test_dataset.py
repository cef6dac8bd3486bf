"""Splits and digests over arrays."""

import numpy as np
import pytest

from recsys.data.dataset import NO_TIME, Ratings, ratings_from_keys
from recsys.data.keyed import hash_ids, positions


def ratings(user: list[int], item: list[int], at: list[int] | None = None) -> Ratings:
    n = len(user)
    return ratings_from_keys(
        np.array(user),
        np.array(item),
        np.arange(n, dtype=np.float64),
        np.full(n, NO_TIME) if at is None else np.array(at),
        hash_ids([f"u{key}" for key in range(max(user, default=-1) + 1)]),
        hash_ids([f"i{key}" for key in range(max(item, default=-1) + 1)]),
    )


def test_keys_become_dense_indices() -> None:
    made = ratings([7, 3, 7], [2, 9, 9])
    assert made.user_keys.tolist() == [3, 7]
    assert made.item_keys.tolist() == [2, 9]
    assert made.user_idx.tolist() == [1, 0, 1]
    assert made.item_idx.tolist() == [0, 1, 1]
    assert made.user_hash.tolist() == hash_ids(["u3", "u7"]).tolist()


def test_select_keeps_the_index_and_compact_closes_it() -> None:
    chosen = ratings([7, 3, 7], [2, 9, 9]).select(np.array([True, False, False]))
    assert (chosen.n_users, chosen.n_items, chosen.n_ratings) == (2, 2, 1)
    closed = chosen.compact()
    assert closed.user_keys.tolist() == [7]
    assert closed.item_keys.tolist() == [2]
    assert (closed.user_idx.tolist(), closed.item_idx.tolist()) == ([0], [0])


def test_rows_by_user() -> None:
    starts, order = ratings([1, 0, 1, 2], [0, 1, 2, 0]).by_user()
    assert starts.tolist() == [0, 1, 3, 4]
    assert order.tolist() == [1, 0, 2, 3]


def test_hashes_are_the_same_on_every_machine() -> None:
    assert hash_ids(["007", "7", "ä"]).tolist() == [13655456112802015817, 9407870976149377255, 4152366542966443504]


def test_the_fingerprint_sees_every_column() -> None:
    base = ratings([0, 1], [0, 1], [1, 2])
    prints = {
        base.fingerprint(),
        ratings([1, 0], [0, 1], [1, 2]).fingerprint(),
        ratings([0, 1], [1, 0], [1, 2]).fingerprint(),
        ratings([0, 1], [0, 1], [2, 1]).fingerprint(),
        ratings([0, 1], [0, 1]).fingerprint(),
        base.select(np.array([0])).fingerprint(),
    }
    assert len(prints) == 6
    assert base.select(np.array([1, 0])).fingerprint() == base.fingerprint()


def test_positions_of_keys() -> None:
    keys = np.array([2, 5, 9])
    assert positions(keys, np.array([9, 1, 5, 10, 2])).tolist() == [2, -1, 1, -1, 0]
    assert positions(np.array([], np.int64), np.array([1])).tolist() == [-1]


def test_effective_items_are_those_of_equal_popularity() -> None:
    def effective(counts: list[int]) -> float:
        item = [idx for idx, n in enumerate(counts) for _ in range(n)]
        return ratings(list(range(len(item))), item).effective_items()

    assert effective([5, 5, 5, 5]) == pytest.approx(4)
    assert effective([9, 3]) == pytest.approx(np.exp(-(0.75 * np.log(0.75) + 0.25 * np.log(0.25))))
    assert effective([7]) == pytest.approx(1)
    assert ratings([0], [0]).select(np.zeros(1, bool)).effective_items() == 0
