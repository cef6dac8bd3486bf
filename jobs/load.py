"""Files of ratings, items and users → the database."""

import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TypedDict

from sqlalchemy import Engine

from jobs.progress import Advance, progress
from jobs.query import Query
from jobs.rejects import Rejects, rejects_to
from recsys.data.dataset import NO_TIME
from recsys.data.encoding import IdEncoder, RatingColumns, collect, split_deleted
from recsys.data.messages import join_names, quote_value
from recsys.data.rating_scale import Summary, summarize
from recsys.data.rows import ItemRow, RatingBatch, Rejected, UserRow
from recsys.database.clock import now_ms
from recsys.database.engine import reading
from recsys.database.items import put_items, upsert_items
from recsys.database.rating_deletions import delete_ratings, preview_deletions
from recsys.database.ratings import has_explicit_ratings, preview_upsert, upsert_ratings
from recsys.database.tombstones import read_buried, without_erased
from recsys.database.users import upsert_users
from recsys.database.work import Guard
from recsys.errors import InputError, MostlyBadError, UsageError
from recsys.files.exported import ExportManifest, read_items, read_manifest, read_users
from recsys.files.options import AS_RECOGNISED, ReadOptions
from recsys.files.source import Source, open_source
from recsys.results import LoadReport
from recsys.settings import Settings

SHORTENED = re.compile(r"[0-9](?:\.[0-9]+)?E\+[0-9]{2}")

HIDDEN_AT_ONCE = 1000
"""Items of an export that are hidden in one transaction."""

MAX_REJECTS_WITHOUT_RATING = 10_000
"""Rejected rows after which a file without a single good row is not read to its end."""


class LoadOptions(TypedDict, total=False):
    """How a person said that a source is to be loaded: arguments of `load`."""

    items: Path | None
    users: Path | None
    format: str | None
    columns: Mapping[str, str] | None
    options: ReadOptions
    append: bool
    allow_erased: bool


def load(
    engine: Engine,
    path: Path | Query,
    settings: Settings,
    *,
    items: Path | None = None,
    users: Path | None = None,
    format: str | None = None,
    columns: Mapping[str, str] | None = None,
    options: ReadOptions = AS_RECOGNISED,
    append: bool = False,
    allow_erased: bool = False,
    dry_run: bool = False,
    rejects_file: Path | None = None,
    guard: Guard | None = None,
) -> LoadReport:
    """Load ratings, and the metadata of items and users, from files. Loading the same files again changes nothing.

    All rows are read and checked before anything is written. Bad rows are rejected with line and reason.

    Args:
        path: the file, folder or zip, or a query on another database.
        append: of events, count only those that are later than the latest counted one of their pair.
        allow_erased: load rows of erased users too.
        guard: called in every transaction before it commits: the lease's, so that a load which lost it stops.

    Raises:
        InputError: the file cannot be read, or has no ratings.
        MostlyBadError: more rows were rejected than kept, of ratings, items or users; nothing was loaded.
    """
    started = time.perf_counter()
    exported = None if isinstance(path, Query) else read_manifest(path)
    if exported is not None and not isinstance(path, Query):
        if items or users or format or columns or append or options != AS_RECOGNISED:
            raise UsageError(f"{path} is an export, which is read as it was written: leave the options of reading out")
        return load_export(engine, path, exported, settings, allow_erased=allow_erased, dry_run=dry_run, guard=guard)
    opened = path.copy(options.since_ms) if isinstance(path, Query) else path
    if opened is None:
        return nothing_read(started)
    source = open_source(
        opened,
        items=items,
        users=users,
        format="csv" if isinstance(path, Query) else format,
        columns=columns,
        rating_range=(settings.rating_min, settings.rating_max),
        options=options,
    )
    # A dry run leaves the file of an earlier load alone, unless a file is named.
    keep = not dry_run or rejects_file is not None
    with rejects_to(rejects_file, source, keep=keep, engine=None if dry_run else engine) as rejects:
        ratings = read_ratings_file(source, rejects)
        n_rejected = rejects.count
        item_rows = read_items_file(source, rejects)
        n_items_rejected = rejects.count - n_rejected
        user_rows = read_users_file(source, rejects)
    n_kept = len(ratings)
    ratings, deleted = split_deleted(ratings)
    if deleted is not None and append:
        raise InputError(f"{source.name}: --append takes no event back: load the whole history without --append")
    with reading(engine) as connection:
        implicit, kind_notice = decide_kind(source, ratings, options, has_explicit_ratings(connection))
        user_rows = without_erased(user_rows, None if allow_erased else read_buried(connection))
    if append:
        check_append(source, ratings, implicit)
    elif implicit and options.since_ms is not None:
        raise InputError(
            f"{source.name}: --since leaves earlier events out, and without --append the sum of the later ones would "
            "replace the whole; add --append"
        )
    n_deleted = 0
    if dry_run:
        with reading(engine) as connection:
            done = preview_upsert(connection, ratings, implicit=implicit, allow_erased=allow_erased)
            if deleted is not None:
                n_deleted = preview_deletions(connection, deleted, implicit=implicit)
    else:
        upsert_items(engine, item_rows, guard)
        upsert_users(engine, user_rows, guard)
        with progress("writing ratings", len(ratings)) as advance:
            done = upsert_ratings(
                engine,
                ratings,
                implicit=implicit,
                append=append,
                allow_erased=allow_erased,
                on_rows=lambda n_rows: advance(n_rows, n_rows),
                guard=guard,
            )
            if deleted is not None:
                n_deleted = delete_ratings(engine, deleted, implicit=implicit, guard=guard)
    return LoadReport(
        rows_read=n_kept + n_rejected + source.n_unrated + source.n_earlier,
        inserted=done.inserted,
        updated=done.updated,
        unchanged=done.unchanged + n_kept - len(ratings) - n_deleted,
        rejected=n_rejected,
        users=len({*ratings.user_ids, *(row.user_id for row in user_rows)}),
        items=len({*ratings.item_ids, *(row.item_id for row in item_rows)}),
        items_rejected=n_items_rejected,
        users_rejected=rejects.count - n_rejected - n_items_rejected,
        seconds=round(time.perf_counter() - started, 3),
        rejects_file=str(rejects.path) if rejects.count and rejects.keep else None,
        kind="implicit" if implicit else "explicit",
        unrated=source.n_unrated,
        deleted=n_deleted,
        earlier=source.n_earlier,
        withdrawn=done.withdrawn,
        notices=[*kind_notice, *notices_of(source, ratings, item_rows, user_rows)],
    )


