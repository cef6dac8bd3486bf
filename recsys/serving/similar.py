"""Similar items: cosines between item vectors."""

from collections.abc import Sequence

import numpy as np

from recsys.errors import NotFoundError
from recsys.scoring.search import Excluded, Index, TopN
from recsys.serving.catalogue import Catalogue
from recsys.serving.live_model import LiveModel
from recsys.serving.popularity import MIN_RATINGS
from recsys.serving.searches import RankedItems, Search

_RARELY_RATED = 4.0
"""Subtracted from the cosine of items with fewer than `MIN_RATINGS` ratings: more than any two cosines differ."""


class SimilarItems:
    """Similar items of one version over one catalogue.

    Items with fewer than 10 ratings come after all others: their direction is mostly chance, or their metadata.
    """

    def __init__(self, catalogue: Catalogue, model: LiveModel) -> None:
        self._catalogue, self._model = catalogue, model
        penalty = np.where(catalogue.n_ratings < MIN_RATINGS, np.float32(-_RARELY_RATED), np.float32(0))
        left_out = catalogue.hidden | ~model.known
        bias = np.where(left_out, np.float32(-np.inf), penalty)
        self._index = Index(model.embeddings, bias, scale=model.inverse_norms)

    def search(self, item_id: str, n: int = 10, categories: Sequence[str] = ()) -> Search:
        """Return the search for the items with the highest cosine: cos(q_i, q_j).

        Raises:
            NotFoundError: there is no such item, or the version does not know it yet.
        """
        model = self._model
        item_idx = self._catalogue.require(item_id)
        if not model.known[item_idx]:
            raise NotFoundError(
                f"item {item_id!r} has no ratings in model version {model.number}: the next training on its ratings "
                "will include it"
            )
        excluded: Excluded = np.array([item_idx])
        if categories:
            excluded = ~self._catalogue.category_mask(categories)
            excluded[item_idx] = True
        direction = model.embeddings[item_idx] * model.inverse_norms[item_idx]
        return Search(self._index, direction, n, excluded, model.number, "model")

    def finish(self, search: Search, best: TopN) -> RankedItems:
        """Return the list that a search found, with cosines as scores."""
        penalty = np.where(self._catalogue.n_ratings[best.item_idx] < MIN_RATINGS, _RARELY_RATED, 0.0)
        cosines = TopN(best.item_idx, np.round(best.scores + penalty, 6))
        return RankedItems(search.model_version, "model", cosines)
