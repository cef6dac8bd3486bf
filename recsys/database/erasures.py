"""The journal of erasures: a file outside the database, so that a backup from before an erasure does not undo it.

Each line is a JSON object with the hash of an erased user, as the tombstones have it, and when. The hash is keyed with
the secret of the database, which its backups hold: the journal alone does not say who was erased.
"""

import errno
import json
import os
from pathlib import Path

from sqlalchemy import Connection, Engine, select

from recsys.database import schema
from recsys.database.engine import is_sqlite
from recsys.database.file_lock import lock_file
from recsys.database.tombstones import WHOLE_USER, bury, hasher_of
from recsys.database.users import erase_within
from recsys.database.work import Work
from recsys.errors import DatabaseError, InputError

SUFFIX = ".erasures"
_MAX_LINE_BYTES = 4096
OVERLAP_MS = 60_000
"""How much earlier than a backup an erasure may be noted and still be missing in it: its transaction was not at its
end, or the clock of its machine is behind."""


def journal_of(engine: Engine, named: Path | None = None) -> Path | None:
    """Return the journal of a database: the named file, else for SQLite the file beside it, else `None`."""
    if named is not None or not is_sqlite(engine):
        return named
    database = Path(engine.url.database or "")
    return database.with_name(database.name + SUFFIX)


def append_erasure(journal: Path, user_hash: str, at: int) -> None:
    """Add an erasure to a journal, and wait until it is on the disk.

    Args:
        at: Unix milliseconds.

    Raises:
        DatabaseError: the journal cannot be written.
    """
    line = (json.dumps({"user": user_hash, "at": at}) + "\n").encode()
    try:
        descriptor = os.open(journal, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            lock_file(descriptor, wait=True)
            end = take_off_cut_line(descriptor)
            if os.write(descriptor, line) < len(line):
                os.ftruncate(descriptor, end)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        if end == 0:
            sync_folder(journal.parent)  # the name of a new file
    except OSError as error:
        raise DatabaseError(
            f"the journal of erasures {journal} cannot be written ({error.strerror}), so nothing was erased: give this "
            "user the right to write it, or name another file with RECSYS_ERASURE_JOURNAL",
            public="the journal of erasures cannot be written, so nothing was erased",
        ) from error


def take_off_cut_line(descriptor: int) -> int:
    """Return the size of a journal, without a last line that a process was killed in, which is taken off."""
    size = os.fstat(descriptor).st_size
    start = max(size - _MAX_LINE_BYTES, 0)
    tail = os.pread(descriptor, size - start, start)
    cut = tail[tail.rfind(b"\n") + 1 :]
    if cut.startswith(b"{"):
        size -= len(cut)
        os.ftruncate(descriptor, size)
    return size


def sync_folder(folder: Path) -> None:
    """Wait until the names of the files of a folder are on the disk."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_journal(journal: Path) -> dict[str, int]:
    """Return when each user of a journal was erased last: hash → Unix milliseconds.

    A last line without an end was being written when its process was killed, and is left out.

    Raises:
        InputError: the file cannot be read, or is no journal.
    """
    erased: dict[str, int] = {}
    try:
        lines = journal.read_text(encoding="utf-8").split("\n")[:-1]
        for number, line in enumerate(lines, 1):
            try:
                entry = json.loads(line)
                erased[str(entry["user"])] = max(int(entry["at"]), erased.get(str(entry["user"]), 0))
            except (ValueError, KeyError, TypeError) as error:
                raise InputError(
                    f'{journal}:{number} is not an erasure: expected a line such as {{"user": "…", "at": …}}; '
                    "restore the journal, or take the line out"
                ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{journal} cannot be read ({error}): name the journal of erasures with --erasures") from error
    return erased


def stored_erasures(connection: Connection) -> dict[str, int]:
    """Return when each user that the database remembers as erased was erased: hash → Unix milliseconds."""
    buried = schema.tombstones.c
    rows = connection.execute(select(buried.user_hash, buried.at).where(buried.pair_hash == WHOLE_USER))
    return {row.user_hash: row.at for row in rows}


def erase_again(work: Work, erased: dict[str, int], since: int) -> int:
    """Erase the users that were erased after a backup or just before it; return how many were there.

    Args:
        erased: hash of the user → Unix milliseconds.
        since: Unix milliseconds of the backup. A user who came back after an erasure that is more than `OVERLAP_MS`
            earlier stays.
    """
    hasher = hasher_of(work.connection)
    later = {user_hash: at for user_hash, at in erased.items() if at >= since - OVERLAP_MS}
    if hasher is None or not later:
        return 0
    n_erased = 0
    for user_id in work.connection.scalars(select(schema.users.c.user_id)).all():
        if hasher.user(user_id) in later:
            erase_within(work, user_id, actor="restore")
            n_erased += 1
    for user_hash, at in later.items():
        bury(work.connection, user_hash, WHOLE_USER, at)
    return n_erased
