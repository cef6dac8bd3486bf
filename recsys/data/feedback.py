"""Ratings and events as one training takes them: on one scale, without outliers, one row for each pair. numpy only."""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from recsys.data.dataset import Ratings
from recsys.data.rating_scale import infer_scale, relevant_from
from recsys.errors import NothingToTrainError
from recsys.results import Objective

IMPLICIT_SCALE = (0.0, 1.0)
"""Scale of a training with events alone: all of them are relevant."""
DEFAULT_WEIGHT_TOP = 100.0
TOP_SHARE = 0.95
"""Share of the weights that are below the one that stands for the highest rating."""


def as_preferences(
    weight: NDArray[np.floating], scale: tuple[float, float], weight_top: float | None
) -> NDArray[np.float32]:
    """Return weights of events (n,) as ratings: from three quarters up the scale, by log(1 + weight).

    Args:
        weight_top: the weight that stands for the highest rating.
    """
    low, high = relevant_from(scale), scale[1]
    top = np.log1p(max(weight_top or DEFAULT_WEIGHT_TOP, 1.0))
    share = np.clip(np.log1p(np.maximum(weight, 0.0)) / top, 0.0, 1.0)
    preference: NDArray[np.float32] = (low + (high - low) * share).astype(np.float32)
    return preference


def prepare(
    ratings: Ratings, objective: Objective, configured: tuple[float | None, float | None] = (None, None)
) -> tuple[Ratings, list[str]]:
    """Return the ratings that an objective is trained on, with their `scale`, and sentences on what was left out.

    `rating` takes the ratings that say how much. `ranking` takes the events too, as relevant ratings; where a pair has
    both, the rating counts. Ratings far outside an inferred scale are left out.

    Args:
        configured: lowest and highest possible rating; `None`: inferred.

    Raises:
        NothingToTrainError: `rating`, and no rating says how much, or all are equal.
    """
    implicit = ratings.is_implicit if ratings.is_implicit is not None else np.zeros(ratings.n_ratings, bool)
    explicit = ~implicit
    values = ratings.rating[explicit]
    if objective == "rating" and ratings.n_ratings:
        if not len(values):
            raise NothingToTrainError(
                "there are events and no ratings, which predictions need; lists come from the ranking objective"
            )
        if values.min() == values.max():
            raise NothingToTrainError(
                f"all ratings are {values[0]:g}, so there is nothing to predict; lists come from the ranking objective"
            )
    low, high = infer_scale(values) if len(values) else IMPLICIT_SCALE
    if len(values):
        low = low if configured[0] is None else configured[0]
        high = high if configured[1] is None else configured[1]
    scale = (low, high)
    kept = np.ones(ratings.n_ratings, bool)
    notices: list[str] = []
    below, above = ratings.rating < low, ratings.rating > high
    outside = explicit & ((below & (configured[0] is None)) | (above & (configured[1] is None)))
    if outside.any():
        shown = ", ".join(f"{value:g}" for value in np.unique(ratings.rating[outside])[:5])
        notices.append(
            f"{int(outside.sum()):,} ratings far outside the scale {low:g} to {high:g} ({shown}) are not trained on: "
            "correct them, or set RECSYS_RATING_MIN and RECSYS_RATING_MAX"
        )
        kept &= ~outside
    if not implicit.any():
        kept_ratings = ratings if kept.all() else ratings.select(kept)
        return replace(kept_ratings, scale=scale, is_implicit=None), notices
    if objective == "rating":
        return replace(ratings.select(kept & explicit).compact(), scale=scale, is_implicit=None), notices
    pair = ratings.user_idx.astype(np.int64) * ratings.n_items + ratings.item_idx
    kept &= explicit | ~np.isin(pair, pair[explicit & kept])
    weights = ratings.rating[implicit]
    weight_top = max(float(np.quantile(weights, TOP_SHARE)), 1.0)
    rating = ratings.rating.copy()
    rating[implicit] = as_preferences(weights, scale, weight_top)
    merged = replace(ratings, rating=rating, scale=scale, weight_top=weight_top, is_implicit=None)
    return merged.select(kept), notices


def on_scale_of(prepared: Ratings, ratings: Ratings) -> Ratings:
    """Return other feedback on the scale of prepared ratings: events as relevant ratings, without values outside.

    Args:
        prepared: as `prepare` returns them.
    """
    assert prepared.scale is not None
    low, high = prepared.scale
    if ratings.is_implicit is None:
        inside = (ratings.rating >= low) & (ratings.rating <= high)
        return replace(ratings.select(inside), scale=prepared.scale)
    rating = as_preferences(ratings.rating, prepared.scale, prepared.weight_top)
    rating = np.where(ratings.is_implicit, rating, ratings.rating).astype(np.float32)
    return replace(ratings, rating=rating, is_implicit=None, scale=prepared.scale)
