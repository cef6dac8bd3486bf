"""The ratings of a range of users with their external ids, for several processes that read one database."""

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
from sqlalchemy import Connection, func, select

from recsys.data.rows import RatingBatch
from recsys.database import schema
from recsys.database.rating_reads import stream_ranges


def stream_part(connection: Connection, number: int, size: int) -> Iterator[RatingBatch]:
    """Yield the ratings of one of `size` equal ranges of user keys; weights of events are left out."""
    user = schema.ratings.c.user_key
    first, last = connection.execute(select(func.min(user), func.max(user))).one()
    if first is None:
        return
    items = schema.items.c
    found = connection.execute(select(items.item_key, items.item_id)).all()
    item_ids = np.full(max(key for key, _ in found) + 1, None, object)
    item_ids[[key for key, _ in found]] = [item_id for _, item_id in found]
    bounds = first + (last + 1 - first) * np.arange(size + 1) // size
    users = schema.users.c
    for part in stream_ranges(connection, int(bounds[number]), int(bounds[number + 1]) - 1):
        part = part.where(part.kind == schema.EXPLICIT)
        if not len(part.users):
            continue
        least, most = int(part.users[0]), int(part.users[-1])
        ids = np.full(most + 1 - least, None, object)
        for key, user_id in connection.execute(
            select(users.user_key, users.user_id).where(users.user_key.between(least, most))
        ):
            ids[key - least] = user_id
        yield RatingBatch(
            pa.array(ids[part.users - least], pa.string()),
            pa.array(item_ids[part.items], pa.string()),
            part.rating,
            part.rated_at,
            np.arange(len(part.users), dtype=np.int64),
        )
