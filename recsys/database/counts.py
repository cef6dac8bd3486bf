"""How often each item was rated, kept with the ratings, so that a server need not count them at its start.

Every writer of ratings adds what it changed in its own transaction, through `unit_of_work`. Writers learn from the
database itself which rows they inserted, so the counts are exact with any number of writers. `recount` compares them
with the ratings every night all the same.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import (
    BigInteger,
    Column,
    ColumnElement,
    Connection,
    Double,
    Engine,
    MetaData,
    Table,
    case,
    func,
    select,
)

from recsys.data.keyed import positions
from recsys.database import schema
from recsys.database.changes import HANDFUL, record_change
from recsys.database.engine import fetch_columns, reading, stage, writing
from recsys.database.statements import Excluded, upsert

_staged_counts = Table(
    "staged_counts",
    MetaData(),
    Column("item_key", schema.Key, primary_key=True, autoincrement=False),
    Column("n_ratings", BigInteger, nullable=False),
    Column("rating_sum", Double, nullable=False),
    Column("n_explicit", BigInteger, nullable=False),
    prefixes=["TEMPORARY"],
    postgresql_on_commit="DROP",
)


class ItemCounts(NamedTuple):
    """How often items were rated, (n_items,) each.

    Attributes:
        item_keys: of all items that were ever rated, ascending.
        n_ratings: of both kinds of feedback.
        rating_sum: of the explicit ratings.
        n_explicit: number of these.
    """

    item_keys: NDArray[np.int64]
    n_ratings: NDArray[np.int64]
    rating_sum: NDArray[np.float64]
    n_explicit: NDArray[np.int64]


def add_counts(
    connection: Connection,
    item_key: NDArray[np.int64],
    n: NDArray[np.int64],
    rating: NDArray[np.float64],
    n_explicit: NDArray[np.int64],
) -> None:
    """Add to the counts and rating sums of items: (n_changes,) each; an item may occur several times."""
    keys, position = np.unique(item_key, return_inverse=True)
    counts, explicit = (np.bincount(position, each, len(keys)).astype(np.int64) for each in (n, n_explicit))
    sums = np.bincount(position, rating, len(keys))
    differs = (counts != 0) | (sums != 0) | (explicit != 0)
    columns = tuple(each[differs].tolist() for each in (keys, counts, sums, explicit))
    counted = schema.item_counts
    if len(columns[0]) > HANDFUL:
        stage(connection, _staged_counts, columns)
        upsert(
            connection,
            counted,
            select(_staged_counts).order_by(_staged_counts.c.item_key),
            key=["item_key"],
            set_=_added,
        )
    elif columns[0]:
        rows = [dict(zip(counted.c.keys(), row, strict=True)) for row in zip(*columns, strict=True)]
        upsert(connection, counted, rows, key=["item_key"], set_=_added, returning=[counted.c.item_key])


def _added(new: Excluded) -> dict[str, ColumnElement[object]]:
    counted = schema.item_counts.c
    return {name: counted[name] + new[name] for name in ("n_ratings", "rating_sum", "n_explicit")}


def read_counts(connection: Connection) -> ItemCounts:
    """Return how often each item was rated."""
    counted = schema.item_counts.c
    columns = (counted.item_key, counted.n_ratings, counted.rating_sum, counted.n_explicit)
    statement = select(*columns).order_by(counted.item_key)
    return ItemCounts(*fetch_columns(connection, statement, (np.int64, np.int64, np.float64, np.int64)))


def recount(engine: Engine, guard: Callable[[Connection], None] | None = None) -> int:
    """Count all ratings, and correct the counts that differ; return the number of items whose counts were wrong.

    Args:
        guard: called in the transaction before it writes.
    """
    rated = schema.ratings.c
    with reading(engine) as connection:  # one state of both: what is written meanwhile is in both or in neither
        kept = read_counts(connection)
        is_explicit = case((rated.kind == schema.EXPLICIT, 1), else_=0)
        statement = select(
            rated.item_key, func.count(), func.sum(rated.rating * is_explicit), func.sum(is_explicit)
        ).group_by(rated.item_key)
        true_counts = fetch_columns(connection, statement, (np.int64, np.int64, np.float64, np.int64))
    keys = np.union1d(kept[0], true_counts[0])
    n, total, explicit = np.zeros(len(keys), np.int64), np.zeros(len(keys)), np.zeros(len(keys), np.int64)
    for sign, (item_key, counts, sums, n_explicit) in ((-1, kept), (1, true_counts)):
        position = positions(keys, item_key)
        n[position] += sign * counts
        total[position] += sign * sums
        explicit[position] += sign * n_explicit
    wrong = (n != 0) | (np.abs(total) > 1e-6) | (explicit != 0)
    if wrong.any():
        with writing(engine) as connection:  # not a unit of work, which imports this module; the same order of locks
            if guard is not None:
                guard(connection)
            add_counts(connection, keys[wrong], n[wrong], total[wrong], explicit[wrong])
            record_change(connection)
    return int(wrong.sum())
