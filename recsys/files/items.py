"""Items in files: id, title, categories and year, however a format spells them."""

import re
from collections.abc import Mapping, Sequence
from datetime import date
from typing import Any

from recsys.data.limits import text_problem
from recsys.data.messages import quote_value
from recsys.data.rows import ItemRow
from recsys.errors import InputError
from recsys.files.archives import Entry
from recsys.files.columns import Header
from recsys.files.described import OnReject, categories_of, checked_rows, id_text, refuse_types, text_of
from recsys.files.parquet import ParquetTable
from recsys.files.table import Table

_YEAR_IN_TITLE = re.compile(r"\(([0-9]{4})(?:[-–—][0-9]{0,4})?\)")
_YEAR = re.compile(r"\b([0-9]{4})\b")

# u.item: movie id | title | release date | video release date | IMDb URL | one flag for each genre
_N_BEFORE_FLAGS = 5


class ItemTable:
    """Items from CSV, TSV, `::` text or Parquet, by the names of the columns.

    Raises:
        InputError: there is no column of item ids, or its type cannot hold them.
    """

    def __init__(self, table: Table, mapping: Mapping[str, str]) -> None:
        self._table = table
        found = Header(table.where, table.header, table.n_columns).find_items(mapping)
        positions = (found.item_id, found.title, found.categories, found.year)
        self._wanted = [position for position in positions if position is not None]
        self._present = [position is not None for position in positions]
        if isinstance(table, ParquetTable):
            refuse_types(table, found.item_id, found.categories)

    def read(self, on_reject: OnReject) -> list[ItemRow]:
        """All items, in the order of the file; of two with one id the later stands.

        Args:
            on_reject: told of every row that is set aside.

        Raises:
            InputError: the file cannot be read to its end.
            MostlyBadError: more rows were set aside than kept.
        """
        records = self._table.records(self._wanted)
        return checked_rows(self._table.entry.name, "item", records, self._item, _problem, on_reject)

    def _item(self, values: Sequence[Any]) -> ItemRow:
        given = iter(values)
        item_id, title, categories, year = (next(given) if present else None for present in self._present)
        title = text_of(title)
        return ItemRow(id_text(item_id), title, categories_of(categories), _year(year) or _year_in_title(title))


class MovieLens100KItems:
    """MovieLens 100K's `u.item`: Latin-1, no header, genres as flags that `u.genre` beside it names.

    Raises:
        InputError: there is no `u.genre`, or it does not name the flags.
    """

    def __init__(self, table: Table) -> None:
        self._table = table
        self._genres = _genres(table.entry)
        if table.n_columns != _N_BEFORE_FLAGS + len(self._genres):
            raise InputError(
                f"{table.where}: {table.n_columns} fields: expected {_N_BEFORE_FLAGS} and one for each of "
                f"the {len(self._genres)} genres of u.genre; copy both from ml-100k.zip again"
            )

    def read(self, on_reject: OnReject) -> list[ItemRow]:
        """All items, as `ItemTable.read` does."""
        records = self._table.records(range(self._table.n_columns))
        return checked_rows(self._table.entry.name, "item", records, self._item, _problem, on_reject)

    def _item(self, values: Sequence[str]) -> ItemRow:
        item_id, title, released = values[:3]
        flags = values[_N_BEFORE_FLAGS:]
        genres = tuple(genre for genre, flag in zip(self._genres, flags, strict=True) if flag.strip() == "1")
        name = text_of(title)
        return ItemRow(item_id, name, genres, _year_in_title(name) or _year(released))


def _problem(row: ItemRow) -> str | None:
    return text_problem(row.title, "title") if row.title else None


def _year(value: object) -> int | None:
    if isinstance(value, date):
        return value.year
    found = _YEAR.search(text_of(value) or "")
    return int(found[1]) if found else None


def _year_in_title(title: str | None) -> int | None:
    """1995 of `Toy Story (1995)`; the last where there are several."""
    years = _YEAR_IN_TITLE.findall(title or "")
    return int(years[-1]) if years else None


def _genres(items: Entry) -> tuple[str, ...]:
    """The names in `u.genre`, which lies beside `u.item`, by their numbers."""
    beside = items.folder().named("u.genre")
    if not beside:
        raise InputError(f"{items.name}: no u.genre beside it: expected the names of its genres; copy it there too")
    genres: dict[int, str] = {}
    for number, line in enumerate(beside[0].read().decode("latin-1").splitlines(), start=1):
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
