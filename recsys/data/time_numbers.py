"""Times written as numbers, as Unix milliseconds in UTC: Unix times, days of a spreadsheet, dates of digits alone."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from recsys.data.limits import EARLIEST_MS, LATEST_MS

DAY_MS = 86_400_000
FIRST_SPREADSHEET_DAY_MS = -25_569 * DAY_MS
"""1899-12-30, day 0 of Excel and its kin (their day 60, 1900-02-29, never was)."""
SHARE_OF_STYLE = 0.95


def number_style(values: NDArray[np.float64]) -> Callable[[NDArray[np.float64]], NDArray[np.float64]]:
    """Return how to read numbers like these (n,) as milliseconds."""
    first = values[0]
    # Unix times in use are ten digits or more: one look decides.
    if 1e8 <= first < 1e13 and not 1.9e11 <= first < 2.21e11 and values.min() >= 1e8:
        return by_size
    if (values == np.floor(values)).all():
        for style, lowest, highest in (
            (from_years, 1900, 2200),
            (from_months, 190001, 220012),
            (from_days, 19000101, 22001231),
            (from_minutes, 190001010000, 220012312359),
            (from_moments, 19000101000000, 22001231235959),
        ):
            inside = (values >= lowest) & (values <= highest)
            if inside.mean() >= SHARE_OF_STYLE and (~np.isnan(style(values[inside]))).mean() >= SHARE_OF_STYLE:
                return style
    return from_spreadsheet if ((values >= 20_000) & (values < 80_000)).mean() >= SHARE_OF_STYLE else by_size


def by_size(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return milliseconds of Unix seconds, else ms, µs or ns: the first that gives a year from 1900 to 2200."""
    # A float64 has nanoseconds of today to the next 256.
    candidates = [np.rint(values * 1000), np.floor(values), np.floor(values / 1000), np.floor((values + 128) / 1e6)]
    fits = [(ms >= EARLIEST_MS) & (ms < LATEST_MS) for ms in candidates]
    return np.select(fits, candidates, default=np.nan)


def from_spreadsheet(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return milliseconds of a spreadsheet's days: 44736.5 is noon of 2022-06-24. Rounded to whole seconds."""
    return FIRST_SPREADSHEET_DAY_MS + np.rint(values * (DAY_MS / 1000)) * 1000


def from_days(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return milliseconds of dates like 20220624; NaN where there is no such day."""
    whole = np.where(np.isnan(values), 0, values).astype(np.int64)
    year, month, day = whole // 10_000, whole // 100 % 100, whole % 100
    good = (month >= 1) & (month <= 12) & (day >= 1) & (day <= 31)
    first = np.where(good, (year - 1970) * 12 + month - 1, 0).astype("datetime64[M]")
    days = first.astype("datetime64[D]") + (day - 1)
    good &= days.astype("datetime64[M]") == first
    return np.where(good, days.astype(np.int64).astype(np.float64) * DAY_MS, np.nan)


def from_months(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return milliseconds of the first day of months like 202206."""
    return from_days(values * 100 + 1)


def from_years(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return milliseconds of the first day of years."""
    return from_days(values * 10_000 + 101)


def from_moments(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return milliseconds of dates with times like 20220624212011."""
    whole = np.where(np.isnan(values), 0, values).astype(np.int64)
    hour, minute, second = whole // 10_000 % 100, whole // 100 % 100, whole % 100
    seconds = np.where((hour < 24) & (minute < 60) & (second < 60), (hour * 60 + minute) * 60 + second, np.nan)
    moments: NDArray[np.float64] = from_days((whole // 1_000_000).astype(np.float64)) + seconds * 1000
    return moments


def from_minutes(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return milliseconds of dates with times like 202206242120."""
    return from_moments(values * 100)


STYLES: dict[str, Callable[[NDArray[np.float64]], NDArray[np.float64]]] = {
    "s": lambda values: np.rint(values * 1000),
    "ms": np.floor,
    "us": lambda values: np.floor(values / 1000),
    "ns": lambda values: np.floor((values + 128) / 1e6),
    "days": from_spreadsheet,
}
