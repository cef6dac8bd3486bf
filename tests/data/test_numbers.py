"""Ratings and weights in the spellings of databases, spreadsheets and countries."""

import math

import pyarrow as pa
import pytest

from recsys.data.numbers import NumberReader
from recsys.errors import InputError


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (["4", "+4", "4.0", ".5", "4e0", " 4 "], [4, 4, 4, 0.5, 4, 4]),
        (["3,5", "4"], [3.5, 4]),
        (["3,5", "1.234"], [3.5, 1234]),
        (["1.234,5", "2.000"], [1234.5, 2000]),
        (["1,234.5", "2,000"], [1234.5, 2000]),
        (["1,250", "3,5"], [1.25, 3.5]),
        (["1 234,5"], [1234.5]),
        (["1\u00a0234,5"], [1234.5]),
        (["1'234.5"], [1234.5]),
        (["1,234,567"], [1234567]),
        (["−1"], [-1]),
        (["$4.50"], [4.5]),
        (["4,50 €"], [4.5]),
        (["true", "False", "t", "f"], [1, 0, 1, 0]),
        (["like", "Dislike", "👍"], [1, 0, 1]),
    ],
)
def test_spellings(written: list[str], expected: list[float]) -> None:
    values, unrated, problems = NumberReader(is_weight=True).read(pa.array(written))
    assert values.tolist() == expected
    assert not unrated.any()
    assert problems == {}


@pytest.mark.parametrize("written", ["five", "4/5", "0x10", "1_0", "4 stars", "٣", "1,23,456", "1.2.3.4,5", "4%"])
def test_what_is_no_number_is_refused(written: str) -> None:
    _, _, problems = NumberReader().read(pa.array([written, "4"]))
    assert problems[0].startswith(f"rating '{written}' is not a number")


def test_what_may_be_two_numbers_is_refused() -> None:
    for values in (["1,234"], ["1,234", "3,5", "3.5"]):
        _, _, problems = NumberReader().read(pa.array(values))
        assert list(problems) == [0]
        assert "may be a fraction or thousands: expected 1.234 or 1234" in problems[0]


def test_what_early_rows_show_holds_for_late_ones() -> None:
    """Files are read in parts, and a column is read in one way."""
    reader = NumberReader(is_weight=True)
    assert reader.read(pa.array(["4", "5"]))[0].tolist() == [4, 5]
    assert reader.read(pa.array(["3,5", "1.234"]))[0].tolist() == [3.5, 1234]
    assert reader.read(pa.array(["1.234"]))[0].tolist() == [1234]

    reader = NumberReader(is_weight=True)
    assert reader.read(pa.array(["4.25", "1.234"]))[0].tolist() == [4.25, 1.234]
    assert reader.read(pa.array(["1,234"]))[0].tolist() == [1234]
    assert list(reader.read(pa.array(["3,5"]))[2]) == [0]

    reader = NumberReader(is_weight=True)
    assert reader.read(pa.array(["4", "1.234", "0"]))[0].tolist() == [4, 1.234, 0]
    with pytest.raises(InputError, match=r"decimal commas, but '1\.234' before the first .* one decimal sign"):
        reader.read(pa.array(["3,5"]))


def test_truth_values_are_thumbs() -> None:
    assert NumberReader().read(pa.array([True, False]))[0].tolist() == [1, 0]


@pytest.mark.parametrize("unrated", ["0", "NULL", "", "-", "99"])
def test_the_value_that_a_person_names_stands_for_no_rating(unrated: str) -> None:
    _, is_unrated, problems = NumberReader(1, 5, unrated).read(pa.array(["4", unrated, "3"]))
    assert is_unrated.tolist() == [False, True, False]
    assert problems == {}


def test_0_and_minus_1_below_the_scale_stand_for_no_rating() -> None:
    _, is_unrated, problems = NumberReader(1, 5).read(pa.array(["0", "-1", "0.5", "4"]))
    assert is_unrated.tolist() == [True, True, False, False]
    assert list(problems) == [2]
    assert not NumberReader(0, 5).read(pa.array(["0"]))[1].any()


@pytest.mark.parametrize("written", ["NULL", r"\N", "None", "N/A", "#N/A", "NA", "NaT", "<NA>", "(null)", "undefined"])
def test_words_for_nothing_are_no_ratings_and_the_reason_says_what_to_do(written: str) -> None:
    values, _, problems = NumberReader().read(pa.array([written]))
    assert math.isnan(values[0])
    assert f"--unrated {written}" in problems[0]
