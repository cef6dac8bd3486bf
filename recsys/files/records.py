"""Rows of delimited text, line by line, with line breaks inside quotes.

Nothing inside a quoted field is ever a row. A line whose quotes are wrong is rejected together with the lines that may
belong to its field; if no later line shows where the field ends, the file is refused.
"""

import csv
import io
import re
from collections.abc import Iterator, Sequence

from recsys.data.limits import FIX_LINE, MAX_RECORD_BYTES
from recsys.data.messages import quote_names, quote_value
from recsys.errors import InputError
from recsys.files.dialect import Dialect, split_escaped, split_line
from recsys.files.foreign import is_utf8

Record = tuple[int, list[str] | str]
"""The offset of a row's first line in a text, and its fields; or the reason why it has none."""

DECIMAL_COMMA = re.compile(r"(?:^|,)[0-9]+,[0-9]+(?:,|\s*$)")
FIX_QUOTES = f'expected "…" around a value and "" for a quote inside it; {FIX_LINE}'


class RecordSplitter:
    """Splits a text into rows.

    Args:
        text: whole lines in UTF-8, or with bytes that are not.
        first_line: 1-based number of the first line.
        at_end: whether the text ends where the file ends.

    Attributes:
        n_used: lines that were split so far. Lines that remain belong to a field whose end is not in the text.
    """

    def __init__(self, name: str, text: bytes, dialect: Dialect, first_line: int, at_end: bool) -> None:
        # Bytes that are not UTF-8 become lone surrogates, so that they are rejected only in a column that is read.
        self._lines = list(io.StringIO(text.decode("utf-8", "surrogateescape"), newline="\n"))
        self._is_utf8 = is_utf8(text)
        self._name = name
        self._dialect = dialect
        self._first_line = first_line
        self._at_end = at_end
        self.n_used = 0

    def records(self, wanted: Sequence[int]) -> Iterator[Record]:
        """Return (offset, values at positions `wanted`) or (offset, reason) of each row that is not blank.

        Raises:
            InputError: a quote is never closed.
        """
        dialect = self._dialect
        while self.n_used < len(self._lines):
            offset, line = self.n_used, self._lines[self.n_used]
            if dialect.quoted and '"' in line:
                record = self._quoted_record(offset)
                if record is None:
                    return
                fields, n_lines = record
            else:
                fields, n_lines = split_line(line.rstrip("\r\n"), dialect.delimiter, quoted=False), 1
            self.n_used += n_lines
            if isinstance(fields, str):
                yield offset, fields
                continue
            if dialect.padded:
                fields = [field.strip() for field in fields]
            if len(fields) > dialect.n_columns and not any(map(str.strip, fields[dialect.n_columns :])):
                del fields[dialect.n_columns :]  # delimiters at the end of the line
            if len(fields) != dialect.n_columns:
                if line.strip():
                    yield offset, wrong_count(line, len(fields), dialect)
            else:
                values = [fields[position] for position in wanted]
                yield offset, values if self._is_utf8 else self._not_utf8(values) or values

    def remaining(self) -> bytes:
        """Return the lines that were not used."""
        return "".join(self._lines[self.n_used :]).encode("utf-8", "surrogateescape")

    def _quoted_record(self, at: int) -> tuple[list[str] | str, int] | None:
        """Return the fields (or the reason why there are none) and the number of lines of a row with quotes.

        `None` if the text ends inside a quoted field and more text follows.
        """
        if self._dialect.escaped:
            return self._escaped_record(at)
        # Strict, or a quote that is never closed would end where the next quoted value begins.
        following = map(self._lines.__getitem__, range(at, len(self._lines)))
        dialect = self._dialect
        reader = csv.reader(
            self._bounded(following), delimiter=dialect.delimiter, strict=True, skipinitialspace=dialect.padded
        )
        if '\\"' in self._lines[at]:
            fields_if_escaped = split_escaped(self._lines[at].rstrip("\r\n"), dialect.delimiter)
            if isinstance(fields_if_escaped, list) and len(fields_if_escaped) == dialect.n_columns:
                try:
                    plain = next(csv.reader([self._lines[at]], delimiter=dialect.delimiter, strict=True))
                except csv.Error:
                    plain = []
                if len(plain) != dialect.n_columns:
                    return fields_if_escaped, 1
        try:
            fields = next(reader)
        except csv.Error as error:
            n_lines, reason = max(reader.line_num, 1), str(error)
        else:
            escaped = (
                reader.line_num == 1 and self._lines[at].rstrip().endswith('\\"') and self._is_open(self._lines[at])
            )
            end = self._end_of_broken_field(at) if escaped else None
            if end is None:
                return fields, reader.line_num
            return self._broken(at, "a quote is not closed"), end - at
        if n_lines == 1 and not self._is_open(self._lines[at]):
            # Characters after a closing quote, as in `"Crocodile" Dundee`: taken as they are.
            try:
                return next(csv.reader([self._lines[at]], delimiter=self._dialect.delimiter)), 1
            except csv.Error:
                return self._broken(at, reason), 1
        end = self._end_of_broken_field(at)
        if end is not None:
            return self._broken(at, "a quote is not closed"), end - at
        size = sum(map(len, self._lines[at:]))
        if not self._at_end and size <= MAX_RECORD_BYTES:
            return None
        until = "the end of the file" if size <= MAX_RECORD_BYTES else f"{MAX_RECORD_BYTES:,} bytes later"
        raise InputError(
            f"{self._name}:{self._first_line + at}: {quote_value(self._lines[at].strip())} opens a quote that is not "
            f'closed until {until}: expected "…" around a value and "" for a quote inside it; '
            "correct the line, or copy the file again if it was cut short"
        )

    def _escaped_record(self, at: int) -> tuple[list[str] | str, int] | None:
        """Return what `_quoted_record` does, in a file in which a backslash before a quote escapes it."""
        text = ""
        for end in range(at, len(self._lines)):
            text += self._lines[end]
            if len(text) > MAX_RECORD_BYTES:
                break
            fields = split_escaped(text.rstrip("\r\n"), self._dialect.delimiter)
            if isinstance(fields, list):
                return fields, end - at + 1
            if isinstance(fields, str):
                stop = self._end_of_broken_field(at) if self._is_open(self._lines[at]) else end + 1
                return self._broken(at, fields), (stop or end + 1) - at
        if not self._at_end and len(text) <= MAX_RECORD_BYTES:
            return None
        raise InputError(
            f"{self._name}:{self._first_line + at}: {quote_value(self._lines[at].strip())} opens a quote that is not "
            'closed until the end of the file: expected "…" around a value and \\" for a quote inside it; '
            "correct the line, or copy the file again if it was cut short"
        )

    def _end_of_broken_field(self, at: int) -> int | None:
        """Return the line after the lines that may belong to the field which the line at `at` leaves open."""
        size = len(self._lines[at])
        for end in range(at + 1, len(self._lines)):
            line = self._lines[end]
            size += len(line)
            if size > MAX_RECORD_BYTES:
                return None
            if self._is_complete_row(line):
                return end
            if self._is_open(line):  # an odd number of quotes closes the field
                return end + 1
        return None

    def _is_complete_row(self, line: str) -> bool:
        """Return whether a line cannot be inside a quoted field: there, a quote that is not doubled would end it."""
        if not line.startswith('"') or line.startswith('""') or self._is_open(line):
            return False
        try:
            return (
                len(next(csv.reader([line], delimiter=self._dialect.delimiter, strict=True))) == self._dialect.n_columns
            )
        except csv.Error:
            return False

    @staticmethod
    def _bounded(lines: Iterator[str]) -> Iterator[str]:
        """Return lines up to `MAX_RECORD_BYTES`."""
        size = 0
        for line in lines:
            size += len(line)
            if size > MAX_RECORD_BYTES:
                return
            yield line

    @staticmethod
    def _is_open(line: str) -> bool:
        """Return whether a line holds an odd number of quotes, without those after a backslash."""
        return (line.count('"') - line.count('\\"')) % 2 == 1

    def _broken(self, at: int, reason: str) -> str:
        return f"{quote_value(self._lines[at].strip())} cannot be split ({reason}): {FIX_QUOTES}"

    @staticmethod
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


def wrong_count(line: bytes | str, n_fields: int, dialect: Dialect) -> str:
    """Return why a line with another number of fields is not a row."""
    names = f" ({quote_names(dialect.header)})" if dialect.header and dialect.n_columns <= 4 else ""
    delimiter = "blanks" if dialect.delimiter == " " else repr(dialect.delimiter)
    text = line.decode("utf-8", "replace") if isinstance(line, bytes) else line
    is_decimal = dialect.delimiter == "," and n_fields > dialect.n_columns and DECIMAL_COMMA.search(text)
    fix = FIX_LINE + ", or save the file with semicolons if commas are decimal ones" if is_decimal else FIX_LINE
    return (
        f"{n_fields} field{'s' * (n_fields != 1)} in {quote_value(line.strip())}: "
        f"expected {dialect.n_columns}{names} between {delimiter}; {fix}"
    )
