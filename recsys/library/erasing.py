"""Erase a person: from the database, checkpoints and files that jobs made. The result is a receipt."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import NamedTuple

from sqlalchemy import Engine

from recsys.database.engine import is_sqlite, reading
from recsys.database.erasures import append_erasure, journal_of
from recsys.database.leases import TRAINING, held_leases
from recsys.database.made_files import MadeFile, forget_file, note_files, read_files
from recsys.database.space import empty_log, rewrite_tables
from recsys.database.tombstones import erased_at
from recsys.database.users import ErasedUser, erase_user
from recsys.errors import DatabaseError, NotFoundError
from recsys.results import EraseReport, as_time
from recsys.settings import Settings

CHECKPOINTS = ("ra[tn]*ing-*.safetensors", ".ra[tn]*ing-*.safetensors.*")
"""Names of checkpoints, and of those that a killed process left half written."""
LOG_SECONDS = 1.0
"""How long an erasure waits for readers of SQLite's write-ahead log."""
CLOCK_MS = 2000
"""A file that was changed this much later than it was made is no longer as the job wrote it."""
OTHER_MACHINE = "another machine made it; run `recsys erase-user` there too"
CHANGED = "it was changed since it was made"
PUBLIC = (OTHER_MACHINE, CHANGED)
"""Why a file is not reached, in words that name no path."""


def erase_person(
    engine: Engine,
    user_id: str,
    settings: Settings,
    *,
    actor: str,
    rewrite: bool = False,
    is_public: bool = False,
    slot: AbstractContextManager[object] | None = None,
    on_erased: Callable[[ErasedUser], None] | None = None,
) -> EraseReport:
    """Erase a user from the database, from every stored version, from checkpoints and from files that jobs made.

    A user who was erased before is taken out of the files that this process reaches.

    Args:
        actor: who asked, for the audit log.
        rewrite: write the tables of PostgreSQL anew, so that no free space in them has the rows; see `rewrite_tables`.
        is_public: the receipt goes to a client, who learns no folder and no name of a machine.
        slot: entered while the database is written.
        on_erased: called when the transaction has committed, so that caches forget the user at once.

    Returns:
        The receipt: what was removed where, and what this program does not reach.

    Raises:
        NotFoundError: no user has this id, and no file that was made has it.
        DatabaseError: the journal of erasures cannot be written, or a checkpoint not deleted; nothing was erased.
    """
    journal = journal_of(engine, settings.erasure_journal)
    checkpoints: list[str] = []

    def note(user_hash: str, at: int) -> None:
        # Before the transaction commits: what is killed here is done by the same command again.
        checkpoints[:] = delete_checkpoints(settings.checkpoints)
        if journal is not None:
            append_erasure(journal, user_hash, at)

    with slot or nullcontext():
        erased = erase_user(engine, user_id, actor=actor, on_erased=note)
    if erased is not None and on_erased is not None:
        on_erased(erased)
    before = None
    if erased is None:
        with reading(engine) as connection:
            before = None if "\0" in user_id else erased_at(connection, user_id)
    files: list[Path] = []
    unreached: list[Unreached] = []
    if erased is not None or before is not None:
        files, unreached = erase_from_files(engine, user_id)
    if erased is None and (before is None or not files):
        raise NotFoundError(f"there is no user {user_id[:80]!r}: nothing is stored for this id")
    user_hash, at = (erased.user_hash, erased.at) if erased is not None else before or ("", 0)
    if rewrite:
        rewrite_tables(engine)

    def name_of(path: Path | str) -> str:
        return Path(path).name if is_public else str(path)

    return EraseReport(
        user_hash=user_hash,
        erased_at=as_time(at),
        ratings=0 if erased is None else erased.n_ratings,
        events=0 if erased is None else erased.n_events,
        withdrawals=0 if erased is None else erased.n_withdrawals,
        versions=[] if erased is None else sorted({abs(number) for number in erased.numbers}),
        vectors=0 if erased is None else len(erased.numbers),
        checkpoints=[name_of(path) for path in checkpoints],
        files=[name_of(path) for path in files],
        journal=None if journal is None else name_of(journal),
        caches=f"this process at once, others within {settings.refresh_seconds:g} s",
        storage=storage_of(engine, is_rewritten=rewrite),
        out_of_reach=[
            *(each.public_line() if is_public else each.line() for each in unreached),
            *not_reached(engine, settings),
        ],
    )


