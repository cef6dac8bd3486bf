"""Rows of items and users: checks of each row, and the forms of text and categories."""

import ast
import csv
import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Literal, TypeVar

import pyarrow as pa

from recsys.data.budget import MemoryBudget
from recsys.data.checks import nothing_problem, refuse_id_type
from recsys.data.limits import (
    BYTES_PER_ROW,
    BYTES_PER_VALUE,
    FIX_LINE,
    MAX_METADATA_BYTES,
    NOTHING,
    id_problem,
    text_problem,
)
from recsys.data.messages import quote_value
from recsys.data.rows import ItemRow, Rejected, UserRow
from recsys.errors import InputError, MostlyBadError
from recsys.files.parquet import ParquetFile
from recsys.files.tabular import TabularFile

NO_GENRES = "(no genres listed)"
"""MovieLens' text for an item without genres."""

OnReject = Callable[[Rejected], None]
Record = tuple[int, list[Any] | str]
"""The line and the values of a row, the id first; or the line, and the reason why it could not be read."""

Row = TypeVar("Row", ItemRow, UserRow)


class RowChecker:
    """Checks the items or users of one file.

    Args:
        file: the file's name in messages.
        what: `item` or `user`.
        on_reject: called with each rejected row.
        budget: counts the memory of the rows.
    """

    def __init__(self, file: str, what: Literal["item", "user"], on_reject: OnReject, budget: MemoryBudget) -> None:
        self._file = file
        self._what = what
        self._on_reject = on_reject
        self._budget = budget

    def check(
        self,
        records: Iterator[Record],
        make: Callable[[Sequence[Any]], Row],
        problem: Callable[[Row], str | None],
    ) -> list[Row]:
        """Return the good rows in the order of the file; of several rows with one id, the last.

        Args:
            make: returns the row of a record's values.
            problem: returns why such a row cannot be stored, or `None` if it can.

        Raises:
            InputError: the rows take too much memory.
            MostlyBadError: more rows were rejected than kept.
        """
        rows: dict[str, Row] = {}
        first: Rejected | None = None
        n_rejected = n_kept = 0
        for line, values in records:
            row = values if isinstance(values, str) else self._row_or_reason(values, make, problem)
            if isinstance(row, str):
                rejected = Rejected(self._file, line, row)
                first = first or rejected
                n_rejected += 1
                self._on_reject(rejected)
                continue
            n_kept += 1
            external_id = id_text(values[0])
            if rows.pop(external_id, None) is None:
                self._budget.take(BYTES_PER_ROW + metadata_bytes(row), self._file)
            rows[external_id] = row
        if n_rejected > n_kept:
            raise MostlyBadError(
                f"{self._file}: {n_rejected:,} of {n_kept + n_rejected:,} rows of {self._what}s were rejected, so "
                f"nothing was loaded; the first: {first}; name another file with --{self._what}s, or load the file of "
                "ratings alone"
            )
        return list(rows.values())

    def _row_or_reason(
        self, values: list[Any], make: Callable[[Sequence[Any]], Row], problem: Callable[[Row], str | None]
    ) -> Row | str:
        """Return the row of a record's values, or why they make none."""
        if isinstance(values[0], float):
            return (
                f"{self._what}_id {values[0]:g} is a fraction: expected text or an integer, because the id 7 is not "
                f"7.0; {FIX_LINE}"
            )
        word = id_text(values[0]) if isinstance(values[0], str) else None
        reason = nothing_problem(word, f"{self._what}_id") if word is not None else None
        if reason := reason or id_problem(values[0], f"{self._what}_id"):
            return reason
        row = make(values)
        n_bytes = metadata_bytes(row)
        if n_bytes > MAX_METADATA_BYTES:
            return (
                f"{self._what}_id {quote_value(id_text(values[0]))} has {n_bytes:,} bytes of title, categories and "
                f"attributes: expected at most {MAX_METADATA_BYTES:,}; shorten them, or delete the line"
            )
        reasons = (text_problem(category, "category") for category in row.categories)
        return problem(row) or next((reason for reason in reasons if reason), row)


