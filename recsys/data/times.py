"""Times in the spellings of databases, spreadsheets and programs, as Unix milliseconds in UTC.

A column is read in one way: the first rows that hold times decide which unit its numbers have, and whether 03/04/2022
is a day in April or in March. What stays ambiguous is a problem, never a guess.
"""

import re
from collections.abc import Callable
from datetime import datetime

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from recsys.data.checks import Problems, decode_text, is_text, parse_numbers, values_where
from recsys.data.dataset import NO_TIME
from recsys.data.limits import EARLIEST_MS, LATEST_MS, NOTHING, printable_time
from recsys.data.messages import quote_value
from recsys.data.time_numbers import DAY_MS, STYLES, by_size, number_style
from recsys.data.time_text import is_zero_date, outside, parse_time, time_problem, to_ms, within_years
from recsys.errors import InputError

UNITS = ("s", "ms", "us", "ns", "days")
"""Values of a time format that name the unit of numbers; `days` are those of a spreadsheet, from 1899-12-30."""

ISO = r"^[0-9]{4}-[0-9]{2}-[0-9]{2}(?:[ T][0-9]{2}:[0-9]{2}:[0-9]{2}(?:\.[0-9]{1,6})?)?$"
ISO_ZONED = r"^[0-9]{4}-[0-9]{2}-[0-9]{2}[ T][0-9]{2}:[0-9]{2}:[0-9]{2}(?:\.[0-9]{1,6})?(?:Z|[+-][0-9]{2}:?[0-9]{2})$"

SUSPICIOUS_MS = 10**11
"""Times before March 1973 are seldom meant: numbers of another unit land there."""
_SHORTENED = re.compile(r"[0-9](?:\.[0-9]{1,5})?[eE]\+[0-9]{2}")


_AGO = re.compile(r"([0-9]{1,6})([hd])")


