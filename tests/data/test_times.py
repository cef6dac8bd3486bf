"""Times in the spellings of databases, spreadsheets and programs."""

from datetime import UTC, datetime

import pyarrow as pa
import pytest

from recsys.data.dataset import NO_TIME
from recsys.data.times import TimeReader
from recsys.errors import InputError

MOMENT = "2022-06-24T21:20:11"


def read(*values: object, format: str | None = None) -> list[str | None]:
    """Each value as ISO 8601, None if it is no time, or what is wrong with it."""
    times, problems = TimeReader(format).read(pa.array(values))
    return [
        problems.get(i, None if time == NO_TIME else f"{datetime.fromtimestamp(time / 1000, UTC):%Y-%m-%dT%H:%M:%S}")
        for i, time in enumerate(times.tolist())
    ]


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("1656105611", MOMENT),
        ("1656105611.0", MOMENT),
        ("1656105611,75", MOMENT),
        ("1.656105611E9", MOMENT),
        ("1656105611000", MOMENT),
        ("1656105611000000", MOMENT),
        ("1656105611000000000", MOMENT),
        ("2022-06-24 21:20:11 UTC", MOMENT),
        ("2022-06-24 21:20:11.123456789 UTC", MOMENT),
        ("2022-06-24 21:20:11,123", MOMENT),
        ("2022-06-24 23:20:11 +0200", MOMENT),
        ("2022-06-24T23:20:11+02:00[Europe/Berlin]", MOMENT),
        ("2022-06-24 21:20:11+00", MOMENT),
        ("20220624T212011Z", MOMENT),
        ("20220624212011", MOMENT),
        ("202206242120", "2022-06-24T21:20:00"),
        ("20220624", "2022-06-24T00:00:00"),
        ("202206", "2022-06-01T00:00:00"),
        ("2022", "2022-01-01T00:00:00"),
        ("44736.889016", MOMENT),
        ("44736,889016", MOMENT),
        ("44736", "2022-06-24T00:00:00"),
        ("2022/06/24 21:20:11", MOMENT),
        ("2022.06.24", "2022-06-24T00:00:00"),
        ("2022-6-4", "2022-06-04T00:00:00"),
        ("24.06.2022 21:20:11", MOMENT),
        ("04.03.2022", "2022-03-04T00:00:00"),
        ("24/06/2022 21:20", "2022-06-24T21:20:00"),
        ("06/24/2022 9:20:11 PM", MOMENT),
        ("24-JUN-22", "2022-06-24T00:00:00"),
        ("24 June 2022", "2022-06-24T00:00:00"),
        ("June 24th, 2022 9:20 p.m.", "2022-06-24T21:20:00"),
        ("24/Jun/2022:23:20:11 +0200", MOMENT),
        ("Fri, 24 Jun 2022 21:20:11 GMT", MOMENT),
        ("Fri Jun 24 21:20:11 2022", MOMENT),
        ("Fri Jun 24 21:20:11 +0000 2022", MOMENT),
        ("2022-06-24 21:20:11 +0000 UTC", MOMENT),
        ("2022-06-24 23:20:11.000000999 +0200 CEST", MOMENT),
        ("2022-06-25 00:20:11 +0300 +03", MOMENT),
        ("Fri Jun 24 2022 23:20:11 GMT+0200 (Central European Summer Time)", MOMENT),
    ],
)
def test_spellings(written: str, expected: str) -> None:
    assert read(written) == [expected]
    assert read(None, written, " ") == [None, expected, None]


@pytest.mark.parametrize(
    "written",
    ["", " ", "NULL", "null", r"\N", "None", "NaN", "nan", "NaT", "N/A", "#N/A", "NA", "<NA>", "(null)", "-",
     "0000-00-00 00:00:00", "0001-01-01T00:00:00"],
)  # fmt: skip
def test_spellings_of_nothing(written: str) -> None:
    assert read(written, "2022-06-24") == [None, "2022-06-24T00:00:00"]


@pytest.mark.parametrize(
    ("written", "reason"),
    [
        ("03/04/2022", "is a day in one of two months"),
        ("12/25/22", "is not a time"),
        ("2022-02-30", "is not a time"),
        ("13/13/2022", "is not a time"),
        ("2022-06-24 21:20:11 CET", "is not a time"),
        ("2022-06-24 13:20 PM", "is not a time"),
        ("1.65611E+09", "lost its last digits"),
        ("24 juin 2022", "is not a time"),
        ("99999999999999999999", "is outside the years 1900 to 2200"),
    ],
)
def test_what_is_no_time_or_may_be_two_is_refused(written: str, reason: str) -> None:
    [said] = read(written)
    assert said is not None
    assert said.startswith(f"timestamp '{written}' {reason}")
    assert "--time-format" in said or "export" in said


def test_the_first_date_that_shows_the_order_decides_it_for_all() -> None:
    assert read("03/04/2022", "24/12/2022") == ["2022-04-03T00:00:00", "2022-12-24T00:00:00"]
    assert read("03/04/2022", "12/24/2022") == ["2022-03-04T00:00:00", "2022-12-24T00:00:00"]
    reader = TimeReader()
    reader.read(pa.array(["24/12/2022"]))
    assert reader.read(pa.array(["03/04/2022"]))[0].tolist() == [1648944000000]
    both = read("03/04/2022", "24/12/2022", "12/24/2022")
    assert both[0] is not None
    assert both[0].startswith("timestamp '03/04/2022' is a day in one of two months")
    assert both[1:] == ["2022-12-24T00:00:00"] * 2


def test_a_column_of_numbers_has_one_unit() -> None:
    assert read("20220624", "20220631", "20220625")[1] is not None
    assert read(*map(str, range(19_990, 20_010)), "30000")[-1] == "1970-01-01T08:20:00"  # seconds, not days
    assert read(20220624.0, 20211231.0) == ["2022-06-24T00:00:00", "2021-12-31T00:00:00"]


@pytest.mark.parametrize(
    ("format", "written", "expected"),
    [
        ("%d.%m.%y %H:%M", "24.06.22 21:20", "2022-06-24T21:20:00"),
        ("%m/%d/%Y", "03/04/2022", "2022-03-04T00:00:00"),
        ("%Y%m%d", "20220624", "2022-06-24T00:00:00"),
        ("days", "1000", "1902-09-26T00:00:00"),
        ("ms", "1000", "1970-01-01T00:00:01"),
        ("s", "20220624", "1970-08-23T00:50:24"),
    ],
)
def test_a_form_that_a_person_names(format: str, written: str, expected: str) -> None:
    assert read(written, "NULL", format=format) == [expected, None]


def test_a_form_that_is_none_is_refused() -> None:
    with pytest.raises(InputError, match=r"--time-format 'day': expected s, ms, us, ns, days, or a form such as"):
        TimeReader("day")
    [said] = read("2022-06-24", format="%d/%m/%Y")
    assert said is not None
    assert said.startswith("timestamp '2022-06-24' is not of the form %d/%m/%Y: expected one such as 04/12/1997; ")


def test_times_that_are_seldom_meant_are_remarked_on() -> None:
    now = 1_700_000_000_000
    for written, said in ((["5", "90000"], "all times lie from 1970-01-01 to 1970-01-02"), (["4e9"], "in the future")):
        reader = TimeReader()
        reader.read(pa.array(written))
        assert said in (reader.notice(now) or "")
    reader = TimeReader()
    reader.read(pa.array(["1656105611"]))
    assert reader.notice(now) is None