def delete_checkpoints(folder: Path) -> list[str]:
    """Delete the checkpoints of trainings, which have rows of all users.

    Raises:
        DatabaseError: this user may not.
    """
    paths = sorted(path for pattern in CHECKPOINTS for path in folder.glob(pattern))
    for path in paths:
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise DatabaseError(
                f"the checkpoint {path} cannot be deleted ({error.strerror}), so nothing was erased: give this user "
                "the right to delete it",
                public="a checkpoint of a training cannot be deleted, so nothing was erased",
            ) from error
    return [str(path) for path in paths]


class Unreached(NamedTuple):
    """A file that was made and that this process does not reach.

    Attributes:
        problem: why; the words of the system or of a reader, which may name paths, unless it is one of `PUBLIC`.
    """

    file: MadeFile
    problem: str

    def line(self) -> str:
        """Return a sentence for who runs the service."""
        return f"{self.file.path} on {self.file.machine}: {self.problem}"

    def public_line(self) -> str:
        """Return a sentence for a client: without the folder, the machine, and what may name either."""
        problem = self.problem if self.problem in PUBLIC else "it cannot be read or rewritten"
        return f"{self.file.path.name}: {problem}"


def erase_from_files(engine: Engine, user_id: str) -> tuple[list[Path], list[Unreached]]:
    """Take a user out of the files that jobs made.

    Returns:
        The files that had the user, and those that this process does not reach.
    """
    changed: list[Path] = []
    unreached: list[Unreached] = []
    for file in read_files(engine):
        problem = problem_of(file)
        if problem is None and file.is_here and not file.path.exists():
            forget_file(engine, file)
            continue
        if problem is None:
            try:
                if _take_out(file)(user_id):
                    changed.append(file.path)
                    note_files(engine, [file.path], file.kind)
            except (OSError, ValueError) as error:
                problem = str(getattr(error, "strerror", None) or error)
        if problem is not None:
            unreached.append(Unreached(file, problem))
    return changed, unreached


def _take_out(file: MadeFile) -> Callable[[str], int]:
    # Imported here: of a server, only an erasure needs the readers of files.
    from recsys.files.erasing import erase_from_rejects, erase_from_table

    return partial(erase_from_rejects if file.kind == "rejects" else erase_from_table, file.path)


def problem_of(file: MadeFile) -> str | None:
    """Return why a file is out of reach; `None` if it is not."""
    if not file.is_here:
        return OTHER_MACHINE
    try:
        changed_ms = file.path.stat().st_mtime * 1000
    except FileNotFoundError:
        return None
    except OSError as error:
        return error.strerror
    return CHANGED if changed_ms > file.made_at + CLOCK_MS else None


def storage_of(engine: Engine, *, is_rewritten: bool) -> str:
    """Empty the write-ahead log of SQLite, and say what is left in the files of the database."""
    if is_sqlite(engine):
        if empty_log(engine, LOG_SECONDS):
            return "nothing is left: deleted rows are overwritten, and the write-ahead log is empty"
        return (
            "deleted rows are overwritten; the write-ahead log has earlier pages until the programs that read them end "
            "their transactions and `recsys erase-user` or a restart empties it"
        )
    tables = (
        "nothing is left in the tables"
        if is_rewritten
        else ("the tables keep deleted rows in free space until `recsys erase-user --rewrite` or VACUUM FULL")
    )
    return f"{tables}; PostgreSQL's write-ahead log, its archive and replicas have them until the server recycles them"


def not_reached(engine: Engine, settings: Settings) -> list[str]:
    """Return what this program does not reach, in sentences."""
    found = [
        "backups: `recsys restore` erases the user again"
        + ("" if journal_of(engine, settings.erasure_journal) else ", if RECSYS_ERASURE_JOURNAL named a journal"),
        "copies of files that were made, the files that were loaded, and what other programs logged",
        "checkpoints on other machines, and models that were saved from Python",
    ]
    with reading(engine) as connection:
        if any(job == TRAINING for job, _, _ in held_leases(connection)):
            found.append("the training that is running: it stores nothing of the user, and its checkpoint ends with it")
    return found
