"""The space of a database: how much it takes, and freed space given back or written over."""

import sqlite3
from typing import cast

from sqlalchemy import Connection, Engine

from recsys.database.driver_errors import translate
from recsys.database.engine import is_sqlite, writing

PERSONAL_TABLES = ("users", "ratings", "events", "user_factors", "user_changes")
"""Tables with rows of users."""
STATISTICS = "pg_statistic"
"""PostgreSQL's table of samples, which has had ids of users that were staged for a load."""


def release_space(engine: Engine) -> None:
    """Give the free pages of an SQLite file back to the system; PostgreSQL does so by itself."""
    if is_sqlite(engine):
        with writing(engine) as connection:
            sqlite = cast(sqlite3.Connection, connection.connection.dbapi_connection)
            # Each step of the statement frees one page, and `execute` takes one step only.
            sqlite.executescript("PRAGMA incremental_vacuum")


def database_bytes(connection: Connection) -> int:
    """Return the size of the database; on SQLite that of the file, without the log of the last transactions."""
    if connection.dialect.name == "sqlite":
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar_one()
        return int(pages) * int(connection.exec_driver_sql("PRAGMA page_size").scalar_one())
    return int(connection.exec_driver_sql("SELECT pg_database_size(current_database())").scalar_one())


def empty_log(engine: Engine, seconds: float) -> bool:
    """Move SQLite's write-ahead log into its file, and cut the log off: it has pages as they were before a deletion.

    Args:
        seconds: to wait for programs that read what is older.

    Returns:
        Whether it is empty now. On PostgreSQL, whose log only the server can end, false.
    """
    if not is_sqlite(engine):
        return False
    with translate(engine):
        raw = engine.raw_connection()
        try:
            sqlite = cast(sqlite3.Connection, raw.dbapi_connection)
            (before,) = sqlite.execute("PRAGMA busy_timeout").fetchone()
            sqlite.execute(f"PRAGMA busy_timeout = {round(seconds * 1000)}")
            try:
                busy, *_ = sqlite.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            finally:
                sqlite.execute(f"PRAGMA busy_timeout = {before}")
        finally:
            raw.close()
    return not busy


def rewrite_tables(engine: Engine) -> None:
    """Write the tables with rows of users anew on PostgreSQL, so that no free space in their files has deleted rows.

    Readers and writers of these tables wait meanwhile. On SQLite nothing is to do: what is deleted is written over.

    Raises:
        DatabaseError: this user does not own the tables.
    """
    if is_sqlite(engine):
        return
    with translate(engine), engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        for table in (*PERSONAL_TABLES, STATISTICS):
            connection.exec_driver_sql(f"VACUUM (FULL) {table}")
