"""Filters of lists: categories, years, attributes and numbers of ratings."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from recsys.database.items import StoredItem

Operator = Literal["=", ">=", "<=", ">", "<"]

MAX_COLUMNS = 64
"""Most attributes that are indexed at a time."""

_CONDITION = re.compile(r"([^=<>]+)(>=|<=|=|>|<)(.*)", re.DOTALL)


class Condition(NamedTuple):
    """A condition on one attribute, such as `colour=red` or `price<=20`."""

    name: str
    operator: Operator
    value: str


def parse_condition(text: str) -> Condition:
    """Read a condition on an attribute.

    >>> parse_condition("price<=20")
    Condition(name='price', operator='<=', value='20')

    Raises:
        ValueError: the text is not NAME=VALUE, NAME>=VALUE, NAME<=VALUE, NAME>VALUE or NAME<VALUE.
    """
    found = _CONDITION.fullmatch(text)
    if found is None:
        raise ValueError(f"{text[:80]!r} is not a condition: expected NAME=VALUE, NAME>=VALUE or NAME<=VALUE")
    name, operator, value = found.groups()
    return Condition(name, cast(Operator, operator), value)


@dataclass(frozen=True, slots=True)
class Filters:
    """Which items a list may contain.

    Attributes:
        categories: only items in one of these; empty: all.
        not_categories: no item in one of these.
        year_from, year_to: only items of these years, both included.
        attributes: conditions. Of several equalities of one attribute one must hold; of all others, each.
        min_ratings: fewest ratings of a listed item.
    """

    categories: tuple[str, ...] = ()
    not_categories: tuple[str, ...] = ()
    year_from: int | None = None
    year_to: int | None = None
    attributes: tuple[Condition, ...] = ()
    min_ratings: int = 0


NO_FILTERS = Filters()


class AttributeColumn(NamedTuple):
    """The values of one attribute.

    Attributes:
        numbers: (n_items,) float64; NaN where the value is no number.
        idx_by_text: value as text → positions of its items, ascending. An item with a list of values has several.
    """

    numbers: NDArray[np.float64]
    idx_by_text: Mapping[str, NDArray[np.int64]]

    def mask(self, condition: Condition) -> NDArray[np.bool_]:
        """Return a mask (n_items,) of the items for which a condition holds; an item without the attribute is none."""
        number, numbers = as_number(condition.value), self.numbers
        if condition.operator == "=":
            mask = numbers == number if number is not None else np.zeros(len(numbers), bool)
            mask[self.idx_by_text.get(condition.value, [])] = True
            return mask
        if number is not None:
            return _compare(numbers, condition.operator, number)
        mask = np.zeros(len(numbers), bool)
        for text, idx in self.idx_by_text.items():
            if _compare(text, condition.operator, condition.value):
                mask[idx] = True
        return mask


class AttributeIndex:
    """The attributes of all items, indexed when a filter first needs them."""

    def __init__(self, items: Sequence[StoredItem]) -> None:
        self._items = items
        self._columns: dict[str, AttributeColumn] = {}

    @cached_property
    def names(self) -> frozenset[str]:
        """Names of all attributes."""
        return frozenset(name for item in self._items for name in item.attributes)

    def column(self, name: str) -> AttributeColumn:
        """Return the values of an attribute."""
        column = self._columns.get(name)
        if column is None:
            numbers = np.full(len(self._items), np.nan)
            idx_by_text: dict[str, list[int]] = {}
            for idx, item in enumerate(self._items):
                value = item.attributes.get(name)
                if value is not None:
                    numbers[idx] = _number_of(value)
                    for text in _texts_of(value):
                        idx_by_text.setdefault(text, []).append(idx)
            column = AttributeColumn(numbers, {text: np.array(idx, np.int64) for text, idx in idx_by_text.items()})
            if len(self._columns) >= MAX_COLUMNS:
                self._columns = {}
            self._columns[name] = column
        return column

    def with_items(self, items: Sequence[StoredItem], changed: Iterable[int]) -> "AttributeIndex":
        """Return the index of a catalogue in which the items at some positions were changed or added."""
        changed = sorted(changed)
        index = AttributeIndex(items)
        if "names" in self.__dict__:
            index.__dict__["names"] = self.names.union(*(items[idx].attributes for idx in changed))
        for name, column in self._columns.items():
            numbers = np.append(column.numbers, np.full(len(items) - len(column.numbers), np.nan))
            idx_by_text = dict(column.idx_by_text)
            for idx in changed:
                before = self._items[idx].attributes.get(name) if idx < len(self._items) else None
                after = items[idx].attributes.get(name)
                if before == after:
                    continue
                numbers[idx] = np.nan if after is None else _number_of(after)
                for text in _texts_of(before):
                    idx_by_text[text] = np.setdiff1d(idx_by_text[text], [idx])
                for text in _texts_of(after):
                    idx_by_text[text] = np.union1d(idx_by_text.get(text, np.empty(0, np.int64)), [idx])
            index._columns[name] = AttributeColumn(numbers, idx_by_text)
        return index

    def mask(self, conditions: Sequence[Condition]) -> NDArray[np.bool_]:
        """Return a mask (n_items,) of the items for which the conditions hold; see `Filters.attributes`."""
        mask = np.ones(len(self._items), bool)
        equal: dict[str, NDArray[np.bool_]] = {}
        for condition in conditions:
            holds = (
                self.column(condition.name).mask(condition)
                if condition.name in self.names
                else np.zeros(len(self._items), bool)
            )
            if condition.operator == "=":
                equal[condition.name] = equal[condition.name] | holds if condition.name in equal else holds
            else:
                mask &= holds
        for holds in equal.values():
            mask &= holds
        return mask


def as_number(text: str) -> float | None:
    """Return text as a finite number; `None` if it is none."""
    try:
        number = float(text)
    except ValueError:
        return None
    return number if np.isfinite(number) else None


def _compare(left: object, operator: Operator, right: object) -> NDArray[np.bool_]:
    """Return `left operator right`; left is an array of numbers, or text."""
    result: NDArray[np.bool_]
    match operator:
        case ">=":
            result = left >= right  # type: ignore[operator]
        case "<=":
            result = left <= right  # type: ignore[operator]
        case ">":
            result = left > right  # type: ignore[operator]
        case _:
            result = left < right  # type: ignore[operator]
    return result


def _number_of(value: object) -> float:
    """Return a value as a number, text in digits too; NaN if it is none. A boolean is none."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return np.nan
    number = as_number(str(value))
    return np.nan if number is None else number


def _texts_of(value: object) -> set[str]:
    """Return a value as text, as a filter writes it; the texts of a list."""
    if value is None:
        return set()
    if isinstance(value, list):
        return {text for each in value for text in _texts_of(each)}
    return {str(value).lower() if isinstance(value, bool) else str(value)}
