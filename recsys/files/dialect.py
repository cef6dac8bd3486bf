"""The dialect of a text file: its delimiter, quotes, encoding and header, found from its first lines."""

import codecs
import csv
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from recsys.data.limits import MAX_COLUMNS
from recsys.data.messages import quote_value
from recsys.errors import InputError
from recsys.files.columns import looks_like_header
from recsys.files.entries import HEAD_BYTES, Entry
from recsys.files.foreign import refuse_foreign

DELIMITERS = ("::", "\t", ",", ";", "|", " ")
"""Possible delimiters, the most reliable first; " " is any run of blanks and tabs."""

N_SAMPLED = 100
"""Number of rows that are compared."""

BLANKS = re.compile(r"[ \t]+")
QUOTED_FIELD = re.compile(r'(?:^|[,;|\t])"')


@dataclass(frozen=True, slots=True)
class Dialect:
    """How to read the lines of one text file.

    Attributes:
        delimiter: one of `DELIMITERS`.
        quoted: whether a field that starts with `"` extends to the closing `"`, with `""` for a quote inside.
        encoding: `utf-8` or `latin-1`.
        header: names of the columns, `None` if the first line is data.
        n_columns: number of fields of a row.
        first_line: 1-based number of the first line after the header.
        n_skipped_bytes: bytes before that line: byte order mark, blank lines and header.
    """

    delimiter: str
    quoted: bool
    encoding: str
    header: tuple[str, ...] | None
    n_columns: int
    first_line: int
    n_skipped_bytes: int


def sniff(
    entry: Entry,
    delimiters: Sequence[str],
    words: frozenset[str],
    min_columns: int,
    has_header: bool | None = None,
) -> Dialect:
    """Find the dialect of a text file from its first bytes.

    The delimiter is the one with which most of the first rows have the same number of fields. `::` files and
    MovieLens' `u.item` and `u.user` are UTF-8 if all of the file is, else Latin-1; all other files are UTF-8.

    Args:
        delimiters: the possible ones of `DELIMITERS`.
        words: known names of columns, normalized; see `looks_like_header`.
        min_columns: a delimiter that gives fewer columns is chosen only if no other one fits.
        has_header: whether the first line names the columns; `None` decides by its content.

    Raises:
        InputError: the file is empty, has only a header or too many columns, or is not a table in text.
    """
    head = entry.head
    is_whole = len(head) < HEAD_BYTES
    refuse_foreign(entry.name, head)
    n_mark_bytes = len(codecs.BOM_UTF8) if head.startswith(codecs.BOM_UTF8) else 0
    lines = head[n_mark_bytes:].split(b"\n")
    if not is_whole:
        lines.pop()  # cut in the middle
    filled = [i for i, line in enumerate(lines) if line.strip()]
    if not filled:
        if is_whole:
            raise InputError(f"{entry.name} is empty: expected ratings, items or users; write or copy the file again")
        raise not_a_table(entry, 1, head[n_mark_bytes:])
    is_movielens = entry.suffix in (".item", ".user")
    # One character per byte: the result does not depend on the encoding.
    sample = [lines[i].decode("latin-1").rstrip("\r") for i in filled[: 2 * N_SAMPLED]]
    if not is_movielens:
        sample = join_quoted_lines(sample)
    sample = sample[:N_SAMPLED]
    delimiter = find_delimiter(sample, delimiters, not is_movielens, min_columns)
    if delimiter is None:
        raise not_a_table(entry, filled[0] + 1, lines[filled[0]])
    quoted = not is_movielens and delimiter not in ("::", " ")
    fields = [split_line(line, delimiter, quoted) for line in sample]
    encoding = "utf-8"
    if (delimiter == "::" or is_movielens) and not is_all_utf8(entry):
        encoding = "latin-1"
    if has_header is None:
        has_header = looks_like_header(fields[0], fields[1:], words)
    n_columns = len(fields[0]) if has_header else Counter(map(len, fields)).most_common(1)[0][0]
    if n_columns > MAX_COLUMNS:
        raise InputError(
            f"{entry.name}:{filled[0] + 1}: {n_columns:,} columns: expected at most {MAX_COLUMNS:,}; "
            "keep only the columns that are needed"
        )
    if not has_header:
        return Dialect(delimiter, quoted, encoding, None, n_columns, 1, n_mark_bytes)
    if len(filled) == 1 and is_whole:
        raise InputError(
            f"{entry.name}:{filled[0] + 1}: a header and no rows: expected rows after {quote_value(sample[0])}; "
            "write the file again"
        )
    header = tuple(name.encode("latin-1").decode(encoding, "replace").strip() for name in fields[0])
    last = filled[sample[0].count("\n")]  # a name in quotes may hold line breaks
    n_header_bytes = sum(len(line) + 1 for line in lines[: last + 1])
    return Dialect(delimiter, quoted, encoding, header, n_columns, last + 2, n_mark_bytes + n_header_bytes)


def split_line(line: str, delimiter: str, quoted: bool) -> list[str]:
    """Return the fields of one line."""
    if delimiter == " ":
        return BLANKS.split(line.strip(" \t\r\n"))
    if quoted and '"' in line:
        try:
            return next(csv.reader([line], delimiter=delimiter))
        except csv.Error:
            pass
    return line.split(delimiter)


def join_quoted_lines(lines: Sequence[str]) -> list[str]:
    """Return lines with those joined that a quoted field with line breaks spans."""
    joined: list[str] = []
    at = 0
    while at < len(lines):
        end = at + 1
        if QUOTED_FIELD.search(lines[at]) and lines[at].count('"') % 2:
            n_quotes = lines[at].count('"')
            while end < len(lines) and n_quotes % 2:
                n_quotes += lines[end].count('"')
                end += 1
            if n_quotes % 2:  # never closed: a stray quote
                end = at + 1
        joined.append("\n".join(lines[at:end]))
        at = end
    return joined


def find_delimiter(lines: Sequence[str], delimiters: Sequence[str], quotable: bool, min_columns: int) -> str | None:
    """Return the delimiter with which most lines have the same number of fields; `None` if there is none."""
    agreeing: dict[str, tuple[bool, int]] = {}
    for delimiter in delimiters:
        quoted = quotable and delimiter not in ("::", " ")
        counts = Counter(len(split_line(line, delimiter, quoted)) for line in lines)
        n_columns, n_lines = counts.most_common(1)[0]
        # Prose has blanks too, but not the same number in each line.
        enough = len(lines) / 2 if delimiter == " " else 0
        if n_columns >= (min_columns if delimiter == " " else 2) and n_lines > enough:
            agreeing[delimiter] = (n_columns >= min_columns, n_lines)
    return max(agreeing, key=agreeing.__getitem__) if agreeing else None


def is_all_utf8(entry: Entry) -> bool:
    """Return whether all of a file is UTF-8; reads it once."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        for chunk in entry.chunks(1 << 22):
            decoder.decode(chunk)
        decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        return False
    return True


def not_a_table(entry: Entry, line: int, text: bytes) -> InputError:
    """Return the error of a file whose lines have no columns."""
    return InputError(
        f"{entry.name}:{line}: {quote_value(text)} is not a row of a table: expected columns between commas, tabs, "
        "semicolons, pipes, '::' or blanks, or a Parquet file; check the file and --format"
    )
