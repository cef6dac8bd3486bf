"""Engine, transactions, and rows in and out in bulk. With `statements`, the only module that knows the dialect."""

import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import (
    Connection,
    Engine,
    Select,
    Table,
    create_engine,
    event,
    exc,
    inspect,
)
from sqlalchemy.engine import URL, make_url
from sqlalchemy.schema import CreateTable

from recsys.database.breaker import JOB_OPTIONS, SERVER_OPTIONS, Breaker, check_breaker, guard
from recsys.database.clock import now_ms
from recsys.database.driver_errors import ConflictError, is_busy, translate
from recsys.database.postgres_copy import as_binary
from recsys.database.sqlite_file import CACHE_MIB, SERVER_CACHE_MIB, file_identity, file_write_problem, open_file
from recsys.errors import DatabaseError, InputError

if TYPE_CHECKING:
    import psycopg

BUSY_TIMEOUT_SECONDS = 30
PIECE_ROWS = {"sqlite": 100_000, "postgresql": 100_000}
"""Rows staged and written at a time. On SQLite each piece is a transaction, some tenths of a second long."""
SQLITE_ROWS = 100
"""Rows of one INSERT on SQLite: row by row it takes 2.3 times as long."""
BREATHER_SECONDS = 0.02
"""Pause between two such transactions, so that a waiting writer finds the file unlocked."""
ATTEMPTS = 20
"""How often a transaction is tried that others get in the way of."""

MIN_SQLITE = (3, 39, 0)  # IS DISTINCT FROM, RETURNING, upsert

_Result = TypeVar("_Result")


def connect(
    url: str, busy_seconds: float = BUSY_TIMEOUT_SECONDS, *, create: bool = True, breaker: Breaker | None = None
) -> Engine:
    """Return an engine for `sqlite:///FILE` or `postgresql://…`; no connection is opened yet.

    Args:
        busy_seconds: seconds that a writer waits for another writer on SQLite, and on PostgreSQL with a breaker.
        create: whether a connection creates an SQLite file that does not exist. A server never does.
        breaker: of a server. On PostgreSQL it refuses the database while it hangs, and statements are limited to
            `STATEMENT_SECONDS`. On SQLite each connection keeps `SERVER_CACHE_MIB` of pages.

    Raises:
        InputError: the URL is neither, or names a database in memory.
    """
    parsed = _checked_url(url)
    pool = {"pool_size": 20, "max_overflow": 30, "pool_timeout": 10}  # one for each thread of a server, and some
    if parsed.get_backend_name() != "sqlite":
        options = JOB_OPTIONS if breaker is None else SERVER_OPTIONS
        engine = create_engine(parsed, pool_pre_ping=True, connect_args=options, hide_parameters=True, **pool)
        if breaker is not None:
            guard(engine, breaker, busy_seconds)
        return engine
    cache_mib = CACHE_MIB if breaker is None else SERVER_CACHE_MIB
    engine = create_engine(parsed, connect_args={"timeout": busy_seconds}, hide_parameters=True, **pool)
    event.listen(
        engine,
        "do_connect",
        lambda _dialect, _record, arguments, options: open_file(
            *arguments, create=create, cache_mib=cache_mib, **options
        ),
    )
    event.listen(engine, "begin", lambda connection: _begin_sqlite(connection, busy_seconds))
    event.listen(engine, "close", lambda connection, _: _end_transaction(connection))
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
    if sqlite3.sqlite_version_info < MIN_SQLITE:
        raise InputError(f"SQLite {sqlite3.sqlite_version} is too old: 3.39 or newer is needed")
    return parsed.set(drivername="sqlite")


def _end_transaction(connection: sqlite3.Connection) -> None:
    """Roll back what a connection that is about to be closed has begun.

    While a cursor with rows left lives, as in the traceback of an interrupt, SQLite only closes the connection later,
    and its transaction would keep the file locked against the writes that note the interrupt.
    """
    with suppress(sqlite3.Error):
        connection.rollback()


