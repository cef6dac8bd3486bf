"""Files of items: id, title, categories and year, in the forms that data sets use."""

import re
from collections.abc import Mapping, Sequence
from datetime import date
from typing import Any

from recsys.data.budget import MemoryBudget
from recsys.data.limits import text_problem
from recsys.data.messages import quote_value
from recsys.data.rows import ItemRow
from recsys.errors import InputError
from recsys.files.columns import Header
from recsys.files.entries import Entry
from recsys.files.metadata import (
    OnReject,
    RowChecker,
    categories_of,
    find_matching_column,
    id_text,
    refuse_types,
    separators_of,
    text_of,
)
from recsys.files.parquet import ParquetFile
from recsys.files.tabular import TabularFile

YEAR_IN_TITLE = re.compile(r"\(([0-9]{4})(?:[-–—][0-9]{0,4})?\)")
YEAR = re.compile(r"\b([0-9]{4})\b")

# u.item: movie id | title | release date | video release date | IMDb URL | one flag for each genre
N_COLUMNS_BEFORE_FLAGS = 5
MAX_GENRE_BYTES = 1 << 16


class ItemFile:
    """Items of CSV, TSV, `::` text or Parquet, by the names of the columns.

    Raises:
        InputError: there is no column of item ids, or its type cannot hold them.
    """

    def __init__(self, table: TabularFile, mapping: Mapping[str, str], own: Mapping[str, str] | None = None) -> None:
        self.entry = table.entry
        self._table = table
        found = Header(table.where, table.header, table.n_columns).find_items(mapping, own)
        positions = (found.item_id, found.title, found.categories, found.year)
        self._wanted = [position for position in positions if position is not None]
        self._present = [position is not None for position in positions]
        self._categories = found.categories
        self._separators = "|;"
        if isinstance(table, ParquetFile):
            refuse_types(table, found.item_id, found.categories)

    def read(self, on_reject: OnReject, budget: MemoryBudget) -> list[ItemRow]:
        """Return all items in the order of the file; of several rows with one id, the last.

        Args:
            on_reject: called with each rejected row.
            budget: counts the memory of the rows.

        Raises:
            InputError: the file cannot be read to its end, or its rows take too much memory.
            MostlyBadError: more rows were rejected than kept.
        """
        if self._categories is not None:
            column = (values for _, values in self._table.records([self._categories]))
            self._separators = separators_of(values[0] for values in column if not isinstance(values, str))
        checker = RowChecker(self.entry.name, "item", on_reject, budget)
        return checker.check(self._table.records(self._wanted), self._item, title_problem)

    def matching_column(self, rated: frozenset[str]) -> tuple[str, float] | None:
        """Return the column whose values are most often ids of rated items, and how often; `None` if none is.

        Args:
            rated: ids of the rated items.
        """
        return find_matching_column(self._table, rated)

    def _item(self, values: Sequence[Any]) -> ItemRow:
        given = iter(values)
        item_id, title, categories, year = (next(given) if present else None for present in self._present)
        title = text_of(title)
        return ItemRow(
            id_text(item_id), title, categories_of(categories, self._separators), year_of(year) or year_in_title(title)
        )


class MovieLens100KItems:
    """MovieLens 100K's `u.item`: Latin-1, no header, genres as flags that `u.genre` beside it names.

    Raises:
        InputError: there is no `u.genre`, or it does not name the flags.
    """

    def __init__(self, table: TabularFile) -> None:
        self.entry = table.entry
        self._table = table
        self._genres = read_genres(table.entry)
        if table.n_columns != N_COLUMNS_BEFORE_FLAGS + len(self._genres):
            raise InputError(
                f"{table.where}: {table.n_columns} fields: expected {N_COLUMNS_BEFORE_FLAGS} and one for each of "
                f"the {len(self._genres)} genres of u.genre; copy both from ml-100k.zip again"
            )

    def read(self, on_reject: OnReject, budget: MemoryBudget) -> list[ItemRow]:
        """Return all items, as `ItemFile.read` does."""
        checker = RowChecker(self.entry.name, "item", on_reject, budget)
        return checker.check(self._table.records(range(self._table.n_columns)), self._item, title_problem)

    def _item(self, values: Sequence[str]) -> ItemRow:
        item_id, title, released = values[:3]
        flags = values[N_COLUMNS_BEFORE_FLAGS:]
        genres = tuple(genre for genre, flag in zip(self._genres, flags, strict=True) if flag.strip() == "1")
        name = text_of(title)
        return ItemRow(item_id, name, genres, year_in_title(name) or year_of(released))


def title_problem(row: ItemRow) -> str | None:
    """Return why the title cannot be stored, or `None` if it can."""
    return text_problem(row.title, "title") if row.title else None


def year_of(value: object) -> int | None:
    """Return the year of a date, a number or text; `None` if it has none."""
    if isinstance(value, date):
        return value.year
    found = YEAR.search(text_of(value) or "")
    return int(found[1]) if found else None


def year_in_title(title: str | None) -> int | None:
    """Return 1995 for `Toy Story (1995)`; the last year if there are several."""
    years = YEAR_IN_TITLE.findall(title or "")
    return int(years[-1]) if years else None


def read_genres(items: Entry) -> tuple[str, ...]:
    """Return the names in `u.genre` beside `u.item`, in the order of their numbers.

    Raises:
        InputError: there is no `u.genre`, or a line of it is not a genre and the next number.
    """
    beside = items.folder().named("u.genre")
    if not beside:
        raise InputError(f"{items.name}: no u.genre beside it: expected the names of its genres; copy it there too")
    if beside[0].n_bytes > MAX_GENRE_BYTES:
        raise InputError(
            f"{beside[0].name} has {beside[0].n_bytes:,} bytes: expected at most {MAX_GENRE_BYTES:,}; "
            "copy it from ml-100k.zip again"
        )
    genres: dict[int, str] = {}
    for number, line in enumerate(beside[0].head.decode("latin-1").splitlines(), start=1):
        name, _, position = line.strip().rpartition("|")
        if not line.strip():
            continue
        if not name or not position.isdecimal() or int(position) != len(genres):
            raise InputError(
                f"{beside[0].name}:{number}: {quote_value(line)}: expected a genre and its number, "
                f"such as Action|{len(genres)}; copy it from ml-100k.zip again"
            )
        genres[int(position)] = name
    return tuple(genres.values())
