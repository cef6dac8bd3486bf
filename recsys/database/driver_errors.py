"""Translate errors of the database drivers, by their codes, into errors that say what to do."""

import sqlite3
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeGuard

from sqlalchemy import Engine, exc

from recsys.errors import DatabaseError

if TYPE_CHECKING:
    import psycopg


class ConflictError(DatabaseError):
    """The database ended a transaction in favour of another one; the same transaction may succeed now."""


class LockUnavailableError(DatabaseError):
    """Another transaction holds a lock, and this one does not wait for it."""


CONFLICTS = {"40001", "40P01"}  # serialization_failure, deadlock_detected
UNDEFINED = {"42P01", "42703"}  # undefined_table, undefined_column
LOCKED = {"55P03"}  # lock_not_available
READ_ONLY = {"25006"}  # read_only_sql_transaction
CANCELED = {"57014"}  # query_canceled: statement_timeout
DUPLICATE = {"23505"}  # unique_violation


def driver_errors() -> tuple[type[Exception], ...]:
    """Return the classes of the drivers' errors; psycopg's only if it is loaded: SQLite does not need it."""
    psycopg = sys.modules.get("psycopg")
    return (exc.DatabaseError, exc.InterfaceError, sqlite3.Error, *([psycopg.Error] if psycopg else []))


def is_postgres(error: BaseException | None) -> "TypeGuard[psycopg.Error]":
    """Return whether an error is one of psycopg's."""
    psycopg = sys.modules.get("psycopg")
    return psycopg is not None and isinstance(error, psycopg.Error)


def is_duplicate(error: Exception) -> bool:
    """Return whether PostgreSQL refused a row because another one with its key is there."""
    original = error.orig if isinstance(error, exc.DBAPIError) else error
    return is_postgres(original) and original.sqlstate in DUPLICATE


@contextmanager
def translate(engine: Engine) -> Iterator[None]:
    """Raise `DatabaseError` in place of the drivers' errors that are about the database and not about a row.

    Raises:
        ConflictError: the database ended the transaction in favour of another one.
        DatabaseError: the database cannot be reached, is damaged, full or locked, or its tables are missing.
    """
    where = engine.url.render_as_string(hide_password=True)
    try:
        yield
    except exc.TimeoutError as error:
        raise DatabaseError(f"{where}: all connections are in use, each waiting for the database: try again") from error
    except driver_errors() as error:
        original = error.orig if isinstance(error, exc.DBAPIError) else error
        if is_postgres(original) and original.sqlstate in CONFLICTS:
            raise ConflictError(f"{where}: other writers were in the way: try again") from error
        if is_postgres(original) and original.sqlstate in LOCKED:
            raise LockUnavailableError(f"{where}: another transaction holds a lock: try again") from error
        message = describe_sqlite(where, original) if isinstance(original, sqlite3.Error) else None
        if is_postgres(original):
            message = describe_postgres(where, original)
        if message is None:
            raise  # a row or a statement is wrong, not the database
        if message == missing_tables(where):
            raise DatabaseError(message, public=missing_tables("the database")) from error
        if isinstance(original, sqlite3.Error) and primary_code(original) == sqlite3.SQLITE_CANTOPEN:
            public = "the database cannot be opened: run `recsys init`, or check RECSYS_DATABASE_URL"
            raise DatabaseError(message, public=public) from error
        raise DatabaseError(message) from error


def is_busy(error: exc.DBAPIError) -> bool:
    """Return whether SQLite refused a transaction because another connection holds the lock."""
    return isinstance(error.orig, sqlite3.Error) and primary_code(error.orig) in (
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_LOCKED,
    )


def primary_code(error: sqlite3.Error) -> int | None:
    """Return SQLite's primary result code; `None` for an error of Python's module itself."""
    code = getattr(error, "sqlite_errorcode", None)
    return None if code is None else code & 0xFF


def describe_sqlite(where: str, error: sqlite3.Error) -> str | None:
    """Return what an SQLite error says about the database; `None` if it is about a row.

    Source: https://www.sqlite.org/rescode.html
    """
    text = first_line(error)
    match primary_code(error):
        case sqlite3.SQLITE_ERROR:  # the library's statements are correct, so a table or a column is missing
            return missing_tables(where)
        case sqlite3.SQLITE_NOTADB:
            return f"{where} is not an SQLite database: check RECSYS_DATABASE_URL"
        case sqlite3.SQLITE_CORRUPT:
            return f"{where} is damaged ({text}): restore it from a backup"
        case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED:
            return f"{where} was locked by another writer for too long: try again"
        case sqlite3.SQLITE_CANTOPEN:
            return f"cannot open {where}: {text}; check RECSYS_DATABASE_URL"
        case sqlite3.SQLITE_READONLY | sqlite3.SQLITE_PERM | sqlite3.SQLITE_AUTH:
            return f"{where} cannot be written: {text}; check the permissions of the file and its folder"
        case sqlite3.SQLITE_FULL:
            return f"{where}: the disk is full; free space, then try again"
    return f"{where}: {text}" if isinstance(error, sqlite3.OperationalError) else None


def describe_postgres(where: str, error: "psycopg.Error") -> str | None:
    """Return what a PostgreSQL error says about the database; `None` if it is about a row.

    Source: https://www.postgresql.org/docs/current/errcodes-appendix.html
    """
    text, state = first_line(error), error.sqlstate
    if state in UNDEFINED:
        return missing_tables(where)
    if state in READ_ONLY:
        return f"{where} is read-only: nothing can be written; check whether it is a standby or was set to read-only"
    if state in CANCELED:
        return f"{where}: a statement took longer than statement_timeout: try again"
    if isinstance(error, sys.modules["psycopg"].OperationalError):
        return f"{where}: {text}; check that it is running and can be reached"
    return f"cannot open {where}: {text}" if isinstance(error, sys.modules["psycopg"].InterfaceError) else None


def missing_tables(where: str) -> str:
    """Return the message about a database without this version's tables."""
    return f"{where}: the tables are missing or older than this version needs: run `recsys init`"


def first_line(error: Exception) -> str:
    """Return the first line of an error's text, or the name of its class if it has none."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
