"""Data frames of pandas and polars as ratings: known answers, and refusals that name the fix."""

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest

from recsys.data.dataset import NO_TIME
from recsys.data.frames import IdentifiedRatings, ratings_from_frame
from recsys.errors import InputError

Make = Callable[[dict[str, Any]], Any]

LIBRARIES = pytest.mark.parametrize("make", [pd.DataFrame, pl.DataFrame], ids=["pandas", "polars"])

DAY = 881193600000  # 1997-12-04


def rows_of(found: IdentifiedRatings) -> list[tuple[str, str, float, int]]:
    """(user id, item id, rating, time), in the order of user and item ids."""
    ratings = found.ratings
    users = [found.user_ids[i] for i in ratings.user_idx]
    items = [found.item_ids[i] for i in ratings.item_idx]
    return sorted(zip(users, items, ratings.rating.tolist(), ratings.rated_at.tolist(), strict=True))


@LIBRARIES
def test_columns_are_recognised_by_their_names(make: Make) -> None:
    frame = make({"comment": ["x", "y"], "Movie ID": ["007", "7"], "stars": [4.0, 2.5], "userId": ["u", "ü"]})
    found = ratings_from_frame(frame)
    assert rows_of(found) == [("u", "007", 4.0, NO_TIME), ("ü", "7", 2.5, NO_TIME)]
    assert (found.user_ids, found.item_ids) == (["u", "ü"], ["007", "7"])
    assert found.ratings.user_keys.tolist() == [0, 1]
    assert found.ratings.rating.dtype == np.float32


@LIBRARIES
def test_columns_can_be_named(make: Make) -> None:
    frame = make({"user": ["x"], "reader": ["ann"], "sku": [12], "grade": [7], "rating": [1], "when": ["1997-12-04"]})
    found = ratings_from_frame(frame, user="reader", item="sku", rating="grade", time="when")
    assert rows_of(found) == [("ann", "12", 7.0, DAY)]


@LIBRARIES
@pytest.mark.parametrize(
    ("ids", "expected"),
    [
        ([7, 12], ["7", "12"]),
        ([-1, 2**62], ["-1", str(2**62)]),
        (["007", " a"], ["007", " a"]),
        (["1.0", "NULLE"], ["1.0", "NULLE"]),
    ],
)
def test_ids_are_kept_byte_for_byte_and_integers_are_decimal(
    make: Make, ids: list[object], expected: list[str]
) -> None:
    found = ratings_from_frame(make({"user": ids, "item": ids, "rating": [1, 2]}))
    assert (found.user_ids, found.item_ids) == (expected, expected)


@pytest.mark.parametrize(
    "column",
    [
        pd.Series(["a", "b"], dtype="category"),
        pd.Series(["a", "b"], dtype=object),
        pd.Series(["a", "b"], dtype="string"),
        pl.Series(["a", "b"], dtype=pl.Categorical),
        pl.Series(["a", "b"]),
    ],
    ids=["category", "object", "string", "polars categorical", "polars string"],
)
def test_ids_of_every_text_type(column: Any) -> None:
    make = pd.DataFrame if isinstance(column, pd.Series) else pl.DataFrame
    found = ratings_from_frame(make({"user": column, "item": column, "rating": [1, 2]}))
    assert rows_of(found) == [("a", "a", 1.0, NO_TIME), ("b", "b", 2.0, NO_TIME)]


def test_integers_with_missing_values_need_an_integer_type() -> None:
    good = pd.DataFrame({"user": pd.Series([1, 2], dtype="Int64"), "item": ["a", "b"], "rating": [1, 2]})
    assert ratings_from_frame(good).user_ids == ["1", "2"]
    floats = pd.DataFrame({"user": [1.0, 2.0], "item": ["a", "b"], "rating": [1, 2]})
    with pytest.raises(InputError, match=r"column 'user' of the data frame holds double.*astype\('Int64'\)"):
        ratings_from_frame(floats)


@LIBRARIES
@pytest.mark.parametrize(
    ("times", "expected"),
    [
        ([881193600, 881193601], [DAY, DAY + 1000]),
        ([881193600000, 881193600001], [DAY, DAY + 1]),
        (["1997-12-04", None], [DAY, NO_TIME]),
    ],
)
def test_times(make: Make, times: list[object], expected: list[int]) -> None:
    frame = make({"user": ["a", "b"], "item": ["i", "i"], "rating": [1, 2], "timestamp": times})
    assert [row[3] for row in rows_of(ratings_from_frame(frame))] == expected


