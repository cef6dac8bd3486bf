"""Whether values are good: ids, ratings and times, a whole column at once.

Each check returns the column as its final type and a reason for every position that is bad. Only values that
the vectorised way cannot take are looked at one by one.
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
    LATEST_MS,
    MAX_ID_BYTES,
    MAX_RATING,
    MEND,
    MS,
    id_problem,
)
from recsys.data.rows import shown

Problems = dict[int, str]
"""Position in a column → what is wrong there, what was expected, and the fix."""

_NUMBER = re.compile(r"^[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]{1,4})?$")
_ISO = r"^[0-9]{4}-[0-9]{2}-[0-9]{2}(?:[ T][0-9]{2}:[0-9]{2}:[0-9]{2}(?:\.[0-9]{1,6})?)?$"
_ISO_ZONED = r"^[0-9]{4}-[0-9]{2}-[0-9]{2}[ T][0-9]{2}:[0-9]{2}:[0-9]{2}(?:\.[0-9]{1,6})?(?:Z|[+-][0-9]{2}:?[0-9]{2})$"

_OUTSIDE = "lies outside the years 1900 to 2200"
_EXPECTED_RATING = f"expected something like 4 or 3.5; {MEND}"
_EXPECTED_TIME = (
    "expected Unix seconds such as 881250949, milliseconds, microseconds, or ISO 8601 such as "
    "1997-12-04T15:55:49Z; mend it, or leave it empty"
)


def check_ids(column: pa.Array, what: str) -> tuple[pa.StringArray, Problems]:
    """Ids as strings, byte for byte; integers as decimal text.

    Args:
        column: (n,) strings, bytes or integers, dictionary-encoded or not.
        what: `user_id` or `item_id`.

    Returns:
        The ids, empty or null where bad, and the problems.
    """
    column = _plain(column)
    if pa.types.is_integer(column.type):
        ids = column.cast(pa.string())
        null = column.is_null().to_numpy(zero_copy_only=False)
        return ids, {i: reason for i, value in _values_where(null, ids) if (reason := id_problem(value, what))}
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
    suspects = _values_where(suspect.to_numpy(zero_copy_only=False), ids)
    return ids, {i: reason for i, value in suspects if (reason := id_problem(value, what))}


def check_ratings(
    column: pa.Array, low: float | None = None, high: float | None = None
) -> tuple[NDArray[np.float64], Problems]:
    """Ratings as numbers from `low` to `high`, where given, and never beyond ±`MAX_RATING`.

    Args:
        column: (n,) numbers, or text that holds numbers.

    Returns:
        (n,) float64, anything where bad, and the problems.
    """
    column = _readable(column)
    values = _numbers(column)
    bad = ~(np.abs(values) <= MAX_RATING)  # NaN too
    if low is not None:
        bad |= values < low
    if high is not None:
        bad |= values > high
    return values, {i: _rating_problem(value, low, high) for i, value in _values_where(bad, column)}


def check_times(column: pa.Array) -> tuple[NDArray[np.int64], Problems]:
    """Times as Unix milliseconds in UTC.

    A number is seconds if that makes a year from 1900 to 2200, else milliseconds, else microseconds. A time
    without a zone is UTC. Nothing (null, NaN or blank) is a time that is not known: `NO_TIME`.

    Args:
        column: (n,) numbers, text, timestamps or dates.

    Returns:
        (n,) int64, anything where bad, and the problems.
    """
    column = _readable(column)
    if _is_text(column.type):
        return _times_of_text(column)
    if pa.types.is_timestamp(column.type) or pa.types.is_date(column.type):
        times, bad = _times_of_timestamps(column)
    else:
        times, bad = _times_of_numbers(_numbers(column))
    # As Arrow shows it: Python knows no year beyond 9999.
    found = _values_where(bad, column.cast(pa.string()) if bad.any() else column)
    return times, {i: f"timestamp {value} {_OUTSIDE}: {_EXPECTED_TIME}" for i, value in found}


def refuse_ids(kind: pa.DataType) -> str | None:
    """Why a column of this type cannot be ids: what it holds and the fix; None if it can."""
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    if pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        return (
            f"holds {kind} numbers: expected strings or integers, for the id 7 is not 7.0; "
            "cast it before writing, in pandas with astype('Int64') or astype(str)"
        )
    if _is_text(kind) or pa.types.is_integer(kind) or pa.types.is_null(kind):
        return None
    return f"holds {kind}: expected strings or integers; cast it before writing"


def refuse_ratings(kind: pa.DataType) -> str | None:
    """Why a column of this type cannot be ratings; None if it can."""
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    if _is_number(kind) or _is_text(kind):
        return None
    return f"holds {kind}: expected numbers; cast it before writing"


def refuse_times(kind: pa.DataType) -> str | None:
    """Why a column of this type cannot be times; None if it can."""
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    if _is_number(kind) or _is_text(kind) or pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        return None
    return f"holds {kind}: expected timestamps, Unix seconds or ISO 8601; cast it before writing"


def _plain(column: pa.Array) -> pa.Array:
    return column.dictionary_decode() if pa.types.is_dictionary(column.type) else column


def _values_where(mask: NDArray[np.bool_], column: pa.Array) -> Iterator[tuple[int, Any]]:
    """(position, value) where the mask is true."""
    positions = np.flatnonzero(mask)
    return zip(positions.tolist(), column.take(pa.array(positions)).to_pylist(), strict=True)


def _is_number(kind: pa.DataType) -> bool:
    return bool(
        pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind) or pa.types.is_null(kind)
    )


def _is_text(kind: pa.DataType) -> bool:
    return bool(
        pa.types.is_string(kind)
        or pa.types.is_large_string(kind)
        or pa.types.is_binary(kind)
        or pa.types.is_large_binary(kind)
    )


def _readable(column: pa.Array) -> pa.Array:
    """The column without a dictionary, any text as strings, with the bytes that are no UTF-8 spelt out."""
    column = _plain(column)
    if not _is_text(column.type):
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


def _numbers(column: pa.Array) -> NDArray[np.float64]:
    """(n,) float64, NaN where there is no number."""
    if _is_text(column.type):
        try:
            numbers = column.cast(pa.float64())
        except pa.ArrowInvalid:
            trimmed = pc.ascii_trim_whitespace(column)
            matching = pc.match_substring_regex(trimmed, _NUMBER.pattern)
            numbers = pc.if_else(matching, trimmed, pa.scalar(None, pa.string())).cast(pa.float64())
    else:
        numbers = column.cast(pa.float64(), safe=False)
    result: NDArray[np.float64] = numbers.fill_null(math.nan).to_numpy(zero_copy_only=False)
    return result


def _rating_problem(value: object, low: float | None, high: float | None) -> str:
    text = "" if value is None else str(value).strip()
    if not text:
        return f"rating is empty: {_EXPECTED_RATING}"
    found = shown(text) if isinstance(value, str) else text
    if text.lower().lstrip("+-") in ("nan", "inf", "infinity"):
        return f"rating {found} is not a finite number: {_EXPECTED_RATING}"
    if not _NUMBER.match(text):
        return f"rating {found} is not a number: {_EXPECTED_RATING}"
    number = float(text)
    if (low is None or number >= low) and (high is None or number <= high):
        return f"rating {found} is too large: expected -{MAX_RATING:,} to {MAX_RATING:,}; {MEND}"
    if low is None or high is None:
        scale = f"at least {low:g}" if low is not None else f"at most {high:g}"
    else:
        scale = f"{low:g} to {high:g}"
    return f"rating {found} is off the scale: expected {scale}; {MEND}, or set RECSYS_RATING_MIN and RECSYS_RATING_MAX"


def _times_of_numbers(values: NDArray[np.float64]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Milliseconds (`NO_TIME` for NaN), and where no unit makes a year from 1900 to 2200."""
    with np.errstate(over="ignore", invalid="ignore"):
        as_seconds, as_ms, as_us = np.rint(values * 1000), np.floor(values), np.floor(values / 1000)
        candidates = [as_seconds, as_ms, as_us]
        fits = [(ms >= EARLIEST_MS) & (ms < LATEST_MS) for ms in candidates]
        chosen = np.select(fits, candidates, default=np.nan)
    times = np.full(len(values), NO_TIME)
    known = ~np.isnan(chosen)
    times[known] = chosen[known].astype(np.int64)
    return times, ~known & ~np.isnan(values)


