"""Files with ids of users that jobs wrote, remembered so that an erasure takes the user out of them."""

import logging
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from sqlalchemy import Engine, delete, select

from recsys.database import schema
from recsys.database.clock import now_ms
from recsys.database.engine import reading, writing
from recsys.database.statements import upsert
from recsys.errors import DatabaseError

_log = logging.getLogger(__name__)

FileKind = Literal["rejects", "table"]
"""Lines about rejected rows; rows with a column `user_id`."""


class MadeFile(NamedTuple):
    """A file that a job wrote.

    Attributes:
        made_at: Unix milliseconds at which it was whole.
    """

    machine: str
    path: Path
    kind: FileKind
    made_at: int

    @property
    def is_here(self) -> bool:
        """Whether this machine wrote it."""
        return self.machine == this_machine()


def this_machine() -> str:
    """Return the name of this machine."""
    return socket.gethostname()[:255]


def note_files(engine: Engine, paths: Sequence[Path], kind: FileKind) -> None:
    """Remember files that were just written; where the database takes no writes, log that it will not know them."""
    rows = [
        {"machine": this_machine(), "path": str(path.absolute()), "kind": kind, "made_at": now_ms()} for path in paths
    ]
    if not rows:
        return
    try:
        with writing(engine) as connection:
            upsert(connection, schema.made_files, rows, key=["machine", "path"], set_=["kind", "made_at"])
    except DatabaseError as error:
        files = [str(path) for path in paths]
        _log.warning("an erasure will not reach these files", extra={"files": files, "reason": str(error)})


def forget_file(engine: Engine, file: MadeFile) -> None:
    """Forget a file that is no longer there."""
    made = schema.made_files.c
    with writing(engine) as connection:
        connection.execute(delete(schema.made_files).where(made.machine == file.machine, made.path == str(file.path)))


def read_files(engine: Engine) -> list[MadeFile]:
    """Return all files that are remembered, by path."""
    made = schema.made_files.c
    with reading(engine) as connection:
        rows = connection.execute(
            select(made.machine, made.path, made.kind, made.made_at).order_by(made.path, made.machine)
        )
        return [MadeFile(row.machine, Path(row.path), row.kind, row.made_at) for row in rows]
