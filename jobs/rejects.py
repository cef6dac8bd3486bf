"""The file of rejected rows."""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from sqlalchemy import Engine

from recsys.data.messages import printable
from recsys.data.rows import Rejected
from recsys.database.made_files import note_files
from recsys.errors import InputError
from recsys.files.source import Source

HEADER = "# Rows that recsys rejected, as FILE:LINE: REASON"
"""First line of the file. It shows that recsys wrote the file, so the next load may replace it."""


class Rejects:
    """Counts rejected rows and writes them to a file as they come.

    The file is created at the first rejected row, readable by its owner only. A file of an earlier load is replaced;
    any other file and any link is left alone.

    Attributes:
        path: of the file.
        count: number of rows so far.
        first: the first rejected row.
        keep: whether rows are written; if not, they are only counted.
    """

    def __init__(self, path: Path, *, keep: bool = True) -> None:
        self.path = path
        self.keep = keep
        self.count = 0
        self.first: Rejected | None = None
        self._file: TextIO | None = None

    def __call__(self, rejected: Rejected) -> None:
        """Count and write a row.

        Raises:
            InputError: the file cannot be created, or exists and is not a file of rejected rows.
        """
        if self.keep:
            if self._file is None:
                self._file = self._create()
            self._file.write(f"{rejected}\n")
        self.first = self.first or rejected
        self.count += 1

    @property
    def where(self) -> str:
        """Where the rejected rows are, for a message."""
        return str(self.path) if self.keep else "--rejects FILE, which writes them"

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()

    def _create(self) -> TextIO:
        try:
            if self._is_from_an_earlier_load():
                self.path.unlink()
            descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        except FileExistsError as error:
            raise InputError(
                f"{printable(str(self.path))} exists and is not a file of rejected rows: it is not overwritten; move "
                "it, or name another file with --rejects"
            ) from error
        except OSError as error:
            raise InputError(
                f"{printable(str(self.path))}: cannot write the rejected rows there ({error.strerror}): name a file "
                "with --rejects"
            ) from error
        file = os.fdopen(descriptor, "w", encoding="utf-8")
        file.write(HEADER + "\n")
        return file

    def _is_from_an_earlier_load(self) -> bool:
        try:
            descriptor = os.open(self.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:  # it does not exist, or is a link
            return False
        with os.fdopen(descriptor, "rb") as file:
            return stat.S_ISREG(os.fstat(descriptor).st_mode) and file.read(len(HEADER)) == HEADER.encode()


@contextmanager
def rejects_to(
    path: Path | None, source: Source, *, keep: bool = True, engine: Engine | None = None
) -> Iterator[Rejects]:
    """Collect the rejected rows of a source in a file.

    Args:
        path: of the file; `None`: NAME.rejects.txt in the working directory.
        keep: whether to write the file.
        engine: of the database that remembers the file, so that an erasure reaches it; `None`: of none.
    """
    rejects = Rejects(path or Path(f"{Path(source.name).name}.rejects.txt"), keep=keep)
    try:
        yield rejects
    finally:
        rejects.close()
        if engine is not None and rejects.count and keep:
            note_files(engine, [rejects.path], "rejects")