def nothing_read(started: float) -> LoadReport:
    """Return the report of a query without rows, as a growing source has when nothing is new."""
    return LoadReport(
        rows_read=0,
        inserted=0,
        updated=0,
        unchanged=0,
        rejected=0,
        users=0,
        items=0,
        items_rejected=0,
        users_rejected=0,
        seconds=round(time.perf_counter() - started, 3),
        notices=["the query returned no rows"],
    )


def load_export(
    engine: Engine,
    folder: Path,
    exported: ExportManifest,
    settings: Settings,
    *,
    allow_erased: bool,
    dry_run: bool,
    guard: Guard | None,
) -> LoadReport:
    """Load what `recsys export` wrote, with all attributes, and hide what was hidden.

    Raises:
        InputError: as `load`.
    """
    started = time.perf_counter()
    item_rows, hidden = read_items(folder / name) if (name := exported.file_of("items")) else ([], [])
    user_rows = read_users(folder / name) if (name := exported.file_of("users")) else []
    with reading(engine) as connection:
        user_rows = without_erased(user_rows, None if allow_erased else read_buried(connection))

    def load_file(name: str, *, is_event: bool, dry_run: bool) -> LoadReport:
        options = ReadOptions(implicit=is_event, words_are_ids=True)
        return load(
            engine,
            folder / name,
            settings,
            options=options,
            allow_erased=allow_erased,
            dry_run=dry_run,
            guard=guard,
        )

    rating_file, event_file = exported.file_of("ratings"), exported.file_of("events")
    if not dry_run and rating_file and (settings.rating_min, settings.rating_max) != (None, None):
        # The bounds of this database may refuse the ratings of another one: before anything is written.
        load_file(rating_file, is_event=False, dry_run=True)
    if not dry_run:
        upsert_items(engine, item_rows, guard)
        upsert_users(engine, user_rows, guard)
        for start in range(0, len(hidden), HIDDEN_AT_ONCE):
            part = hidden[start : start + HIDDEN_AT_ONCE]
            put_items(engine, {item_id: {"hidden": True} for item_id in part}, actor="load")
    reports = [
        load_file(name, is_event=is_event, dry_run=dry_run)
        for name, is_event in ((rating_file, False), (event_file, True))
        if name is not None
    ]
    counts = ("rows_read", "inserted", "updated", "unchanged", "rejected", "unrated", "withdrawn")
    return LoadReport(
        **{name: sum(getattr(report, name) for report in reports) for name in counts},
        users=len(user_rows),
        items=len(item_rows),
        items_rejected=0,
        users_rejected=0,
        seconds=round(time.perf_counter() - started, 3),
        rejects_file=next((report.rejects_file for report in reports if report.rejects_file), None),
        kind=reports[0].kind if reports else "explicit",
        notices=[notice for report in reports for notice in report.notices],
    )


def decide_kind(
    source: Source, ratings: RatingColumns, options: ReadOptions, has_explicit: bool
) -> tuple[bool, list[str]]:
    """Return whether rows are events, and what a person should know of it.

    Args:
        has_explicit: whether there are ratings already that say how much: then a column of ratings holds such.
    """
    if source.is_implicit or not len(ratings):
        return source.is_implicit, []
    values = summarize(ratings.rating)
    if options.implicit is None and not has_explicit and (values.is_unary or values.is_open_ended):
        looks = "all are 1" if values.is_unary else f"{values.low:g} to {values.high:g}, half of them {values.median:g}"
        return True, [
            f"{source.name}: its ratings look like counts ({looks}), and were read as events; --explicit reads them as "
            "ratings"
        ]
    return False, explicit_notices(source, values)


