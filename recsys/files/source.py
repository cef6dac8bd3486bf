"""Ratings, items and users of a file, folder or zip: checked batches, and rejected rows with line and reason."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa

from recsys.data.budget import MemoryBudget
from recsys.data.checks import (
    Problems,
    check_ids,
    check_ratings,
    check_times,
    refuse_id_type,
    refuse_rating_type,
    refuse_time_type,
)
from recsys.data.dataset import NO_TIME
from recsys.data.messages import printable, quote_value
from recsys.data.rows import ItemRow, RatingBatch, Rejected, UserRow
from recsys.errors import InputError
from recsys.files.columns import ColumnPositions, Header
from recsys.files.discovery import (
    FORMATS,
    choose_ratings,
    find_metadata,
    open_items,
    open_ratings,
    open_users,
)
from recsys.files.entries import Folder, locate
from recsys.files.items import ItemFile, MovieLens100KItems
from recsys.files.parquet import ParquetFile
from recsys.files.tabular import Block, TabularFile
from recsys.files.users import UserFile

__all__ = ["FORMATS", "ItemRow", "RatingBatch", "Rejected", "Source", "UserRow", "open_source"]

BATCH_ROWS = 250_000


class Source:
    """Ratings, and perhaps items and users, to be read; `open_source` makes it.

    Attributes:
        name: the path that the user typed, without control characters.
        n_bytes: size of the ratings, uncompressed: the sum of the counts given to `on_bytes`.
        budget: counts the memory of everything that is read from this source.
    """

    def __init__(
        self,
        name: str,
        table: TabularFile,
        columns: ColumnPositions,
        items: ItemFile | MovieLens100KItems | None,
        users: UserFile | None,
        rating_range: tuple[float | None, float | None],
    ) -> None:
        self.name = name
        self.n_bytes = table.entry.n_bytes
        self._table = table
        self._columns = columns
        self._items = items
        self._users = users
        self._rating_range = rating_range
        files = {each.entry.file for each in (table, items, users) if each is not None}
        self.budget = MemoryBudget(sum(file.n_bytes for file in files))

    def ratings(
        self, on_reject: Callable[[Rejected], None], on_bytes: Callable[[int], None] | None = None
    ) -> Iterator[RatingBatch]:
        """Return the good ratings in the order of the file, at most `BATCH_ROWS` at once.

        Args:
            on_reject: called with each rejected row, before the batch it would be in. It may raise.
            on_bytes: called with the number of bytes just read.

        Raises:
            InputError: the file cannot be read to its end, changed meanwhile, or has no rows.
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
                batch, problems = check_block(block, slice(start, start + BATCH_ROWS), self._rating_range)
                for line, reason in sorted([*flaws, *problems]):
                    on_reject(Rejected(name, line, reason))
                flaws = ()
                if len(batch.line):
                    yield batch
        if n_rows == 0:
            raise InputError(f"{name}: no rows: expected at least one rating; write or copy the file again")

    def items(self, on_reject: Callable[[Rejected], None]) -> list[ItemRow]:
        """Return the items beside the ratings, each id once; an empty list if there is no file of items.

        Args:
            on_reject: called with each rejected row.

        Raises:
            InputError: the file of items cannot be read to its end, or takes too much memory.
        """
        return [] if self._items is None else self._items.read(on_reject, self.budget)

    def users(self, on_reject: Callable[[Rejected], None]) -> list[UserRow]:
        """Return the users beside the ratings, as `items` does."""
        return [] if self._users is None else self._users.read(on_reject, self.budget)


def open_source(
    path: str | Path,
    *,
    items: str | Path | None = None,
    users: str | Path | None = None,
    format: str | None = None,
    columns: Mapping[str, str] | None = None,
    rating_range: tuple[float | None, float | None] = (None, None),
) -> Source:
    """Open a file, folder or zip of ratings. Each file is opened once; only its first lines are read now.

    Of a folder or zip, the one file with a name for ratings is read, and the items and users beside it. Of a single
    file only the ratings are read, unless `items` or `users` is given. A path may continue inside a zip.

    Args:
        path: the file, folder or zip.
        items, users: where to read items and users instead.
        format: one of `FORMATS`; `None` is `auto`.
        columns: `user_id`, `item_id`, `rating` or `rated_at` → the column's name in the file, or its 1-based number.
        rating_range: ratings outside (lowest, highest) are rejected; `None` is no bound.

    Raises:
        InputError: the path does not exist, cannot be read, is ambiguous or of an unknown type, or a column is
            missing. The message is one line and names the file, what was expected and the fix.
    """
    format = format or "auto"
    if format not in FORMATS:
        raise InputError(f"format {format!r} is not known: expected one of {', '.join(FORMATS)}; correct --format")
    mapping = dict(columns or {})
    located = locate(path)
    ratings = choose_ratings(located, format) if isinstance(located, Folder) else located
    table = open_ratings(ratings, format, mapping)
    found = Header(table.where, table.header, table.n_columns).find_ratings(mapping)
    if isinstance(table, ParquetFile):
        refuse_types(table, found)
    beside = ratings.folder() if isinstance(located, Folder) else None
    item_entry = find_metadata("items", items, beside)
    user_entry = find_metadata("users", users, beside)
    return Source(
        printable(str(path)),
        table,
        found,
        None if item_entry is None else open_items(item_entry, mapping),
        None if user_entry is None else open_users(user_entry, mapping),
        rating_range,
    )


def refuse_types(table: ParquetFile, columns: ColumnPositions) -> None:
    """Refuse columns whose type cannot hold their role.

    Raises:
        InputError: there is such a column.
    """
    checks = [
        (columns.user_id, refuse_id_type),
        (columns.item_id, refuse_id_type),
        (columns.rating, refuse_rating_type),
        (columns.rated_at, refuse_time_type),
    ]
    for position, refuse in checks:
        if position is not None and (reason := refuse(table.type_of(position))):
            name = quote_value((table.header or ())[position])[1:-1]
            raise InputError(f"{table.where}: column {name} {reason}")


def check_block(
    block: Block, rows: slice, rating_range: tuple[float | None, float | None]
) -> tuple[RatingBatch, list[tuple[int, str]]]:
    """Return the good ratings of some rows of a block, and (line, reason) of the others."""
    line = block.line[rows]
    user_column, item_column, rating_column, *time_column = (column[rows] for column in block.columns)
    user_ids, user_problems = check_ids(user_column, "user_id")
    item_ids, item_problems = check_ids(item_column, "item_id")
    rating, rating_problems = check_ratings(rating_column, *rating_range)
    rated_at = np.full(len(line), NO_TIME)
    time_problems: Problems = {}
    if time_column:
        rated_at, time_problems = check_times(time_column[0])
    # Of several problems of a row, the first column's is reported.
    problems = time_problems | rating_problems | item_problems | user_problems
    if problems:
        good = np.ones(len(line), bool)
        good[list(problems)] = False
        mask = pa.array(good)
        batch = RatingBatch(user_ids.filter(mask), item_ids.filter(mask), rating[good], rated_at[good], line[good])
    else:
        batch = RatingBatch(user_ids, item_ids, rating, rated_at, line)
    return batch, [(int(line[i]), reason) for i, reason in problems.items()]
