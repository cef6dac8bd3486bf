"""Users in files: id, categories, and every other column as an attribute."""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from recsys.data.columns import normalize_name
from recsys.data.limits import FIX_LINE, text_problem
from recsys.data.messages import quote_value
from recsys.data.rows import UserRow
from recsys.errors import InputError
from recsys.files.columns import Header
from recsys.files.described import OnReject, Record, categories_of, checked_rows, id_text, inner_type, refuse_types
from recsys.files.parquet import ParquetTable
from recsys.files.table import Table

# What stands where in files without a header, by how they are called and the number of their columns.
_LAYOUTS: Mapping[tuple[str, int], tuple[str, ...]] = {
    (".user", 5): ("user_id", "age", "gender", "occupation", "zip_code"),  # MovieLens 100K
    (".dat", 5): ("user_id", "gender", "age", "occupation", "zip_code"),  # MovieLens 1M: age and occupation are codes
    (".dat", 2): ("user_id", "twitter_id"),  # MovieTweetings
}
_LAYOUT_NUMBERS = frozenset({"age"})

_CODES = frozenset({"zip", "zipcode", "postcode", "postalcode"})
"""Columns of text, `simplified`, though all of it may be digits."""

# No leading zero (`007` is a code), and no more digits than a float holds.
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]{0,14})(?:\.[0-9]+)?(?:[eE][+-]?[0-9]{1,2})?")


class UserTable:
    """Users from CSV, TSV, `::` text or Parquet by the names of the columns, or as MovieLens orders them.

    In text a column holds numbers if all of its values are numbers. Of Parquet columns those of text, numbers,
    truth values and lists of these are kept.

    Raises:
        InputError: there is no column of user ids, or its type cannot hold them; or no header, and it is none of
            the known files without one.
    """

    def __init__(self, table: Table, mapping: Mapping[str, str]) -> None:
        self._table = table
        self._is_text = not isinstance(table, ParquetTable)
        found = Header(table.where, table.header or _layout(table), table.n_columns).find_users(mapping)
        attributes = dict(found.attributes)
        if isinstance(table, ParquetTable):
            refuse_types(table, found.user_id, found.categories)
            attributes = {name: at for name, at in attributes.items() if _is_kept(table.type_of(at))}
        for name in attributes:
            if reason := text_problem(name, "column"):
                raise InputError(f"{table.where}: {reason}")
        self._has_categories = found.categories is not None
        self._attributes = list(attributes)
        self._numbers = _LAYOUT_NUMBERS if table.header is None else frozenset()
        first = [found.user_id] if found.categories is None else [found.user_id, found.categories]
        self._wanted = [*first, *attributes.values()]

    def read(self, on_reject: OnReject) -> list[UserRow]:
        """All users, in the order of the file; of two with one id the later stands.

        Args:
            on_reject: told of every row that is set aside.

        Raises:
            InputError: the file cannot be read to its end.
            MostlyBadError: more rows were set aside than kept.
        """
        records = list(self._table.records(self._wanted))
        numbers = self._columns_of_numbers(records)

        def user(values: Sequence[Any]) -> UserRow:
            categories = values[1] if self._has_categories else None
            attributes: dict[str, object] = {}
            for name, value in zip(self._attributes, values[1 + self._has_categories :], strict=True):
                known = _attribute(value, name in numbers, normalize_name(name) in _CODES)
                if known is not None:
                    attributes[name] = known
            return UserRow(id_text(values[0]), categories_of(categories), attributes)

        return checked_rows(self._table.entry.name, "user", iter(records), user, self._problem, on_reject)

    def _columns_of_numbers(self, records: Sequence[Record]) -> frozenset[str]:
        """The attributes whose text is to be read as numbers."""
        if not self._is_text or self._table.header is None:
            return self._numbers
        rows = [found for _, found in records if not isinstance(found, str)]
        places = enumerate(self._attributes, start=1 + self._has_categories)
        return frozenset(
            name
            for place, name in places
            if normalize_name(name) not in _CODES
            and all(_NUMBER.fullmatch(text) for row in rows if (text := row[place].strip()))
        )

    def _problem(self, row: UserRow) -> str | None:
        for name, value in row.attributes.items():
            for member in value if isinstance(value, list) else [value]:
                if isinstance(member, str):
                    if name in self._numbers:
                        return f"{name} {quote_value(member)} is not a number: expected one such as 24; {FIX_LINE}"
                    if reason := text_problem(member, name):
                        return reason
                elif isinstance(member, float) and math.isinf(member):
                    return f"{name} {member} is not a finite number: expected one such as 24; {FIX_LINE}"
        return None


def _layout(table: Table) -> tuple[str, ...]:
    names = _LAYOUTS.get(("." + table.entry.basename.rpartition(".")[2], table.n_columns))
    if names is None:
        raise InputError(
            f"{table.where}: {table.n_columns} columns and no header: expected u.user or users.dat as MovieLens has "
            "them, or names of columns; give the file a first line such as user_id,age,occupation"
        )
    return names


def _is_kept(kind: pa.DataType) -> bool:
    inner = inner_type(kind)
    inner = inner.value_type if pa.types.is_dictionary(inner) else inner
    kept = ("is_string", "is_large_string", "is_integer", "is_floating", "is_decimal", "is_boolean")
    return any(getattr(pa.types, test)(inner) for test in kept)


def _attribute(value: Any, is_number: bool, is_code: bool) -> object:
    """A value as it is stored, whole numbers as integers; None where it says nothing.

    Args:
        is_number: whether text is a number.
        is_code: whether a number is text.
    """
    if isinstance(value, list):
        members = (_attribute(member, is_number, is_code) for member in value)
        return [member for member in members if member is not None] or None
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        text = value.strip()
        return _whole(float(text)) if is_number and _NUMBER.fullmatch(text) else text or None
    number = value if isinstance(value, int) else _whole(float(value))
    return str(number) if is_code and number is not None else number


def _whole(number: float) -> int | float | None:
    """24 of 24.0, as databases that keep no types of numbers answer it; None of NaN."""
    if math.isnan(number):
        return None
    return int(number) if number.is_integer() else number
