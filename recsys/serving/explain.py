"""Why an item is in a list: the exact parts of its score, and the user's own ratings behind them."""

import numpy as np
from numpy.typing import NDArray

from recsys.results import Contribution, Explanation, ItemList, Neighbour
from recsys.serving.encode import ItemDetails, to_item_list
from recsys.serving.live_model import LiveModel
from recsys.serving.searches import RankedItems
from recsys.serving.snapshot import Recommender
from recsys.serving.users import RatedItems, UserState, fold_in_user, read_profile

N_SHOWN = 3
"""Number of ratings and of nearest items that each explanation names."""


def explain_list(
    recommender: Recommender, model: LiveModel | None, user: UserState, rated: RatedItems, ranked: RankedItems
) -> ItemList:
    """Return a list with an explanation of each item; a list of popularity gets the reason why it is one.

    z = b + b_u + b_i + p_u · q_i (+ the layers of a neural model) (+ Σ_j x_j B_ji of weights between items). The
    contribution of a rating j is part_j · q_i + x_j B_ji, where Σ_j part_j is the vector that fold-in solves for these
    ratings (`FoldIn.solve`). A trained vector differs from the folded-in one, so some part of the product belongs to no
    single rating.
    """
    explanations = explain_items(recommender, model, user, rated, ranked)
    return to_item_list(recommender.catalogue, ranked, ItemDetails(explanations=explanations))


def explain_items(
    recommender: Recommender, model: LiveModel | None, user: UserState, rated: RatedItems, ranked: RankedItems
) -> list[Explanation] | None:
    """Return the explanation of each item of a list; `None` for a list of popularity. See `explain_list`."""
    if model is None or user.embedding is None or ranked.source == "popularity":
        return None
    explainer = _Explainer(recommender, model, user, rated)
    return [explainer.explain(item_idx) for item_idx in ranked.best.item_idx.tolist()]


class _Explainer:
    """Explains items of one user's list."""

    def __init__(self, recommender: Recommender, model: LiveModel, user: UserState, rated: RatedItems) -> None:
        assert user.embedding is not None
        self._catalogue, self._model = recommender.catalogue, model
        self._user = user.embedding
        rated = rated.for_model(model)
        folded = fold_in_user(model, rated, explain=True)
        known = model.trained[rated.item_idx]
        self._rated = RatedItems(rated.item_idx[known], rated.ratings[known])
        self._parts = None if folded is None else folded.parts  # (n rated, width)
        self._profile = read_profile(model, rated)
        mean = rated.ratings.mean(dtype=np.float64) - 1e-6 if len(rated.ratings) else 0
        liked = rated.item_idx[rated.ratings >= mean]
        self._liked = liked[model.known[liked]]

    def explain(self, item_idx: int) -> Explanation:
        """Return the parts of an item's score."""
        model = self._model
        q = model.item_factors[item_idx].astype(np.float64)
        p = self._user.vector.astype(np.float64)
        n_dot = model.factors.n_dot
        layers = 0.0 if model.head is None else float(model.head((p + q)[None, n_dot:])[0])
        added = np.zeros(0) if self._parts is None else self._parts[:, :n_dot] @ q[:n_dot]  # (n rated,)
        by_weights = 0.0
        if self._profile is not None and model.factors.weights is not None:
            rows, x = self._profile
            values = x.astype(np.float64) * model.factors.weights.at(rows, item_idx)
            added = added + values[np.searchsorted(rows, self._rated.item_idx)]
            by_weights = float(values.sum())
        return Explanation(
            global_bias=model.factors.global_bias,
            user_bias=self._user.bias,
            item_bias=float(model.item_bias[item_idx]),
            dot_product=float(p[:n_dot] @ q[:n_dot]),
            layers=layers,
            item_weights=by_weights,
            contributions=[
                self._contribution(at, float(added[at])) for at in np.argsort(-added, kind="stable")[:N_SHOWN].tolist()
            ],
            all_contributions=float(added.sum()),
            nearest_liked=self._nearest_liked(item_idx),
        )

    def _contribution(self, at: int, added: float) -> Contribution:
        item = self._catalogue.items[self._rated.item_idx[at]]
        return Contribution(
            item_id=item.item_id, title=item.title, rating=float(self._rated.ratings[at]), contribution=added
        )

    def _nearest_liked(self, item_idx: int) -> list[Neighbour]:
        """Return the nearest items that the user rated no lower than their mean."""
        others: NDArray[np.int64] = self._liked[self._liked != item_idx]
        embeddings, inverse_norms = self._model.embeddings, self._model.inverse_norms
        cosines = (embeddings[others] @ embeddings[item_idx]) * inverse_norms[others] * inverse_norms[item_idx]
        if self._model.similarity is not None:
            cosines = self._model.similarity.at(others, item_idx)
        nearest = np.argsort(-cosines, kind="stable")[:N_SHOWN].tolist()
        items = [self._catalogue.items[others[at]] for at in nearest]
        return [
            Neighbour(item_id=item.item_id, title=item.title, similarity=float(cosines[at]))
            for item, at in zip(items, nearest, strict=True)
        ]
