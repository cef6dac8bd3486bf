"""Files of ratings, items and users → checked Arrow batches, and the rows that were set aside with line and reason."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from recsys.data.checks import (
    Problems,
    check_ids,
    check_ratings,
    check_times,
    refuse_id_type,
    refuse_rating_type,
    refuse_time_type,
)
from recsys.data.columns import ITEM_COLUMNS, RATING_COLUMNS, USER_COLUMNS, normalize_name
from recsys.data.dataset import NO_TIME
from recsys.data.messages import join_names
from recsys.data.rows import ItemRow, RatingBatch, Rejected, UserRow
from recsys.errors import InputError
from recsys.files.archives import Entry, Folder, locate
from recsys.files.columns import ColumnPositions, Header
from recsys.files.dialect import DELIMITERS, sniff
from recsys.files.items import ItemTable, MovieLens100KItems
from recsys.files.parquet import MAGIC, ParquetTable
from recsys.files.table import Block, Table
from recsys.files.text import TextTable
from recsys.files.users import UserTable

__all__ = ["FORMATS", "ItemRow", "RatingBatch", "Rejected", "Source", "UserRow", "open_source"]

FORMATS = ("auto", "ml-100k", "ml-latest", "dat", "csv", "tsv", "parquet")
"""What `format` may be: `auto` looks at the file; `dat` is `::` between columns."""

BATCH_ROWS = 250_000

# What the ratings in a folder or zip are called, and what may stand between their columns.
_RATING_FILES: Mapping[str, tuple[str, ...]] = {
    "auto": ("u.data", "ratings.csv", "ratings.tsv", "ratings.dat", "ratings.parquet"),
    "ml-100k": ("u.data",),
    "ml-latest": ("ratings.csv",),
    "dat": ("ratings.dat",),
    "csv": ("ratings.csv",),
    "tsv": ("ratings.tsv", "u.data"),
    "parquet": ("ratings.parquet",),
}
_DELIMITERS: Mapping[str, tuple[str, ...]] = {
    "auto": DELIMITERS,
    "ml-100k": ("\t",),
    "ml-latest": (",",),
    "dat": ("::",),
    "csv": (",", ";", "|"),
    "tsv": ("\t",),
}
_TABLES = ("csv", "tsv", "dat", "parquet")
_DESCRIBED_IN: Mapping[str, tuple[str, ...]] = {
    "items": ("u.item", *(f"{name}.{kind}" for name in ("movies", "items") for kind in _TABLES)),
    "users": ("u.user", *(f"users.{kind}" for kind in _TABLES)),
}
"""What files of items and of users are called."""


class Source:
    """Something ratings, and perhaps items and users, can be read from; made by `open_source`.

    Attributes:
        name: what the user typed.
        n_bytes: size of the ratings, uncompressed: what the counts given to `on_bytes` add up to.
    """

    def __init__(
        self,
        name: str,
        table: Table,
        columns: ColumnPositions,
        items: ItemTable | MovieLens100KItems | None,
        users: UserTable | None,
        rating_range: tuple[float | None, float | None],
    ) -> None:
        self.name = name
        self.n_bytes = table.entry.n_bytes
        self._table = table
        self._columns = columns
        self._items = items
        self._users = users
        self._rating_range = rating_range

    def ratings(
        self, on_reject: Callable[[Rejected], None], on_bytes: Callable[[int], None] | None = None
    ) -> Iterator[RatingBatch]:
        """The good ratings, in the order of the file, at most `BATCH_ROWS` at once.

        Args:
            on_reject: told of every row that is set aside, before the batch it would be in. It may raise.
            on_bytes: told how many bytes have just been read.

        Raises:
            InputError: the file cannot be read to its end, or has no rows.
        """
        columns = self._columns
        wanted = [columns.user_id, columns.item_id, columns.rating]
        if columns.rated_at is not None:
            wanted.append(columns.rated_at)
        name = self._table.entry.name
        n_rows = 0
        for block in self._table.blocks(wanted):
            if on_bytes is not None:
                on_bytes(block.n_bytes)
            n_rows += len(block.line) + len(block.flaws)
            flaws = block.flaws
            for start in range(0, max(len(block.line), 1), BATCH_ROWS):
                batch, found = _check(block, slice(start, start + BATCH_ROWS), self._rating_range)
                for line, reason in sorted([*flaws, *found]):
                    on_reject(Rejected(name, line, reason))
                flaws = ()
                if len(batch.line):
                    yield batch
        if n_rows == 0:
            raise InputError(f"{name}: no rows: expected at least one rating; write or copy the file again")

    def items(self, on_reject: Callable[[Rejected], None]) -> list[ItemRow]:
        """The items that came with the ratings, each id once; empty where there is no file of items.

        Args:
            on_reject: told of every row that is set aside.

        Raises:
            InputError: the file of items cannot be read to its end.
        """
        return [] if self._items is None else self._items.read(on_reject)

    def users(self, on_reject: Callable[[Rejected], None]) -> list[UserRow]:
        """The users that came with the ratings, as `items` does."""
        return [] if self._users is None else self._users.read(on_reject)


def open_source(
    path: str | Path,
    *,
    items: str | Path | None = None,
    users: str | Path | None = None,
    format: str | None = None,
    columns: Mapping[str, str] | None = None,
    rating_range: tuple[float | None, float | None] = (None, None),
) -> Source:
    """Open a file, folder or zip of ratings. Only its first lines are read now.

    Of a folder or zip, the one file that is called like ratings is read, and the items and users beside it. Of a
    single file only the ratings are, unless `items` or `users` is given. A path may go on inside a zip.

    Args:
        path: the file, folder or zip.
        items, users: where to take items and users from instead.
        format: one of `FORMATS`; None is `auto`.
        columns: `user_id`, `item_id`, `rating` or `rated_at` → what the file calls the column, or its 1-based
            number.
        rating_range: ratings outside (lowest, highest) are rejected; None is no bound.

    Raises:
        InputError: nothing is there, it cannot be read, is ambiguous or of an unknown type, or a column is
            missing. The message is one line and names the file, what was expected and the fix.
    """
    format = format or "auto"
    if format not in FORMATS:
        raise InputError(f"format {format!r} is not known: expected one of {', '.join(FORMATS)}; correct --format")
    mapping = dict(columns or {})
    place = locate(path)
    ratings = _choose_ratings(place, format) if isinstance(place, Folder) else place
    table = _open_ratings(ratings, format, mapping)
    found = Header(table.where, table.header, table.n_columns).find_ratings(mapping)
    if isinstance(table, ParquetTable):
        _refuse_types(table, found)
    beside = ratings.folder() if isinstance(place, Folder) else None
    item_file = _find_described("items", items, beside)
    user_file = _find_described("users", users, beside)
    return Source(
        str(path),
        table,
        found,
        None if item_file is None else _open_items(item_file, mapping),
        None if user_file is None else _open_users(user_file, mapping),
        rating_range,
    )


def _choose_ratings(folder: Folder, format: str) -> Entry:
    candidates = folder.named(*_RATING_FILES[format])
    if len(candidates) == 1:
        return candidates[0]
    if candidates:
        raise InputError(
            f"{folder.name} holds {len(candidates)} files of ratings: expected one; "
            f"name the one to read: {join_names([entry.name for entry in candidates])}"
        )
    others = f"; it holds {join_names([entry.name for entry in folder.entries])}" if folder.entries else ""
    raise InputError(
        f"{folder.name} holds no ratings: expected {' or '.join(_RATING_FILES[format])}; name the file to read{others}"
    )


def _find_described(what: str, typed: str | Path | None, beside: Folder | None) -> Entry | None:
    """The file of items or users: the one that was named, or the one beside the ratings, if any.

    Args:
        what: `items` or `users`.
        beside: the folder of the ratings; None where what lies beside them is not meant.
    """
    there = beside if typed is None else locate(typed)
    if not isinstance(there, Folder):
        return there
    names = _DESCRIBED_IN[what]
    candidates = there.named(*names)
    if len(candidates) > 1:
        raise InputError(
            f"{there.name} holds {len(candidates)} files of {what}: expected one; "
            f"name one with --{what}: {join_names([entry.name for entry in candidates])}"
        )
    if not candidates and typed is not None:
        raise InputError(f"{typed} holds no {what}: expected {' or '.join(names)}; name the file with --{what}")
    return candidates[0] if candidates else None


def _open_ratings(entry: Entry, format: str, mapping: Mapping[str, str]) -> Table:
    is_parquet = _is_parquet(entry)
    if format == "parquet" or (is_parquet and format == "auto"):
        return ParquetTable(entry)
    if is_parquet:
        raise InputError(f"{entry.name} is Parquet: expected {format}; leave --format out, or give parquet")
    words = _words(RATING_COLUMNS) | {normalize_name(column) for column in mapping.values() if not column.isdecimal()}
    return TextTable(entry, sniff(entry, _DELIMITERS[format], words, min_columns=3))


def _open_items(entry: Entry, mapping: Mapping[str, str]) -> ItemTable | MovieLens100KItems:
    if _is_parquet(entry):
        return ItemTable(ParquetTable(entry), mapping)
    if entry.basename.endswith(".item"):
        return MovieLens100KItems(TextTable(entry, sniff(entry, ("|",), frozenset(), min_columns=3)))
    return ItemTable(TextTable(entry, sniff(entry, DELIMITERS, _words(ITEM_COLUMNS), min_columns=2)), mapping)


def _open_users(entry: Entry, mapping: Mapping[str, str]) -> UserTable:
    if _is_parquet(entry):
        return UserTable(ParquetTable(entry), mapping)
    words = _words(USER_COLUMNS)
    if entry.basename.endswith(".user"):
        return UserTable(TextTable(entry, sniff(entry, ("|",), words, min_columns=3)), mapping)
    # Only MovieLens' own files have no header.
    has_header = None if entry.basename.endswith(".dat") else True
    return UserTable(TextTable(entry, sniff(entry, DELIMITERS, words, 2, has_header)), mapping)


def _is_parquet(entry: Entry) -> bool:
    """By its first bytes; an empty or broken file is Parquet if it is called so."""
    with entry.open() as stream:
        return stream.read(len(MAGIC)) == MAGIC or entry.basename.endswith(".parquet")


def _words(columns: Mapping[str, Sequence[str]]) -> frozenset[str]:
    return frozenset(normalize_name(word) for words in columns.values() for word in words)


def _refuse_types(table: ParquetTable, columns: ColumnPositions) -> None:
    checks = [
        (columns.user_id, refuse_id_type),
        (columns.item_id, refuse_id_type),
        (columns.rating, refuse_rating_type),
        (columns.rated_at, refuse_time_type),
    ]
    for position, refuse in checks:
        if position is not None and (reason := refuse(table.type_of(position))):
            raise InputError(f"{table.where}: column {(table.header or ())[position]} {reason}")


def _check(
    block: Block, rows: slice, rating_range: tuple[float | None, float | None]
) -> tuple[RatingBatch, list[tuple[int, str]]]:
    """The good ratings among some rows of a block, and (line, reason) of the others."""
    line = block.line[rows]
    user_column, item_column, rating_column, *time_column = (column[rows] for column in block.columns)
    user_ids, user_problems = check_ids(user_column, "user_id")
    item_ids, item_problems = check_ids(item_column, "item_id")
    rating, rating_problems = check_ratings(rating_column, *rating_range)
    rated_at = np.full(len(line), NO_TIME)
    time_problems: Problems = {}
    if time_column:
        rated_at, time_problems = check_times(time_column[0])
    # Of several things wrong with a row the first is told.
    problems = time_problems | rating_problems | item_problems | user_problems
    if problems:
        good = np.ones(len(line), bool)
        good[list(problems)] = False
        mask = pa.array(good)
        batch = RatingBatch(user_ids.filter(mask), item_ids.filter(mask), rating[good], rated_at[good], line[good])
    else:
        batch = RatingBatch(user_ids, item_ids, rating, rated_at, line)
    return batch, [(int(line[i]), reason) for i, reason in problems.items()]