def test_timestamps_with_and_without_a_zone() -> None:
    times = pd.to_datetime(["1997-12-04T00:00:00", "1997-12-04T00:00:01"])
    for column in (times, times.tz_localize("UTC"), times.tz_localize("Europe/Berlin")):
        frame = pd.DataFrame({"user": ["a", "b"], "item": ["i", "i"], "rating": [1, 2], "time": column})
        shift = 3_600_000 if str(column.tz) == "Europe/Berlin" else 0
        assert [row[3] for row in rows_of(ratings_from_frame(frame))] == [DAY - shift, DAY + 1000 - shift]
    assert rows_of(ratings_from_frame(pl.from_pandas(frame))) == rows_of(ratings_from_frame(frame))


@LIBRARIES
def test_the_latest_rating_of_a_pair_is_kept(make: Make) -> None:
    frame = make({"user": ["a", "a", "b"], "item": ["i", "i", "i"], "rating": [1, 2, 3], "time": [9, 8, 7]})
    assert rows_of(ratings_from_frame(frame)) == [("a", "i", 1.0, 9000), ("b", "i", 3.0, 7000)]


REFUSED: list[tuple[dict[str, Any], dict[str, str], str]] = [
    ({"user": ["a"], "item": ["i"]}, {}, r"no column for rating among user, item: .*; rename it, or pass rating=NAME"),
    ({"item": ["i"], "rating": [1]}, {}, r"no column for user_id among item, rating: .* pass user=NAME"),
    ({"user": ["a"], "item": ["i"], "rating": [1]}, {"time": "when"}, r"no column 'when': .*; correct time=…"),
    ({"user": ["a"], "item": ["i"], "rating": [1]}, {"user": "item"}, r"no column for item_id|one column is named"),
    ({"user": ["a"], "item": ["i"], "rating": [1]}, {"user": "item", "item": "item"}, "one column is named for two"),
    ({"user": [], "item": [], "rating": []}, {}, "has no rows: expected at least one rating"),
    ({"user": ["a", "b"], "item": ["i", ""], "rating": [1, 2]}, {}, r"1 of 2 rows .* row 1 .*: item_id is empty"),
    ({"user": ["a", None], "item": ["i", "j"], "rating": [1, 2]}, {}, r"row 1 .*: user_id is empty"),
    ({"user": ["a"], "item": ["i"], "rating": ["x"]}, {}, r"rating 'x' is not a number: .*; correct or delete it$"),
    ({"user": ["a"], "item": ["i"], "rating": [float("nan")]}, {}, "rating is empty|not a finite number"),
    ({"user": ["a"], "item": ["i"], "rating": [1], "time": ["soon"]}, {}, "timestamp 'soon' is not a time"),
    ({"user": ["a"], "item": ["i"], "user ": ["b"], "rating": [1]}, {}, "2 columns called 'user'"),
]


@LIBRARIES
@pytest.mark.parametrize(("columns", "arguments", "message"), REFUSED)
def test_what_is_not_ratings_is_refused_with_the_fix(
    make: Make, columns: dict[str, Any], arguments: dict[str, str], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        ratings_from_frame(make(columns), **arguments)  # type: ignore[arg-type]


def test_a_rating_outside_the_range() -> None:
    frame = pd.DataFrame({"user": ["a"], "item": ["i"], "rating": [9]})
    with pytest.raises(InputError, match="rating 9 is outside the scale: expected 1 to 5"):
        ratings_from_frame(frame, rating_range=(1, 5))


def test_mixed_types_in_a_column() -> None:
    frame = pd.DataFrame({"user": [1, "a"], "item": ["i", "j"], "rating": [1, 2]})
    with pytest.raises(InputError, match=r"column 'user' of the data frame mixes types: .*astype\(str\)"):
        ratings_from_frame(frame)


@pytest.mark.parametrize(
    "value", [[1, 2], {"user": [1]}, None, pd.Series([1], name="user"), pl.LazyFrame({"user": [1]})]
)
def test_what_is_no_data_frame(value: object) -> None:
    with pytest.raises(InputError, match="is not a data frame: expected a DataFrame of pandas or polars"):
        ratings_from_frame(value)


def test_the_module_imports_neither_library() -> None:
    code = "import sys, recsys.data.frames; print({'pandas', 'polars'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"