def _begin_sqlite(connection: Connection, busy_seconds: float) -> None:
    # A transaction that reads first and writes later fails if another writer committed in between.
    options = connection.get_execution_options()
    if not options.get("writes", False):
        connection.exec_driver_sql("BEGIN")
        return
    connection.exec_driver_sql(f"PRAGMA foreign_keys = {'ON' if options['check_keys'] else 'OFF'}")
    # SQLite's busy handler polls only every 100 ms, so it would miss every pause between the pieces of a bulk
    # write. This loop polls often enough to start in the first pause.
    deadline = time.monotonic() + busy_seconds
    connection.exec_driver_sql("PRAGMA busy_timeout = 0")
    try:
        while True:
            try:
                connection.exec_driver_sql("BEGIN IMMEDIATE")
                return
            except exc.OperationalError as error:
                if not is_busy(error) or time.monotonic() > deadline:
                    raise
            time.sleep(BREATHER_SECONDS / 4)
    finally:
        connection.exec_driver_sql(f"PRAGMA busy_timeout = {round(busy_seconds * 1000)}")


def is_sqlite(engine: Engine) -> bool:
    """Return whether the database is an SQLite file."""
    return engine.dialect.name == "sqlite"


def writers_overlap(connection: Connection) -> bool:
    """Return whether other transactions may write while this one does. On SQLite they wait."""
    return connection.dialect.name != "sqlite"


def is_empty(engine: Engine) -> bool:
    """Return whether the database has no table."""
    with translate(engine):
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
    """Hold the lock of the schema until this transaction ends, so that two migrations do not run at once."""
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql("SELECT pg_advisory_xact_lock(7263779)")


def limit_lock_wait(connection: Connection, seconds: float) -> None:
    """Let this transaction fail with `LockUnavailableError` where it would wait longer for a lock of another one.

    On SQLite, where a transaction that writes has its only lock from its beginning, nothing is to do.
    """
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql(f"SET LOCAL lock_timeout = {max(1, round(seconds * 1000))}")


def database_now_ms(connection: Connection) -> int:
    """Return the database's time in Unix milliseconds. SQLite has no clock of its own: there it is the machine's."""
    if connection.dialect.name == "sqlite":
        return now_ms()
    seconds = connection.exec_driver_sql("SELECT extract(epoch FROM clock_timestamp())").scalar_one()
    return round(float(seconds) * 1000)


@contextmanager
def reading(engine: Engine) -> Iterator[Connection]:
    """Open a transaction that reads one consistent state.

    Raises:
        DatabaseError: the database cannot be reached, or its tables are missing.
    """
    check_breaker(engine)
    with translate(engine), engine.connect() as connection:
        if not is_sqlite(engine):
            connection = connection.execution_options(isolation_level="REPEATABLE READ")
        with connection.begin():
            yield connection


@contextmanager
def read_latest(engine: Engine) -> Iterator[Connection]:
    """Open a connection for a few reads, each of the latest state, with as few round trips as possible.

    Raises:
        DatabaseError: as `reading`.
    """
    check_breaker(engine)
    with translate(engine), engine.connect() as connection:
        yield connection if is_sqlite(engine) else connection.execution_options(isolation_level="AUTOCOMMIT")


@contextmanager
def writing(engine: Engine, *, check_keys: bool = True) -> Iterator[Connection]:
    """Open a transaction that writes. It is rolled back when an exception leaves the block.

    Writers of ratings, users and items use `unit_of_work`, which also records what changed.

    Args:
        check_keys: whether SQLite checks foreign keys, which takes a third of the time of a bulk insert. A writer that
            has looked them up itself, and deletes nothing that is referred to, does without.

    Raises:
        DatabaseError: as `reading`.
        ConflictError: the database ended the transaction in favour of another one.
    """
    check_breaker(engine)
    with (
        translate(engine),
        engine.connect().execution_options(writes=True, check_keys=check_keys) as connection,
        connection.begin(),
    ):
        yield connection


def retry_on_conflict(write: Callable[[], _Result]) -> _Result:
    """Call a function that runs one transaction, again where the database ended it in favour of another one.

    Raises:
        ConflictError: it was ended `ATTEMPTS` times.
    """
    for _ in range(ATTEMPTS - 1):
        try:
            return write()
        except ConflictError:
            time.sleep(BREATHER_SECONDS / 4)
    return write()


def stage(connection: Connection, table: Table, columns: Sequence[Iterable[Any]]) -> None:
    """Replace the content of a temporary table, made if need be; on PostgreSQL it ends with the transaction."""
    connection.execute(CreateTable(table, if_not_exists=True))
    postgres = connection.dialect.name == "postgresql"
    connection.exec_driver_sql(f"TRUNCATE {table.name}" if postgres else f"DELETE FROM {table.name}")
    copy_in(connection, table, columns)
    if postgres:
        connection.exec_driver_sql(f"ANALYZE {table.name}")  # the planner has no statistics of a new table


