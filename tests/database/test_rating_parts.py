"""The ratings of a database in parts, for several processes."""

import numpy as np
from sqlalchemy import Engine

from recsys.data.encoding import RatingColumns
from recsys.database.engine import reading
from recsys.database.rating_parts import stream_part
from recsys.database.ratings import upsert_ratings


def test_the_parts_together_are_all_ratings(engine: Engine) -> None:
    users, items = [f"u{user}" for user in range(7)], ["a", "b", "c"]
    code, times = np.arange(21, dtype=np.int32), 1_600_000_000_000 + np.arange(21)
    columns = RatingColumns(users, items, code // 3, code % 3, 1 + code % 5 / 2, times)
    upsert_ratings(engine, columns)
    event = RatingColumns(["u0"], ["a"], code[:1], code[:1], np.ones(1), times[:1])
    upsert_ratings(engine, event, implicit=True)
    ids = [users[each] for each in columns.user_code], [items[each] for each in columns.item_code]
    wanted = sorted(zip(*ids, columns.rating.tolist(), times.tolist(), strict=True))
    for size in (1, 2, 5):
        with reading(engine) as connection:
            found = [batch for number in range(size) for batch in stream_part(connection, number, size)]
        rows = [
            row
            for batch in found
            for row in zip(
                batch.user_ids.to_pylist(),
                batch.item_ids.to_pylist(),
                batch.rating.tolist(),
                batch.rated_at.tolist(),
                strict=True,
            )
        ]
        assert sorted(rows) == wanted


def test_a_database_without_ratings_has_no_parts(engine: Engine) -> None:
    with reading(engine) as connection:
        assert list(stream_part(connection, 0, 2)) == []
