"""Ratings that come in one by one: checked row by row, the good ones kept."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Engine

from recsys.data.dataset import NO_TIME
from recsys.data.encoding import RatingColumns
from recsys.data.limits import EARLIEST_MS, MAX_RATING, id_problem
from recsys.database.clock import now_ms
from recsys.database.engine import reading
from recsys.database.items import known_items
from recsys.database.ratings import upsert_ratings
from recsys.results import RateReport, RowError

_CLOCK_SKEW_MS = 300_000


@dataclass(frozen=True, slots=True)
class NewRating:
    """One rating as a client sent it; `rated_at` in Unix milliseconds."""

    user_id: str
    item_id: str
    rating: float
    rated_at: int | None


def rate(
    engine: Engine,
    rows: Sequence[NewRating],
    scale: tuple[float, float] | None,
    on_change: Callable[[Sequence[int], int], None],
) -> RateReport:
    """Store ratings; a bad row is reported, and the others are kept.

    A rating without a time is taken as given now; sending the same one again changes nothing.

    Args:
        scale: lowest and highest rating there is; None: not known yet.
        on_change: told, once it is committed, the keys of the users whose ratings changed, and the seq of that.
    """
    now = now_ms()
    with reading(engine) as connection:
        asked = {row.item_id for row in rows if id_problem(row.item_id, "item_id") is None}
        known = known_items(connection, asked)
    errors, good = [], []
    for index, row in enumerate(rows):
        reason = _reason_against(row, known, scale, now)
        if reason is None:
            good.append(row)
        else:
            errors.append(RowError(index=index, message=reason))
    user_ids, user_code = _encoded([row.user_id for row in good])
    item_ids, item_code = _encoded([row.item_id for row in good])
    columns = RatingColumns(
        user_code=user_code,
        item_code=item_code,
        rating=np.array([row.rating for row in good], np.float64),
        rated_at=np.array([NO_TIME if row.rated_at is None else row.rated_at for row in good], np.int64),
        user_ids=user_ids,
        item_ids=item_ids,
    )
    done = upsert_ratings(engine, columns, received_at=now, bulk=False)
    if done.users:
        on_change(done.users, done.seq)
    return RateReport(
        inserted=done.inserted,
        updated=done.updated,
        unchanged=done.unchanged,
        rejected=len(errors),
        errors=errors,
    )


def _encoded(ids: Sequence[str]) -> tuple[list[str], NDArray[np.int32]]:
    """The distinct ids, and which of them each one is."""
    codes: dict[str, int] = {}
    code = np.array([codes.setdefault(external_id, len(codes)) for external_id in ids], np.int32)
    return list(codes), code


def _reason_against(row: NewRating, known: set[str], scale: tuple[float, float] | None, now: int) -> str | None:
    """Why a row cannot be kept; None where it can."""
    problem = id_problem(row.user_id, "user_id", fix="send another id")
    if problem is not None:
        return problem
    if row.item_id not in known:
        return f"there is no item {row.item_id[:80]!r}: search by title with GET /v1/items?title=…"
    low, high = scale or (-MAX_RATING, MAX_RATING)
    if not low <= row.rating <= high:
        return f"rating {row.rating:g} is outside the scale: expected {low:g} to {high:g}"
    if row.rated_at is not None and not EARLIEST_MS <= row.rated_at <= now + _CLOCK_SKEW_MS:
        return "rated_at lies before 1900 or in the future: leave it out, or send the time of the rating in UTC"
    return None
