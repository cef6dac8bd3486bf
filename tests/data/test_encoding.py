"""Ratings as dictionary-encoded columns."""

import numpy as np
import pyarrow as pa
import pytest

from recsys.data import encoding
from recsys.data.dataset import NO_TIME
from recsys.data.encoding import RatingColumns, collect, latest_rows
from recsys.data.rows import RatingBatch


def batch(*rows: tuple[str, str, float, int]) -> RatingBatch:
    user_ids, item_ids, rating, rated_at = zip(*rows, strict=True)
    return RatingBatch(
        user_ids=pa.array(user_ids, pa.string()),
        item_ids=pa.array(item_ids, pa.string()),
        rating=np.array(rating, np.float64),
        rated_at=np.array(rated_at, np.int64),
        line=np.arange(len(rows)),
    )


def rows_of(columns: RatingColumns) -> list[tuple[str, str, float, int]]:
    users = [columns.user_ids[code] for code in columns.user_code]
    items = [columns.item_ids[code] for code in columns.item_code]
    return list(zip(users, items, columns.rating.tolist(), columns.rated_at.tolist(), strict=True))


@pytest.mark.parametrize("reserved", [0, 1, 3, 1 << 23])
def test_batches_become_columns_however_many_rows_room_was_made_for(
    monkeypatch: pytest.MonkeyPatch, reserved: int
) -> None:
    monkeypatch.setattr(encoding, "RESERVED_ROWS", reserved)
    rows = [(f"u{i % 3}", f"i{i % 7}", i / 2, i if i % 2 else NO_TIME) for i in range(40)]
    columns = collect(batch(*rows[start : start + 9]) for start in range(0, 40, 9))
    assert rows_of(columns) == rows
    assert (columns.user_ids, len(columns.item_ids), len(columns)) == (["u0", "u1", "u2"], 7, 40)
    assert (columns.user_code.dtype, columns.item_code.dtype) == (np.int32, np.int32)


def test_nothing_becomes_no_rows() -> None:
    columns = collect([])
    assert (len(columns), columns.user_ids, rows_of(columns)) == (0, [], [])
    none = np.empty(0, np.int64)
    assert latest_rows(columns, none, none).tolist() == []


def test_the_latest_is_kept_and_of_equals_the_last_line() -> None:
    columns = collect(
        [
            batch(("v", "a", 1, 5), ("u", "b", 2, 9), ("u", "b", 3, 8), ("u", "a", 4, NO_TIME)),
            batch(("u", "a", 5, NO_TIME), ("v", "a", 6, 5), ("w", "b", 7, 1), ("w", "b", 8, NO_TIME)),
        ]
    )
    user_keys = np.array([0, 1, 2])  # v, u, w in the order of appearance
    item_keys = np.array([0, 1])
    assert columns.rating[latest_rows(columns, user_keys, item_keys)].tolist() == [6, 5, 2, 7]
    # The order is that of the keys: u, v, w, and b before a.
    assert columns.rating[latest_rows(columns, np.array([8, 3, 9]), np.array([4, 1]))].tolist() == [2, 5, 6, 7]


@pytest.mark.parametrize("n_users", [1, 2, 50])
def test_sorting_in_parts_keeps_the_same_rows_as_sorting_at_once(monkeypatch: pytest.MonkeyPatch, n_users: int) -> None:
    rng = np.random.default_rng(n_users)
    n = 1000
    columns = RatingColumns(
        user_ids=[f"u{i}" for i in range(n_users)],
        item_ids=[f"i{i}" for i in range(30)],
        user_code=rng.integers(0, n_users, n).astype(np.int32),
        item_code=rng.integers(0, 30, n).astype(np.int32),
        rating=np.arange(n, dtype=np.float64),
        rated_at=rng.choice([NO_TIME, 1, 2, 3], n),
    )
    user_keys, item_keys = rng.permutation(n_users) + 5, rng.permutation(30) + 7
    at_once = latest_rows(columns, user_keys, item_keys)
    monkeypatch.setattr(encoding, "ROWS_PER_SORT", 64)
    assert latest_rows(columns, user_keys, item_keys).tolist() == at_once.tolist()


def test_empty_encoders_are_continued() -> None:
    """Two files read with the same encoders share their codes, though the encoders are empty at first."""
    users, items = encoding.IdEncoder(), encoding.IdEncoder()
    collect([batch(("u1", "i1", 1.0, NO_TIME))], users, items)
    second = collect([batch(("u2", "i1", 1.0, NO_TIME))], users, items)
    assert (second.user_ids, second.item_ids) == (["u1", "u2"], ["i1"])
    assert (second.user_code.tolist(), second.item_code.tolist()) == ([1], [0])


def test_ids_of_rows_that_were_left_out_get_no_code() -> None:
    encoder = encoding.IdEncoder()
    ids = pa.array(["c", "b", "a", "c"]).dictionary_encode().filter(pa.array([True, False, True, True]))
    assert encoder.encode(ids).tolist() == [0, 1, 0]
    assert encoder.encode(pa.array(["d", "a"])).tolist() == [2, 1]
    assert encoder.ids == ["c", "a", "d"]
