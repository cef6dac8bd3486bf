"""Tables in text, in blocks of whole lines: pyarrow where a block is plain, line by line where it is odd."""

import csv
import io
from collections.abc import Iterator, Sequence
from contextlib import suppress

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
from numpy.typing import NDArray

from recsys.data.messages import quote_names, quote_value
from recsys.errors import InputError
from recsys.files.archives import Entry, Stream
from recsys.files.dialect import Dialect, split_line
from recsys.files.table import Block

BLOCK_BYTES = 1 << 22
"""How much is parsed at once: some 200,000 ratings. No line may be longer."""

_SPARE_BYTES = b"\x1f\x1e\x1d\x1c\x01\x02\x03\x04\x05\x06\x07"


class TextTable:
    """A delimited text file."""

    def __init__(self, entry: Entry, dialect: Dialect) -> None:
        self.entry = entry
        self.header = dialect.header
        self.n_columns = dialect.n_columns
        self.where = f"{entry.name}:{dialect.first_line - 1 if dialect.header else 1}"
        self._dialect = dialect

    def blocks(self, wanted: Sequence[int]) -> Iterator[Block]:
        """The columns at positions `wanted`, as strings. Values may be quoted but hold no line breaks.

        Raises:
            InputError: the file cannot be read to its end, or a line is too long to be one of a table.
        """
        first_line = self._dialect.first_line
        n_bytes = self._dialect.n_skipped_bytes
        with self.entry.open() as stream:
            stream.read(n_bytes)
            for raw in _whole_lines(stream, self.entry.name):
                n_lines = raw.count(b"\n") + (not raw.endswith(b"\n"))
                n_bytes += len(raw)
                text = raw.decode("latin-1").encode() if self._dialect.encoding == "latin-1" else raw
                block = _parse_plain(text, n_lines, self._dialect, wanted, first_line, n_bytes)
                yield block or _parse_odd(text, self._dialect, wanted, first_line, n_bytes)
                first_line += n_lines
                n_bytes = 0

    def records(self, wanted: Sequence[int]) -> Iterator[tuple[int, list[str] | str]]:
        """Row by row (line, values at positions `wanted`), or (line, reason) where a row cannot be read.

        Quoted values may hold line breaks. All of the file is in memory: this is for items, of which there
        are few.

        Raises:
            InputError: the file cannot be read to its end.
        """
        raw = self.entry.read()[self._dialect.n_skipped_bytes :]
        if self._dialect.encoding == "latin-1":
            raw = raw.decode("latin-1").encode()
        return _rows(raw, self._dialect, wanted, self._dialect.first_line, multiline=True)


def _whole_lines(stream: Stream, name: str) -> Iterator[bytes]:
    rest = b""
    while chunk := stream.read(BLOCK_BYTES):
        end = chunk.rfind(b"\n") + 1
        if end:
            yield rest + chunk[:end]
            rest = chunk[end:]
        else:
            rest += chunk
        if len(rest) > BLOCK_BYTES:
            raise InputError(
                f"{name}: a line is longer than {BLOCK_BYTES} bytes: expected the rows of a table; "
                "check that the file is whole"
            )
    if rest:
        yield rest


