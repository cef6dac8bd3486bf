"""JSON lines: one object a line, as event logs and database exports have them."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from recsys.data.limits import FIX_LINE, MAX_COLUMNS, MAX_RECORD_BYTES
from recsys.data.messages import quote_value
from recsys.errors import InputError
from recsys.files.entries import HEAD_BYTES, Entry
from recsys.files.foreign import refuse_foreign
from recsys.files.tabular import Block

BLOCK_ROWS = 100_000
READ_BYTES = 1 << 20
EXPECTED = f'expected one JSON object such as {{"user_id": "196", "item_id": "50", "rating": 4}}; {FIX_LINE}'


class JsonLinesFile:
    """Objects of one line each. Ids and numbers keep the digits that they have in the file.

    Attributes:
        entry: the file.
        where: its name, as messages begin.
        header: the keys of the objects in the first 256 KiB, in the order in which they appear.
        n_columns: number of these.

    Raises:
        InputError: the file is empty, or its first line is not an object.
    """

    def __init__(self, entry: Entry) -> None:
        self.entry = entry
        self.where = f"{entry.name}:1"
        head = entry.head
        refuse_foreign(entry.name, head)
        lines = head.removeprefix(b"\xef\xbb\xbf").split(b"\n")
        if len(head) == HEAD_BYTES:
            lines.pop()  # cut in the middle
        names: dict[str, None] = {}
        for line in lines:
            record = parse(line) if line.strip() else None
            if isinstance(record, dict):
                names |= dict.fromkeys(record)
        if not names:
            raise InputError(f"{entry.name}:1: no JSON object: {EXPECTED}")
        if len(names) > MAX_COLUMNS:
            raise InputError(
                f"{entry.name}: {len(names):,} keys: expected at most {MAX_COLUMNS:,}; keep only the needed ones"
            )
        self.header: tuple[str, ...] | None = tuple(names)
        self.n_columns = len(names)

    def blocks(self, wanted: Sequence[int]) -> Iterator[Block]:
        """Return the values at positions `wanted` as strings, in blocks of bounded size.

        Raises:
            InputError: the file cannot be read to its end or changed meanwhile, or a line is too long.
        """
        names = [(self.header or ())[position] for position in wanted]
        columns: list[list[str | None]] = [[] for _ in names]
        lines: list[int] = []
        flaws: list[tuple[int, str]] = []
        n_bytes = 0
        for line, text, size in self._lines():
            n_bytes += size
            record = parse(text, keep_digits=True)
            if isinstance(record, str):
                flaws.append((line, record))
            else:
                lines.append(line)
                for column, name in zip(columns, names, strict=True):
                    column.append(as_text(record.get(name)))
            if len(lines) + len(flaws) >= BLOCK_ROWS:
                yield to_block(columns, lines, flaws, n_bytes)
                columns, lines, flaws, n_bytes = [[] for _ in names], [], [], 0
        yield to_block(columns, lines, flaws, n_bytes)

    def records(self, wanted: Sequence[int]) -> Iterator[tuple[int, list[Any] | str]]:
        """Return (line, values at positions `wanted`) of each object, or (line, reason) if a line is none.

        Raises:
            InputError: as for `blocks`.
        """
        names = [(self.header or ())[position] for position in wanted]
        for line, text, _ in self._lines():
            record = parse(text)
            yield line, record if isinstance(record, str) else [plain(record.get(name)) for name in names]

    def _lines(self) -> Iterator[tuple[int, bytes, int]]:
        """Return (line, text, bytes of the file that were read for it) of each line that is not blank."""
        number, rest = 0, b""
        with self.entry.open() as stream:
            n_consumed = 0
            while True:
                chunk = stream.read(READ_BYTES)
                n_new, n_consumed = stream.n_consumed - n_consumed, stream.n_consumed
                *lines, rest = (rest + chunk).split(b"\n")
                if not chunk:
                    lines = [rest]
                if len(rest) > MAX_RECORD_BYTES:
                    raise InputError(
                        f"{self.entry.name}:{number + len(lines) + 1}: the line is longer than "
                        f"{MAX_RECORD_BYTES:,} bytes: expected one object a line; write each on its own"
                    )
                for text in lines:
                    number += 1
                    text = text.removeprefix(b"\xef\xbb\xbf") if number == 1 else text
                    if text.strip():
                        yield number, text, n_new
                        n_new = 0
                if not chunk:
                    break
        self.entry.file.check_unchanged()


def is_json_lines(entry: Entry) -> bool:
    """Return whether a file holds JSON objects: by its name or its first bytes."""
    start = entry.head.removeprefix(b"\xef\xbb\xbf").lstrip()[:64]
    return start.startswith(b"{") and (
        entry.suffix in (".jsonl", ".ndjson", ".json") or start[1:].lstrip().startswith(b'"')
    )


def parse(line: bytes, keep_digits: bool = False) -> dict[str, Any] | str:
    """Return the object of a line, or why there is none.

    Args:
        keep_digits: whether numbers are returned as they are written.
    """
    try:
        text = line.decode()
        found = json.loads(text, parse_int=str, parse_float=str) if keep_digits else json.loads(text)
    except (UnicodeDecodeError, ValueError, RecursionError):
        return f"{quote_value(line.strip())} is not JSON: {EXPECTED}"
    return found if isinstance(found, dict) else f"{quote_value(line.strip())} is not a JSON object: {EXPECTED}"


def unwrapped(value: Any) -> Any:
    """Return the value inside MongoDB's `{"$oid": …}`, `{"$date": …}`, `{"$numberLong": …}`."""
    while isinstance(value, Mapping) and len(value) == 1 and next(iter(value)).startswith("$"):
        value = next(iter(value.values()))
    return value


def as_text(value: Any) -> str | None:
    """Return a value of a column of ratings as text; `None` for null."""
    value = unwrapped(value)
    if value is None or isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False) if isinstance(value, dict | list | bool) else str(value)


def plain(value: Any) -> Any:
    """Return a value of a column of metadata: text, a number, a truth value or a list; `None` for anything else."""
    value = unwrapped(value)
    if isinstance(value, list):
        return [member.get("name") if isinstance(member, dict) else member for member in value]
    return None if isinstance(value, dict) else value


def to_block(columns: list[list[str | None]], lines: list[int], flaws: list[tuple[int, str]], n_bytes: int) -> Block:
    """Return the rows that were collected. Text with lone surrogates becomes bytes, which are rejected as an id."""
    arrays = []
    for column in columns:
        try:
            arrays.append(pa.array(column, pa.string()))
        except UnicodeEncodeError:
            escaped = (None if text is None else text.encode("utf-8", "surrogatepass") for text in column)
            arrays.append(pa.array(escaped, pa.binary()))
    return Block(arrays, np.array(lines, np.int64), flaws, n_bytes)
