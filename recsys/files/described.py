"""What files of items and of users have in common: rows that are checked one by one, and how they spell things."""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Literal, TypeVar

import pyarrow as pa

from recsys.data.checks import refuse_id_type
from recsys.data.limits import id_problem, text_problem
from recsys.data.rows import ItemRow, Rejected, UserRow
from recsys.errors import InputError, MostlyBadError
from recsys.files.parquet import ParquetTable

NO_GENRES = "(no genres listed)"
"""What MovieLens writes for none."""

OnReject = Callable[[Rejected], None]
Record = tuple[int, list[Any] | str]
"""The line and the values of a row, the id first; or the line, and why it could not be read."""

Row = TypeVar("Row", ItemRow, UserRow)


def checked_rows(
    file: str,
    what: Literal["item", "user"],
    records: Iterator[Record],
    make: Callable[[Sequence[Any]], Row],
    problem: Callable[[Row], str | None],
    on_reject: OnReject,
) -> list[Row]:
    """The good rows, in the order of the file; of two with one id the later stands.

    Args:
        make: the row that the values of a record make.
        problem: why such a row cannot be stored, or None where it can.
        on_reject: told of every row that is set aside.

    Raises:
        MostlyBadError: more rows were set aside than kept.
    """
    rows: dict[str, Row] = {}
    rejected: list[Rejected] = []
    n_kept = 0
    for line, found in records:
        row = _row_or_reason(found, what, make, problem)
        if isinstance(row, str):
            rejected.append(Rejected(file, line, row))
            on_reject(rejected[-1])
            continue
        n_kept += 1
        external_id = id_text(found[0])
        rows.pop(external_id, None)
        rows[external_id] = row
    if len(rejected) > n_kept:
        raise MostlyBadError(
            f"{file}: {len(rejected):,} of {n_kept + len(rejected):,} rows of {what}s were rejected, so nothing was "
            f"loaded; the first: {rejected[0]}; name another file with --{what}s, or load the file of ratings alone"
        )
    return list(rows.values())


def _row_or_reason(
    found: list[Any] | str, what: str, make: Callable[[Sequence[Any]], Row], problem: Callable[[Row], str | None]
) -> Row | str:
    """The row that the values of a record make, or why they make none."""
    if isinstance(found, str):
        return found
    if reason := id_problem(found[0], f"{what}_id"):
        return reason
    row = make(found)
    reasons = (text_problem(category, "category") for category in row.categories)
    return problem(row) or next((reason for reason in reasons if reason), row)


def id_text(value: object) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def text_of(value: object) -> str | None:
    """Text without blanks around it; None where there is nothing."""
    text = value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value or "")
    return text.strip() or None


def categories_of(value: object) -> tuple[str, ...]:
    """Categories of a list, or of text between `|` or `;`: each once, in their order."""
    parts: Iterable[object] = value if isinstance(value, list) else re.split(r"[|;]", text_of(value) or "")
    names = (text_of(part) for part in parts)
    return tuple(dict.fromkeys(name for name in names if name and name != NO_GENRES))


def inner_type(kind: pa.DataType) -> pa.DataType:
    """Type of the members of a list; of what is none, its own."""
    return kind.value_type if pa.types.is_list(kind) or pa.types.is_large_list(kind) else kind


def refuse_types(table: ParquetTable, external_id: int, categories: int | None) -> None:
    """Refuse columns of ids and of categories whose type cannot hold them.

    Raises:
        InputError: there is such a column.
    """
    names = table.header or ()
    if reason := refuse_id_type(table.type_of(external_id)):
        raise InputError(f"{table.where}: column {names[external_id]} {reason}")
    if categories is not None and pa.types.is_nested(inner_type(table.type_of(categories))):
        raise InputError(
            f"{table.where}: column {names[categories]} holds {table.type_of(categories)}: "
            "expected text between '|' or a list; cast it before writing"
        )
