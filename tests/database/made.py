"""Ratings as a file or a client brings them, and what must hold of the counts kept with them."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from sqlalchemy import Engine, func, select

from recsys.data.dataset import NO_TIME
from recsys.data.encoding import collect
from recsys.data.rows import RatingBatch
from recsys.database import schema
from recsys.database.counts import read_counts
from recsys.database.engine import reading
from recsys.database.feedback import NewRating
from recsys.database.ids import keys_of
from recsys.database.posts import rate
from recsys.database.ratings import Upserted, upsert_ratings

Row = tuple[str, str, float] | tuple[str, str, float, int | None]


@dataclass(frozen=True)
class Posted:
    """What a post did, the users whose ratings it changed, and the seq of the change."""

    inserted: int
    updated: int
    unchanged: int
    users: tuple[int, ...] = ()
    seq: int = 0


def post(engine: Engine, *rows: Row) -> Posted:
    """Post ratings, of items that are inserted if they are missing."""
    keys_of(engine, schema.items, [row[1] for row in rows])
    ratings = [NewRating(row[0], row[1], row[2], row[3] if len(row) > 3 else None) for row in rows]
    changes: list[tuple[tuple[int, ...], int]] = []
    done = rate(engine, ratings, None, lambda users, seq: changes.append((tuple(users), seq)))
    assert done.errors == []
    return Posted(done.inserted, done.updated, done.unchanged, *(changes[0] if changes else ()))


def write(engine: Engine, *rows: Row) -> Upserted:
    """Load ratings in bulk."""
    times = [row[3] if len(row) > 3 else None for row in rows]
    batch = RatingBatch(
        user_ids=pa.array([row[0] for row in rows], pa.string()),
        item_ids=pa.array([row[1] for row in rows], pa.string()),
        rating=np.array([row[2] for row in rows], np.float64),
        rated_at=np.array([NO_TIME if at is None else at for at in times], np.int64),
        line=np.arange(1, len(rows) + 1),
    )
    return upsert_ratings(engine, collect([batch]))


def kept_counts(engine: Engine) -> dict[int, tuple[int, float]]:
    """Item → number and sum as they are kept, without items that have none."""
    with reading(engine) as connection:
        keys, n, total, _ = read_counts(connection)
    found = {key: (count, round(value, 6)) for key, count, value in zip(*map(list, (keys, n, total)), strict=True)}
    return {int(key): (int(count), float(value)) for key, (count, value) in found.items() if (count, value) != (0, 0)}


def true_counts(engine: Engine) -> dict[int, tuple[int, float]]:
    """The same, counted."""
    rated = schema.ratings.c
    with reading(engine) as connection:
        rows = connection.execute(
            select(rated.item_key, func.count(), func.sum(rated.rating)).group_by(rated.item_key)
        ).all()
    return {key: (n, round(total, 6)) for key, n, total in rows}