def _parse_plain(
    text: bytes, n_lines: int, dialect: Dialect, wanted: Sequence[int], first_line: int, n_bytes: int
) -> Block | None:
    """Lines through pyarrow; None where its idea of a line could differ from ours."""
    if text.count(b"\r") != text.count(b"\r\n") or not _is_utf8(text):
        return None
    if dialect.quoted and text[text.rfind(b"\n", 0, -1) + 1 :].count(b'"') % 2:
        return None  # a quote left open in the last line would take the line feed into the value
    packed = _with_short_delimiter(text, dialect.delimiter)
    if packed is None:
        return None
    body, delimiter = packed
    odd: list[int] = []

    def set_aside(row: pa.csv.InvalidRow) -> str:
        odd.append(row.number - 1)
        return "skip"

    names = [str(position) for position in range(dialect.n_columns)]
    try:
        table = pa.csv.read_csv(
            io.BytesIO(body),
            read_options=pa.csv.ReadOptions(use_threads=False, column_names=names, block_size=len(body) + 1),
            parse_options=pa.csv.ParseOptions(
                delimiter=delimiter,
                quote_char='"' if dialect.quoted else False,
                ignore_empty_lines=False,  # so that rows and lines stay in step
                invalid_row_handler=set_aside,
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
        return None  # a quote left open took in the lines after it
    columns = [column.combine_chunks() for column in table.columns]
    rows = np.delete(np.arange(n_lines), odd)
    flaws: list[tuple[int, str]] = []
    if odd or body.startswith((b"\n", b"\r\n")) or b"\n\n" in body or b"\n\r\n" in body:
        lines = text.split(b"\n")
        blank = [i for i in _all_empty(columns) if not lines[rows[i]].strip()]
        columns = [column.take(pa.array(np.delete(np.arange(len(rows)), blank))) for column in columns]
        rows = np.delete(rows, blank)
        for i in odd:
            if lines[i].strip():
                fields = split_line(lines[i].decode(), dialect.delimiter, dialect.quoted)
                flaws.append((first_line + i, _wrong_count(lines[i], len(fields), dialect)))
    return Block(columns, rows + first_line, flaws, n_bytes)


def _parse_odd(text: bytes, dialect: Dialect, wanted: Sequence[int], first_line: int, n_bytes: int) -> Block:
    """The same line by line, in Python."""
    flaws: list[tuple[int, str]] = []
    lines: list[int] = []
    columns: list[list[str]] = [[] for _ in wanted]
    for line, found in _rows(text, dialect, wanted, first_line, multiline=False):
        if isinstance(found, str):
            flaws.append((line, found))
        else:
            lines.append(line)
            for column, value in zip(columns, found, strict=True):
                column.append(value)
    return Block([pa.array(column, pa.string()) for column in columns], np.array(lines, np.int64), flaws, n_bytes)


def _rows(
    text: bytes, dialect: Dialect, wanted: Sequence[int], first_line: int, multiline: bool
) -> Iterator[tuple[int, list[str] | str]]:
    """(line, wanted values) or (line, reason) of every line that is not blank."""
    # Bytes that are not UTF-8 become lone surrogates, so that they are rejected where they matter.
    lines = list(io.StringIO(text.decode("utf-8", "surrogateescape"), newline="\n"))
    is_utf8 = _is_utf8(text)
    if dialect.quoted:
        split = _split_quoted(lines, dialect, multiline)
    else:
        split = enumerate(split_line(line.rstrip("\r\n"), dialect.delimiter, quoted=False) for line in lines)
    for i, fields in split:
        line = first_line + i
        if isinstance(fields, str):
            yield line, fields
        elif len(fields) != dialect.n_columns:
            if lines[i].strip():
                yield line, _wrong_count(lines[i], len(fields), dialect)
        else:
            values = [fields[position] for position in wanted]
            yield line, values if is_utf8 else _not_utf8(values) or values


def _split_quoted(lines: Sequence[str], dialect: Dialect, multiline: bool) -> Iterator[tuple[int, list[str] | str]]:
    """(position, fields) or (position, reason) of every line, or of every record that spans several.

    A quote that is never closed costs its own line only: reading goes on at the next.
    """
    at = 0
    while at < len(lines):
        if '"' not in lines[at]:
            yield at, lines[at].rstrip("\r\n").split(dialect.delimiter)
            at += 1
            continue
        try:
            fields, n_lines = _split_record(lines, at, dialect, multiline)
        except csv.Error as error:
            yield at, f"{quote_value(lines[at].strip())} cannot be split ({error}): {_MEND_QUOTES}"
            at += 1
        else:
            yield at, fields
            at += n_lines


def _split_record(lines: Sequence[str], at: int, dialect: Dialect, multiline: bool) -> tuple[list[str], int]:
    """The fields of the record that starts at a line, and how many lines it takes. Raises csv.Error."""
    # The blank line at the end shows whether a quote was left open.
    reader = csv.reader([lines[at], ""], delimiter=dialect.delimiter)
    fields = next(reader)
    if reader.line_num == 1:
        return fields, 1
    if multiline:
        # Strict, or a quote that is never closed would end where the next quoted value begins.
        reader = csv.reader(map(lines.__getitem__, range(at, len(lines))), delimiter=dialect.delimiter, strict=True)
        with suppress(csv.Error):
            fields = next(reader)
            if len(fields) == dialect.n_columns:
                return fields, reader.line_num
    raise csv.Error("a quote is not closed")


_MEND_QUOTES = 'expected "…" around a value and "" for a quote inside it; correct or delete the line'


def _wrong_count(line: bytes | str, n_fields: int, dialect: Dialect) -> str:
    names = f" ({quote_names(dialect.header)})" if dialect.header and dialect.n_columns <= 4 else ""
    delimiter = "blanks" if dialect.delimiter == " " else repr(dialect.delimiter)
    return (
        f"{n_fields} field{'s' * (n_fields != 1)} in {quote_value(line.strip())}: "
        f"expected {dialect.n_columns}{names} between {delimiter}; correct or delete the line"
    )


def _not_utf8(values: Sequence[str]) -> str | None:
    for value in values:
        try:
            value.encode()
        except UnicodeEncodeError:
            return (
                f"{quote_value(value)} is not UTF-8: expected a file in UTF-8; "
                "convert it (iconv -f LATIN1 -t UTF-8) or delete the line"
            )
    return None


def _is_utf8(text: bytes) -> bool:
    if text.isascii():
        return True
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True


def _with_short_delimiter(text: bytes, delimiter: str) -> tuple[bytes, str] | None:
    """The same lines with a delimiter of one byte, which is all that pyarrow splits at."""
    if delimiter == " ":
        text = text.replace(b"\t", b" ")
        while b"  " in text:
            text = text.replace(b"  ", b" ")
        return text.replace(b"\n ", b"\n").replace(b" \n", b"\n").replace(b" \r\n", b"\r\n").strip(b" "), " "
    if delimiter == "::":
        spare = next((byte for byte in _SPARE_BYTES if byte not in text), None)
        return None if spare is None else (text.replace(b"::", bytes([spare])), chr(spare))
    return text, delimiter


def _all_empty(columns: Sequence[pa.Array]) -> NDArray[np.intp]:
    """Positions where every column is empty."""
    return np.flatnonzero(np.logical_and.reduce([pc.binary_length(column).to_numpy() == 0 for column in columns]))
