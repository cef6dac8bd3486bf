"""A query on another database as a source of ratings: SQLite and PostgreSQL, in increments, without its password."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import Engine, text

from jobs.load import load
from jobs.query import Query
from recsys.data.times import parse_since
from recsys.database import other_database
from recsys.database.clock import now_ms
from recsys.database.engine import connect, writing
from recsys.errors import InputError
from recsys.files.options import ReadOptions
from recsys.settings import Settings

SQL = "SELECT customer AS user_id, sku AS item_id, stars AS rating, at AS rated_at FROM reviews"
DAY_MS = 86_400_000


@pytest.fixture
def shop(tmp_path: Path) -> str:
    """The address of a shop's SQLite database with 25 reviews of five customers, one each day of January 2026."""
    path = tmp_path / "shop.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE reviews (customer INTEGER, sku TEXT, stars REAL, at TEXT)")
        rows = [(i % 5, f'7,"{i // 5}"\n', 1 + i % 9 / 2, f"2026-01-{i + 1:02} 12:00:00") for i in range(25)]
        connection.executemany("INSERT INTO reviews VALUES (?, ?, ?, ?)", rows)
        connection.commit()
    return f"sqlite:///{path}"


def test_loads_every_row_once(engine: Engine, shop: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(other_database, "ROWS_AT_ONCE", 4)
    query = Query(SQL, shop)
    first = load(engine, query, Settings())
    assert (first.rows_read, first.inserted, first.users, first.items) == (25, 25, 5, 5)
    assert load(engine, query, Settings()).unchanged == 25


def test_a_growing_source_is_an_increment(engine: Engine, shop: str) -> None:
    growing = Query(f"{SQL} WHERE at >= :since", shop)
    since = parse_since("2026-01-21", 0)
    assert load(engine, growing, Settings(), options=ReadOptions(since_ms=since)).inserted == 5
    assert load(engine, growing, Settings()).inserted == 20  # without --since: everything
    later = load(engine, growing, Settings(), options=ReadOptions(since_ms=since + 30 * DAY_MS))
    assert (later.rows_read, later.notices) == (0, ["the query returned no rows"])


def test_reads_postgresql_with_its_own_times(engine: Engine, postgres_url: str) -> None:
    source = connect(postgres_url)  # shared by all tests
    with writing(source) as connection:
        connection.execute(text("DROP TABLE IF EXISTS reviews"))
        connection.execute(text("CREATE TABLE reviews (customer uuid, sku int, stars numeric(3, 1), at timestamptz)"))
        rows = "SELECT gen_random_uuid(), i, 3.5, now() - i * interval '1 day' FROM generate_series(1, 9) i"
        connection.execute(text(f"INSERT INTO reviews {rows}"))
    source.dispose()
    query = Query(f"{SQL} WHERE at >= :since AND extract(epoch FROM at) > :since_seconds", postgres_url)
    report = load(engine, query, Settings(), options=ReadOptions(since_ms=parse_since("108h", now_ms())))
    assert (report.inserted, report.rejected) == (4, 0)
    refused = Query("DELETE FROM reviews", postgres_url)
    with pytest.raises(InputError, match=r"syntax error|read-only"):  # the cursor takes no statement that writes
        load(engine, refused, Settings())


@pytest.mark.parametrize(
    ("sql", "url", "said"),
    [
        ("SELECT nothing FROM reviews", None, "no such column: nothing.*correct --from-query|cannot be read.*nothing"),
        (f"{SQL} WHERE at > :day", None, "day"),
        ("SELECT x'00' AS user_id, 1 AS item_id, 3 AS rating", None, "column user_id holds bytes"),
        ("DELETE FROM reviews", None, "readonly"),
        (SQL, "sqlite:///none.db", "there is no file none.db"),
        (SQL, "postgresql://me:secret@127.0.0.1:1/none", "127.0.0.1"),
        (SQL, "nonsense://me:secret@h/d", "driver"),
        (SQL, "not an address", "RECSYS_SOURCE_URL"),
    ],
)
def test_names_the_fix_and_no_password(engine: Engine, shop: str, sql: str, url: str | None, said: str) -> None:
    with pytest.raises(InputError, match=said) as caught:
        load(engine, Query(sql, url or shop), Settings())
    assert "secret" not in str(caught.value) + repr(Query(sql, url or shop))


def test_without_an_address_it_says_which_setting_names_it() -> None:
    with pytest.raises(InputError, match="RECSYS_SOURCE_URL"):
        Query.of(SQL, Settings(source_url=None))


def test_since_leaves_earlier_rows_of_a_file_out(engine: Engine, tmp_path: Path) -> None:
    path = tmp_path / "ratings.csv"
    rows = [
        "user_id,item_id,rating,rated_at",
        *(f"u{i},a,{1 + i % 5},{1_700_000_000 + i}" for i in range(10)),
        "x,a,3,",
    ]
    path.write_text("\n".join(rows) + "\n")
    report = load(engine, path, Settings(), options=ReadOptions(since_ms=1_700_000_007_000))
    assert (report.rows_read, report.inserted, report.earlier) == (11, 4, 7)
    nothing = load(engine, path, Settings(), options=ReadOptions(since_ms=2_000_000_000_000))
    assert (nothing.unchanged, nothing.earlier) == (1, 10)


def test_since_does_not_replace_a_sum_of_events_by_a_part_of_it(engine: Engine, tmp_path: Path) -> None:
    path = tmp_path / "events.csv"
    path.write_text("user_id,item_id,rated_at\nu,a,1700000000\nu,a,1700000100\nu,b,1700000100\n")
    load(engine, path, Settings(), options=ReadOptions(implicit=True))
    options = ReadOptions(implicit=True, since_ms=1_700_000_050_000)
    with pytest.raises(InputError, match="add --append"):
        load(engine, path, Settings(), options=options)
    assert load(engine, path, Settings(), options=options, append=True).inserted == 0


@pytest.mark.parametrize(("said", "ms"), [("7d", 93 * DAY_MS), ("36h", int(98.5 * DAY_MS)), ("1970-01-03", 2 * DAY_MS)])
def test_since_is_a_time_or_so_long_ago(said: str, ms: int) -> None:
    assert parse_since(said, 100 * DAY_MS) == ms
    with pytest.raises(InputError, match="expected a date or time"):
        parse_since("yesterday", 0)
