"""A table in many files: parts in one folder, or in folders such as `date=2024-01-31`, whose names are columns."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pyarrow as pa

from recsys.data.messages import quote_value
from recsys.errors import InputError
from recsys.files.entries import Entry, join_path
from recsys.files.parquet import ParquetFile
from recsys.files.tabular import Block, TabularFile

SUFFIXES = (".parquet", ".csv", ".tsv", ".jsonl", ".json", ".ndjson")
NO_VALUE = "__HIVE_DEFAULT_PARTITION__"


@dataclass(frozen=True)
class Part:
    """One file of a table.

    Attributes:
        entry: the file.
        values: name of a column → its value in all rows, from the names of the folders.
    """

    entry: Entry
    values: dict[str, str | None]


@dataclass(frozen=True)
class PartsEntry(Entry):
    """All files of a table; its bytes are those of all of them."""

    parts: tuple[Part, ...] = ()
    holder: object = field(default=None, repr=False, compare=False)
    """What keeps a temporary folder from being deleted."""

    @property
    def n_bytes(self) -> int:
        """Return the size of all files."""
        return self._n_bytes

    @property
    def n_stored_bytes(self) -> int:
        """Return the size of all files."""
        return self._n_bytes

    @cached_property
    def _n_bytes(self) -> int:
        return sum(part.entry.path.stat().st_size for part in self.parts)


def find_parts(folder: Path, shown: str, holder: object = None) -> PartsEntry | None:
    """Return the files of a folder that are parts of one table; `None` if a file is none.

    A part lies below a folder of the form NAME=VALUE, or is called part….

    Files and folders whose names begin with `_` or `.` are left out, as writers of such tables expect.
    """
    found: list[Part] = []
    for path in sorted(folder.rglob("*")):
        inside = path.relative_to(folder)
        if not path.is_file() or any(name[0] in "_." for name in inside.parts):
            continue
        entry = Entry(join_path(shown, inside.as_posix()), path)
        values = dict(name.split("=", 1) for name in inside.parts[:-1] if "=" in name)
        if entry.suffix not in SUFFIXES or not (values or path.name.startswith("part")):
            return None
        found.append(
            Part(entry, {name: None if value == NO_VALUE else unquote(value) for name, value in values.items()})
        )
    if not found:
        return None
    return PartsEntry(shown, folder, parts=tuple(found), holder=holder)


class PartsFile:
    """A table in many files, in the order of their names. Each is opened when its turn comes.

    Raises:
        InputError: the first file is not a table.
    """

    def __init__(self, entry: PartsEntry, open_part: Callable[[Entry], TabularFile]) -> None:
        self.entry = entry
        self.where = entry.name
        self._open_part = open_part
        self._first = open_part(entry.parts[0].entry)
        if self._first.header is None:
            raise InputError(f"{self._first.where}: no header: expected the names of the columns in every part")
        self._own = tuple(self._first.header)
        self._added = tuple(name for name in entry.parts[0].values if name not in self._own)
        self.header: tuple[str, ...] | None = (*self._own, *self._added)
        self.n_columns = len(self.header)

    def type_of(self, position: int) -> pa.DataType:
        """Return the type of the column at `position`; text where files have no types."""
        if position < len(self._own) and isinstance(self._first, ParquetFile):
            return self._first.type_of(position)
        return pa.string()

    def blocks(self, wanted: Sequence[int]) -> Iterator[Block]:
        """Return the columns at positions `wanted`, part by part; see `TabularFile`."""
        for part, table, own, places in self._each(wanted):
            for block in table.blocks(own):
                columns = [
                    block.columns[own.index(at)]
                    if isinstance(at, int)
                    else constant(part.values.get(at), len(block.line))
                    for at in places
                ]
                yield Block(columns, block.line, block.flaws, block.n_bytes, table.entry.name)

    def records(self, wanted: Sequence[int]) -> Iterator[tuple[int, list[Any] | str]]:
        """Return the rows of all parts; see `TabularFile`."""
        for part, table, own, places in self._each(wanted):
            for line, values in table.records(own):
                if isinstance(values, str):
                    yield line, values
                else:
                    yield line, [values[own.index(at)] if isinstance(at, int) else part.values.get(at) for at in places]

    def _each(self, wanted: Sequence[int]) -> Iterator[tuple[Part, TabularFile, list[int], list[int | str]]]:
        """Yield each part, its table, the positions to read there, and for each wanted column its position or name."""
        for part in self.entry.parts:
            table = self._first if part is self.entry.parts[0] else self._open_part(part.entry)
            header = table.header or ()
            places: list[int | str] = []
            for position in wanted:
                if position >= len(self._own):
                    places.append(self._added[position - len(self._own)])
                    continue
                name = self._own[position]
                if name not in header:
                    raise InputError(
                        f"{table.entry.name}: no column {quote_value(name)[1:-1]}, which {self._first.entry.name} has: "
                        "expected the same columns in every part; write the folder again"
                    )
                places.append(header.index(name))
            yield part, table, [at for at in places if isinstance(at, int)], places


def constant(value: str | None, n: int) -> pa.Array:
    """Return a column with one value in all rows."""
    return pa.repeat(pa.scalar(value, pa.string()), n)
