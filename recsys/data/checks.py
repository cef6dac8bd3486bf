"""Checks of whole columns of ids, ratings and times.

Each check returns the column in its final type, and a reason for every bad position. Only values that the
vectorised path cannot convert are checked one by one.
"""

import math
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from recsys.data.dataset import NO_TIME
from recsys.data.limits import (
    EARLIEST_MS,
    EPOCH,
    FIX_LINE,
    LATEST_MS,
    MAX_ID_BYTES,
    MAX_RATING,
    MS,
    id_problem,
)
from recsys.data.messages import quote_value

Problems = dict[int, str]
"""Position in a column → what was found there, what was expected, and the fix."""

NUMBER = re.compile(r"^[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]{1,4})?$")
ISO = r"^[0-9]{4}-[0-9]{2}-[0-9]{2}(?:[ T][0-9]{2}:[0-9]{2}:[0-9]{2}(?:\.[0-9]{1,6})?)?$"
ISO_ZONED = r"^[0-9]{4}-[0-9]{2}-[0-9]{2}[ T][0-9]{2}:[0-9]{2}:[0-9]{2}(?:\.[0-9]{1,6})?(?:Z|[+-][0-9]{2}:?[0-9]{2})$"

EXPECTED_RATING = f"expected a number such as 4 or 3.5; {FIX_LINE}"
EXPECTED_TIME = (
    "expected Unix seconds such as 881250949, milliseconds, microseconds, or ISO 8601 such as "
    "1997-12-04T15:55:49Z; correct it, or leave it empty"
)


def check_ids(column: pa.Array, what: str) -> tuple[pa.StringArray, Problems]:
    """Return ids as strings, byte for byte; integers as decimal text.

    Args:
        column: (n,) strings, bytes or integers, dictionary-encoded or not.
        what: `user_id` or `item_id`.

    Returns:
        The ids, empty or null if bad, and the problems.
    """
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if pa.types.is_integer(column.type):
        ids = column.cast(pa.string())
        null = column.is_null().to_numpy(zero_copy_only=False)
        return ids, {i: reason for i, value in values_where(null, ids) if (reason := id_problem(value, what))}
    try:
        ids = column.cast(pa.string())
        ids.validate(full=True)
    except pa.ArrowInvalid:
        values = column.cast(pa.large_binary()).to_pylist()
        problems = {i: reason for i, value in enumerate(values) if (reason := id_problem(value, what))}
        good = (None if i in problems else value.decode() for i, value in enumerate(values))
        return pa.array(good, pa.string()), problems
    suspect = pc.or_(pc.utf8_is_space(ids), pc.match_substring(ids, "\0"))
    size = pc.binary_length(ids)
    suspect = pc.or_(suspect, pc.or_(pc.equal(size, 0), pc.greater(size, MAX_ID_BYTES))).fill_null(True)
    suspects = values_where(suspect.to_numpy(zero_copy_only=False), ids)
    return ids, {i: reason for i, value in suspects if (reason := id_problem(value, what))}


def check_ratings(
    column: pa.Array, low: float | None = None, high: float | None = None
) -> tuple[NDArray[np.float64], Problems]:
    """Return ratings as numbers from `low` to `high`, if given, and never beyond ±`MAX_RATING`.

    Args:
        column: (n,) numbers, or text that holds numbers.

    Returns:
        (n,) float64, any value if bad, and the problems.
    """
    column = decode_text(column)
    values = parse_numbers(column)
    bad = ~(np.abs(values) <= MAX_RATING)  # NaN too
    if low is not None:
        bad |= values < low
    if high is not None:
        bad |= values > high
    return values, {i: rating_problem(value, low, high) for i, value in values_where(bad, column)}


