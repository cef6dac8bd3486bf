"""Ratings, items and users of a file, folder or zip: checked batches, and rejected rows with line and reason."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from recsys.data.ahead import ahead
from recsys.data.budget import MemoryBudget
from recsys.data.checks import (
    Problems,
    check_ids,
    decode_text,
    refuse_id_type,
    refuse_rating_type,
    refuse_time_type,
    values_where,
)
from recsys.data.dataset import NO_TIME
from recsys.data.limits import FIX_LINE, NOTHING
from recsys.data.messages import join_names, printable, quote_value
from recsys.data.numbers import NumberReader
from recsys.data.rows import DELETION, ItemRow, RatingBatch, Rejected, UserRow
from recsys.data.times import TimeReader
from recsys.errors import InputError
from recsys.files.columns import DELETED, ColumnPositions, Header
from recsys.files.discovery import (
    FORMATS,
    choose_ratings,
    find_metadata,
    open_items,
    open_ratings,
    open_users,
)
from recsys.files.entries import STDIN, Entry, Folder, locate
from recsys.files.items import ItemFile, MovieLens100KItems
from recsys.files.options import AS_RECOGNISED, ReadOptions
from recsys.files.parquet import ParquetFile
from recsys.files.parts import PartsEntry, PartsFile
from recsys.files.remote import shown_name
from recsys.files.tabular import TabularFile
from recsys.files.users import UserFile

__all__ = ["FORMATS", "ItemRow", "RatingBatch", "Rejected", "Source", "UserRow", "open_source"]

BATCH_ROWS = 250_000
SHARE_DESCRIBED = 0.5
"""Share of the rated items below which a file of items is remarked on."""
NOT_DELETED = NOTHING | {"", "0", "0.0", "false", "f", "no", "n"}
N_SAMPLED = 200
"""Rows that are looked at when a file is opened."""


class Source:
    """Ratings, and perhaps items and users, to be read; `open_source` makes it.

    Attributes:
        name: the path that the user typed, without control characters.
        n_bytes: size of the ratings, uncompressed: the sum of the counts given to `on_bytes`.
        is_implicit: whether the rows are events or counts and their numbers are weights.
        n_unrated: rows read so far that stand for no rating, and were left out.
        n_earlier: rows read so far that are earlier than the options say, and were left out.
        budget: counts the memory of everything that is read from this source.
    """

    def __init__(
        self,
        name: str,
        table: TabularFile,
        columns: ColumnPositions,
        items: ItemFile | MovieLens100KItems | None,
        users: UserFile | None,
        rating_range: tuple[float | None, float | None],
        options: ReadOptions = AS_RECOGNISED,
    ) -> None:
        self.name = name
        self.is_implicit = columns.is_implicit
        self.n_unrated = self.n_earlier = 0
        self._since_ms = options.since_ms
        self.n_bytes = table.entry.n_bytes
        self._table = table
        self._columns = columns
        self._items = items
        self._users = users
        self._times = TimeReader(options.time_format)
        low, high = (None, None) if columns.is_implicit else rating_range
        self._numbers = NumberReader(low, high, options.unrated, is_weight=columns.is_implicit)
        self._words_are_ids = options.words_are_ids
        self._event_weights = options.event_weights
        self._events: set[str] = set()
        sizes = {each.entry.path: each.entry.n_stored_bytes for each in (table, items, users) if each is not None}
        self.budget = MemoryBudget(sum(sizes.values()))

    def ratings(
        self, on_reject: Callable[[Rejected], None], on_bytes: Callable[[int], None] | None = None
    ) -> Iterator[RatingBatch]:
        """Return the good ratings in the order of the file, at most `BATCH_ROWS` at once.

        Args:
            on_reject: called with each rejected row, before the batch it would be in. It may raise.
            on_bytes: called with the number of bytes just read.

        Raises:
            InputError: the file cannot be read to its end, changed meanwhile, or has no rows.
        """
        columns = self._columns
        roles = {"user_id": columns.user_id, "item_id": columns.item_id, "rating": columns.rating}
        roles |= {"rated_at": columns.rated_at, "event": columns.event}
        roles[DELETED] = columns.deleted
        positions = {role: position for role, position in roles.items() if position is not None}
        wanted = list(positions.values())
        name = self._table.entry.name
        n_rows = 0
        for block in ahead(self._table.blocks(wanted)):
            if on_bytes is not None:
                on_bytes(block.n_bytes)
            n_rows += len(block.line) + len(block.flaws)
            flaws = block.flaws
            for start in range(0, max(len(block.line), 1), BATCH_ROWS):
                part = dict(zip(positions, (each[start : start + BATCH_ROWS] for each in block.columns), strict=True))
                batch, problems = self._check(part, block.line[start : start + BATCH_ROWS])
                for line, reason in sorted([*flaws, *problems]):
                    on_reject(Rejected(block.name or name, line, reason))
                flaws = ()
                if self._since_ms is not None:
                    batch, n_earlier = batch.since(self._since_ms)
                    self.n_earlier += n_earlier
                if len(batch.line):
                    yield batch
        if n_rows == 0:
            raise InputError(f"{name}: no rows: expected at least one rating; write or copy the file again")

    def notices(self, now_ms: int) -> list[str]:
        """Return sentences on what was read in a way that a person may want to correct; call it after `ratings`."""
        said: list[str] = []
        name = self._table.entry.name
        if self._table.header is None:
            said.append(f"{name} has no header: its first row was read as {self._first_row()}")
        if self.n_unrated:
            said.append(f"{name}: {self.n_unrated:,} rows stand for no rating and were left out")
        if self.is_implicit and self._columns.event is None and len(self._events) > 1:
            said.append(
                f"{name}: every row counts 1, whatever happened ({join_names(sorted(self._events))}): to weigh them, "
                "--event-weights NAME=NUMBER,…"
            )
        elif self.is_implicit and self._columns.rating is None and self._columns.event is None:
            said.append(f"{name} has no column of ratings: every row counts as one event")
        if (time := self._times.notice(now_ms)) is not None:
            said.append(f"{name}: {time}")
        return said

    def _first_row(self) -> str:
        """Return how the first row was read."""
        columns = self._columns
        number = "weight" if self.is_implicit else "rating"
        roles = (
            ("user", columns.user_id),
            ("item", columns.item_id),
            (number, columns.rating),
            ("time", columns.rated_at),
        )
        row = next((values for values in first_records(self._table, 1)), None)
        if row is None:
            return "nothing"
        return ", ".join(f"{role}={printable(str(row[at]))[:40]}" for role, at in roles if at is not None)

    def _check(
        self, columns: Mapping[str, pa.Array], line: NDArray[np.int64]
    ) -> tuple[RatingBatch, list[tuple[int, str]]]:
        """Return the good ratings of some rows, and (line, reason) of the others."""
        user_ids, user_problems = check_ids(columns["user_id"], "user_id", words_are_ids=self._words_are_ids)
        item_ids, item_problems = check_ids(columns["item_id"], "item_id", words_are_ids=self._words_are_ids)
        rating, unrated, rating_problems = np.ones(len(line)), np.zeros(len(line), bool), dict[int, str]()
        if "rating" in columns:
            try:
                rating, unrated, rating_problems = self._numbers.read(columns["rating"])
            except InputError as error:
                raise InputError(f"{self._table.entry.name}: from line {line[0]}: {error}") from error
        if "event" in columns:
            weights, event_problems = weigh_events(columns["event"], self._event_weights or {})
            rating, rating_problems = rating * weights, rating_problems | event_problems
            unrated |= weights == 0
        rated_at = np.full(len(line), NO_TIME)
        time_problems: Problems = {}
        if "rated_at" in columns:
            rated_at, time_problems = self._times.read(columns["rated_at"])
        if DELETED in columns:
            deleted = are_deleted(columns[DELETED])
            rating, unrated = np.where(deleted, DELETION, rating), unrated & ~deleted
            rating_problems = {i: why for i, why in rating_problems.items() if not deleted[i]}
        # Of several problems of a row, the first column's is reported.
        problems = time_problems | rating_problems | item_problems | user_problems
        good = ~unrated
        if problems:
            good[list(problems)] = False
            unrated[list(problems)] = False
        self.n_unrated += int(unrated.sum())
        if good.all():
            batch = RatingBatch(user_ids, item_ids, rating, rated_at, line)
        else:
            mask = pa.array(good)
            batch = RatingBatch(user_ids.filter(mask), item_ids.filter(mask), rating[good], rated_at[good], line[good])
        return batch, [(int(line[i]), reason) for i, reason in problems.items()]

    def items(self, on_reject: Callable[[Rejected], None]) -> list[ItemRow]:
        """Return the items beside the ratings, each id once; an empty list if there is no file of items.

        Args:
            on_reject: called with each rejected row.

        Raises:
            InputError: the file of items cannot be read to its end, or takes too much memory.
        """
        return [] if self._items is None else self._items.read(on_reject, self.budget)

    def describe_match(
        self, what: Literal["items", "users"], rows: Sequence[ItemRow | UserRow], rated: Sequence[str]
    ) -> str | None:
        """Return how many of the rated items (or users) a file describes; `None` if it is most, or there is no file.

        Args:
            rows: what was read of it.
            rated: the ids in the ratings.
        """
        file = self._items if what == "items" else self._users
        if file is None or not rows or not rated:
            return None
        ids = frozenset(rated)
        own = {row.item_id if isinstance(row, ItemRow) else row.user_id for row in rows}
        n_described = len(ids & own)
        if n_described >= SHARE_DESCRIBED * len(ids):
            return None
        described = {"items": "rated items", "users": "users with ratings"}[what]
        said = f"{file.entry.name} describes {n_described or 'none'} of {len(ids):,} {described}"
        option = f"--map-{what} {what[:-1]}_id="
        best = None if isinstance(file, MovieLens100KItems) else file.matching_column(ids)
        if best is not None and best[1] > 2 * n_described / len(own):
            name = quote_value(best[0])[1:-1]
            return f"{said}: its column {name} matches the ratings better; name it with {option}{name}"
        return (
            f"{said}: ids there are like {quote_value(min(own - ids, default=''))}, in the ratings like "
            f"{quote_value(min(ids - own))}; name another column with {option}COLUMN"
        )

    def users(self, on_reject: Callable[[Rejected], None]) -> list[UserRow]:
        """Return the users beside the ratings, as `items` does."""
        return [] if self._users is None else self._users.read(on_reject, self.budget)


def open_source(
    path: str | Path | Entry,
    *,
    items: str | Path | None = None,
    users: str | Path | None = None,
    format: str | None = None,
    columns: Mapping[str, str] | None = None,
    rating_range: tuple[float | None, float | None] = (None, None),
    options: ReadOptions = AS_RECOGNISED,
) -> Source:
    """Open a file, folder or zip of ratings. Each file is opened once; only its first lines are read now.

    Of a folder or zip, the one file with a name for ratings is read, and the items and users beside it. Of a single
    file only the ratings are read, unless `items` or `users` is given. A path may continue inside a zip.

    Args:
        path: the file, folder or zip; or a file that is open already.
        items, users: where to read items and users instead.
        format: one of `FORMATS`; `None` is `auto`.
        columns: `user_id`, `item_id`, `rating`, `rated_at`, `weight` or `event` → the column's name in the file, or its
            1-based number.
        rating_range: ratings outside (lowest, highest) are rejected; `None` is no bound.
        options: what else a person said about the file.

    Raises:
        InputError: the path does not exist, cannot be read, is ambiguous or of an unknown type, or a column is
            missing. The message is one line and names the file, what was expected and the fix.
    """
    format = format or "auto"
    if format not in FORMATS:
        raise InputError(f"format {format!r} is not known: expected one of {', '.join(FORMATS)}; correct --format")
    mapping = dict(columns or {})
    located = path if isinstance(path, Entry) else locate(path)
    ratings = choose_ratings(located, format) if isinstance(located, Folder) else located
    says_events = options.implicit or options.event_weights is not None
    table = open_ratings(ratings, format, mapping, min_columns=2 if says_events else 3)
    header = Header(table.where, table.header, table.n_columns)
    found = header.find_ratings(mapping, options, lambda: first_records(table, N_SAMPLED))
    if isinstance(table, ParquetFile | PartsFile):
        refuse_types(table, found)
    beside = None
    if isinstance(located, Folder):
        beside = located if isinstance(ratings, PartsEntry) else ratings.folder()
    item_entry = find_metadata("items", items, beside)
    user_entry = find_metadata("users", users, beside)
    return Source(
        path.name if isinstance(path, Entry) else "stdin" if str(path) == STDIN else shown_name(path),
        table,
        found,
        None if item_entry is None else open_items(item_entry, mapping, options.item_columns),
        None if user_entry is None else open_users(user_entry, mapping, options.user_columns),
        rating_range,
        options,
    )


def first_records(table: TabularFile, n: int) -> list[list[object]]:
    """Return all values of the first `n` rows of a file that can be split."""
    rows: list[list[object]] = []
    for _, values in table.records(range(table.n_columns)):
        if not isinstance(values, str):
            rows.append(values)
        if len(rows) == n:
            break
    return rows


def are_deleted(column: pa.Array) -> NDArray[np.bool_]:
    """Return which rows a column of deletions says are deleted, (n,): by a truth, a number but 0, a time or a word."""
    words = pc.ascii_lower(pc.utf8_trim_whitespace(decode_text(column).cast(pa.string()).fill_null("")))
    kept: NDArray[np.bool_] = pc.is_in(words, pa.array(sorted(NOT_DELETED))).to_numpy(zero_copy_only=False)
    return ~kept


def weigh_events(column: pa.Array, weights: Mapping[str, float]) -> tuple[NDArray[np.float64], Problems]:
    """Return the weight of each event (n,), and the problems of those without one."""
    names = column.cast(pa.string()).dictionary_encode()
    by_name = [weights.get(name.strip(), np.nan) for name in names.dictionary.to_pylist()]
    code = names.indices.fill_null(len(by_name)).to_numpy(zero_copy_only=False)
    found = np.array([*by_name, np.nan])[code]
    known = join_names(sorted(weights))
    return found, {
        i: f"event {quote_value(value or '')} has no weight: expected one of {known}; add it to --event-weights (0 "
        f"leaves such rows out), or {FIX_LINE}"
        for i, value in values_where(np.isnan(found), column)
    }


def refuse_types(table: ParquetFile | PartsFile, columns: ColumnPositions) -> None:
    """Refuse columns whose type cannot hold their role.

    Raises:
        InputError: there is such a column.
    """
    checks = [
        (columns.user_id, refuse_id_type),
        (columns.item_id, refuse_id_type),
        (columns.rating, refuse_rating_type),
        (columns.rated_at, refuse_time_type),
    ]
    for position, refuse in checks:
        if position is not None and (reason := refuse(table.type_of(position))):
            name = quote_value((table.header or ())[position])[1:-1]
            raise InputError(f"{table.where}: column {name} {reason}")