def copy_in(connection: Connection, table: Table, columns: Sequence[Iterable[Any]]) -> None:
    """Append rows, given as columns in the order of the table's, by the driver's fastest road.

    Values are str, int, float, bool, bytes or None; JSON columns take their text. Columns may be numpy arrays of
    numbers; masked values are NULL. Where all of them are arrays, PostgreSQL takes them without a value in Python.
    """
    if connection.dialect.name == "sqlite":
        insert_values(connection, table, interleave(columns))
        return
    names = ", ".join(column.name for column in table.columns)
    arrays = [column for column in columns if isinstance(column, np.ndarray)]
    postgres = cast("psycopg.Connection[Any]", connection.connection.dbapi_connection)
    with postgres.cursor() as cursor:
        if len(arrays) == len(columns):
            with cursor.copy(f"COPY {table.name} ({names}) FROM STDIN (FORMAT binary)".encode()) as copy:
                for part in as_binary(table, arrays):
                    copy.write(part)
            return
        with cursor.copy(f"COPY {table.name} ({names}) FROM STDIN".encode()) as copy:
            for row in zip(*columns, strict=True):
                copy.write_row(row)


def interleave(columns: Sequence[Iterable[Any]]) -> list[Any]:
    """Return the values of rows, given as columns, one row after the other."""
    values = [column.tolist() if isinstance(column, np.ndarray) else list(column) for column in columns]
    flat: list[Any] = [None] * (len(values[0]) * len(values))
    for position, column in enumerate(values):
        flat[position :: len(values)] = column
    return flat


def insert_values(connection: Connection, table: Table, values: list[Any]) -> None:
    """Append rows to a table of SQLite.

    Args:
        values: of all columns in the order of the table's, one row after the other, as `interleave` returns them.
    """
    width = len(table.columns)
    names = ", ".join(column.name for column in table.columns)
    head, marks = f"INSERT INTO {table.name} ({names}) VALUES ", f"({', '.join('?' * width)})"
    many, step = head + ", ".join([marks] * SQLITE_ROWS), SQLITE_ROWS * width
    sqlite = cast(sqlite3.Connection, connection.connection.dbapi_connection)
    with closing(sqlite.cursor()) as statement:
        n_whole = len(values) // step * step
        for start in range(0, n_whole, step):
            statement.execute(many, values[start : start + step])
        statement.executemany(head + marks, zip(*(iter(values[n_whole:]),) * width, strict=True))


def fetch_columns(
    connection: Connection, statement: Select[Any], dtypes: Sequence[type[np.generic]]
) -> list[NDArray[Any]]:
    """Return the result of a query as one numpy array for each column; no value may be NULL."""
    record = np.dtype([(f"c{column}", dtype) for column, dtype in enumerate(dtypes)])
    if connection.dialect.name == "sqlite":  # without a generator between the driver and numpy
        sql = str(statement.compile(dialect=connection.dialect, compile_kwargs={"literal_binds": True}))
        with closing(cast(sqlite3.Connection, connection.connection.dbapi_connection).execute(sql)) as rows:
            fetched = np.fromiter(rows, record)
    else:
        fetched = np.fromiter(fetch_rows(connection, statement), record)
    return [np.ascontiguousarray(fetched[name]) for name in record.names or ()]


def fetch_rows(connection: Connection, statement: Select[Any]) -> Iterator[tuple[Any, ...]]:
    """Yield the rows of a query as the driver returns them; the whole result is never in memory."""
    sql = str(statement.compile(dialect=connection.dialect, compile_kwargs={"literal_binds": True}))
    if connection.dialect.name == "sqlite":
        sqlite = cast(sqlite3.Connection, connection.connection.dbapi_connection)
        with closing(sqlite.execute(sql)) as rows:
            yield from rows
        return
    postgres = cast("psycopg.Connection[Any]", connection.connection.dbapi_connection)
    with postgres.cursor(name="fetch_rows", binary=True) as cursor:
        cursor.itersize = 50_000
        cursor.execute(sql.encode())
        yield from cursor


def server_version(engine: Engine) -> str:
    """Name and version of the database, for people."""
    with reading(engine) as connection:
        if is_sqlite(engine):
            return f"SQLite {sqlite3.sqlite_version}"
        return f"PostgreSQL {connection.exec_driver_sql('SHOW server_version').scalar_one()}"
