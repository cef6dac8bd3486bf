"""Backups of the database and their restore, as the command line runs them."""

from collections.abc import Sequence
from pathlib import Path
from time import perf_counter

from sqlalchemy import Connection, Engine

from jobs.progress import progress
from recsys.database import migration
from recsys.database.backup import count_rows, restore_backup, write_backup
from recsys.database.backup_file import BackupReader, Manifest, is_backup
from recsys.database.engine import is_empty, reading
from recsys.database.erasures import journal_of, read_journal, stored_erasures
from recsys.database.leases import LOADING, TRAINING, lease
from recsys.errors import InputError, UsageError
from recsys.results import BackupReport, RestoreReport, as_time
from recsys.settings import Settings


def backup(engine: Engine, path: Path) -> BackupReport:
    """Write a backup of the database to a file. An earlier backup of that name is replaced when the new one is whole.

    Raises:
        InputError: the file cannot be written, or is another kind of file.
    """
    started = perf_counter()
    if path.is_dir() or (path.exists() and not is_backup(path)):
        raise InputError(f"{path} is there, and is no backup: name another file")
    with progress("backing up", None) as advance:
        manifest = write_backup(engine, path, advance)
    return BackupReport(
        file=str(path),
        n_bytes=path.stat().st_size,
        snapshot_at=as_time(manifest.snapshot_at),
        rows=rows_of(manifest),
        seconds=round(perf_counter() - started, 3),
    )


def rows_of(manifest: Manifest) -> dict[str, int]:
    """Return the numbers of rows that a person asks for."""
    return {name: manifest.tables[name].n_rows for name in ("users", "items", "ratings", "models")}


def restore(
    engine: Engine,
    path: Path,
    settings: Settings,
    *,
    replace: bool = False,
    verify: bool = False,
    journals: Sequence[Path] = (),
) -> RestoreReport:
    """Restore a backup into the database that the settings name. Its tables are made if need be.

    Users whose erasure the database, its journal or one of `journals` remembers, and whom the backup still has, are
    erased again.

    Args:
        replace: whether a database that holds something is replaced.
        verify: read everything back, and compare it with the backup, before it becomes visible.
        journals: of erasures, to read beside the database's own.

    Raises:
        InputError: the file is no backup, damaged, or of a newer version; or a journal cannot be read.
        UsageError: the database holds something, and `replace` is false.
        LockedError: a load or a training is running.
        DatabaseError: the database cannot be written, or is not what the backup holds; it is as it was.
    """
    started = perf_counter()
    with BackupReader(path) as reader:
        manifest = reader.manifest
        if manifest.revision > migration.head_revision():
            raise InputError(
                f"{path} has schema {manifest.revision}, which this version does not know: recsys {manifest.made_by} "
                "made it; install that version"
            )
        erased = read_journals([*journals, journal_of(engine, settings.erasure_journal)])
        notices: list[str] = []
        if is_empty(engine):
            migration.upgrade(engine)
        migration.ready(engine)
        with reading(engine) as connection:
            n_rows = count_rows(connection)
            if not n_rows and not erased and not stored_erasures(connection):
                notices.append(
                    "no journal of erasures was found: users who were erased after the backup are back. If there were "
                    "any, name the journal with --erasures"
                )
            if n_rows and not replace:
                raise UsageError(
                    "the database holds ratings, models or API keys already: name an empty one with "
                    "RECSYS_DATABASE_URL, or replace its content with --replace"
                )
        seconds = settings.lease_seconds
        with lease(engine, LOADING, seconds) as loading, lease(engine, TRAINING, seconds) as training:

            def guard(connection: Connection) -> None:
                loading.guard(connection)
                training.guard(connection)

            with progress("restoring", sum(table.n_rows for table in manifest.tables.values())) as advance:
                n_erased = restore_backup(engine, reader, erased=erased, verify=verify, guard=guard, on_rows=advance)
    if journals and not n_erased:
        notices.append(
            "--erasures: the journals name no user of the backup who was erased after it. If you expect one, the "
            "journal is that of another database"
        )
    return RestoreReport(
        file=str(path),
        snapshot_at=as_time(manifest.snapshot_at),
        rows=rows_of(manifest),
        verified=verify,
        erased_again=n_erased,
        notices=notices,
        seconds=round(perf_counter() - started, 3),
    )


def read_journals(journals: Sequence[Path | None]) -> dict[str, int]:
    """Return when each user of some journals was erased last; the last of them may be missing."""
    erased: dict[str, int] = {}
    for journal in journals:
        if journal is None or (journal is journals[-1] and not journal.exists()):
            continue
        for user_hash, at in read_journal(journal).items():
            erased[user_hash] = max(at, erased.get(user_hash, 0))
    return erased
