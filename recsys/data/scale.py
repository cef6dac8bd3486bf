"""The rating scale: the range of the sigmoid, its inverse, and the check that ratings lie on the scale."""

import numpy as np
from numpy.typing import NDArray

from recsys.data.dataset import Ratings
from recsys.errors import TrainingError


def rating_range(rating: NDArray[np.float32], scale: tuple[float, float] | None) -> tuple[float, float]:
    """Return the ends of the sigmoid: the scale (else the lowest and highest rating), half a step wider at each end.

    A step is the smallest difference between two distinct ratings, but at least a hundredth of the scale: on a
    continuous scale, a smaller step would need infinite scores. If all ratings are equal, the step is 1 or the whole
    scale, whichever is less.
    """
    distinct = np.unique(rating).astype(np.float64)
    low, high = scale if scale is not None else (float(distinct[0]), float(distinct[-1]))
    step = min(1.0, high - low) or 1.0
    if len(distinct) > 1:
        step = max(float(np.diff(distinct).min()), (high - low) / 100)
    return low - step / 2, high + step / 2


def logit(rating: NDArray[np.float64] | float, low: float, high: float) -> NDArray[np.float64]:
    """Return the score whose prediction is `rating`: the inverse of low + (high − low) · sigmoid(z)."""
    share = (np.asarray(rating, np.float64) - low) / (high - low)
    result: NDArray[np.float64] = np.log(share / (1 - share))
    return result


def validate_ratings(train: Ratings, scale: tuple[float, float] | None) -> Ratings:
    """Return the ratings to train on, without users and items that have none.

    Raises:
        TrainingError: there are no ratings, or a rating is not a finite number or outside the configured scale.
    """
    if train.n_ratings == 0:
        raise TrainingError("there are no ratings to train on; load a file first (recsys load PATH)")
    n_bad = int((~np.isfinite(train.rating)).sum())
    if n_bad:
        raise TrainingError(f"{n_bad} of {train.n_ratings} ratings are not finite numbers; remove them")
    if scale is not None:
        low, high = scale
        if not low < high:
            raise TrainingError(f"rating scale {low:g} to {high:g}: the lower end must be below the upper")
        outside = int(((train.rating < low) | (train.rating > high)).sum())
        if outside:
            raise TrainingError(
                f"{outside} of {train.n_ratings} ratings are outside the scale {low:g} to {high:g} "
                f"(they go from {train.rating.min():g} to {train.rating.max():g}); "
                "correct RECSYS_RATING_MIN and RECSYS_RATING_MAX, or the ratings"
            )
    return train.compact()