def metadata_bytes(row: ItemRow | UserRow) -> int:
    """Return the approximate memory of a row's title, categories and attributes."""
    values: list[object] = [*row.categories, *row.attributes.values()]
    if isinstance(row, ItemRow):
        values.append(row.title)
    n_bytes = 0
    for value in values:
        members = value if isinstance(value, list) else [value]
        n_bytes += sum(len(member) if isinstance(member, str) else 8 for member in members)
        n_bytes += BYTES_PER_VALUE * len(members)
    return n_bytes


def id_text(value: object) -> str:
    """Return an id as text."""
    return value.decode() if isinstance(value, bytes) else str(value)


def text_of(value: object) -> str | None:
    """Return text without blanks around it; `None` if nothing remains."""
    text = value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value or "")
    return text.strip() or None


def categories_of(value: object, separators: str = "|;") -> tuple[str, ...]:
    """Return the categories of a list or text: each once, in their order.

    Text is names between separators, or a list as JSON, Python or PostgreSQL write it: `["a", "b"]`, `['a', 'b']`,
    `[{"name": "a"}]`, `[a, b]`, `{a,"b c"}`.

    Args:
        separators: the characters between names; see `separators_of`.
    """
    parts: Iterable[object]
    if isinstance(value, list):
        parts = [member.get("name") if isinstance(member, dict) else member for member in value]
    else:
        text = text_of(value) or ""
        parts = listed(text) or re.split(f"[{re.escape(separators)}]", text)
    names = (text_of(part) for part in parts)
    return tuple(dict.fromkeys(name for name in names if name and name != NO_GENRES and name.lower() not in NOTHING))


def listed(text: str) -> list[object] | None:
    """Return the members of a list that is written as text; `None` if the text is not one."""
    if len(text) < 2 or text[0] + text[-1] not in ("[]", "{}"):
        return None
    for parse in (json.loads, ast.literal_eval):
        try:
            found = parse(text)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
        if isinstance(found, dict):
            return [found["name"]] if "name" in found else None
        if isinstance(found, list | tuple | set):
            return [member.get("name") if isinstance(member, dict) else member for member in found] or [""]
    inside = text[1:-1].strip()
    try:
        return [field.strip().strip("'") for field in next(csv.reader([inside], skipinitialspace=True))] or [""]
    except (csv.Error, StopIteration):
        return [""] if not inside else None


def separators_of(texts: Iterable[object]) -> str:
    """Return the characters that stand between the categories of a file: pipes and semicolons, else commas.

    Where any row has a pipe or semicolon, a comma is part of a name.
    """
    commas = False
    for value in texts:
        text = text_of(value) or "" if not isinstance(value, list) else ""
        if listed(text) is not None:
            continue
        if "|" in text or ";" in text:
            return "|;"
        commas |= "," in text
    return "|;," if commas else "|;"


N_COMPARED = 10_000
"""Rows of a file of items or users whose values are compared with the ids in the ratings."""


def find_matching_column(table: TabularFile, rated: frozenset[str]) -> tuple[str, float] | None:
    """Return the column most of whose values are among some ids, and their share; `None` if there is none.

    Args:
        rated: the ids.
    """
    if table.header is None:
        return None
    n_rows, n_matching = 0, [0] * table.n_columns
    for _, values in table.records(range(table.n_columns)):
        if isinstance(values, str):
            continue
        for position, value in enumerate(values):
            n_matching[position] += isinstance(value, str | int) and str(value) in rated
        n_rows += 1
        if n_rows == N_COMPARED:
            break
    best = max(range(table.n_columns), key=n_matching.__getitem__)
    return (table.header[best], n_matching[best] / n_rows) if n_matching[best] else None


def inner_type(kind: pa.DataType) -> pa.DataType:
    """Return the type of the members of a list; of any other type, the type itself."""
    return kind.value_type if pa.types.is_list(kind) or pa.types.is_large_list(kind) else kind


def refuse_types(table: ParquetFile, external_id: int, categories: int | None) -> None:
    """Refuse columns of ids or categories whose type cannot hold them.

    Raises:
        InputError: there is such a column.
    """
    names = [quote_value(name)[1:-1] for name in table.header or ()]
    if reason := refuse_id_type(table.type_of(external_id)):
        raise InputError(f"{table.where}: column {names[external_id]} {reason}")
    if categories is not None and pa.types.is_nested(inner_type(table.type_of(categories))):
        raise InputError(
            f"{table.where}: column {names[categories]} holds {table.type_of(categories)}: "
            f"expected text separated by '|', or a list; cast it before writing"
        )
