"""How often each item was rated, kept with the ratings, so that a server need not count them at its start.

Every writer of ratings adds what it changed in its own transaction, through `unit_of_work`. Writers learn from the
database itself which rows they inserted, so the counts are exact with any number of writers. `recount` compares them
with the ratings every night all the same.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import BigInteger, Column, ColumnElement, Connection, Double, Engine, MetaData, Table, func, select

from recsys.data.keyed import positions
from recsys.database import schema
from recsys.database.changes import HANDFUL, record_change
from recsys.database.engine import Excluded, fetch_columns, reading, stage, upsert, writing

_staged_counts = Table(
    "staged_counts",
    MetaData(),
    Column("item_key", schema.Key, primary_key=True, autoincrement=False),
    Column("n_ratings", BigInteger, nullable=False),
    Column("rating_sum", Double, nullable=False),
    prefixes=["TEMPORARY"],
)


def add_counts(
    connection: Connection, item_key: NDArray[np.int64], n: NDArray[np.int64], rating: NDArray[np.float64]
) -> None:
    """Add to the counts and rating sums of items: (n_changes,) each; an item may occur several times."""
    keys, position = np.unique(item_key, return_inverse=True)
    counts = np.bincount(position, n, len(keys)).astype(np.int64)
    sums = np.bincount(position, rating, len(keys))
    differs = (counts != 0) | (sums != 0)
    columns = (keys[differs].tolist(), counts[differs].tolist(), sums[differs].tolist())
    counted = schema.item_counts

    def added(new: Excluded) -> dict[str, ColumnElement[object]]:
        return {
            "n_ratings": counted.c.n_ratings + new["n_ratings"],
            "rating_sum": counted.c.rating_sum + new["rating_sum"],
        }

    if len(columns[0]) > HANDFUL:
        stage(connection, _staged_counts, columns)
        upsert(
            connection,
            counted,
            select(_staged_counts).order_by(_staged_counts.c.item_key),
            key=["item_key"],
            set_=added,
        )
    elif columns[0]:
        rows = [dict(zip(counted.c.keys(), row, strict=True)) for row in zip(*columns, strict=True)]
        upsert(connection, counted, rows, key=["item_key"], set_=added, returning=[counted.c.item_key])


def read_counts(connection: Connection) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """Return the keys of all items that were ever rated, their numbers of ratings, and the sums of these."""
    counted = schema.item_counts.c
    keys, n, total = fetch_columns(
        connection,
        select(counted.item_key, counted.n_ratings, counted.rating_sum).order_by(counted.item_key),
        (np.int64, np.int64, np.float64),
    )
    return keys, n, total


def recount(engine: Engine, guard: Callable[[Connection], None] | None = None) -> int:
    """Count all ratings, and correct the counts that differ; return the number of items whose counts were wrong.

    Args:
        guard: called in the transaction before it writes.
    """
    rated = schema.ratings.c
    with reading(engine) as connection:  # one state of both: what is written meanwhile is in both or in neither
        kept = read_counts(connection)
        true_counts = fetch_columns(
            connection,
            select(rated.item_key, func.count(), func.sum(rated.rating)).group_by(rated.item_key),
            (np.int64, np.int64, np.float64),
        )
    keys = np.union1d(kept[0], true_counts[0])
    n, total = np.zeros(len(keys), np.int64), np.zeros(len(keys))
    for sign, (item_key, counts, sums) in ((-1, kept), (1, true_counts)):
        position = positions(keys, item_key)
        n[position] += sign * counts
        total[position] += sign * sums
    wrong = (n != 0) | (np.abs(total) > 1e-6)
    if wrong.any():
        with writing(engine) as connection:  # not a unit of work, which imports this module; the same order of locks
            if guard is not None:
                guard(connection)
            add_counts(connection, keys[wrong], n[wrong], total[wrong])
            record_change(connection)
    return int(wrong.sum())
