"""A file of ratings → the database."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from sqlalchemy import Engine

from jobs.progress import progress
from recsys.data.encoding import IdEncoder, RatingColumns, collect
from recsys.data.rows import ItemRow, RatingBatch, Rejected, UserRow
from recsys.database.engine import reading
from recsys.database.items import upsert_items
from recsys.database.ratings import preview_upsert, upsert_ratings
from recsys.database.users import upsert_users
from recsys.errors import InputError, MostlyBadError
from recsys.files.source import Source, open_source
from recsys.results import LoadReport
from recsys.settings import Settings

_HOPELESS = 10_000
"""Rejected rows after which a file of which nothing was kept is not read to its end."""


class Rejects:
    """Rows that were set aside: counted, and written to a file as they come."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.count = 0
        self.first: Rejected | None = None
        self._file: TextIO | None = None

    def __call__(self, rejected: Rejected) -> None:
        if self._file is None:
            try:
                self._file = self.path.open("w", encoding="utf-8")
            except OSError as error:
                raise InputError(
                    f"{self.path}: cannot write the rejected rows there ({error.strerror}): name a file with --rejects"
                ) from error
        self._file.write(f"{rejected}\n")
        self.first = self.first or rejected
        self.count += 1

    def close(self) -> None:
        if self._file is not None:
            self._file.close()


@contextmanager
def rejects_to(path: Path | None, source: Source) -> Iterator[Rejects]:
    """Set rejected rows aside in a file, by default NAME.rejects.txt in the working directory."""
    rejects = Rejects(path or Path(f"{Path(source.name).name}.rejects.txt"))
    try:
        yield rejects
    finally:
        rejects.close()


def load(
    engine: Engine,
    path: Path,
    settings: Settings,
    *,
    items: Path | None = None,
    users: Path | None = None,
    format: str | None = None,
    columns: Mapping[str, str] | None = None,
    dry_run: bool = False,
    rejects_file: Path | None = None,
) -> LoadReport:
    """Load ratings, and what is said of items and users, from files; the same files twice change nothing.

    All of it is read and checked before anything is written. Bad rows are set aside with line and reason.

    Raises:
        InputError: the file cannot be read, or has no ratings.
        MostlyBadError: more rows were rejected than kept, of ratings, items or users; nothing was loaded.
    """
    started = time.perf_counter()
    source = open_source(
        path,
        items=items,
        users=users,
        format=format,
        columns=columns,
        rating_range=(settings.rating_min, settings.rating_max),
    )
    with rejects_to(rejects_file, source) as rejects:
        ratings = read_ratings_file(source, rejects)
        n_rejected = rejects.count
        item_rows = read_items_file(source, rejects)
        n_items_rejected = rejects.count - n_rejected
        user_rows = read_users_file(source, rejects)
    if dry_run:
        with reading(engine) as connection:
            done = preview_upsert(connection, ratings)
    else:
        upsert_items(engine, item_rows)
        upsert_users(engine, user_rows)
        with progress("writing ratings", len(ratings)) as advance:
            done = upsert_ratings(engine, ratings, on_rows=advance)
    return LoadReport(
        rows_read=len(ratings) + n_rejected,
        inserted=done.inserted,
        updated=done.updated,
        unchanged=done.unchanged,
        rejected=n_rejected,
        users=len({*ratings.user_ids, *(row.user_id for row in user_rows)}),
        items=len({*ratings.item_ids, *(row.item_id for row in item_rows)}),
        items_rejected=n_items_rejected,
        users_rejected=rejects.count - n_rejected - n_items_rejected,
        seconds=round(time.perf_counter() - started, 3),
        rejects_file=str(rejects.path) if rejects.count else None,
    )


def read_ratings_file(
    source: Source, rejects: Rejects, users: IdEncoder | None = None, items: IdEncoder | None = None
) -> RatingColumns:
    """All good ratings of a file.

    Raises:
        InputError: the file cannot be read, or has no ratings.
        MostlyBadError: more rows were rejected than kept.
    """
    kept = 0

    def give_up() -> MostlyBadError:
        return MostlyBadError(
            f"{source.name}: {rejects.count:,} of {kept + rejects.count:,} rows were rejected, so nothing was loaded; "
            f"the first: {rejects.first}. See {rejects.path}; the columns can be named with --map, "
            "the kind of file with --format"
        )

    def on_reject(rejected: Rejected) -> None:
        rejects(rejected)
        if kept == 0 and rejects.count >= _HOPELESS:
            raise give_up()

    def batches(on_bytes: Callable[[float], None]) -> Iterator[RatingBatch]:
        nonlocal kept
        for batch in source.ratings(on_reject, on_bytes):
            kept += len(batch.rating)
            yield batch

    with progress(f"reading {source.name}", source.n_bytes) as advance:
        columns = collect(batches(advance), users, items)
    if rejects.count > kept:
        raise give_up()
    if not kept:
        raise InputError(f"{source.name}: there are no ratings in it: expected rows of user, item and rating")
    return columns


def read_items_file(source: Source, rejects: Rejects) -> list[ItemRow]:
    """All good items that come with a file of ratings.

    Raises:
        InputError: the file of items cannot be read.
        MostlyBadError: more of its rows were rejected than kept.
    """
    with _rejects_named(rejects):
        return source.items(rejects)


def read_users_file(source: Source, rejects: Rejects) -> list[UserRow]:
    """All good users that come with a file of ratings.

    Raises:
        InputError: the file of users cannot be read.
        MostlyBadError: more of its rows were rejected than kept.
    """
    with _rejects_named(rejects):
        return source.users(rejects)


@contextmanager
def _rejects_named(rejects: Rejects) -> Iterator[None]:
    """Say where all rejected rows are, of a file that is mostly bad."""
    try:
        yield
    except MostlyBadError as error:
        raise MostlyBadError(f"{error}. All of them: {rejects.path}") from error