def check_times(column: pa.Array) -> tuple[NDArray[np.int64], Problems]:
    """Return times as Unix milliseconds in UTC.

    A number is in seconds if that gives a year from 1900 to 2200, else in milliseconds, else in microseconds. A time
    without a zone is UTC. A null, NaN or blank value is an unknown time: `NO_TIME`.

    Args:
        column: (n,) numbers, text, timestamps or dates.

    Returns:
        (n,) int64, any value if bad, and the problems.
    """
    column = decode_text(column)
    if is_text(column.type):
        return check_times_as_text(column)
    if pa.types.is_timestamp(column.type) or pa.types.is_date(column.type):
        times, bad = times_from_timestamps(column)
    else:
        times, bad = times_from_numbers(parse_numbers(column))
    # Formatted by Arrow: Python has no year beyond 9999.
    found = values_where(bad, column.cast(pa.string()) if bad.any() else column)
    return times, {i: f"timestamp {value} is outside the years 1900 to 2200: {EXPECTED_TIME}" for i, value in found}


def check_times_as_text(text: pa.StringArray) -> tuple[NDArray[np.int64], Problems]:
    """Return times written as numbers or ISO 8601, as `check_times` does."""
    numbers = parse_numbers(text)
    times, bad = times_from_numbers(numbers)
    problems = {i: time_problem(value) for i, value in values_where(bad, text)}
    if not np.isnan(numbers).any():
        return times, problems
    trimmed = pc.ascii_trim_whitespace(text)
    remaining = np.isnan(numbers) & (pc.binary_length(trimmed).fill_null(0).to_numpy(zero_copy_only=False) > 0)
    for pattern, kind in ((ISO, pa.timestamp("us")), (ISO_ZONED, pa.timestamp("us", "UTC"))):
        matching = pc.match_substring_regex(trimmed, pattern).fill_null(False)
        try:
            stamps = pc.if_else(matching, trimmed, pa.scalar(None, pa.string())).cast(kind)
        except pa.ArrowInvalid:
            continue  # a value is not a day of the calendar: all of them are checked one by one below
        found, outside = times_from_timestamps(stamps)
        good = matching.to_numpy(zero_copy_only=False) & ~outside
        times[good] = found[good]
        remaining &= ~good
    for i, value in values_where(remaining, text):
        time = parse_time(value)
        if time is None or not EARLIEST_MS <= time < LATEST_MS:
            problems[i] = time_problem(value)
        else:
            times[i] = time
    return times, problems


def refuse_id_type(kind: pa.DataType) -> str | None:
    """Return why a column of this type cannot hold ids, and the fix; `None` if it can."""
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    if pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        return (
            f"holds {kind} numbers: expected strings or integers, because the id 7 is not 7.0; "
            "cast it before writing, in pandas with astype('Int64') or astype(str)"
        )
    if is_text(kind) or pa.types.is_integer(kind) or pa.types.is_null(kind):
        return None
    return f"holds {kind}: expected strings or integers; cast it before writing"


def refuse_rating_type(kind: pa.DataType) -> str | None:
    """Return why a column of this type cannot hold ratings, and the fix; `None` if it can."""
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    if is_number(kind) or is_text(kind):
        return None
    return f"holds {kind}: expected numbers; cast it before writing"


def refuse_time_type(kind: pa.DataType) -> str | None:
    """Return why a column of this type cannot hold times, and the fix; `None` if it can."""
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    if is_number(kind) or is_text(kind) or pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        return None
    return f"holds {kind}: expected timestamps, Unix seconds or ISO 8601; cast it before writing"


def is_number(kind: pa.DataType) -> bool:
    """Return whether a type holds integers, floats, decimals or nothing but nulls."""
    types = pa.types
    return bool(types.is_integer(kind) or types.is_floating(kind) or types.is_decimal(kind) or types.is_null(kind))


def is_text(kind: pa.DataType) -> bool:
    """Return whether a type holds strings or bytes."""
    types = pa.types
    return bool(
        types.is_string(kind)
        or types.is_large_string(kind)
        or types.is_binary(kind)
        or types.is_large_binary(kind)
        or types.is_string_view(kind)
    )


