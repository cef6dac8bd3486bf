"""Files of users: id, categories, and every other column as an attribute."""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from recsys.data.budget import MemoryBudget
from recsys.data.columns import normalize_name
from recsys.data.limits import FIX_LINE, text_problem
from recsys.data.messages import printable, quote_value
from recsys.data.rows import UserRow
from recsys.errors import InputError
from recsys.files.columns import Header
from recsys.files.json_lines import JsonLinesFile
from recsys.files.metadata import (
    OnReject,
    RowChecker,
    categories_of,
    find_matching_column,
    id_text,
    inner_type,
    refuse_types,
    separators_of,
)
from recsys.files.parquet import ParquetFile
from recsys.files.tabular import TabularFile

LAYOUTS: Mapping[tuple[str, int], tuple[str, ...]] = {
    (".user", 5): ("user_id", "age", "gender", "occupation", "zip_code"),  # MovieLens 100K
    (".dat", 5): ("user_id", "gender", "age", "occupation", "zip_code"),  # MovieLens 1M: age and occupation are codes
    (".dat", 2): ("user_id", "twitter_id"),  # MovieTweetings
}
"""Suffix and number of columns of files without a header → names of the columns."""
LAYOUT_NUMBERS = frozenset({"age"})

CODES = frozenset({"zip", "zipcode", "postcode", "postalcode"})
"""Normalized names of columns that hold text even if all values are digits."""

# No leading zero (`007` is a code), and no more digits than a float holds.
NUMBER = re.compile(r"-?(?:0|[1-9][0-9]{0,14})(?:\.[0-9]+)?(?:[eE][+-]?[0-9]{1,2})?")


class UserFile:
    """Users of CSV, TSV, `::` text or Parquet by the names of the columns, or in MovieLens' order.

    A column of text holds numbers if all of its values are numbers. Of Parquet columns, text, numbers, truth values
    and lists of these are kept.

    Raises:
        InputError: there is no column of user ids, or its type cannot hold them; or the file has no header and is
            not one of the known files without one.
    """

    def __init__(self, table: TabularFile, mapping: Mapping[str, str], own: Mapping[str, str] | None = None) -> None:
        self.entry = table.entry
        self._table = table
        self._is_text = not isinstance(table, ParquetFile | JsonLinesFile)
        found = Header(table.where, table.header or layout_of(table), table.n_columns).find_users(mapping, own)
        attributes = dict(found.attributes)
        if isinstance(table, ParquetFile):
            refuse_types(table, found.user_id, found.categories)
            attributes = {name: position for name, position in attributes.items() if can_keep(table.type_of(position))}
        for name in attributes:
            if reason := text_problem(name, "column"):
                raise InputError(f"{table.where}: {reason}")
        self._has_categories = found.categories is not None
        self._attributes = list(attributes)
        self._is_code = [normalize_name(name) in CODES for name in attributes]
        self._numbers = LAYOUT_NUMBERS if table.header is None else frozenset()
        first = [found.user_id] if found.categories is None else [found.user_id, found.categories]
        self._wanted = [*first, *attributes.values()]

    def read(self, on_reject: OnReject, budget: MemoryBudget) -> list[UserRow]:
        """Return all users in the order of the file; of several rows with one id, the last.

        Args:
            on_reject: called with each rejected row.
            budget: counts the memory of the rows.

        Raises:
            InputError: the file cannot be read to its end, or its rows take too much memory.
            MostlyBadError: more rows were rejected than kept.
        """
        numbers = self._number_columns()
        separators = "|;"
        if self._has_categories:
            column = (values for _, values in self._table.records(self._wanted[1:2]))
            separators = separators_of(values[0] for values in column if not isinstance(values, str))

        def make_user(values: Sequence[Any]) -> UserRow:
            categories = values[1] if self._has_categories else None
            attributes: dict[str, object] = {}
            given = values[1 + self._has_categories :]
            for name, value, is_code in zip(self._attributes, given, self._is_code, strict=True):
                known = attribute_of(value, name in numbers, is_code)
                if known is not None:
                    attributes[name] = known
            return UserRow(id_text(values[0]), categories_of(categories, separators), attributes)

        checker = RowChecker(self.entry.name, "user", on_reject, budget)
        return checker.check(self._table.records(self._wanted), make_user, self._problem)

    def matching_column(self, rated: frozenset[str]) -> tuple[str, float] | None:
        """Return the column whose values are most often ids of users with ratings, as for items."""
        return find_matching_column(self._table, rated)

    def _number_columns(self) -> frozenset[str]:
        """Return the attributes whose text holds numbers only; reads a text file with a header once."""
        if not self._is_text or self._table.header is None:
            return self._numbers
        candidates = {
            position: name
            for position, name in enumerate(self._attributes, start=1 + self._has_categories)
            if normalize_name(name) not in CODES
        }
        for _, values in self._table.records(self._wanted):
            if isinstance(values, str):
                continue
            others = [i for i in candidates if (text := values[i].strip()) and not NUMBER.fullmatch(text)]
            for position in others:
                del candidates[position]
            if not candidates:
                break
        return frozenset(candidates.values())

    def _problem(self, row: UserRow) -> str | None:
        for name, value in row.attributes.items():
            shown = printable(name)
            for member in value if isinstance(value, list) else [value]:
                if isinstance(member, str):
                    if name in self._numbers:
                        return f"{shown} {quote_value(member)} is not a number: expected one such as 24; {FIX_LINE}"
                    if reason := text_problem(member, shown):
                        return reason
                elif isinstance(member, float) and math.isinf(member):
                    return f"{shown} {member} is not a finite number: expected one such as 24; {FIX_LINE}"
        return None


def layout_of(table: TabularFile) -> tuple[str, ...]:
    """Return the names of the columns of a known file without a header.

    Raises:
        InputError: the file is not a known one.
    """
    names = LAYOUTS.get((table.entry.suffix, table.n_columns))
    if names is None:
        raise InputError(
            f"{table.where}: {table.n_columns} columns and no header: expected MovieLens' u.user or users.dat, or "
            "names of columns; give the file a first line such as user_id,age,occupation"
        )
    return names


def can_keep(kind: pa.DataType) -> bool:
    """Return whether a Parquet column holds text, numbers, truth values, or lists of these."""
    inner = inner_type(kind)
    inner = inner.value_type if pa.types.is_dictionary(inner) else inner
    kept = ("is_string", "is_large_string", "is_integer", "is_floating", "is_decimal", "is_boolean")
    return any(getattr(pa.types, test)(inner) for test in kept)


def attribute_of(value: Any, is_number: bool, is_code: bool) -> object:
    """Return a value as it is stored, whole numbers as integers; `None` if it is empty.

    Args:
        is_number: whether text is a number.
        is_code: whether a number is text.
    """
    if isinstance(value, list):
        members = (attribute_of(member, is_number, is_code) for member in value)
        return [member for member in members if member is not None] or None
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        text = value.strip()
        return integer_if_whole(float(text)) if is_number and NUMBER.fullmatch(text) else text or None
    number = value if isinstance(value, int) else integer_if_whole(float(value))
    return str(number) if is_code and number is not None else number


def integer_if_whole(number: float) -> int | float | None:
    """Return 24 for 24.0, as databases without types of numbers do; `None` for NaN."""
    if math.isnan(number):
        return None
    return int(number) if number.is_integer() else number
