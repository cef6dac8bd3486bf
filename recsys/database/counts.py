"""How often each item was rated, kept with the ratings, so that nobody counts them to start.

Every writer of ratings adds what it changed, in its own transaction and after it has taken its number in the sequence
of changes, so that writers do not wait for each other in circles. Where a bulk load on PostgreSQL and the API write the
same pair at the same moment both may count it: `recount` puts that right, every night.
"""

from collections.abc import Iterable
from functools import cache

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import BigInteger, Column, Connection, Double, Engine, Insert, MetaData, Table, func, select, true

from recsys.data.keyed import positions
from recsys.database import schema
from recsys.database.changes import record_change
from recsys.database.engine import fetch_columns, insert_or_update, reading, stage, writing

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
    """Add to the counts and sums of items: (n_changes,) each, an item as often as it comes."""
    keys, place = np.unique(item_key, return_inverse=True)
    _add(connection, keys, np.bincount(place, n, len(keys)), np.bincount(place, rating, len(keys)))


def read_counts(connection: Connection) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """Keys of the items that were ever rated, how often they are now, and the sums of their ratings."""
    counted = schema.item_counts.c
    keys, n, total = fetch_columns(
        connection,
        select(counted.item_key, counted.n_ratings, counted.rating_sum).order_by(counted.item_key),
        (np.int64, np.int64, np.float64),
    )
    return keys, n, total


def recount(engine: Engine) -> int:
    """Count all ratings anew and mend what differs; returns how many items did."""
    rated = schema.ratings.c
    with reading(engine) as connection:  # one state of both, so that what is written meanwhile stays as it is counted
        kept = read_counts(connection)
        true_counts = fetch_columns(
            connection,
            select(rated.item_key, func.count(), func.sum(rated.rating)).group_by(rated.item_key),
            (np.int64, np.int64, np.float64),
        )
    keys = np.union1d(kept[0], true_counts[0])
    n, total = np.zeros(len(keys), np.int64), np.zeros(len(keys))
    for sign, (item_key, counts, sums) in ((-1, kept), (1, true_counts)):
        place = positions(keys, item_key)
        n[place] += sign * counts
        total[place] += sign * sums
    wrong = (n != 0) | (np.abs(total) > 1e-6)
    if wrong.any():
        with writing(engine) as connection:
            record_change(connection)
            _add(connection, keys[wrong], n[wrong], total[wrong])
    return int(wrong.sum())


def _add(connection: Connection, keys: NDArray[np.int64], n: Iterable[float], total: Iterable[float]) -> None:
    rows = (keys.tolist(), [int(count) for count in n], [float(value) for value in total])
    stage(connection, _staged_counts, rows)
    connection.execute(_adding(connection.dialect.name))


@cache
def _adding(dialect: str) -> Insert:
    staged, counted = _staged_counts.c, schema.item_counts.c
    statement = insert_or_update(dialect, schema.item_counts).from_select(
        ["item_key", "n_ratings", "rating_sum"],
        select(staged.item_key, staged.n_ratings, staged.rating_sum).where(true()).order_by(staged.item_key),
    )
    given = statement.excluded
    return statement.on_conflict_do_update(
        index_elements=["item_key"],
        set_={
            "n_ratings": counted.n_ratings + given.n_ratings,
            "rating_sum": counted.rating_sum + given.rating_sum,
        },
    )
