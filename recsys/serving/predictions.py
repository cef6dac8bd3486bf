"""Predicted ratings of one user."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from recsys.results import Prediction, Predictions
from recsys.scoring.search import Index
from recsys.serving.live_model import LiveModel
from recsys.serving.snapshot import Recommender
from recsys.serving.users import UserState


def predict(recommender: Recommender, user: UserState, item_ids: Sequence[str]) -> Predictions:
    """Return predicted ratings; ids that no item has are named beside them.

    Args:
        user: their state for the rating version.

    Raises:
        NoModelError: no rating version is live.
    """
    model = recommender.models.get("rating")
    if model is None:
        raise recommender.nothing_live("rating")
    idx_of = recommender.catalogue.idx_of
    known = [item_id for item_id in item_ids if item_id in idx_of]
    item_idx = np.array([idx_of[item_id] for item_id in known], np.int64)
    ratings = predicted_ratings(model, user, item_idx)
    return Predictions(
        model_version=model.number,
        source=user.source,
        items=[
            Prediction(item_id=item_id, title=recommender.catalogue.items[idx].title, prediction=rating)
            for item_id, idx, rating in zip(known, item_idx.tolist(), ratings.tolist(), strict=True)
        ],
        unknown=[item_id for item_id in dict.fromkeys(item_ids) if item_id not in idx_of],
    )


def predicted_ratings(model: LiveModel, user: UserState, item_idx: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return predicted ratings: low + (high − low) · sigmoid(z), (n,). What the version does not know adds nothing.

    Args:
        model: a rating version.
        user: their state for it.
        item_idx: (n,) positions in the catalogue.
    """
    assert model.factors.rating_range is not None
    low, high = model.factors.rating_range
    ratings: NDArray[np.float64] = low + (high - low) / (1 + np.exp(-_scores(model, user, item_idx)))
    return ratings


def _scores(model: LiveModel, user: UserState, item_idx: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return z of a user and some items: (n,)."""
    known = model.known[item_idx]
    z = np.full(len(item_idx), model.factors.global_bias)
    if user.embedding is None:
        z[known] += model.item_bias[item_idx[known]]
        return z
    index = Index(model.item_factors, model.item_bias, model.head)
    vector = user.embedding.vector
    z[known] += index.pair_scores(np.broadcast_to(vector, (int(known.sum()), len(vector))), item_idx[known])
    return z + user.embedding.bias