class TimeReader:
    """Reads a column of times part by part.

    Numbers are Unix seconds, milliseconds, microseconds or nanoseconds by their size; eight digits that are a date
    (20220624), fourteen that are a date and a time, and the days of a spreadsheet (44736.5) are recognised. Text is
    ISO 8601, a date with slashes, dots or a written-out English month, with or without a time and an offset. A time
    without a zone is UTC. A null, NaN, blank or one of `limits.NOTHING` is an unknown time: `NO_TIME`.

    Args:
        format: one of `UNITS`, or a format of `datetime.strptime` such as `%d/%m/%Y %H:%M`; `None` recognises it.

    Raises:
        InputError: the format is neither.
    """

    def __init__(self, format: str | None = None) -> None:
        if format is not None and format not in UNITS and "%" not in format:
            raise InputError(
                f"--time-format {format!r}: expected {', '.join(UNITS)}, or a form such as %d/%m/%Y %H:%M; correct it"
            )
        self._format = format
        self._style: Callable[[NDArray[np.float64]], NDArray[np.float64]] | None = None
        self._is_day_first: bool | None = None
        self._order_is_known = False
        self.earliest: int | None = None
        self.latest: int | None = None

    def read(self, column: pa.Array) -> tuple[NDArray[np.int64], Problems]:
        """Return Unix milliseconds, and the problems of values that are not times.

        Args:
            column: (n,) numbers, text, timestamps or dates.

        Returns:
            (n,) int64, any value if bad, and the problems.
        """
        column = decode_text(column)
        if pa.types.is_timestamp(column.type) or pa.types.is_date(column.type):
            times, problems = self._of_timestamps(column)
        elif is_text(column.type) or (self._format is not None and "%" in self._format):
            times, problems = self._of_text(column if is_text(column.type) else column.cast(pa.string()))
        else:
            times, bad = self._of_numbers(parse_numbers(column))
            # Formatted by Arrow: Python has no year beyond 9999.
            found = values_where(bad, column.cast(pa.string()) if bad.any() else column)
            problems = {i: outside(value) for i, value in found}
        known = times[times != NO_TIME]
        if len(known):
            low, high = int(known.min()), int(known.max())
            self.earliest = low if self.earliest is None else min(self.earliest, low)
            self.latest = high if self.latest is None else max(self.latest, high)
        return times, problems

    def notice(self, now_ms: int) -> str | None:
        """Return a sentence if the times that were read are seldom meant; `None` if all is well."""
        if self.earliest is None or self.latest is None:
            return None
        if self.latest < SUSPICIOUS_MS:
            return (
                f"all times lie from {printable_time(self.earliest)} to {printable_time(self.latest)}: if their unit "
                f"is not seconds, name it with --time-format ({', '.join(UNITS)}, or a form such as %Y%m%d)"
            )
        if self.latest > now_ms + DAY_MS:
            return f"the latest time is {printable_time(self.latest)}, in the future: check its unit and its parts"
        return None

    def _of_timestamps(self, column: pa.Array) -> tuple[NDArray[np.int64], Problems]:
        times, bad = times_from_timestamps(column)
        found = values_where(bad, column.cast(pa.string()) if bad.any() else column)
        return times, {i: outside(value) for i, value in found}

    def _of_numbers(self, values: NDArray[np.float64]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Return milliseconds (`NO_TIME` for NaN), and where a number is not a time."""
        known = ~np.isnan(values)
        if self._style is None and known.any():
            self._style = number_style(values[known]) if self._format is None else STYLES.get(self._format, by_size)
        times = np.full(len(values), NO_TIME)
        if self._style is None:
            return times, np.zeros(len(values), bool)
        with np.errstate(over="ignore", invalid="ignore"):
            ms = self._style(values)
            good = known & (ms >= EARLIEST_MS) & (ms < LATEST_MS)
        times[good] = ms[good].astype(np.int64)
        return times, known & ~good

    def _of_text(self, text: pa.StringArray) -> tuple[NDArray[np.int64], Problems]:
        if self._format is not None and "%" in self._format:
            return self._distinct(text, np.ones(len(text), bool), self._by_format)
        numbers = parse_numbers(text)
        times, bad = self._of_numbers(numbers)
        problems = {i: time_problem(value) for i, value in values_where(bad, text)}
        is_text_time = np.isnan(numbers)
        if not is_text_time.any():
            self._refuse_shortened(text, problems)
            return times, problems
        trimmed = pc.utf8_trim_whitespace(text)
        remaining = is_text_time & (pc.binary_length(trimmed).fill_null(0).to_numpy(zero_copy_only=False) > 0)
        for pattern, kind in ((ISO, pa.timestamp("us")), (ISO_ZONED, pa.timestamp("us", "UTC"))):
            matching = pc.match_substring_regex(trimmed, pattern).fill_null(False)
            try:
                stamps = pc.if_else(matching, trimmed, pa.scalar(None, pa.string())).cast(kind)
            except pa.ArrowInvalid:
                continue  # a value is not a day of the calendar: all of them are checked one by one below
            found, outside_years = times_from_timestamps(stamps)
            good = matching.to_numpy(zero_copy_only=False) & ~outside_years
            times[good] = found[good]
            remaining &= ~good
        if remaining.any():
            self._decide_order(trimmed.filter(pa.array(remaining)))
            others, more = self._distinct(trimmed, remaining, self._one)
            times[remaining] = others[remaining]
            problems |= more
        self._refuse_shortened(text, problems)
        return times, problems

    def _refuse_shortened(self, text: pa.StringArray, problems: Problems) -> None:
        """Refuse 1.65611E+09: a spreadsheet left six digits of it."""
        if not pc.match_substring(text, "+").true_count:  # in a fifth of the time
            return
        has_exponent = pc.match_substring_regex(text, r"[eE]\+[0-9]{2}").fill_null(False)
        if has_exponent.true_count:
            for i, value in values_where(has_exponent.to_numpy(zero_copy_only=False), text):
                if _SHORTENED.fullmatch(value.strip()):
                    problems[i] = (
                        f"timestamp {quote_value(value)} lost its last digits, as in a spreadsheet: expected all of "
                        "them; export the column as text"
                    )

    def _distinct(
        self, text: pa.StringArray, rows: NDArray[np.bool_], parse: Callable[[str], int | str]
    ) -> tuple[NDArray[np.int64], Problems]:
        """Parse each distinct value of some rows once."""
        times = np.full(len(text), NO_TIME)
        where = np.flatnonzero(rows)
        encoded = text.take(pa.array(where)).dictionary_encode()
        parsed = [parse(value) for value in encoded.dictionary.to_pylist()]
        values = np.array([NO_TIME if isinstance(each, str) else each for each in parsed] or [NO_TIME], np.int64)
        code = encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False)
        times[where] = np.where(code >= 0, values[code], NO_TIME)
        if not any(isinstance(each, str) for each in parsed):
            return times, {}
        problems = {c: each for c, each in enumerate(parsed) if isinstance(each, str)}
        return times, {int(i): problems[c] for i, c in zip(where, code.tolist(), strict=True) if c in problems}

    def _by_format(self, value: str) -> int | str:
        """Return the milliseconds of a time in the given format, or what is wrong with it."""
        assert self._format is not None
        value = value.strip()
        if value.lower() in NOTHING or not value or is_zero_date(value):
            return int(NO_TIME)
        try:
            moment = datetime.strptime(value, self._format)
        except ValueError:
            return (
                f"timestamp {quote_value(value)} is not of the form {self._format}: expected one such as "
                f"{datetime(1997, 12, 4, 15, 55, 49).strftime(self._format)}; correct it, or --time-format"
            )
        return within_years(to_ms(moment), value)

    def _one(self, value: str) -> int | str:
        """Return the milliseconds of a time in any known spelling, or what is wrong with it."""
        if value.lower() in NOTHING or is_zero_date(value):
            return int(NO_TIME)
        if number := re.fullmatch(r"([0-9]{5,}),([0-9]+)", value):  # a decimal comma
            times, bad = self._of_numbers(np.array([float(f"{number[1]}.{number[2]}")]))
            return time_problem(value) if bad[0] else int(times[0])
        found = parse_time(value, self._is_day_first)
        return found if isinstance(found, str) else within_years(found, value)

    def _decide_order(self, text: pa.StringArray) -> None:
        """Decide from the first dates like 24/06/2022 whether the day comes first; `None` if they do not show it."""
        if self._order_is_known:
            return
        parts = pc.extract_regex(text, r"^\s*(?P<a>[0-9]{1,2})[-/](?P<b>[0-9]{1,2})[-/][0-9]{4}").drop_null()
        if not len(parts):
            return
        a, b = (parts.field(name).cast(pa.int16()).to_numpy(zero_copy_only=False) for name in ("a", "b"))
        day_first, month_first = bool((a > 12).any()), bool((b > 12).any())
        if day_first != month_first:
            self._is_day_first, self._order_is_known = day_first, True


def times_from_timestamps(column: pa.Array) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Return milliseconds (`NO_TIME` for null), and where the year is not from 1900 to 2200."""
    if pa.types.is_date(column.type):
        column = column.cast(pa.date64()).cast(pa.timestamp("ms"))
    null = column.is_null().to_numpy(zero_copy_only=False)
    values = column.cast(pa.int64()).fill_null(0).to_numpy(zero_copy_only=False)
    if column.type.unit == "s":
        bad = (values < EARLIEST_MS // 1000) | (values >= LATEST_MS // 1000)
        times = np.where(bad, 0, values) * 1000
    else:
        times = values // {"ms": 1, "us": 1000, "ns": 1_000_000}[column.type.unit]
        bad = (times < EARLIEST_MS) | (times >= LATEST_MS)
    return np.where(null, NO_TIME, times), bad & ~null


def parse_since(text: str, now_ms: int) -> int:
    """Return the Unix milliseconds of `--since`: a date, a time, or a number of hours (`36h`) or days (`7d`) ago.

    Raises:
        InputError: it is none of these.
    """
    if match := _AGO.fullmatch(text.strip()):
        return now_ms - int(match[1]) * (DAY_MS if match[2] == "d" else DAY_MS // 24)
    found = parse_time(text.strip(), None)
    if isinstance(found, str):
        raise InputError(f"--since {text!r}: expected a date or time such as 2026-01-31, or 36h or 7d; correct it")
    return found
