"""Ratings as dictionary-encoded columns."""

import numpy as np
import pyarrow as pa
import pytest

from recsys.data import encoding
from recsys.data.dataset import NO_TIME
from recsys.data.encoding import RatingColumns, collect, latest
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
    monkeypatch.setattr(encoding, "_RESERVED_ROWS", reserved)
    rows = [(f"u{i % 3}", f"i{i % 7}", i / 2, i if i % 2 else NO_TIME) for i in range(40)]
    columns = collect(batch(*rows[start : start + 9]) for start in range(0, 40, 9))
    assert rows_of(columns) == rows
    assert (columns.user_ids, len(columns.item_ids), len(columns)) == (["u0", "u1", "u2"], 7, 40)
    assert (columns.user_code.dtype, columns.item_code.dtype) == (np.int32, np.int32)


def test_nothing_becomes_no_rows() -> None:
    columns = collect([])
    assert (len(columns), columns.user_ids, rows_of(columns)) == (0, [], [])
    none = np.empty(0, np.int64)
    assert latest(columns, none, none).tolist() == []


def test_the_latest_is_kept_and_of_equals_the_last_line() -> None:
    columns = collect(
        [
            batch(("v", "a", 1, 5), ("u", "b", 2, 9), ("u", "b", 3, 8), ("u", "a", 4, NO_TIME)),
            batch(("u", "a", 5, NO_TIME), ("v", "a", 6, 5), ("w", "b", 7, 1), ("w", "b", 8, NO_TIME)),
        ]
    )
    user_key = columns.user_code.astype(np.int64)  # v, u, w in the order of appearance
    item_key = columns.item_code.astype(np.int64)
    assert columns.rating[latest(columns, user_key, item_key)].tolist() == [6, 5, 2, 7]
