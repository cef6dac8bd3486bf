"""Engine, transactions, and rows in and out in bulk. The only module that knows the dialect."""

import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, cast
from weakref import WeakKeyDictionary

import numpy as np
import psycopg
from numpy.typing import NDArray
from sqlalchemy import Connection, Dialect, Engine, Select, Table, create_engine, event, exc, inspect
from sqlalchemy.dialects import postgresql as postgresql_dialect
from sqlalchemy.dialects import sqlite as sqlite_dialect
from sqlalchemy.engine import URL, make_url
from sqlalchemy.schema import CreateTable

from recsys.database.sqlite_file import file_identity, file_write_problem, open_file
from recsys.errors import DatabaseError, InputError

BUSY_TIMEOUT_SECONDS = 30
PIECE_ROWS = {"sqlite": 50_000, "postgresql": 500_000}
"""Rows staged and written at a time. On SQLite a transaction each, some tenths of a second long."""
BREATHER_SECONDS = 0.02
"""Pause between two such transactions, so that a waiting writer finds the file unlocked."""

_MIN_SQLITE = (3, 39, 0)  # IS DISTINCT FROM, RETURNING, upsert


def connect(url: str, busy_seconds: float = BUSY_TIMEOUT_SECONDS, *, create: bool = True) -> Engine:
    """An engine for `sqlite:///FILE` or `postgresql://…`; nothing is opened yet.

    Args:
        busy_seconds: how long a writer waits for another one on SQLite.
        create: whether a connection creates an SQLite file that does not exist. A server never does.

    Raises:
        InputError: the URL is neither, or names a database in memory.
    """
    parsed = _checked_url(url)
    pool = {"pool_size": 20, "max_overflow": 30, "pool_timeout": 10}  # one for each thread of a server, and some
    if parsed.get_backend_name() != "sqlite":
        return create_engine(parsed, pool_pre_ping=True, connect_args={"connect_timeout": 10}, **pool)
    engine = create_engine(parsed, connect_args={"timeout": busy_seconds}, **pool)
    event.listen(
        engine,
        "do_connect",
        lambda _dialect, _record, arguments, options: open_file(*arguments, create=create, **options),
    )
    event.listen(engine, "begin", lambda connection: _begin_sqlite(connection, busy_seconds))
    return engine


def _checked_url(url: str) -> URL:
    try:
        parsed = make_url(url)
    except (exc.ArgumentError, ValueError):
        raise InputError(
            "RECSYS_DATABASE_URL is not a database URL: expected sqlite:///FILE or postgresql://USER:PASSWORD@HOST/NAME"
        ) from None
    backend = parsed.get_backend_name()
    if backend in ("postgres", "postgresql"):
        return parsed.set(drivername="postgresql+psycopg")
    if backend != "sqlite":
        raise InputError(f"RECSYS_DATABASE_URL: {backend!r} is not supported: use sqlite:///FILE or postgresql://…")
    if not parsed.database or parsed.database == ":memory:":
        raise InputError("RECSYS_DATABASE_URL: a database in memory is lost at once: use sqlite:///FILE")
    if sqlite3.sqlite_version_info < _MIN_SQLITE:
        raise InputError(f"SQLite {sqlite3.sqlite_version} is too old: 3.39 or newer is needed")
    return parsed.set(drivername="sqlite")


def _begin_sqlite(connection: Connection, busy_seconds: float) -> None:
    # A transaction that starts by reading and then writes can fail for good when another writer got between.
    if not connection.get_execution_options().get("writes", False):
        connection.exec_driver_sql("BEGIN")
        return
    # SQLite's own waiting looks only every 100 ms, and would miss every pause between the pieces of a bulk
    # write; ours looks often enough to get in at the first.
    deadline = time.monotonic() + busy_seconds
    connection.exec_driver_sql("PRAGMA busy_timeout = 0")
    try:
        while True:
            try:
                connection.exec_driver_sql("BEGIN IMMEDIATE")
                return
            except exc.OperationalError as error:
                if "locked" not in str(error.orig) or time.monotonic() > deadline:
                    raise
            time.sleep(BREATHER_SECONDS / 4)
    finally:
        connection.exec_driver_sql(f"PRAGMA busy_timeout = {round(busy_seconds * 1000)}")


def is_sqlite(engine: Engine) -> bool:
    return engine.dialect.name == "sqlite"


def is_empty(engine: Engine) -> bool:
    """Whether the database has no table at all."""
    with _foreign_errors(engine):
        return not inspect(engine).get_table_names()


