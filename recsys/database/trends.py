"""Recent ratings of items, counted by age."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection, func, select

from recsys.database import schema
from recsys.database.engine import database_now_ms, fetch_columns

N_HALF_LIVES = 10
"""Ratings older than so many half-lives are not counted: each would weigh less than a thousandth."""

_BUCKETS = 64
"""Groups of ages in each half-life. Ratings of a group count with their mean age, which is exact to 1 in 10,000."""

DAY_MS = 86_400_000


class Trends(NamedTuple):
    """Trends of the items that were rated recently.

    Attributes:
        item_keys: (n,) int64, ascending.
        weights: (n,) float64, Σ 2^(−age / half-life) over the ratings of each item.
    """

    item_keys: NDArray[np.int64]
    weights: NDArray[np.float64]


def read_trends(connection: Connection, half_life_days: float) -> Trends:
    """Return how often items were rated recently: each rating counts 2^(−age / half-life).

    Args:
        half_life_days: age in days at which a rating counts half.
    """
    now = database_now_ms(connection)
    half_life_ms = round(half_life_days * DAY_MS)
    rated = schema.ratings.c
    age = now - rated.rated_at
    group = age // max(1, half_life_ms // _BUCKETS)
    statement = (
        select(rated.item_key, func.count(), func.sum(age))
        .where(rated.rated_at > now - N_HALF_LIVES * half_life_ms)
        .group_by(rated.item_key, group)
    )
    item_key, n, total = fetch_columns(connection, statement, (np.int64, np.float64, np.float64))
    keys, position = np.unique(item_key, return_inverse=True)
    weights = n * 2.0 ** (-(total / np.maximum(n, 1)) / half_life_ms)
    return Trends(keys, np.bincount(position, weights, len(keys)).astype(np.float64))
