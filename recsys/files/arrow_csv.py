"""Blocks of delimited text parsed by Arrow, if its result is certain to be that of `records.RecordSplitter`."""

import io
import re
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from recsys.files.dialect import Dialect, split_line
from recsys.files.foreign import is_utf8
from recsys.files.records import wrong_count
from recsys.files.tabular import Block

MAX_FLAWS = 20_000
"""Rows that may be wrong in one block; more take too much memory at once."""

SPARE_BYTES = b"\x1f\x1e\x1d\x1c\x01\x02\x03\x04\x05\x06\x07"


def parse_block(
    text: bytes, n_lines: int, dialect: Dialect, wanted: Sequence[int], first_line: int, n_bytes: int
) -> Block | None:
    """Parse whole lines; `None` if Arrow could split them in another way than we do.

    Args:
        text: whole lines.
        wanted: positions of the columns to return.
        first_line: 1-based number of the first line.
        n_bytes: bytes of the file that the lines took.
    """
    if text.count(b"\r") != text.count(b"\r\n") or not is_utf8(text):
        return None
    if dialect.quoted and b'"' in text:
        if dialect.padded or b'\\"' in text:
            return None
        if text[text.rfind(b"\n", 0, -1) + 1 :].count(b'"') % 2:
            return None  # a quote that the last line leaves open would take the line feed into the value
        if stray_quote(dialect.delimiter).search(text):
            return None
    packed = with_short_delimiter(text, dialect.delimiter)
    if packed is None:
        return None
    body, delimiter = packed
    odd: list[int] = []

    def skip(row: pa.csv.InvalidRow) -> str:
        odd.append(row.number - 1)
        return "skip" if len(odd) <= MAX_FLAWS else "error"

    names = [str(position) for position in range(dialect.n_columns)]
    try:
        table = pa.csv.read_csv(
            io.BytesIO(body),
            read_options=pa.csv.ReadOptions(use_threads=False, column_names=names, block_size=len(body) + 1),
            parse_options=pa.csv.ParseOptions(
                delimiter=delimiter,
                quote_char='"' if dialect.quoted else False,
                ignore_empty_lines=False,  # rows and lines keep the same numbers
                invalid_row_handler=skip,
            ),
            convert_options=pa.csv.ConvertOptions(
                check_utf8=False,
                column_types=dict.fromkeys(names, pa.string()),
                include_columns=[names[position] for position in wanted],
                null_values=[],
                strings_can_be_null=False,
            ),
        )
    except pa.ArrowInvalid:
        return None
    if len(table) + len(odd) != n_lines:
        return None  # a quoted value holds line breaks
    columns = [column.combine_chunks() for column in table.columns]
    if dialect.padded:
        columns = [pc.utf8_trim_whitespace(column) for column in columns]
    rows = np.delete(np.arange(n_lines), odd)
    flaws: list[tuple[int, str]] = []
    if odd or body.startswith((b"\n", b"\r\n")) or b"\n\n" in body or b"\n\r\n" in body:
        lines = text.split(b"\n")
        empty = np.logical_and.reduce([pc.binary_length(column).to_numpy() == 0 for column in columns])
        blank = [i for i in np.flatnonzero(empty) if not lines[rows[i]].strip()]
        columns = [column.take(pa.array(np.delete(np.arange(len(rows)), blank))) for column in columns]
        rows = np.delete(rows, blank)
        for i in odd:
            if lines[i].strip():
                fields = split_line(lines[i].decode(), dialect.delimiter, dialect.quoted)
                if not any(map(str.strip, fields[dialect.n_columns :])) and len(fields) > dialect.n_columns:
                    return None  # delimiters at the end of a line
                flaws.append((first_line + i, wrong_count(lines[i], len(fields), dialect)))
    return Block(columns, rows + first_line, flaws, n_bytes)


def stray_quote(delimiter: str) -> re.Pattern[bytes]:
    """Return a pattern of quotes that are neither at the ends of a field nor doubled."""
    d = re.escape(delimiter.encode())
    inside = rb'[^%b\n"](?:"")*"[^%b\r\n"]' % (d, d)  # an odd number inside a field
    after = rb'(?:^|[%b\n])(?:"")+[^%b\r\n"]' % (d, d)  # an even number at the start of a field
    at_end = rb'\\"\r?\n'  # perhaps escaped
    return re.compile(b"|".join((inside, after, at_end)))


def with_short_delimiter(text: bytes, delimiter: str) -> tuple[bytes, str] | None:
    """Return the lines with a delimiter of one byte, as Arrow needs; `None` if no byte is free for it."""
    if delimiter == " ":
        text = text.replace(b"\t", b" ")
        while b"  " in text:
            text = text.replace(b"  ", b" ")
        return text.replace(b"\n ", b"\n").replace(b" \n", b"\n").replace(b" \r\n", b"\r\n").strip(b" "), " "
    if delimiter == "::":
        spare = next((byte for byte in SPARE_BYTES if byte not in text), None)
        return None if spare is None else (text.replace(b"::", bytes([spare])), chr(spare))
    return text, delimiter
