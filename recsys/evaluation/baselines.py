"""What a model must beat: popularity and biases alone, as `Factors` that are zero wide."""

import numpy as np
from numpy.typing import NDArray

from recsys.data.dataset import Ratings
from recsys.data.scale import logit, rating_range, validate_ratings
from recsys.factors import Factors, Side
from recsys.results import Objective

DAMPING = 5.0
"""How many ratings at the overall mean every user and item is given beforehand."""

_ROUNDS = 10
"""Alternations between item and user biases; more change no prediction by a hundredth."""


def popular(train: Ratings, objective: Objective, rating_scale: tuple[float, float] | None = None) -> Factors:
    """Return the most-popular baseline, without any personalisation.

    Under `ranking` the score of an item is its number of ratings. Under `rating` the prediction is its
    damped mean

        m_i = (Σ_u r_ui + 5 μ) / (n_i + 5)

    where μ is the mean of all ratings.

    Raises:
        TrainingError: there are no ratings, or some lie outside `rating_scale`.
    """
    train = validate_ratings(train, rating_scale)
    n_rated = train.item_counts().astype(np.float64)
    if objective == "ranking":
        return _biases(train, "ranking", item_bias=n_rated)
    low, high = rating_range(train.rating, rating_scale)
    mean = train.rating.mean(dtype=np.float64)
    total = np.bincount(train.item_idx, train.rating, train.n_items)
    item_mean = (total + DAMPING * mean) / (n_rated + DAMPING)
    center = float(logit(mean, low, high))
    return _biases(
        train,
        "rating",
        item_bias=logit(item_mean, low, high) - center,
        global_bias=center,
        rating_range=(low, high),
    )


def bias_only(train: Ratings, rating_scale: tuple[float, float] | None = None) -> Factors:
    """Fit the bias-only baseline: z_ui = b_u + b_i + b, on the same sigmoid scale as the model.

    Minimises

        Σ (r̂_ui − r_ui)² + 5 s² · (Σ_u b_u² + Σ_i b_i²),   s = (high − low) / 4, the sigmoid's steepest slope

    by Gauss-Newton steps on all item biases, then all user biases, in turn: the damped baseline of Koren &
    Bell, "Advances in Collaborative Filtering" (Recommender Systems Handbook, 2011), section 2.1, for
    predictions that stay on the scale.

    Raises:
        TrainingError: there are no ratings, or some lie outside `rating_scale`.
    """
    train = validate_ratings(train, rating_scale)
    low, high = rating_range(train.rating, rating_scale)
    ridge = DAMPING * ((high - low) / 4) ** 2
    center = float(logit(train.rating.mean(dtype=np.float64), low, high))
    user_bias, item_bias = np.zeros(train.n_users, np.float32), np.zeros(train.n_items, np.float32)
    user_idx, item_idx = train.user_idx.astype(np.intp), train.item_idx.astype(np.intp)  # as numpy wants them
    span = np.float32(high - low)
    for _ in range(_ROUNDS):
        for bias, idx in ((item_bias, item_idx), (user_bias, user_idx)):
            z = user_bias.take(user_idx) + item_bias.take(item_idx) + np.float32(center)
            sigmoid = 1 / (1 + np.exp(-z))  # (n_ratings,)
            slope = span * sigmoid * (1 - sigmoid)
            error = train.rating - np.float32(low) - span * sigmoid
            gradient = np.bincount(idx, slope * error, len(bias)) - ridge * bias
            bias += (gradient / (np.bincount(idx, slope**2, len(bias)) + ridge)).astype(np.float32)
    return _biases(
        train,
        "rating",
        user_bias=user_bias,
        item_bias=item_bias,
        global_bias=center,
        rating_range=(low, high),
    )


def _biases(
    train: Ratings,
    objective: Objective,
    *,
    item_bias: NDArray[np.float64] | NDArray[np.float32],
    user_bias: NDArray[np.float32] | None = None,
    global_bias: float = 0.0,
    rating_range: tuple[float, float] | None = None,
) -> Factors:
    """Return factors of width 0."""
    return Factors(
        objective=objective,
        users=Side(
            train.user_keys,
            np.zeros((train.n_users, 0), np.float32),
            np.zeros(train.n_users, np.float32) if user_bias is None else user_bias,
        ),
        items=Side(train.item_keys, np.zeros((train.n_items, 0), np.float32), item_bias.astype(np.float32)),
        global_bias=global_bias,
        rating_range=rating_range,
    )
