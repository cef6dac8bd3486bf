"""Posts: ratings and events that are checked row by row, the good ones written in one transaction."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import quote

from sqlalchemy import Engine

from recsys.data.limits import EARLIEST_MS, MAX_RATING, id_problem
from recsys.database.clock import now_ms
from recsys.database.engine import limit_lock_wait, retry_on_conflict
from recsys.database.feedback import (
    NewRating,
    Pair,
    StoredPair,
    Written,
    read_pairs,
    without_withdrawn,
    write_events,
    write_posted,
)
from recsys.database.work import Work, unit_of_work
from recsys.results import RateReport, RowError

OnChange = Callable[[Sequence[int], int], None]
"""Called after a commit with the keys of the users whose ratings changed, and the seq of the change."""

CLOCK_SKEW_MS = 300_000
"""How far in the future a rating's time may lie, because the client's clock is fast."""


@dataclass(frozen=True, slots=True)
class Post:
    """The rows of one post, after those that cannot be kept, whatever is stored, were set aside.

    Attributes:
        rows: (position in the post, row).
        errors: of the rows that were set aside.
    """

    rows: tuple[tuple[int, NewRating], ...]
    errors: tuple[RowError, ...]

    @property
    def pairs(self) -> frozenset[Pair]:
        """The user_id and item_id of each row."""
        return frozenset((row.user_id, row.item_id) for _, row in self.rows)


def rate(
    engine: Engine,
    rows: Sequence[NewRating] | Mapping[int, NewRating],
    scale: tuple[float | None, float | None] | None,
    on_change: OnChange,
    errors: Sequence[RowError] = (),
) -> RateReport:
    """Store ratings and events; a bad row is reported, and the others are kept. See `check_post` and `write_posts`."""
    [report] = write_posts(engine, [check_post(rows, scale, errors)], on_change)
    return report


def check_post(
    rows: Sequence[NewRating] | Mapping[int, NewRating],
    scale: tuple[float | None, float | None] | None,
    errors: Sequence[RowError] = (),
) -> Post:
    """Set aside the rows that cannot be kept, whatever is stored.

    Args:
        rows: in their order, or by their position in the post.
        scale: lowest and highest rating, where they are configured.
        errors: of rows that are not among `rows`.
    """
    now = now_ms()
    errors = list(errors)
    plausible: list[tuple[int, NewRating]] = []
    for index, row in rows.items() if isinstance(rows, Mapping) else enumerate(rows):
        problem = row_problem(row, scale, now)
        if problem is None:
            plausible.append((index, row))
        else:
            errors.append(RowError(index=index, message=problem))
    return Post(tuple(plausible), tuple(errors))


def write_posts(
    engine: Engine, posts: Sequence[Post], on_change: OnChange, lock_seconds: float | None = None
) -> list[RateReport]:
    """Store the rows of posts in one transaction.

    A rating without a time is taken as given now; sending the same one again changes nothing. An event counts once for
    each user, item and time. What was taken back, or is of an erased user, stays away unless a row is newer.

    Args:
        posts: no pair of user and item may occur in two of them.
        on_change: called after the commit with the keys of the users whose ratings changed, and the seq of the change.
        lock_seconds: longest time to wait for a row that another transaction holds; by default as long as it takes.
            On SQLite writers wait for the whole database, as long as `busy_seconds` of the engine.

    Returns:
        The report of each post.

    Raises:
        LockUnavailableError: `lock_seconds` passed; nothing is stored.
        DatabaseError: as `unit_of_work`; nothing is stored.
    """
    rows = [row for post in posts for _, row in post.rows]
    if not rows:
        return [report(post, (), Counter(), Counter()) for post in posts]

    def write() -> tuple[dict[Pair, StoredPair], Written, Work]:
        with unit_of_work(engine) as work:
            if lock_seconds is not None:
                limit_lock_wait(work.connection, lock_seconds)
            stored = read_pairs(work.connection, {(row.user_id, row.item_id) for row in rows})
            known = [row for row in rows if stored[row.user_id, row.item_id].item_key is not None]
            good = without_withdrawn(work, known, stored)
            now = now_ms()
            ratings = write_posted(work, [row for row in good if row.weight is None], stored, now)
            events = write_events(work, [row for row in good if row.weight is not None], stored, now)
            return stored, Written(ratings.inserted + events, ratings.updated), work

    stored, written, work = retry_on_conflict(write)
    if work.seq:
        on_change(work.rated_users, work.seq)
    inserted, updated = Counter(written.inserted), Counter(written.updated)
    unknown = [
        [(index, row.item_id) for index, row in post.rows if stored[row.user_id, row.item_id].item_key is None]
        for post in posts
    ]
    return [report(post, items, inserted, updated) for post, items in zip(posts, unknown, strict=True)]


def report(
    post: Post, unknown: Sequence[tuple[int, str]], inserted: Mapping[Pair, int], updated: Mapping[Pair, int]
) -> RateReport:
    """Return the report of a post.

    Args:
        unknown: position and item_id of the rows whose items do not exist.
        inserted, updated: how often each pair was.
    """
    errors = [*post.errors, *(RowError(index=index, message=unknown_item(item_id)) for index, item_id in unknown)]
    n_inserted, n_updated = (sum(counts.get(pair, 0) for pair in post.pairs) for counts in (inserted, updated))
    return RateReport(
        inserted=n_inserted,
        updated=n_updated,
        unchanged=len(post.rows) - len(unknown) - n_inserted - n_updated,
        rejected=len(errors),
        errors=sorted(errors, key=lambda error: error.index),
    )


def unknown_item(item_id: str) -> str:
    """Return the error of an item that does not exist."""
    return (
        f"there is no item {item_id[:80]!r}: create it with PUT /v1/items/{quote(item_id[:80], safe='')}, or search by "
        "title with GET /v1/items?title=…"
    )


def scale_problem(rating: float, scale: tuple[float | None, float | None]) -> str | None:
    """Return why a rating cannot be taken, by the configured ends of the scale; `None` if it can."""
    low, high = -MAX_RATING if scale[0] is None else scale[0], MAX_RATING if scale[1] is None else scale[1]
    return None if low <= rating <= high else f"rating {rating:g} is outside the scale: expected {low:g} to {high:g}"


def row_problem(row: NewRating, scale: tuple[float | None, float | None] | None, now: int) -> str | None:
    """Return why a row cannot be kept, whatever is stored; `None` if it can."""
    problem = id_problem(row.user_id, "user_id", fix="send another id")
    if problem is not None:
        return problem
    if id_problem(row.item_id, "item_id") is not None:
        return unknown_item(row.item_id)
    problem = None if row.rating is None else scale_problem(row.rating, scale or (None, None))
    if problem is not None:
        return problem
    if row.rated_at is not None and not EARLIEST_MS <= row.rated_at <= now + CLOCK_SKEW_MS:
        return "rated_at lies before 1900 or in the future: leave it out, or send the time of the rating in UTC"
    return None
