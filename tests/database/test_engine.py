"""Engines, transactions and bulk rows."""

from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import (
    BigInteger,
    Column,
    Double,
    Engine,
    Integer,
    MetaData,
    SmallInteger,
    Table,
    event,
    insert,
    select,
    text,
)

from recsys.database import engine as database
from recsys.database import schema
from recsys.database.engine import connect, copy_in, fetch_columns, reading, writing
from recsys.database.work import Work, write_in_pieces
from recsys.errors import DatabaseError, InputError


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("nonsense", "not a database URL"),
        ("mysql://h/d", "'mysql' is not supported"),
        ("sqlite://", "in memory"),
        ("sqlite:///:memory:", "in memory"),
    ],
)
def test_other_urls_are_refused(url: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        connect(url)


def test_a_file_that_is_no_database_is_named(tmp_path: Path) -> None:
    path = tmp_path / "notes.db"
    path.write_text("these are notes, and long enough to be taken for the header of a database file\n" * 20)
    with pytest.raises(DatabaseError, match=r"notes\.db.* RECSYS_DATABASE_URL"), reading(connect(f"sqlite:///{path}")):
        pass


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with (
        pytest.raises(DatabaseError, match="check RECSYS_DATABASE_URL"),
        reading(connect(f"sqlite:///{tmp_path}/none/x.db")),
    ):
        pass


def test_a_server_that_is_not_there_is_named_without_its_password() -> None:
    with pytest.raises(DatabaseError) as caught, reading(connect("postgresql://me:secret@127.0.0.1:1/none")):
        pass
    assert "127.0.0.1" in str(caught.value)
    assert "secret" not in str(caught.value)


def test_missing_tables_name_the_fix(empty_engine: Engine) -> None:
    with pytest.raises(DatabaseError, match="recsys init"), reading(empty_engine) as connection:
        connection.execute(select(schema.users))


def test_a_transaction_that_fails_leaves_nothing(engine: Engine) -> None:
    with pytest.raises(RuntimeError, match="half way"), writing(engine) as connection:
        connection.execute(insert(schema.users).values(user_id="a"))
        raise RuntimeError("half way")
    with reading(engine) as connection:
        assert connection.execute(select(schema.users)).all() == []


def test_an_interrupt_while_rows_are_left_locks_nobody_out(sqlite_engine: Engine) -> None:
    """The traceback keeps a cursor with rows, and so SQLite keeps the connection, which must not keep its lock."""
    engine = connect(sqlite_engine.url.render_as_string(), busy_seconds=0.2)

    def interrupt(*given: object) -> None:
        if str(given[2]).startswith("SELECT 1"):
            raise KeyboardInterrupt

    event.listen(engine, "after_cursor_execute", interrupt)
    with pytest.raises(KeyboardInterrupt) as interrupted, writing(engine) as connection:
        connection.execute(insert(schema.users).values(user_id="u"))
        connection.execute(text("SELECT 1 UNION ALL SELECT 2 UNION ALL SELECT 3"))
    with writing(engine) as connection:
        assert connection.execute(select(schema.users)).all() == []
    assert interrupted.tb is not None
    engine.dispose()


def test_rows_in_and_out_keep_every_byte(engine: Engine) -> None:
    ids = ["007", "7", "a b", "a\tb", "\\N", "ä", "😀", "'; DROP TABLE items; --", "%s", '"', "\n"]
    with writing(engine) as connection:
        connection.exec_driver_sql("CREATE TEMPORARY TABLE t (a TEXT, b BIGINT)")
        table = schema.Table(
            "t", schema.MetaData(), schema.Column("a", schema.Text), schema.Column("b", schema.BigInteger)
        )
        copy_in(connection, table, (ids, [None, *range(1, len(ids))]))
        assert [row.a for row in connection.execute(select(table))] == ids
        assert [row.b for row in connection.execute(select(table))] == [None, *range(1, len(ids))]


def test_arrays_go_in_with_every_type_and_null(engine: Engine) -> None:
    names = {"a": BigInteger, "b": SmallInteger, "c": Integer, "d": Double, "e": BigInteger}
    table = Table("t", MetaData(), *(Column(name, kind) for name, kind in names.items()))
    values = [[-(2**63), 0, 2**63 - 1], [-(2**15), 0, 2**15 - 1], [-(2**31), 0, 2**31 - 1], [-0.1, 0.0, 1e300]]
    columns = [np.array(column) for column in values]
    missing = np.ma.masked_equal(np.array([0, 7, 0]), 0)
    with writing(engine) as connection:
        connection.exec_driver_sql(
            "CREATE TEMPORARY TABLE t (a BIGINT, b SMALLINT, c INTEGER, d DOUBLE PRECISION, e BIGINT)"
        )
        copy_in(connection, table, [*columns, missing])
        copy_in(connection, table, [column[:0] for column in (*columns, missing)])
        found = connection.execute(select(table)).all()
    assert [list(column) for column in zip(*found, strict=True)] == [*values, [None, 7, None]]


def test_columns_come_out_typed(engine: Engine) -> None:
    with writing(engine) as connection:
        for user_id in ("a", "b"):
            connection.execute(insert(schema.users).values(user_id=user_id))
        connection.execute(
            insert(schema.ratings),
            [
                {"user_key": 1, "item_key": 5, "rating": 2.5},
                {"user_key": 2, "item_key": 2**40, "rating": 0.1},
            ],
        )
        rated = schema.ratings.c
        keys, values = fetch_columns(
            connection, select(rated.item_key, rated.rating).order_by(rated.user_key), (np.int64, np.float64)
        )
        nothing = fetch_columns(connection, select(rated.item_key).where(rated.item_key < 0), (np.int64,))
    assert keys.tolist() == [5, 2**40]
    assert values.tolist() == [2.5, 0.1]
    assert nothing[0].tolist() == []


def test_bulk_writes_let_other_writers_between_on_sqlite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = connect(f"sqlite:///{tmp_path / 'x.db'}")
    monkeypatch.setitem(database.PIECE_ROWS, "sqlite", 10)
    with writing(engine) as connection:
        connection.execute(text("CREATE TABLE t (n INTEGER)"))
    seen = []

    def write(work: Work, rows: slice) -> None:
        work.connection.execute(text("INSERT INTO t VALUES (:n)"), [{"n": n} for n in range(rows.start, rows.stop)])

    def another_writer(_rows: int) -> None:
        with writing(engine) as connection:  # would wait for the timeout if the bulk write held its lock
            connection.execute(text("INSERT INTO t VALUES (-1)"))
            seen.append(connection.scalar(text("SELECT count(*) FROM t")))

    write_in_pieces(engine, 25, write, another_writer)
    assert seen == [11, 22, 28]


@pytest.mark.postgres
def test_a_bulk_write_on_postgres_is_one_transaction(postgres_engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = postgres_engine
    monkeypatch.setitem(database.PIECE_ROWS, "postgresql", 1)

    def write(work: Work, rows: slice) -> None:
        work.connection.execute(insert(schema.users).values(user_id=f"u{rows.start}"))
        if rows.start == 2:
            raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        write_in_pieces(engine, 3, write)
    with reading(engine) as connection:
        assert connection.execute(select(schema.users)).all() == []
