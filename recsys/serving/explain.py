"""Why an item is in a list: the exact parts of its score, and the user's own ratings behind them."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recsys.results import Contribution, Explanation, ItemList, ListedItem, Neighbour
from recsys.serving.live_model import LiveModel
from recsys.serving.recommender import Listed, Recommender
from recsys.serving.users import Rated, UserState, fold

N_SHOWN = 3
"""How many ratings and nearest items each explanation names."""


@dataclass(frozen=True, slots=True)
class _Behind:
    """What the ratings of a user add to their row.

    Attributes:
        rated: those of the items that the version was trained with.
        parts: (n, width) what each adds.
    """

    rated: Rated
    parts: NDArray[np.float32]


def explained(recommender: Recommender, model: LiveModel, user: UserState, rated: Rated, listed: Listed) -> ItemList:
    """A list with an explanation of every item; of a list of popularity, why it is one.

    z = b + b_u + b_i + p_u · q_i (+ the layers of a neural model). What a rating j adds to p_u · q_i is part_j · q_i,
    where Σ_j part_j is the row that solving for these ratings gives (`FoldIn.solve`). Of a user whose row was trained
    that is another row than theirs, so that a part remains which is no single rating's.
    """
    plain = recommender.as_list(listed)
    if user.row is None or listed.source == "popularity":
        return plain.model_copy(update={"fallback": listed.fallback})
    behind = _behind(model, rated)
    liked = _liked(rated)
    items = []
    for item, place in zip(plain.items, listed.best.item_idx.tolist(), strict=True):
        explanation = _explain(recommender, model, user, place, behind, rated.places[liked])
        items.append(ListedItem(item_id=item.item_id, title=item.title, score=item.score, explanation=explanation))
    return plain.model_copy(update={"items": items})


def _explain(
    recommender: Recommender,
    model: LiveModel,
    user: UserState,
    place: int,
    behind: _Behind | None,
    liked: NDArray[np.int64],
) -> Explanation:
    assert user.row is not None
    q, p = model.item_factors[place].astype(np.float64), user.row.vector.astype(np.float64)
    n_dot = len(q) if model.head is None else model.head.n_dot
    layers = 0.0 if model.head is None else float(model.head((p + q)[None, n_dot:])[0])
    added = np.zeros(0) if behind is None else behind.parts[:, :n_dot] @ q[:n_dot]  # (n rated,)
    catalogue = recommender.catalogue
    contributions = []
    for at in np.argsort(-added, kind="stable")[:N_SHOWN].tolist():
        assert behind is not None
        stored = catalogue.items[behind.rated.places[at]]
        contributions.append(
            Contribution(
                item_id=stored.item_id,
                title=stored.title,
                rating=float(behind.rated.ratings[at]),
                contribution=float(added[at]),
            )
        )
    return Explanation(
        global_bias=model.version.global_bias,
        user_bias=user.row.bias,
        item_bias=float(model.item_bias[place]),
        dot_product=float(p[:n_dot] @ q[:n_dot]),
        layers=layers,
        contributions=contributions,
        all_contributions=float(added.sum()),
        nearest_liked=_nearest(recommender, model, place, liked),
    )


def _behind(model: LiveModel, rated: Rated) -> _Behind | None:
    folded = fold(model, rated, explain=True)
    if folded is None or folded.parts is None:
        return None
    known = model.trained[rated.places]
    return _Behind(Rated(rated.places[known], rated.ratings[known]), folded.parts)


def _liked(rated: Rated) -> NDArray[np.bool_]:
    """Which ratings are no lower than the user's mean."""
    return rated.ratings >= (rated.ratings.mean(dtype=np.float64) - 1e-6 if len(rated.ratings) else 0)


def _nearest(recommender: Recommender, model: LiveModel, place: int, liked: NDArray[np.int64]) -> list[Neighbour]:
    others = liked[(liked != place) & model.known[liked]]
    lengths = model.inverse_norms
    cosines = (model.embeddings[others] @ model.embeddings[place]) * lengths[others] * lengths[place]
    nearest = np.argsort(-cosines, kind="stable")[:N_SHOWN].tolist()
    stored = [recommender.catalogue.items[others[at]] for at in nearest]
    return [
        Neighbour(item_id=item.item_id, title=item.title, similarity=float(cosines[at]))
        for item, at in zip(stored, nearest, strict=True)
    ]
