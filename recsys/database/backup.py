"""Backups: all tables of one moment in a file, and back into SQLite or PostgreSQL.

A backup reads one consistent state while others write. A restore is one transaction: readers see the database as it was
or as it is restored, and after an error it is as it was.
"""

import sqlite3
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from alembic.util import CommandError
from sqlalchemy import Connection, Engine, Table, func, insert, select, text, update

import recsys
from recsys.database import migration, schema
from recsys.database.audit import record
from recsys.database.backup_file import FORMAT, BackupReader, BackupWriter, Manifest, TableSummary
from recsys.database.clock import now_ms
from recsys.database.engine import connect, is_sqlite, limit_lock_wait, reading, write_problem, writing
from recsys.database.erasures import erase_again, stored_erasures
from recsys.database.sqlite_file import copy_pages
from recsys.database.table_rows import (
    TableDigest,
    arrow_schema,
    read_batches,
    read_last_keys,
    set_last_keys,
    table_of,
    write_batches,
)
from recsys.database.tombstones import hasher_of, make_hasher
from recsys.database.work import Guard, Work, unit_of_work
from recsys.errors import DatabaseError, InputError

KEPT = ("job_leases", "made_files")
"""Tables that a restore leaves as they are: who may run now, and which files there are, is not a matter of the past."""
BUSY_SECONDS = 30
"""How long a restore waits for other programs to end their transactions."""
SPARE_SEQ = 1_000_000
"""More changes than servers can write, and know of, between the reading of an SQLite file and its replacement."""
OnRows = Callable[[int], None]


def tables() -> list[Table]:
    """Return the tables of a backup, each after those that it refers to."""
    return [table for table in schema.metadata.sorted_tables if table.name not in KEPT]


def write_backup(engine: Engine, path: Path, on_rows: OnRows | None = None) -> Manifest:
    """Write all tables, as they are at one moment, to a file.

    Args:
        on_rows: called with the number of rows just written.

    Raises:
        DatabaseError: the database cannot be read.
        InputError: the file cannot be written.
    """
    # The secret must be in the backup, so that the hashes of later erasures fit the users in it.
    with reading(engine) as connection:
        has_secret = hasher_of(connection) is not None
    if not has_secret and write_problem(engine) is None:
        with writing(engine) as connection:
            make_hasher(connection)
    writer = None
    try:
        writer = BackupWriter(path)
        snapshot_at = now_ms()  # before the transaction: what is erased from now on may be missing
        with reading(engine) as connection:
            summaries: dict[str, TableSummary] = {}
            for table in tables():
                digest = TableDigest(table)

                def digested(table: Table = table, digest: TableDigest = digest) -> Iterator[object]:
                    for batch in read_batches(connection, table):
                        yield digest.update(batch)
                        if on_rows is not None:
                            on_rows(len(batch))

                writer.add_table(table.name, arrow_schema(table), digested())
                summaries[table.name] = TableSummary(n_rows=digest.n_rows, digest=digest.hexdigest())
            manifest = Manifest(
                format=FORMAT,
                made_by=recsys.__version__,
                revision=migration.head_revision(),
                snapshot_at=snapshot_at,
                database=engine.dialect.name,
                tables=summaries,
                last_keys=read_last_keys(connection),
            )
        writer.finish(manifest)
    except BlockingIOError as error:
        raise InputError(
            f"another backup is being written to {path}: wait for its end, or name another file"
        ) from error
    except OSError as error:
        raise InputError(
            f"{path} cannot be written ({error.strerror or error}), so there is no backup: name a file in a folder "
            "that exists, on a disk with free space"
        ) from error
    finally:
        if writer is not None:
            writer.discard()
    return manifest


def count_rows(connection: Connection) -> int:
    """Return how many users, items, versions and keys a database has: none, and a restore replaces nothing."""
    counted = (schema.users, schema.items, schema.models, schema.api_keys)
    return sum(connection.scalar(select(func.count()).select_from(table)) or 0 for table in counted)