def forget_replaced_file(engine: Engine) -> bool:
    """Close all connections to an SQLite file that was removed or replaced under them; the next ones open anew.

    Returns:
        Whether another file is there than the last time.
    """
    if not is_sqlite(engine):
        return False
    database = Path(engine.url.database or "")
    identity = file_identity(database)
    before = _files.get(engine)
    is_another = before is not None and before != identity
    if is_another:
        engine.dispose()
    if identity is None:
        raise DatabaseError(
            f"{database} is not there: run `recsys init`, or check RECSYS_DATABASE_URL",
            public="the database is missing: run `recsys init`, or check RECSYS_DATABASE_URL",
        )
    _files[engine] = identity
    return is_another


_files: "WeakKeyDictionary[Engine, tuple[int, ...]]" = WeakKeyDictionary()


def write_problem(engine: Engine) -> str | None:
    """Return why the database is known to take no writes; `None` where a write may succeed."""
    return file_write_problem(Path(engine.url.database or "")) if is_sqlite(engine) else None


def lock_schema(connection: Connection) -> None:
    """Let nobody else change the schema until this transaction ends."""
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql("SELECT pg_advisory_xact_lock(7263779)")


def take_turn(connection: Connection) -> None:
    """Let no other one who takes a turn go on before this transaction ends. On SQLite no two write at once anyway."""
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql("SELECT pg_advisory_xact_lock(7263780)")


@contextmanager
def reading(engine: Engine) -> Iterator[Connection]:
    """A transaction that reads one consistent state.

    Raises:
        DatabaseError: the database cannot be reached, or its tables are not there.
    """
    with _foreign_errors(engine), engine.connect() as connection:
        if not is_sqlite(engine):
            connection = connection.execution_options(isolation_level="REPEATABLE READ")
        with connection.begin():
            yield connection


@contextmanager
def glancing(engine: Engine) -> Iterator[Connection]:
    """A connection for a few reads, each of which may see another state, with as little talk as can be.

    Raises:
        DatabaseError: as `reading`.
    """
    with _foreign_errors(engine), engine.connect() as connection:
        yield connection if is_sqlite(engine) else connection.execution_options(isolation_level="AUTOCOMMIT")


@contextmanager
def writing(engine: Engine) -> Iterator[Connection]:
    """A transaction that writes: all of it, or nothing when an exception leaves the block.

    Raises:
        DatabaseError: as `reading`.
    """
    with (
        _foreign_errors(engine),
        engine.connect().execution_options(writes=True) as connection,
        connection.begin(),
    ):
        yield connection


def write_in_pieces(
    engine: Engine,
    n_rows: int,
    write: Callable[[Connection, slice], None],
    on_piece: Callable[[int], None] | None = None,
) -> None:
    """Call `write(connection, rows)` for consecutive slices of `n_rows` rows, each inside a transaction.

    On SQLite, where writers wait for each other, every slice is a transaction of its own, short enough for
    others to get between. On PostgreSQL the whole is one transaction.

    Args:
        on_piece: called with the number of rows just written.
    """
    size = PIECE_ROWS[engine.dialect.name]
    slices = [slice(start, min(start + size, n_rows)) for start in range(0, n_rows, size)]
    if is_sqlite(engine):
        for number, rows in enumerate(slices):
            if number:
                time.sleep(BREATHER_SECONDS)
            with writing(engine) as connection:
                write(connection, rows)
            if on_piece:
                on_piece(rows.stop - rows.start)
        return
    with writing(engine) as connection:
        for rows in slices:
            write(connection, rows)
            if on_piece:
                on_piece(rows.stop - rows.start)


def stage(connection: Connection, table: Table, columns: Sequence[Iterable[Any]]) -> None:
    """Fill a temporary table with these columns, in place of what it held."""
    connection.exec_driver_sql(_creation(table, connection.dialect))
    postgres = connection.dialect.name == "postgresql"
    connection.exec_driver_sql(f"TRUNCATE {table.name}" if postgres else f"DELETE FROM {table.name}")
    copy_in(connection, table, columns)
    if postgres:
        connection.exec_driver_sql(f"ANALYZE {table.name}")  # the planner knows nothing of a new table


@cache
def _creation(table: Table, dialect: Dialect) -> str:
    return str(CreateTable(table, if_not_exists=True).compile(dialect=dialect))


