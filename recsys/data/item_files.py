"""Items in files: id, title, categories and year, however a format spells them."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import date
from typing import Any

import pyarrow as pa

from recsys.data.archives import Entry
from recsys.data.checks import id_problem, refuse_ids, text_problem
from recsys.data.columns import find_item_columns
from recsys.data.parquet import ParquetTable
from recsys.data.rows import ItemRow, Rejected, shown
from recsys.data.table import Table
from recsys.errors import InputError, MostlyBadError

NO_GENRES = "(no genres listed)"
"""What MovieLens writes for none."""

_YEAR_IN_TITLE = re.compile(r"\(([0-9]{4})(?:[-–—][0-9]{0,4})?\)")
_YEAR = re.compile(r"\b([0-9]{4})\b")

# u.item: movie id | title | release date | video release date | IMDb URL | one flag for each genre
_N_BEFORE_FLAGS = 5

OnReject = Callable[[Rejected], None]


class ItemTable:
    """Items from CSV, TSV, `::` text or Parquet, by the names of the columns.

    Raises:
        InputError: there is no column of item ids, or its type cannot hold them.
    """

    def __init__(self, table: Table, mapping: Mapping[str, str]) -> None:
        self._table = table
        found = find_item_columns(table.where, table.header, table.n_columns, mapping)
        positions = (found.item_id, found.title, found.categories, found.year)
        self._wanted = [position for position in positions if position is not None]
        self._present = [position is not None for position in positions]
        if isinstance(table, ParquetTable):
            _refuse_types(table, found.item_id, found.categories)

    def read(self, on_reject: OnReject) -> list[ItemRow]:
        """All items, in the order of the file; of two with one id the later stands.

        Args:
            on_reject: told of every row that is set aside.

        Raises:
            InputError: the file cannot be read to its end.
            MostlyBadError: more rows were set aside than kept.
        """
        return _checked(self._table.entry.name, self._table.records(self._wanted), self._item, on_reject)

    def _item(self, values: Sequence[Any]) -> ItemRow:
        given = iter(values)
        item_id, title, categories, year = (next(given) if present else None for present in self._present)
        title = _text(title)
        return ItemRow(_id(item_id), title, _categories(categories), _year(year) or _year_in_title(title))


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
        return _checked(self._table.entry.name, records, self._item, on_reject)

    def _item(self, values: Sequence[str]) -> ItemRow:
        item_id, title, released = values[:3]
        flags = values[_N_BEFORE_FLAGS:]
        genres = tuple(genre for genre, flag in zip(self._genres, flags, strict=True) if flag.strip() == "1")
        name = _text(title)
        return ItemRow(item_id, name, genres, _year_in_title(name) or _year(released))


def _checked(
    file: str,
    records: Iterator[tuple[int, list[Any] | str]],
    item: Callable[[Sequence[Any]], ItemRow],
    on_reject: OnReject,
) -> list[ItemRow]:
    items: dict[str, ItemRow] = {}
    rejected: list[Rejected] = []
    n_kept = 0
    for line, found in records:
        row = _row_or_reason(found, item)
        if isinstance(row, str):
            rejected.append(Rejected(file, line, row))
            on_reject(rejected[-1])
            continue
        n_kept += 1
        items.pop(row.item_id, None)
        items[row.item_id] = row
    if len(rejected) > n_kept:
        raise MostlyBadError(
            f"{file}: {len(rejected):,} of {n_kept + len(rejected):,} rows of items were rejected, so nothing was "
            f"loaded; the first: {rejected[0]}; name another file with --items, or load the file of ratings alone"
        )
    return list(items.values())


def _row_or_reason(found: list[Any] | str, item: Callable[[Sequence[Any]], ItemRow]) -> ItemRow | str:
    """The item that the values of a row make, or why they make none."""
    if isinstance(found, str):
        return found
    if reason := id_problem(found[0], "item_id"):
        return reason
    row = item(found)
    if row.title and (reason := text_problem(row.title, "title")):
        return reason
    reasons = (text_problem(category, "category") for category in row.categories)
    return next((reason for reason in reasons if reason), row)


def _id(value: object) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _text(value: object) -> str | None:
    text = value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value or "")
    return text.strip() or None


def _categories(value: object) -> tuple[str, ...]:
    """Categories of a list, or of text between `|` or `;`: each once, in their order."""
    parts: Iterable[object] = value if isinstance(value, list) else re.split(r"[|;]", _text(value) or "")
    names = (_text(part) for part in parts)
    return tuple(dict.fromkeys(name for name in names if name and name != NO_GENRES))


def _year(value: object) -> int | None:
    if isinstance(value, date):
        return value.year
    found = _YEAR.search(_text(value) or "")
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
                f"{beside[0].name}:{number}: {shown(line)}: expected a genre and its number, "
                f"such as Action|{len(genres)}; copy it from ml-100k.zip again"
            )
        genres[int(position)] = name
    return tuple(genres.values())


def _refuse_types(table: ParquetTable, item_id: int, categories: int | None) -> None:
    names = table.header or ()
    if reason := refuse_ids(table.type_of(item_id)):
        raise InputError(f"{table.where}: column {names[item_id]} {reason}")
    if categories is None:
        return
    kind = table.type_of(categories)
    inner = kind.value_type if pa.types.is_list(kind) or pa.types.is_large_list(kind) else kind
    if pa.types.is_nested(inner):
        raise InputError(
            f"{table.where}: column {names[categories]} holds {kind}: expected text between '|' or a list; "
            "cast it before writing"
        )
