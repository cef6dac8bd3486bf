"""Times written as text in the spellings of databases and countries, as Unix milliseconds in UTC."""

import re
from datetime import UTC, datetime, timedelta, timezone

from recsys.data.limits import EARLIEST_MS, EPOCH, LATEST_MS, MS
from recsys.data.messages import quote_value

EXPECTED_TIME = (
    "expected Unix seconds such as 881250949, milliseconds, microseconds, or ISO 8601 such as "
    "1997-12-04T15:55:49Z; correct it, leave it empty, or name the form with --time-format"
)
AMBIGUOUS = (
    "is a day in one of two months: expected to know which; add --time-format %d/%m/%Y or --time-format %m/%d/%Y"
)

_NAMES = "jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec"
MONTHS = {name: i for i, name in enumerate(_NAMES.split("|"), start=1)}
_MONTH = rf"(?P<mon>{_NAMES})[a-z]*\.?"
_DATES = (
    r"(?P<y>\d{4})(?P<s>[-/.])(?P<m>\d{1,2})(?P=s)(?P<d>\d{1,2})",
    r"(?P<y>\d{4})(?P<m>\d{2})(?P<d>\d{2})",
    r"(?P<a>\d{1,2})(?P<s>[-/.])(?P<b>\d{1,2})(?P=s)(?P<y>\d{4})",
    rf"(?P<d>\d{{1,2}})(?:st|n[d]|rd|th)?(?:\s+of)?[-./ ]*{_MONTH}[-./, ]+(?P<y>\d{{4}}|\d{{2}})",
    rf"{_MONTH}[ .-]*(?P<d>\d{{1,2}})(?:st|n[d]|rd|th)?(?:,\s*|\s+|-)(?P<y>\d{{4}})",
    rf"(?P<y>\d{{4}})[-./ ]{_MONTH}[-./ ](?P<d>\d{{1,2}})",
)
_CLOCK = (
    r"(?P<H>\d{1,2})(?::(?P<M>\d{2})(?::(?P<S>\d{2})(?:[.,:](?P<f>\d{1,9}))?)?)?\s*(?P<ap>[ap]\.?m\.?)?"
    r"|(?P<H2>\d{2})(?P<M2>\d{2})(?P<S2>\d{2})?(?:[.,](?P<f2>\d{1,9}))?"
)
# Go writes an offset and a name, +0200 CEST: the offset is the zone.
_ZONE = (
    r"(?P<z>z|(?:utc|gmt)?\s*[+-]\d{1,2}(?::?\d{2})?|utc|gmt)"
    r"(?:\s*\[[\w/+-]+\]|\s*\([\w :+-]+\)|(?<=\d)\s(?:[a-z]{3,5}|[+-]\d{2,4}))?"
)
_WEEKDAY = r"(?:(?:mon|tue|wed|thu|fri|sat|sun)[a-z]*\.?,?\s+)?"
_PATTERNS = tuple(
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        *(rf"{_WEEKDAY}{date}(?:(?:\s*t\s*|,?\s+(?:at\s+)?|:)(?:{_CLOCK})(?:\s*{_ZONE})?)?" for date in _DATES),
        # C's ctime, date(1) and Twitter: Fri Jun 24 21:20:11 +0000 2022
        rf"{_WEEKDAY}{_MONTH}\s+(?P<d>\d{{1,2}})\s+(?:{_CLOCK})(?:\s+{_ZONE})?\s+(?P<y>\d{{4}})",
    )
)


def parse_time(text: str, is_day_first: bool | None) -> int | str:
    """Return the Unix milliseconds of a date, with or without a time, or what is wrong with the text.

    Args:
        is_day_first: whether 03/04/2022 is in April; `None` if that is not known.
    """
    try:
        return to_ms(datetime.fromisoformat(text))
    except ValueError:
        pass
    match = next((found for pattern in _PATTERNS if (found := pattern.fullmatch(text))), None)
    if match is None:
        return time_problem(text)
    part = match.groupdict()
    year = int(part["y"])
    if len(part["y"]) == 2:
        year += 1900 if year >= 69 else 2000  # as POSIX
    if part.get("a") is not None:
        a, b = int(part["a"]), int(part["b"])
        if part["s"] == ".":
            is_day_first = True  # only German and its neighbours write dots, and the day first
        if is_day_first is None and a <= 12 and b <= 12 and a != b:
            return f"timestamp {quote_value(text)} {AMBIGUOUS}"
        if is_day_first is None:
            is_day_first = a > 12
        day, month = (a, b) if is_day_first else (b, a)
    else:
        day, month = int(part["d"]), MONTHS[part["mon"][:3].lower()] if part.get("mon") else int(part["m"])
    hour = int(part["H"] or part["H2"] or 0)
    if part["ap"]:
        if not 1 <= hour <= 12:
            return time_problem(text)
        hour = hour % 12 + (12 if part["ap"][0].lower() == "p" else 0)
    elif part["H"] is not None and part["M"] is None:
        return time_problem(text)  # an hour alone
    fraction = ((part["f"] or part["f2"] or "") + "000")[:3]
    try:
        moment = datetime(
            year, month, day, hour, int(part["M"] or part["M2"] or 0), int(part["S"] or part["S2"] or 0),
            int(fraction) * 1000, tzinfo=zone_of(part.get("z")),
        )  # fmt: skip
    except ValueError:
        return time_problem(text)
    return to_ms(moment)


def zone_of(text: str | None) -> timezone:
    """Return the zone of `+02:00`, `-5`, `GMT+0200`, `Z` or `UTC`; UTC if there is none."""
    found = re.search(r"([+-])(\d{1,2}):?(\d{2})?$", text or "")
    if not found:
        return UTC
    minutes = int(found[2]) * 60 + int(found[3] or 0)
    return timezone(timedelta(minutes=minutes if found[1] == "+" else -minutes))


def to_ms(moment: datetime) -> int:
    """Return the Unix milliseconds of a moment, in UTC if it has no zone."""
    return (moment.replace(tzinfo=moment.tzinfo or UTC) - EPOCH) // MS


def is_zero_date(text: str) -> bool:
    """Return whether a text is MySQL's date of no time, 0000-00-00."""
    return text.startswith(("0000-00-00", "00/00/0000", "0001-01-01"))


def within_years(ms: int, text: str) -> int | str:
    """Return the time, or a problem if its year is not from 1900 to 2200."""
    return ms if EARLIEST_MS <= ms < LATEST_MS else outside(quote_value(text))


def outside(shown: object) -> str:
    """Return the problem of a time beyond the years."""
    return f"timestamp {shown} is outside the years 1900 to 2200: {EXPECTED_TIME}"


def time_problem(text: str) -> str:
    """Return why text is not a time: found, expected, fix."""
    if re.fullmatch(r"\s*[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]{1,4})?\s*", text):
        return outside(quote_value(text))
    return f"timestamp {quote_value(text)} is not a time: {EXPECTED_TIME}"