def copy_in(connection: Connection, table: Table, columns: Sequence[Iterable[Any]]) -> None:
    """Append rows, given as columns in the order of the table's, by the driver's fastest road.

    Values are str, int, float, bool, bytes or None; JSON columns take their text.
    """
    names = ", ".join(column.name for column in table.columns)
    rows = zip(*columns, strict=True)
    if connection.dialect.name == "sqlite":
        marks = ", ".join("?" * len(table.columns))
        sqlite = cast(sqlite3.Connection, connection.connection.dbapi_connection)
        sqlite.executemany(f"INSERT INTO {table.name} ({names}) VALUES ({marks})", rows).close()
        return
    postgres = cast(psycopg.Connection[Any], connection.connection.dbapi_connection)
    with postgres.cursor() as cursor, cursor.copy(f"COPY {table.name} ({names}) FROM STDIN".encode()) as copy:
        for row in rows:
            copy.write_row(row)


def fetch_columns(
    connection: Connection, statement: Select[Any], dtypes: Sequence[type[np.generic]]
) -> list[NDArray[Any]]:
    """The result of a query as one numpy array a column; the query must give no NULL."""
    record = np.dtype([(f"c{place}", dtype) for place, dtype in enumerate(dtypes)])
    fetched = np.fromiter(fetch_rows(connection, statement), record)
    return [np.ascontiguousarray(fetched[name]) for name in record.names or ()]


def fetch_rows(connection: Connection, statement: Select[Any]) -> Iterator[tuple[Any, ...]]:
    """The result of a query as the driver has it, by its fastest road; it is never in memory as a whole."""
    sql = _in_full(statement, connection.dialect)
    if connection.dialect.name == "sqlite":
        sqlite = cast(sqlite3.Connection, connection.connection.dbapi_connection)
        with closing(sqlite.execute(sql)) as rows:
            yield from rows
        return
    postgres = cast(psycopg.Connection[Any], connection.connection.dbapi_connection)
    with postgres.cursor(name="fetch_rows", binary=True) as cursor:
        cursor.itersize = 50_000
        cursor.execute(sql.encode())
        yield from cursor


@lru_cache(256)
def _in_full(statement: Select[Any], dialect: Dialect) -> str:
    """A query as text, with its values in it."""
    return str(statement.compile(dialect=dialect, compile_kwargs={"literal_binds": True}))


def insert_or_update(dialect: str, table: Table) -> sqlite_dialect.Insert:
    """A dialect's own INSERT, which knows ON CONFLICT; SQLite's and PostgreSQL's have the same shape.

    Args:
        dialect: `connection.dialect.name`. Statements that small requests need are built once for each.
    """
    if dialect == "sqlite":
        return sqlite_dialect.insert(table)
    return cast(sqlite_dialect.Insert, postgresql_dialect.insert(table))


def server_version(engine: Engine) -> str:
    """Name and version of the database, for people."""
    with reading(engine) as connection:
        if is_sqlite(engine):
            return f"SQLite {sqlite3.sqlite_version}"
        return f"PostgreSQL {connection.exec_driver_sql('SHOW server_version').scalar_one()}"


@contextmanager
def _foreign_errors(engine: Engine) -> Iterator[None]:
    """Say what the driver's errors mean for the person who reads them."""
    where = engine.url.render_as_string(hide_password=True)
    try:
        yield
    except exc.TimeoutError as error:
        raise DatabaseError(f"{where}: all connections are in use, each waiting for the database: try again") from error
    except (exc.DatabaseError, exc.InterfaceError, sqlite3.Error, psycopg.Error) as error:
        said = _meaning(where, error)
        if said is None:
            raise  # a row or a statement is wrong, not the database
        if "recsys init" in said:
            raise DatabaseError(said, public=said.replace(where, "the database")) from error
        if "unable to open" in said:
            public = "the database cannot be opened: run `recsys init`, or check RECSYS_DATABASE_URL"
            raise DatabaseError(said, public=public) from error
        raise DatabaseError(said) from error


def _meaning(where: str, error: Exception) -> str | None:
    """What an error of SQLAlchemy's or of a driver's says of the database; None where it says nothing of it."""
    original = error.orig if isinstance(error, exc.DBAPIError) else error
    said = (str(original).strip().splitlines() or [type(original).__name__])[0]
    if "no such table" in said or isinstance(original, psycopg.errors.UndefinedTable):
        return f"{where} has not the tables this version needs: run `recsys init`"
    if "is not a database" in said:
        return f"{where} is not an SQLite database: check RECSYS_DATABASE_URL"
    if "malformed" in said:
        return f"{where} is damaged ({said}): restore it from a backup"
    if "locked" in said:
        return f"{where} was locked by another writer for too long: try again"
    if "unable to open" in said or isinstance(error, exc.InterfaceError):
        return f"cannot open {where}: {said}; check RECSYS_DATABASE_URL"
    if isinstance(original, sqlite3.OperationalError | psycopg.OperationalError):
        return f"{where}: {said}; check that it is running and can be reached"
    return None
