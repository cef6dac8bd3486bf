"""Delimited text files, read in blocks of whole rows."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from recsys.data.limits import MAX_RECORD_BYTES
from recsys.data.messages import quote_value
from recsys.errors import InputError
from recsys.files.arrow_csv import MAX_FLAWS, parse_block
from recsys.files.dialect import Dialect
from recsys.files.entries import Entry
from recsys.files.records import RecordSplitter
from recsys.files.tabular import Block

BLOCK_BYTES = 1 << 22
"""Bytes that are parsed at once: about 200,000 ratings."""

MIN_TIME_CHARACTERS = 8
MIN_ROWS_OF_EQUAL_LENGTH = 20
CUT_SHORT = "the file may be cut short: copy it again, or end it with a line feed if it is complete"


@dataclass(slots=True)
class Part:
    """Whole lines of a file.

    Attributes:
        text: the lines, in UTF-8 unless the file is not.
        first_line: 1-based number of the first line.
        n_lines: number of lines.
        n_bytes: bytes of the file that were read for this part.
        at_end: whether the file ends here.
        unfinished: set by the reader of the part: the lines at its end whose row continues in the next part.
    """

    text: bytes
    first_line: int
    n_lines: int
    n_bytes: int
    at_end: bool
    unfinished: bytes = b""


class DelimitedFile:
    """A delimited text file.

    Attributes:
        entry: the file.
        where: the file and its first line, as messages begin.
        header: names of the columns, `None` if the file has none.
        n_columns: number of columns.
    """

    def __init__(self, entry: Entry, dialect: Dialect) -> None:
        self.entry = entry
        self.header = dialect.header
        self.n_columns = dialect.n_columns if dialect.header else dialect.n_filled
        self.where = f"{entry.name}:{dialect.first_line - 1 if dialect.header else dialect.first_line}"
        self._dialect = dialect

    def blocks(self, wanted: Sequence[int]) -> Iterator[Block]:
        """Return the columns at positions `wanted`, as strings, in blocks of bounded size.

        Raises:
            InputError: the file cannot be read to its end or changed meanwhile, a row is too long, or a quote is
                never closed.
        """
        last_column = LastColumn(wanted, self.n_columns)
        for part in self._parts():
            block = parse_block(part.text, part.n_lines, self._dialect, wanted, part.first_line, part.n_bytes)
            for each in [block] if block else self._split(part, wanted):
                yield last_column.check(each, part)

    def records(self, wanted: Sequence[int]) -> Iterator[tuple[int, list[str] | str]]:
        """Return (line, values at positions `wanted`) of each row, or (line, reason) if a row cannot be read.

        Raises:
            InputError: as for `blocks`.
        """
        for part in self._parts():
            splitter = self._splitter(part)
            for offset, values in splitter.records(wanted):
                yield part.first_line + offset, values
            part.unfinished = splitter.remaining()

    def _split(self, part: Part, wanted: Sequence[int]) -> Iterator[Block]:
        """Split a part row by row, in blocks of bounded size."""
        splitter = self._splitter(part)
        records = splitter.records(wanted)
        n_bytes, is_done = part.n_bytes, False
        while not is_done:
            flaws: list[tuple[int, str]] = []
            lines: list[int] = []
            columns: list[list[str]] = [[] for _ in wanted]
            while len(flaws) < MAX_FLAWS and len(lines) < 10 * MAX_FLAWS:
                offset, values = next(records, (-1, ""))
                if offset < 0:
                    is_done = True
                    break
                if isinstance(values, str):
                    flaws.append((part.first_line + offset, values))
                else:
                    lines.append(part.first_line + offset)
                    for column, value in zip(columns, values, strict=True):
                        column.append(value)
            if is_done:
                part.unfinished = splitter.remaining()
            arrays = [pa.array(column, pa.string()) for column in columns]
            yield Block(arrays, np.array(lines, np.int64), flaws, n_bytes)
            n_bytes = 0

    def _splitter(self, part: Part) -> RecordSplitter:
        return RecordSplitter(self.entry.name, part.text, self._dialect, part.first_line, part.at_end)

    def _parts(self) -> Iterator[Part]:
        """Return the file in parts of whole lines, and check at the end that it did not change."""
        line = self._dialect.first_line
        n_consumed = 0
        rest = b""
        n_bytes = 0
        with self.entry.open() as stream:
            stream.read(self._dialect.n_skipped_bytes)
            at_end = False
            while not at_end:
                chunk = stream.read(BLOCK_BYTES)
                at_end = len(chunk) < BLOCK_BYTES
                n_bytes += stream.n_consumed - n_consumed
                n_consumed = stream.n_consumed
                rest += chunk.decode("latin-1").encode() if self._dialect.encoding == "latin-1" else chunk
                end = len(rest) if at_end else rest.rfind(b"\n") + 1
                self._refuse_long_lines(rest, line)
                if not end:
                    continue
                text, rest = rest[:end], rest[end:]
                part = Part(text, line, text.count(b"\n") + (not text.endswith(b"\n")), n_bytes, at_end)
                yield part
                line += part.n_lines - part.unfinished.count(b"\n")
                rest = part.unfinished + rest
                n_bytes = 0
        self.entry.file.check_unchanged()

    def _refuse_long_lines(self, text: bytes, first_line: int) -> None:
        """Refuse a line of more than `MAX_RECORD_BYTES`."""
        start = 0
        while len(text) - start > MAX_RECORD_BYTES:
            end = text.rfind(b"\n", start, start + MAX_RECORD_BYTES + 1)
            if end < 0:
                line = first_line + text.count(b"\n", 0, start)
                raise InputError(
                    f"{self.entry.name}:{line}: the line is longer than "
                    f"{MAX_RECORD_BYTES:,} bytes: expected the rows of a table; check that the file is complete"
                )
            start = end + 1


class LastColumn:
    """Finds a last line that is cut short: it has no line feed and its last value is shorter than all others.

    A time that lost its last digits is still a time, but another one.

    Args:
        wanted: positions of the columns that are read.
        n_columns: number of columns of the file.
    """

    def __init__(self, wanted: Sequence[int], n_columns: int) -> None:
        self._position = list(wanted).index(n_columns - 1) if n_columns - 1 in wanted else None
        self._n_rows = 0
        self._n_empty = 0
        self._shortest: int | None = None
        self._longest = 0

    def check(self, block: Block, part: Part) -> Block:
        """Count a block's values, and move a last row that seems cut short to its flaws."""
        is_last = part.at_end and not part.text.endswith(b"\n")
        last_line = part.first_line + part.n_lines - 1
        flaws = list(block.flaws)
        if is_last and flaws and flaws[-1][0] == last_line:
            flaws[-1] = (last_line, f"{flaws[-1][1]}; {CUT_SHORT}")
            return Block(block.columns, block.line, flaws, block.n_bytes)
        if self._position is None or not len(block.line):
            return block
        column = block.columns[self._position]
        has_last = is_last and block.line[-1] == last_line
        lengths = pc.binary_length(column[:-1] if has_last else column).to_numpy(zero_copy_only=False)
        filled = lengths[lengths > 0]
        self._n_rows += len(lengths)
        self._n_empty += len(lengths) - len(filled)
        if len(filled):
            self._shortest = min(int(filled.min()), self._shortest or 1 << 30)
            self._longest = max(int(filled.max()), self._longest)
        if not has_last:
            return block
        value = column[-1].as_py()
        if not self._seems_cut(len(value.encode())):
            return block
        reason = f"the last value, {quote_value(value)}, is shorter than all values before it: {CUT_SHORT}"
        return Block(
            [each[:-1] for each in block.columns], block.line[:-1], [*flaws, (last_line, reason)], block.n_bytes
        )

    def _seems_cut(self, n_bytes: int) -> bool:
        """Return whether a last value of this length is shorter than a time, or than values of one length."""
        if self._shortest is None or n_bytes >= self._shortest or (n_bytes == 0 and self._n_empty):
            return False
        has_one_length = self._shortest == self._longest and self._n_rows >= MIN_ROWS_OF_EQUAL_LENGTH
        return self._shortest >= MIN_TIME_CHARACTERS or has_one_length
