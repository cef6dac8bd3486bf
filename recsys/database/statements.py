"""Statements that depend on the dialect: upserts, and rows that are sent with a query.

A statement whose text does not depend on the number of its rows is built and compiled once. For a handful of rows both
take longer than running it.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any, cast

from sqlalchemy import (
    CTE,
    ColumnElement,
    Connection,
    CursorResult,
    Executable,
    Select,
    Table,
    Text,
    bindparam,
    func,
    select,
    true,
)
from sqlalchemy.dialects import postgresql as postgresql_dialect
from sqlalchemy.dialects import sqlite as sqlite_dialect
from sqlalchemy.sql.base import ReadOnlyColumnCollection

Excluded = ReadOnlyColumnCollection[str, ColumnElement[Any]]
"""The row that an upsert would insert, as its update sees it."""
Assignments = Sequence[str] | Callable[[Excluded], Mapping[str, ColumnElement[Any]]]

_ROWS = "sent_rows"
"""Name of the parameter with the rows."""


def sent_table(dialect: str, names: Sequence[str]) -> CTE:
    """Return the table of the sent rows: one column of texts for each name."""
    if dialect == "sqlite":
        each = func.json_each(bindparam(_ROWS, type_=Text)).table_valued("value")
        fields = [func.json_extract(each.c.value, f"$[{at}]").label(name) for at, name in enumerate(names)]
        return select(*fields).cte("sent")
    columns = [bindparam(f"{_ROWS}_{name}", type_=postgresql_dialect.ARRAY(Text)) for name in names]
    return select(func.unnest(*columns).table_valued(*names, name="sent_columns").render_derived()).cte("sent")


def sent_rows(connection: Connection, names: Sequence[str], rows: Sequence[Sequence[str]]) -> dict[str, object]:
    """Return the parameters of a statement with `sent_table`: (n_rows,) tuples of a text for each name."""
    if connection.dialect.name == "sqlite":
        return {_ROWS: json.dumps(rows, ensure_ascii=False)}
    return {f"{_ROWS}_{name}": [row[at] for row in rows] for at, name in enumerate(names)}


def upsert(
    connection: Connection,
    table: Table,
    rows: Select[Any] | Sequence[Mapping[str, object]],
    *,
    key: Sequence[str],
    set_: Assignments | None = None,
    where: Callable[[Excluded], ColumnElement[bool]] | None = None,
    returning: Sequence[ColumnElement[Any]] = (),
    parameters: Mapping[str, object] | None = None,
) -> CursorResult[Any]:
    """Insert rows, and update or keep those whose key is there already.

    Rows are locked in the order given: order them by their key, so that two writers of the same rows do not deadlock.

    Args:
        rows: a query whose columns are named as the table's, or the rows themselves.
        key: columns of a unique constraint of the table.
        set_: columns that take the new row's value, or a function from the new row (`excluded`) to expressions;
            None keeps the row that is there.
        where: condition on which a row that is there is updated; it takes the new row (`excluded`).
        returning: columns to return of the rows that were inserted or updated. With several rows it also makes the
            driver send one statement in place of one a row.
        parameters: values of the query's bound parameters.

    Returns:
        The result; `rowcount` is the number of rows inserted or updated.
    """
    values = parameters if isinstance(rows, Select) else [dict(row) for row in rows]
    assigned = tuple(set_) if isinstance(set_, Sequence) else set_
    # A query is another object each time, so that it is never found again.
    build = _build_upsert if isinstance(rows, Select) else _kept_upsert
    query = rows if isinstance(rows, Select) else None
    statement = build(connection.dialect.name, table, tuple(key), assigned, where, tuple(returning), query)
    return connection.execute(statement, values)


def _build_upsert(
    dialect: str,
    table: Table,
    key: tuple[str, ...],
    set_: Assignments | None,
    where: Callable[[Excluded], ColumnElement[bool]] | None,
    returning: tuple[ColumnElement[Any], ...],
    query: Select[Any] | None,
) -> Executable:
    """Return the statement of an upsert, of the rows of a query or of rows that are sent with it."""
    # Both dialects' INSERT have the same methods; only SQLAlchemy's classes differ.
    statement = sqlite_dialect.insert(table)
    if dialect != "sqlite":
        statement = cast(sqlite_dialect.Insert, postgresql_dialect.insert(table))
    if query is not None:
        # Without a WHERE, SQLite reads ON CONFLICT as the ON of a join.
        statement = statement.from_select(list(query.selected_columns.keys()), query.where(true()))
    if set_ is None:
        statement = statement.on_conflict_do_nothing(index_elements=key)
    else:
        new = statement.excluded
        assignments = set_(new) if callable(set_) else {name: new[name] for name in set_}
        statement = statement.on_conflict_do_update(
            index_elements=key, set_=assignments, where=None if where is None else where(new)
        )
    return statement.returning(*returning) if returning else statement.execution_options(preserve_rowcount=True)


_kept_upsert = lru_cache(64)(_build_upsert)
