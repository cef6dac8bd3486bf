"""Stored ratings read as arrays: every value as SQL returns it, on both databases, whatever the pages look like."""

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sqlalchemy import Engine, func, select

from recsys.data.dataset import NO_TIME
from recsys.database import rating_reads, schema, sqlite_image
from recsys.database.engine import copy_in, reading, writing
from recsys.database.rating_reads import read_stored_ratings, stream_stored
from recsys.database.ratings import stream_ratings
from recsys.errors import DatabaseError

N_USERS, N_ITEMS = 300, 400


def fill(engine: Engine, n: int) -> list[NDArray[Any]]:
    """Store `n` ratings of every size of integer, with fractions, both kinds, and with and without times."""
    rng = np.random.default_rng(3)
    cells = np.sort(rng.choice(N_USERS * N_ITEMS, n, replace=False))
    users, items = 1 + cells // N_ITEMS, cells % N_ITEMS
    items = np.where(items == N_ITEMS - 1, 1 << 40, items)  # five bytes, and still the largest
    kind = rng.integers(0, 2, n)
    some = np.array([0.0, 1.0, 2.0, 4.5, -3.0, 0.1 + 0.2, 300.0, 70_000.0, -9e6, 1e-300, 1e9])
    rating = rng.choice(some, n)
    times = np.array([NO_TIME, 0, 1, -5, 200, 40_000, 9_000_000, 1_700_000_000_123, 1 << 50, 1 << 62])
    rated_at = rng.choice(times, n)
    with writing(engine) as connection:
        keys = np.arange(1, N_USERS + 1)
        copy_in(connection, schema.users, (keys, [f"u{key}" for key in keys], ["[]"] * len(keys), ["{}"] * len(keys)))
        order = rng.permutation(n)
        columns = (users, items, kind, rating, np.ma.masked_equal(rated_at, NO_TIME))
        copy_in(connection, schema.ratings, tuple(column[order] for column in columns))
    return [users, items, kind, rating, rated_at]


@pytest.mark.parametrize("n", [0, 1, 30_000])
def test_reads_every_value_in_the_order_of_the_keys(engine: Engine, n: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite_image, "PAGES_AT_ONCE", 7)
    monkeypatch.setattr(rating_reads, "FIRST_USERS", 3)
    stored = fill(engine, n)
    with reading(engine) as connection:
        for found, expected in zip(read_stored_ratings(connection), stored, strict=True):
            np.testing.assert_array_equal(found, expected)
        monkeypatch.setattr(sqlite_image, "MAX_BYTES", 0)  # SQLite by SQL
        for found, expected in zip(read_stored_ratings(connection), stored, strict=True):
            np.testing.assert_array_equal(found, expected)


def test_streams_one_kind_in_parts_of_one_size(engine: Engine) -> None:
    users, items, kind, rating, rated_at = fill(engine, 5000)
    expected = [column[kind == schema.IMPLICIT] for column in (users, items, rating, rated_at)]
    with reading(engine) as connection:
        parts = list(stream_ratings(connection, is_event=True, n_rows=1000))
        assert next(stream_ratings(connection, is_event=True, n_rows=10**6))[0].tolist() == expected[0].tolist()
    assert {len(part[0]) for part in parts[:-1]} == {1000}
    for column, wanted in enumerate(expected):
        np.testing.assert_array_equal(np.concatenate([part[column] for part in parts]), wanted)


def test_reads_what_its_transaction_sees(engine: Engine) -> None:
    fill(engine, 2000)
    with reading(engine) as connection:
        before = connection.scalar(select(func.count()).select_from(schema.ratings))
        with writing(engine) as other:
            other.execute(schema.ratings.delete())
        assert sum(len(part.users) for part in stream_stored(connection)) == before == 2000
    with writing(engine) as connection:
        assert list(stream_stored(connection)) == []


@pytest.mark.parametrize(
    "table",
    [
        "t (a INTEGER, b INTEGER)",  # with row ids: pages of another kind
        "t (a INTEGER, b TEXT, PRIMARY KEY (a)) WITHOUT ROWID",
        "t (a INTEGER, b REAL, PRIMARY KEY (a)) WITHOUT ROWID",
        "t (a INTEGER, b INTEGER, c INTEGER, PRIMARY KEY (a)) WITHOUT ROWID",
    ],
)
def test_refuses_pages_of_another_table(tmp_path: Path, table: str) -> None:
    with closing(sqlite3.connect(tmp_path / "x.db")) as connection:
        connection.execute(f"CREATE TABLE {table}")
        connection.executemany(
            "INSERT INTO t (a, b) VALUES (?, ?)", [(i, "x" if "TEXT" in table else 0.5) for i in range(9)]
        )
        connection.commit()
        image = sqlite_image.read_image(connection)
        assert image is not None
        with pytest.raises(DatabaseError, match="integrity_check"):
            list(sqlite_image.decode_table(image, 2, (np.int64, np.int64), NO_TIME))


def test_damaged_pages_are_refused_or_read_and_never_end_in_a_loop(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "x.db")) as connection:
        connection.execute("PRAGMA page_size = 512")
        connection.execute("CREATE TABLE t (a INTEGER, b INTEGER, PRIMARY KEY (a)) WITHOUT ROWID")
        connection.executemany("INSERT INTO t VALUES (?, ?)", [(i * 1000, i) for i in range(3000)])
        connection.commit()
        image = sqlite_image.read_image(connection)
    assert image is not None
    random = np.random.default_rng(0)
    root = slice(512, 1024)  # page 2, whose children are inner pages and leaves
    refused = 0
    for _ in range(300):
        damaged = image.copy()
        of_root = random.random() < 0.5
        places = random.integers(root.start, root.stop, 4) if of_root else random.integers(1024, len(image), 40)
        damaged[places] = random.integers(0, 256, len(places))
        try:
            list(sqlite_image.decode_table(damaged, 2, (np.int64, np.int64), NO_TIME))
        except DatabaseError:
            refused += 1
    assert refused > 100
    image = image.copy()
    image[520:524] = np.frombuffer((2).to_bytes(4, "big"), np.uint8)  # its last child is itself
    with pytest.raises(DatabaseError, match="lead back"):
        list(sqlite_image.decode_table(image, 2, (np.int64, np.int64), NO_TIME))
