"""What an id, a rating, a time and a text may be, wherever they come from."""

from datetime import UTC, datetime, timedelta

from recsys.data.rows import shown

MAX_ID_BYTES = 1024
MAX_RATING = 1_000_000
"""Largest absolute value of a rating: training sums squares of ratings in float32."""

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MS = timedelta(milliseconds=1)
EARLIEST_MS = (datetime(1900, 1, 1, tzinfo=UTC) - EPOCH) // MS
LATEST_MS = (datetime(2201, 1, 1, tzinfo=UTC) - EPOCH) // MS
"""Times are from `EARLIEST_MS` to just before this."""

MEND = "mend or delete the line"
CONVERT = "convert the file, or delete the line"


def id_problem(value: object, what: str, fix: str | None = None) -> str | None:
    """Why a value is no external id (what was found, what was expected, and the fix), or None where it is one.

    An id is text that is not blank, holds no NUL, is at most `MAX_ID_BYTES` in UTF-8, and can be written in
    UTF-8 at all: no lone surrogates, as JSON can spell them (`"\\ud800"`).

    Args:
        value: text (or bytes, or an integer) as it was given; None where it was null.
        what: `user_id` or `item_id`.
        fix: what to do about it, where there is no line of a file to mend.
    """
    mend = fix or MEND
    if value is None:
        return f"{what} is empty: expected an id such as 196; {mend}"
    try:
        text = value.decode() if isinstance(value, bytes) else str(value)
        n_bytes = len(text.encode())
    except UnicodeError:
        return f"{what} {shown(value)} is not UTF-8: expected text in UTF-8; {fix or CONVERT}"
    if not text.strip():
        return f"{what} is {'blank' if text else 'empty'}: expected an id such as 196; {mend}"
    if "\0" in text:
        return f"{what} {shown(text)} holds a NUL character: expected an id without; {mend}"
    if n_bytes > MAX_ID_BYTES:
        return f"{what} {shown(text)} has {n_bytes:,} bytes: expected at most {MAX_ID_BYTES:,}; {mend}"
    return None


def text_problem(text: str, what: str) -> str | None:
    """Why a title or a category cannot be stored, or None where it can: PostgreSQL takes no NUL."""
    if "\0" in text:
        return f"{what} {shown(text)} holds a NUL character: expected text without; {MEND}"
    return None
