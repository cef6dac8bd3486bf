"""Maps of versions: stored, read, replaced, and gone with their version."""

import numpy as np
from sqlalchemy import Engine

from jobs.maps import map_live
from recsys.database.engine import reading
from recsys.database.maps import StoredMap, has_map, read_map, store_map
from recsys.database.models import publish
from recsys.database.publications import read_publications
from recsys.database.retention import prune
from recsys.database.runs import read_runs, recorded
from tests.conftest import add_known_model


def test_a_map_is_stored_replaced_and_deleted_with_its_version(known_engine: Engine) -> None:
    map_live(known_engine)
    with reading(known_engine) as connection:
        first = read_map(connection, 1, 6)
        assert read_map(connection, 1, 5) is None  # of other items
        assert not has_map(connection, 99)
    assert first is not None
    assert (first.method, first.xy.shape, first.clusters.shape) == ("pca", (6, 2), (6,))
    assert map_live(known_engine) == []
    moved = StoredMap("tsne", first.xy + 1, first.clusters)
    store_map(known_engine, 1, moved, 0.5)
    with reading(known_engine) as connection:
        second = read_map(connection, 1, 6)
    assert second is not None
    np.testing.assert_array_equal(second.xy, first.xy + 1)
    for _ in range(2):  # neither live nor the rollback target any more
        publish(known_engine, add_known_model(known_engine, "ranking"), "newer")
    assert 1 in prune(known_engine, keep=1)
    with reading(known_engine) as connection:
        assert not has_map(connection, 1)


def test_publications_and_runs_the_newest_first(known_engine: Engine) -> None:
    for job in ("load", "nightly"):
        with recorded(known_engine, job) as run:
            run.reason = f"{job} done"
    with reading(known_engine) as connection:
        assert [(run.job, run.status, run.reason) for run in read_runs(connection, 50)] == [
            ("nightly", "done", "nightly done"),
            ("load", "done", "load done"),
        ]
        assert [(one.objective, one.number, one.reason) for one in read_publications(connection)] == [
            ("rating", 2, "known"),
            ("ranking", 1, "known"),
        ]