def restore_backup(
    engine: Engine,
    reader: BackupReader,
    *,
    erased: Mapping[str, int],
    verify: bool,
    guard: Guard,
    on_rows: OnRows | None = None,
) -> int:
    """Replace the content of a database, whose tables exist, by that of a backup.

    Args:
        erased: hash of an erased user → Unix milliseconds, beside what the database itself remembers: users whose
            erasure is not older than the backup are erased again.
        verify: read everything back, and compare it with the backup, before it becomes visible.
        guard: called inside the transaction before it commits.
        on_rows: called with the number of rows just written.

    Returns:
        Number of users that were erased again.

    Raises:
        DatabaseError: what was written is not what is in the backup, or the database cannot be written.
        InputError: the backup has a newer schema than this version knows.
    """
    with reading(engine) as connection:
        erased = dict(erased)
        for user_hash, at in stored_erasures(connection).items():
            erased[user_hash] = max(at, erased.get(user_hash, 0))
    if is_sqlite(engine):
        database = Path(engine.url.database or "")
        with staged(reader, database.absolute().parent, verify, on_rows) as made:
            with unit_of_work(made) as work, reading(engine) as connection:
                keep_what_goes_on(work.connection, connection)
                n_erased = finish(work, reader, erased)
            with writing(engine) as connection:
                guard(connection)
            made.dispose()
            try:
                copy_pages(Path(made.url.database or ""), database, busy_seconds=BUSY_SECONDS)
            except sqlite3.Error as error:
                raise DatabaseError(
                    f"{database} cannot be replaced ({error}): stop what writes to it; if it is damaged, move it "
                    "away, and restore again"
                ) from error
        return n_erased
    with unit_of_work(engine, guard) as work:
        before = read_counters(work.connection)
        names = ", ".join(table.name for table in tables())
        limit_lock_wait(work.connection, BUSY_SECONDS)  # while it waits, all readers wait behind it
        work.connection.execute(text(f"TRUNCATE {names}"))
        if reader.manifest.revision == migration.head_revision():
            fill(work.connection, reader, verify, on_rows)
        else:
            folder = Path(tempfile.gettempdir())
            with staged(reader, folder, verify, None) as made, reading(made) as upgraded:
                for table in tables():
                    write_batches(work.connection, table, read_batches(upgraded, table))
        raise_counters(work.connection, before)
        return finish(work, reader, erased)


@contextmanager
def staged(reader: BackupReader, folder: Path, verify: bool, on_rows: OnRows | None) -> Iterator[Engine]:
    """Restore a backup into a temporary SQLite file, which is upgraded to the schema of this version.

    Raises:
        DatabaseError: what was written is not what is in the backup.
        InputError: the backup has a newer schema.
    """
    with tempfile.TemporaryDirectory(prefix=".recsys-restore-", dir=folder) as made_in:
        made = connect(f"sqlite:///{made_in}/restored.db")
        try:
            try:
                migration.upgrade(made, reader.manifest.revision)
            except CommandError as error:
                raise InputError(
                    f"the backup has schema {reader.manifest.revision}, which this version does not know: recsys "
                    f"{reader.manifest.made_by} made it; install that version"
                ) from error
            with writing(made) as connection:
                for name in reversed(list(reader.manifest.tables)):
                    connection.execute(text(f"DELETE FROM {name}"))  # rows that the migrations made
                fill(connection, reader, verify, on_rows)
            migration.upgrade(made)
            yield made
        finally:
            made.dispose()


def fill(connection: Connection, reader: BackupReader, verify: bool, on_rows: OnRows | None) -> None:
    """Copy the rows of a backup into empty tables of its schema.

    Raises:
        DatabaseError: what was written is not what is in the backup.
    """
    for name, summary in reader.manifest.tables.items():
        with reader.open_table(name) as stream:
            table = table_of(name, stream.schema)
            for batch in stream:
                write_batches(connection, table, [batch])
                if on_rows is not None:
                    on_rows(len(batch))
        if verify:
            digest = TableDigest(table)
            for batch in read_batches(connection, table):
                digest.update(batch)
            if (digest.n_rows, digest.hexdigest()) != (summary.n_rows, summary.digest):
                raise DatabaseError(
                    f"the table {name} is not what the backup holds ({digest.n_rows:,} rows of {summary.n_rows:,}), so "
                    "nothing was restored: check the disk and the memory of the machine"
                )
    set_last_keys(connection, reader.manifest.last_keys)


def keep_what_goes_on(made: Connection, before: Connection) -> None:
    """Take over from the database that is replaced who may run, and how far its counters are."""
    for name in KEPT:
        table = schema.metadata.tables[name]
        rows = [dict(row) for row in before.execute(select(table)).mappings()]
        if rows:
            made.execute(insert(table), rows)
    seq, keys = read_counters(before)
    raise_counters(made, (seq + SPARE_SEQ, keys))


def read_counters(connection: Connection) -> tuple[int, dict[str, int]]:
    """Return the seq of the last change, and the largest keys that were handed out."""
    seq = connection.scalar(select(schema.change_counter.c.seq)) or 0
    return int(seq), read_last_keys(connection)


def raise_counters(connection: Connection, before: tuple[int, dict[str, int]]) -> None:
    """Let counters go on from where they were, if that is further: servers know later changes and versions."""
    seq, keys = before
    counter = schema.change_counter
    connection.execute(update(counter).where(counter.c.seq < seq).values(seq=seq))
    now = read_last_keys(connection)
    set_last_keys(connection, {name: max(key, now.get(name, 0)) for name, key in keys.items()})


def finish(work: Work, reader: BackupReader, erased: Mapping[str, int]) -> int:
    """Erase again what was erased since the backup, and record the restore; return the number of users."""
    n_erased = erase_again(work, dict(erased), reader.manifest.snapshot_at)
    detail = {"snapshot_at": reader.manifest.snapshot_at, "erased_again": n_erased}
    record(work.connection, "restore", "restore", detail)
    work.change_everything()
    return n_erased