def values_where(mask: NDArray[np.bool_], column: pa.Array) -> Iterator[tuple[int, Any]]:
    """Return (position, value) of each position where the mask is true."""
    positions = np.flatnonzero(mask)
    return zip(positions.tolist(), column.take(pa.array(positions)).to_pylist(), strict=True)


def decode_text(column: pa.Array) -> pa.Array:
    """Return a column without a dictionary, text as strings, and bytes that are not UTF-8 as escapes."""
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if not is_text(column.type):
        return column
    try:
        text = column.cast(pa.string())
        text.validate(full=True)
    except pa.ArrowInvalid:
        values = column.cast(pa.large_binary()).to_pylist()
        return pa.array(
            (None if value is None else value.decode("utf-8", "backslashreplace") for value in values),
            pa.string(),
        )
    return text


def parse_numbers(column: pa.Array) -> NDArray[np.float64]:
    """Return numbers, or text that holds numbers, as (n,) float64; NaN for other values."""
    if is_text(column.type):
        try:
            numbers = column.cast(pa.float64())
        except pa.ArrowInvalid:
            trimmed = pc.ascii_trim_whitespace(column)
            matching = pc.match_substring_regex(trimmed, NUMBER.pattern)
            numbers = pc.if_else(matching, trimmed, pa.scalar(None, pa.string())).cast(pa.float64())
    else:
        numbers = column.cast(pa.float64(), safe=False)
    result: NDArray[np.float64] = numbers.fill_null(math.nan).to_numpy(zero_copy_only=False)
    return result


def parse_time(text: str) -> int | None:
    """Return the Unix milliseconds of an ISO 8601 time; `None` if it is not one."""
    try:
        moment = datetime.fromisoformat(text.strip())
    except ValueError:
        return None
    return (moment.replace(tzinfo=moment.tzinfo or UTC) - EPOCH) // MS


def times_from_numbers(values: NDArray[np.float64]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Return milliseconds (`NO_TIME` for NaN), and where no unit gives a year from 1900 to 2200."""
    with np.errstate(over="ignore", invalid="ignore"):
        candidates = [np.rint(values * 1000), np.floor(values), np.floor(values / 1000)]  # s, ms, µs
        fits = [(ms >= EARLIEST_MS) & (ms < LATEST_MS) for ms in candidates]
        chosen = np.select(fits, candidates, default=np.nan)
    times = np.full(len(values), NO_TIME)
    known = ~np.isnan(chosen)
    times[known] = chosen[known].astype(np.int64)
    return times, ~known & ~np.isnan(values)


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


def rating_problem(value: object, low: float | None, high: float | None) -> str:
    """Return why a value is not a rating from `low` to `high`: found, expected, fix."""
    text = "" if value is None else str(value).strip()
    if not text:
        return f"rating is empty: {EXPECTED_RATING}"
    found = quote_value(text) if isinstance(value, str) else text
    if text.lower().lstrip("+-") in ("nan", "inf", "infinity"):
        return f"rating {found} is not a finite number: {EXPECTED_RATING}"
    if not NUMBER.match(text):
        return f"rating {found} is not a number: {EXPECTED_RATING}"
    number = float(text)
    if (low is None or number >= low) and (high is None or number <= high):
        return f"rating {found} is too large: expected -{MAX_RATING:,} to {MAX_RATING:,}; {FIX_LINE}"
    if low is None or high is None:
        scale = f"at least {low:g}" if low is not None else f"at most {high:g}"
    else:
        scale = f"{low:g} to {high:g}"
    return (
        f"rating {found} is outside the scale: expected {scale}; "
        f"{FIX_LINE}, or set RECSYS_RATING_MIN and RECSYS_RATING_MAX"
    )


def time_problem(text: str) -> str:
    """Return why text is not a time: found, expected, fix."""
    is_time = NUMBER.match(text.strip()) or parse_time(text) is not None
    problem = "is outside the years 1900 to 2200" if is_time else "is not a time"
    return f"timestamp {quote_value(text)} {problem}: {EXPECTED_TIME}"
