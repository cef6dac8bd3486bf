"""The scale of ratings, inferred robustly, and the values that do not fit it. numpy only."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

COMMON_SCALES = ((0.0, 1.0), (1.0, 5.0), (0.5, 5.0), (1.0, 10.0), (0.0, 10.0), (-10.0, 10.0), (0.0, 100.0))
RELEVANT_SHARE = 0.75
"""How far up the scale a rating is relevant for lists."""

MAX_OUTLIER_SHARE = 0.01
MAX_OUTLIER_SHARE_OF_FEW = 0.05
"""The same among fewer than `FEW` ratings."""
FEW = 200
MIN_UNRATED_SHARE = 0.2
MIN_TOP_SHARE = 0.01
"""Share of the ratings that must be relevant on a common scale for it to be the scale."""
MIN_ROWS_TO_JUDGE = 20
OPEN_ENDED_FROM = 20.0
"""Largest whole number from which ratings without a common scale may be counts."""


@dataclass(frozen=True, slots=True)
class Summary:
    """What some ratings look like.

    Attributes:
        low, high: the scale.
        median: of the ratings.
        outliers: the distinct values far outside, at most ten.
        n_outliers: number of ratings far outside.
        unrated: the value that may stand for no rating; `None` if there is none.
        share_unrated: its share.
        is_unary: whether all are 1.
        is_open_ended: whether they look like counts, seconds or money: whole or not, from 0, most small and some large.
    """

    low: float
    high: float
    median: float
    outliers: tuple[float, ...]
    n_outliers: int
    unrated: float | None
    share_unrated: float
    is_unary: bool
    is_open_ended: bool


def relevant_from(scale: tuple[float, float]) -> float:
    """Return the lowest relevant rating: three quarters up the scale."""
    return scale[0] + RELEVANT_SHARE * (scale[1] - scale[0])


def infer_scale(rating: NDArray[np.floating]) -> tuple[float, float]:
    """Return the lowest and highest possible rating, as far as ratings (n,) show it.

    It is the first of `COMMON_SCALES` that holds all but a few values far outside, and whose upper end is used; else
    the range of the ratings without values far outside.
    """
    return infer_scale_of(*np.unique(np.asarray(rating, np.float64), return_counts=True))


def infer_scale_of(distinct: NDArray[np.float64], counts: NDArray[np.int64]) -> tuple[float, float]:
    """Return the scale as `infer_scale` does, by the different ratings, ascending, and how often each occurs."""
    n = int(counts.sum())
    for low, high in COMMON_SCALES:
        inside = (distinct >= low) & (distinct <= high)
        if (
            not inside.any()
            or (low < 0 <= distinct[0])
            or not are_outliers(distinct[~inside], counts[~inside], (low, high), n)
        ):
            continue
        if counts[inside & (distinct >= relevant_from((low, high)))].sum() >= max(1, MIN_TOP_SHARE * n):
            return low, high
    ends = np.cumsum(counts)
    at = np.searchsorted(ends, [int(0.01 * (n - 1)), int(np.ceil(0.99 * (n - 1)))], side="right")
    low, high = distinct[at].tolist()
    if low == high or n < MIN_ROWS_TO_JUDGE:
        return float(distinct[0]), float(distinct[-1])
    near = (distinct >= low - (high - low) / 2) & (distinct <= high + (high - low) / 2)
    return float(distinct[near].min()), float(distinct[near].max())


def are_outliers(values: NDArray[np.float64], counts: NDArray[np.int64], scale: tuple[float, float], n: int) -> bool:
    """Return whether values outside a scale are few, and all of them far outside: by more than half of it."""
    low, high = scale
    reach = (high - low) / 2
    share = MAX_OUTLIER_SHARE if n >= FEW else MAX_OUTLIER_SHARE_OF_FEW
    return bool(counts.sum() <= share * n and ((values < low - reach) | (values > high + reach)).all())


def summarize(rating: NDArray[np.floating]) -> Summary:
    """Return what ratings (n,) look like."""
    values = np.asarray(rating, np.float64)
    if not len(values):
        return Summary(0.0, 0.0, 0.0, (), 0, None, 0.0, False, False)
    low, high = infer_scale(values)
    is_outside = (values < low) | (values > high)
    distinct, counts = np.unique(values[~is_outside], return_counts=True)
    unrated, share = None, 0.0
    # A sentinel: one value below all others, that is as frequent as no rating would be.
    if distinct[0] in (0.0, -1.0) and len(distinct) >= 4 and (distinct[0] < 0 <= distinct[1] or distinct[-1] >= 3):
        share = float(counts[0] / len(values))
        if share >= MIN_UNRATED_SHARE and counts[0] > 3 * counts[1]:
            unrated = float(distinct[0])
    outliers = np.unique(values[is_outside])
    enough = len(values) >= MIN_ROWS_TO_JUDGE
    median = float(np.median(values))
    is_common = (low, high) in COMMON_SCALES and (high != 100.0 or median >= 10.0)
    open_ended = (
        enough
        and values.min() >= 0
        and values.max() > OPEN_ENDED_FROM
        and not is_common
        and (median * 4 <= float(values.max()) or values.max() > 100)
    )
    few_outliers = is_outside.sum() <= MAX_OUTLIER_SHARE * len(values) and is_common
    return Summary(
        low,
        high,
        median,
        tuple(outliers[:10].tolist()),
        int(is_outside.sum()),
        unrated,
        share,
        is_unary=enough and bool((values == 1).all()),
        is_open_ended=bool(open_ended and not few_outliers),
    )
