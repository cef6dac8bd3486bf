"""A query on another database as a source of ratings."""

import io
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from jobs.progress import progress
from recsys.database.other_database import write_query
from recsys.errors import InputError
from recsys.files.entries import Entry
from recsys.files.remote import copied
from recsys.settings import Settings

NAME = "query"


@dataclass(frozen=True, slots=True)
class Query:
    """A query on another database.

    Attributes:
        sql: the query.
        url: of the database, with its password: in no message and no record.
    """

    sql: str
    url: str = field(repr=False)

    def __str__(self) -> str:
        return NAME

    @classmethod
    def of(cls, sql: str, settings: Settings) -> "Query":
        """Return a query on the database that the settings name.

        Raises:
            InputError: they name none.
        """
        if settings.source_url is None:
            raise InputError(
                "--from-query needs the address of the database to read: set RECSYS_SOURCE_URL=postgresql://…, "
                "which no list of processes shows"
            )
        return cls(sql, settings.source_url)

    def copy(self, since_ms: int | None) -> Entry | None:
        """Copy the result to the disk, as CSV in a file that has no name any more; return `None` if it has no rows.

        Raises:
            InputError: the database cannot be reached, the query cannot be run, or the disk is full.
        """

        n_all = 0

        def write(out: BinaryIO) -> None:
            lines = io.TextIOWrapper(out, "utf-8", newline="")
            with progress("reading the query", None) as advance:

                def on_rows(n_rows: int) -> None:
                    nonlocal n_all
                    n_all += n_rows
                    advance(n_rows, n_rows)

                write_query(self.url, self.sql, since_ms or 0, lines, on_rows)
            lines.detach()  # and writes what it holds; the file itself stays open

        file = copied(NAME, write)
        return Entry(NAME, Path(f"{NAME}.csv"), opened=file) if n_all else None
