"""Limits of ids, ratings, times and texts, for files and HTTP alike."""

from datetime import UTC, datetime, timedelta

from recsys.data.messages import quote_value

MAX_ID_BYTES = 1024
MAX_RATING = 1_000_000
"""Largest absolute value of a rating: training sums squares of ratings in float32."""
MAX_WEIGHT = 1_000_000_000_000
"""Largest weight of an event or count, as of money or milliseconds: training uses its logarithm."""

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MS = timedelta(milliseconds=1)
EARLIEST_MS = (datetime(1900, 1, 1, tzinfo=UTC) - EPOCH) // MS
LATEST_MS = (datetime(2201, 1, 1, tzinfo=UTC) - EPOCH) // MS
"""Times are at or after `EARLIEST_MS` and before `LATEST_MS`."""

NOTHING = frozenset(
    {"null", "\\n", "none", "nan", "nat", "n/a", "#n/a", "na", "<na>", "(null)", "nil", "undefined", "-"}
)
"""What exports write where there is no value, in lower case."""
NOTHING_AS_ID = NOTHING - {"-", "nil"}
"""Those of them that are not taken for an id."""


def printable_time(ms: int) -> str:
    """Return a time for a message."""
    return f"{EPOCH + ms * MS:%Y-%m-%d}"


FIX_LINE = "correct or delete the line"
CONVERT_FILE = "convert the file, or delete the line"


def id_problem(value: object, what: str, fix: str | None = None) -> str | None:
    """Return why a value cannot be an external id (found, expected, fix), or `None` if it can.

    An id is text that is not blank, has no NUL character, takes at most `MAX_ID_BYTES` in UTF-8, and can be encoded
    as UTF-8. JSON can spell lone surrogates (`"\\ud800"`), which cannot.

    Args:
        value: text, bytes or an integer; `None` if it was null.
        what: `user_id` or `item_id`.
        fix: the fix to name if the value is not from a line of a file.
    """
    line_fix = fix or FIX_LINE
    if value is None:
        return f"{what} is empty: expected an id such as 196; {line_fix}"
    try:
        text = value.decode() if isinstance(value, bytes) else str(value)
        n_bytes = len(text.encode())
    except UnicodeError:
        return f"{what} {quote_value(value)} is not UTF-8: expected text in UTF-8; {fix or CONVERT_FILE}"
    if not text.strip():
        return f"{what} is {'blank' if text else 'empty'}: expected an id such as 196; {line_fix}"
    if "\0" in text:
        return f"{what} {quote_value(text)} holds a NUL character: expected an id without one; {line_fix}"
    if n_bytes > MAX_ID_BYTES:
        return f"{what} {quote_value(text)} has {n_bytes:,} bytes: expected at most {MAX_ID_BYTES:,}; {line_fix}"
    return None


def text_problem(text: str, what: str) -> str | None:
    """Return why a title or category cannot be stored, or `None` if it can. PostgreSQL stores no NUL."""
    if "\0" in text:
        return f"{what} {quote_value(text)} holds a NUL character: expected text without one; {FIX_LINE}"
    return None


MAX_RECORD_BYTES = 1 << 20
"""Largest row of a text file, line breaks inside quotes included."""
MAX_COLUMNS = 4096
MAX_METADATA_BYTES = 1 << 16
"""Largest title, categories and attributes of one item or user in a file, together."""

MAX_EXPANSION = 250
"""How many times its compressed size a file in a zip may have. Ratings as text reach about 10."""
FREE_EXPANSION_BYTES = 64 << 20
"""Up to this size a file in a zip may have any expansion."""
MAX_ZIP_DIRECTORY_BYTES = 16 << 20
MAX_LZMA_WINDOW_BYTES = 64 << 20
MAX_PARQUET_FOOTER_BYTES = 16 << 20

MIN_LOAD_MEMORY_BYTES = 1 << 30
"""Memory that a load of small files may use; see `load_memory_bytes`."""
BASE_MEMORY_BYTES = 384 << 20
"""Part of it for the interpreter, its libraries, and the buffers of readers and writers."""

BYTES_PER_RATING = 40
"""Memory of a rating during a load: 24 bytes of columns, and the arrays that pick the latest of each pair."""
BYTES_PER_ID = 150
"""Memory of a distinct external id during a load, and its text comes on top."""
BYTES_PER_ROW = 1000
"""Memory of an item or user during a load, and its text comes on top."""
BYTES_PER_VALUE = 150
"""Memory of a category or attribute of an item or user, and its text comes on top."""


def load_memory_bytes(n_file_bytes: int) -> int:
    """Return the memory that a load may use: 1 GiB, or ten times the size of its files if that is more."""
    return max(MIN_LOAD_MEMORY_BYTES, 10 * n_file_bytes)


MAX_REMOTE_FILES = 10_000
"""Files of a folder in an object store that are copied to the disk for one load."""
