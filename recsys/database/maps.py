"""Maps of the items of a version: places on a plane, and clusters. They can be computed again, so a version is whole
without one."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection, Engine, select

from recsys.database import schema
from recsys.database.statements import upsert
from recsys.database.work import Guard, unit_of_work


class StoredMap(NamedTuple):
    """The map of a version.

    Attributes:
        method: how it was made.
        xy: (n_items, 2) float32, in the order of the version's item keys.
        clusters: (n_items,) int32.
    """

    method: str
    xy: NDArray[np.float32]
    clusters: NDArray[np.int32]


def store_map(engine: Engine, number: int, found: StoredMap, seconds: float, guard: Guard | None = None) -> None:
    """Store the map of a version in place of an earlier one.

    Args:
        seconds: that it took.
        guard: called in the transaction before it commits.
    """
    row = {
        "number": number,
        "method": found.method,
        "xy": found.xy.astype("<f4").tobytes(),
        "clusters": found.clusters.astype("<i4").tobytes(),
        "seconds": round(seconds, 3),
    }
    with unit_of_work(engine, guard) as work:
        values = ["method", "xy", "clusters", "seconds"]
        upsert(work.connection, schema.item_maps, [row], key=["number"], set_=values)


def read_map(connection: Connection, number: int, n_items: int) -> StoredMap | None:
    """Return the map of a version; `None` if there is none, or it is not one of `n_items` items."""
    row = connection.execute(select(schema.item_maps).where(schema.item_maps.c.number == number)).one_or_none()
    if row is None or len(row.xy) != 8 * n_items or len(row.clusters) != 4 * n_items:
        return None
    return StoredMap(row.method, np.frombuffer(row.xy, "<f4").reshape(-1, 2), np.frombuffer(row.clusters, "<i4"))


def has_map(connection: Connection, number: int) -> bool:
    """Return whether a version has a map."""
    stored = schema.item_maps.c.number
    return connection.scalar(select(stored).where(stored == number)) is not None