def explicit_notices(source: Source, values: Summary) -> list[str]:
    """Return what a person should know of values that say how much: outliers, and a value that may stand for none."""
    said: list[str] = []
    if values.outliers:
        shown = join_names([f"{value:g}" for value in values.outliers])
        said.append(
            f"{source.name}: {values.n_outliers:,} ratings are far outside the scale {values.low:g} to {values.high:g} "
            f"({shown}) and will not be trained on: correct them, leave them out with --unrated, or set "
            "RECSYS_RATING_MIN and RECSYS_RATING_MAX"
        )
    if values.unrated is not None:
        said.append(
            f"{source.name}: {values.share_unrated:.0%} of the ratings are {values.unrated:g}: if that is not rated, "
            f"load the file again with --unrated {values.unrated:g}"
        )
    return said


def check_append(source: Source, ratings: RatingColumns, implicit: bool) -> None:
    """Check that rows can be appended.

    Raises:
        InputError: they are ratings, or events without times.
    """
    if not implicit:
        raise InputError(f"{source.name}: --append counts events, and these are ratings; load it without --append")
    if (ratings.rated_at == NO_TIME).any():
        raise InputError(
            f"{source.name}: --append needs the time of every event, and some have none; name the column with --map "
            "rated_at=COLUMN, or load the whole history without --append"
        )


def notices_of(source: Source, ratings: RatingColumns, items: Sequence[ItemRow], users: Sequence[UserRow]) -> list[str]:
    """Return what a person should know of how a file was read."""
    said = source.notices(now_ms())
    for what, ids in (("user", ratings.user_ids), ("item", ratings.item_ids)):
        padded = [external_id for external_id in ids if external_id != external_id.strip()]
        if padded:
            said.append(
                f"{len(padded):,} of {len(ids):,} {what} ids begin or end with a blank, such as "
                f"{quote_value(padded[0])}: another spelling of the id is another id"
            )
        shortened = [external_id for external_id in ids if "E+" in external_id and SHORTENED.fullmatch(external_id)]
        if shortened:
            said.append(
                f"{len(shortened):,} {what} ids are like {quote_value(shortened[0])}: a spreadsheet shortens long "
                "numbers, and different ids become one; export the column as text"
            )
    said += [
        notice
        for notice in (
            source.describe_match("items", items, ratings.item_ids),
            source.describe_match("users", users, ratings.user_ids),
        )
        if notice is not None
    ]
    return said


def read_ratings_file(
    source: Source, rejects: Rejects, users: IdEncoder | None = None, items: IdEncoder | None = None
) -> RatingColumns:
    """Read the good ratings of a file.

    Raises:
        InputError: the file cannot be read, or has no ratings.
        MostlyBadError: more rows were rejected than kept.
    """
    kept = 0

    def give_up() -> MostlyBadError:
        return MostlyBadError(
            f"{source.name}: {rejects.count:,} of {kept + rejects.count:,} rows were rejected, so nothing was loaded; "
            f"the first: {rejects.first}. See {rejects.where}; the columns can be named with --map, "
            "the kind of file with --format"
        )

    def on_reject(rejected: Rejected) -> None:
        rejects(rejected)
        if kept == 0 and rejects.count >= MAX_REJECTS_WITHOUT_RATING:
            raise give_up()

    def batches(advance: Advance) -> Iterator[RatingBatch]:
        nonlocal kept
        for batch in source.ratings(on_reject, advance):
            kept += len(batch.rating)
            advance(0, len(batch.rating))
            yield batch

    with progress(f"reading {source.name}", source.n_bytes) as advance:
        columns = collect(batches(advance), users, items, partial(source.budget.take, name=source.name))
    if rejects.count > kept:
        raise give_up()
    if not kept and not source.n_earlier:
        raise InputError(f"{source.name}: it holds no ratings: expected rows of user, item and rating")
    return columns


def read_items_file(source: Source, rejects: Rejects) -> list[ItemRow]:
    """Read the good rows of the file of items that belongs to a source.

    Raises:
        InputError: the file cannot be read.
        MostlyBadError: more of its rows were rejected than kept.
    """
    with naming_rejects(rejects):
        return source.items(rejects)


def read_users_file(source: Source, rejects: Rejects) -> list[UserRow]:
    """Read the good rows of the file of users that belongs to a source.

    Raises:
        InputError: the file cannot be read.
        MostlyBadError: more of its rows were rejected than kept.
    """
    with naming_rejects(rejects):
        return source.users(rejects)


@contextmanager
def naming_rejects(rejects: Rejects) -> Iterator[None]:
    """Add the name of the file of rejected rows to the error about a file that is mostly bad."""
    try:
        yield
    except MostlyBadError as error:
        raise MostlyBadError(f"{error}. All of them: {rejects.where}") from error
