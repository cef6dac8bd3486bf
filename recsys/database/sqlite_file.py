"""Open an SQLite file: never create it unasked, and read it where it cannot be written."""

import os
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import quote

MIN_FREE_BYTES = 1 << 20
"""A disk with less free space is full: SQLite adds whole pages, and its log needs more than the rows themselves."""

PRAGMAS = ("foreign_keys=ON",)
# Deleted rows are overwritten: an erasure must leave no byte of a user. Some builds of SQLite do not by default.
WRITER_PRAGMAS = ("synchronous=FULL", "secure_delete=ON", *PRAGMAS)
# These two write into the file. The first takes effect in a new file only: `prune` gives free pages back.
CREATOR_PRAGMAS = ("auto_vacuum=INCREMENTAL", "journal_mode=WAL", *WRITER_PRAGMAS)


CACHE_MIB, SERVER_CACHE_MIB = 64, 2
"""Pages of the file that a connection keeps: of a job, and of a server, which has up to 50 connections."""


def open_file(database: str, *, create: bool, cache_mib: int = CACHE_MIB, **options: Any) -> sqlite3.Connection:
    """Open a database file for reading and writing; for reading alone, where it or its folder is read-only.

    Args:
        create: whether to create a file that does not exist. If not, an empty file stays empty, too: it may be a copy
            that has just begun, and a page written into it would damage the database.
        cache_mib: pages of the file that the connection keeps.
        options: of `sqlite3.connect`.

    Raises:
        sqlite3.OperationalError: the file does not exist, or cannot be read.
    """
    path = Path(database)
    cache = f"cache_size=-{cache_mib << 10}"
    if not is_read_only(path):
        mode, pragmas = ("mode=rwc", CREATOR_PRAGMAS) if create else ("mode=rw", WRITER_PRAGMAS)
        return prepared(connected(path, mode, options), (*pragmas, cache))
    try:
        # Another process may write: its log and its shared memory lie beside the file.
        return prepared(connected(path, "mode=ro", options), (*PRAGMAS, cache))
    except sqlite3.OperationalError:
        log = path.with_name(path.name + "-wal")
        if log.exists() and log.stat().st_size > 0:
            raise
        # On a read-only disk SQLite cannot make the shared memory that it wants even for reading.
        return prepared(connected(path, "mode=ro&immutable=1", options), (*PRAGMAS, cache))


def connected(path: Path, query: str, options: dict[str, Any]) -> sqlite3.Connection:
    """Connect to a file by its URI, whatever characters its name has."""
    connection: sqlite3.Connection = sqlite3.connect(f"file:{quote(str(path))}?{query}", uri=True, **options)
    return connection


def prepared(connection: sqlite3.Connection, pragmas: tuple[str, ...]) -> sqlite3.Connection:
    """Set what every connection needs; close the connection if that fails."""
    try:
        connection.isolation_level = None  # the engine begins transactions, not the driver
        for pragma in pragmas:
            connection.execute(f"PRAGMA {pragma}").close()
        connection.execute("SELECT count(*) FROM sqlite_schema").close()  # SQLite opens a file at its first use
    except sqlite3.Error:
        connection.close()
        raise
    return connection


def is_read_only(path: Path) -> bool:
    """Return whether this process may read the file, but not write it or its log beside it."""
    return path.exists() and not (os.access(path, os.W_OK) and os.access(path.parent, os.W_OK))


def file_identity(path: Path) -> tuple[int, ...] | None:
    """Return numbers that change when another file takes the place of this one; `None` if there is none.

    A file that is only read also counts as another one when it was changed: its connections do not follow changes.
    """
    try:
        status = path.stat()
    except OSError:
        return None
    identity = (status.st_dev, status.st_ino)
    if not is_read_only(path):
        return identity
    log = path.with_name(path.name + "-wal")
    log_size = log.stat().st_size if log.exists() else 0
    return (*identity, status.st_mtime_ns, status.st_size, log_size)


def file_write_problem(path: Path) -> str | None:
    """Return why the file cannot be written, without its path; `None` if it can."""
    if is_read_only(path):
        return "the database is read-only: nothing can be stored"
    try:
        status = os.statvfs(path)
    except OSError:
        return None  # the file is missing, which a read says too
    if status.f_bavail * status.f_frsize < MIN_FREE_BYTES:
        return "the disk of the database is full: free space on it"
    return None


def copy_pages(source: Path, target: Path, busy_seconds: float) -> None:
    """Replace the content of a database file by that of another one, in one transaction of the target.

    Programs that have the target open go on: they read the old content or the new one, never a mixture.

    Raises:
        sqlite3.Error: the target is damaged, or another writer holds it for too long.
    """
    with (
        closing(connected(source, "mode=ro", {})) as read,
        closing(prepared(connected(target, "mode=rw", {"timeout": busy_seconds}), WRITER_PRAGMAS)) as written,
    ):
        read.backup(written, progress=stop_if_busy)


def stop_if_busy(status: int, _remaining: int, _total: int) -> None:
    """Raise where another writer held the target for the whole timeout: Python would try for ever."""
    if status in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        raise sqlite3.OperationalError("another writer holds it")