def _times_of_timestamps(column: pa.Array) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Milliseconds (`NO_TIME` for null), and where the year is not from 1900 to 2200."""
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


def _times_of_text(text: pa.StringArray) -> tuple[NDArray[np.int64], Problems]:
    numbers = _numbers(text)
    times, bad = _times_of_numbers(numbers)
    problems = {i: _time_problem(value) for i, value in _values_where(bad, text)}
    if not np.isnan(numbers).any():
        return times, problems
    trimmed = pc.ascii_trim_whitespace(text)
    left = np.isnan(numbers) & (pc.binary_length(trimmed).fill_null(0).to_numpy(zero_copy_only=False) > 0)
    for pattern, kind in ((_ISO, pa.timestamp("us")), (_ISO_ZONED, pa.timestamp("us", "UTC"))):
        matching = pc.match_substring_regex(trimmed, pattern).fill_null(False)
        try:
            stamps = pc.if_else(matching, trimmed, pa.scalar(None, pa.string())).cast(kind)
        except pa.ArrowInvalid:
            continue  # one of them is no day of the calendar: left to be looked at one by one
        found, outside = _times_of_timestamps(stamps)
        good = matching.to_numpy(zero_copy_only=False) & ~outside
        times[good] = found[good]
        left &= ~good
    for i, value in _values_where(left, text):
        time = _time_of_text(value)
        if time is None or not EARLIEST_MS <= time < LATEST_MS:
            problems[i] = _time_problem(value)
        else:
            times[i] = time
    return times, problems


def _time_of_text(text: str) -> int | None:
    try:
        moment = datetime.fromisoformat(text.strip())
    except ValueError:
        return None
    return (moment.replace(tzinfo=moment.tzinfo or UTC) - EPOCH) // MS


def _time_problem(text: str) -> str:
    is_time = _NUMBER.match(text.strip()) or _time_of_text(text) is not None
    return f"timestamp {shown(text)} {_OUTSIDE if is_time else 'is not a time'}: {_EXPECTED_TIME}"
