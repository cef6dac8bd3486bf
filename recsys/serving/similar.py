"""Similar items: cosines between item vectors, or weights between items where there are no vectors."""

from collections.abc import Sequence
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from recsys.errors import NotFoundError
from recsys.results import Ignored
from recsys.scoring.neighbours import best_of_neighbours
from recsys.scoring.profile import Profile
from recsys.scoring.search import DECIMALS, Index, TopN
from recsys.serving.catalogue import Catalogue
from recsys.serving.filters import NO_FILTERS, Filters
from recsys.serving.live_model import LiveModel
from recsys.serving.popularity import MIN_RATINGS
from recsys.serving.searches import RankedItems, Search

_RARELY_RATED = 4.0
"""Subtracted from the similarity of items with fewer than `MIN_RATINGS` ratings: more than any two differ."""


MAX_OTHERS = 1000
"""Most items that were not among the possible neighbours at the training and are compared one by one; with more, all
items are searched."""

_NO_ITEMS, _NO_COSINES = np.empty(0, np.int64), np.empty(0, np.float64)


class SimilarItems:
    """Similar items of one version over one catalogue: by cosine, or by `LiveModel.similarity`.

    Items with fewer than 10 ratings come after all others: their direction is mostly chance, or their metadata.

    Attributes:
        kept: lists without filters: item and length → JSON and its ETag. They are true as long as the snapshot is.
    """

    def __init__(self, catalogue: Catalogue, model: LiveModel) -> None:
        self._catalogue, self._model = catalogue, model
        self.kept: dict[tuple[str, int], tuple[bytes, bytes]] = {}
        penalty = np.where(catalogue.n_ratings < MIN_RATINGS, np.float32(-_RARELY_RATED), np.float32(0))
        left_out = catalogue.hidden | ~model.known
        bias = np.where(left_out, np.float32(-np.inf), penalty)
        self._often_rated = bias == 0
        self._index = Index(model.embeddings, bias, scale=model.inverse_norms, weights=model.similarity)

    def search(
        self,
        item_id: str,
        n: int = 10,
        filters: Filters = NO_FILTERS,
        exclude: Sequence[int] | NDArray[np.integer] = (),
        after: int | None = None,
    ) -> Search:
        """Return the search for the items with the highest cosine: cos(q_i, q_j).

        Args:
            exclude: positions of items to leave out; the item itself is always left out.
            after: position of an item; the list continues after it.

        Raises:
            NotFoundError: there is no such item, or the version does not know it yet.
        """
        item_idx = self._catalogue.require(item_id)
        if not self._model.known[item_idx]:
            raise NotFoundError(f"item {item_id!r} {self._unknown()}: the next training on its ratings will include it")
        return self._search(np.array([item_idx]), n, filters, exclude, after)

    def near(
        self,
        item_id: str,
        n: int = 10,
        filters: Filters = NO_FILTERS,
        exclude: NDArray[np.integer] = _NO_ITEMS,
    ) -> RankedItems | None:
        """Return the list of `search`, finished, from the stored neighbours of an item; `None` where it takes a search.

        Items that are rarely rated come after all others. So the list is complete once it has enough others.
        """
        near, idx = self._model.neighbours, self._catalogue.idx_of.get(item_id)
        if near is None or idx is None or idx >= len(near.in_pool) or not self._model.trained[idx]:
            return None
        if len(self._not_in_pool) > MAX_OTHERS:
            return None
        row, others, cosines = near.item_idx[idx], self._not_in_pool, _NO_COSINES
        kept = self._often_rated[row]
        excluded = self._catalogue.exclusions(filters, exclude)
        if excluded.dtype == np.bool_:
            kept &= ~excluded[row]
            others = others[~excluded[others]]
        elif len(excluded):
            kept &= ~np.isin(row, excluded)
            others = others[~np.isin(others, excluded)]
        if len(others):
            others = others[others != idx]
            direction = self._model.embeddings[idx] * self._model.inverse_norms[idx]
            vectors = np.broadcast_to(direction, (len(others), len(direction)))
            cosines = np.round(self._index.pair_scores(vectors, others), DECIMALS)
        best = best_of_neighbours(near, idx, n, kept, TopN(others, cosines))
        return None if best is None else RankedItems(self._model.number, "model", best, score_kind="cosine")

    def search_many(
        self,
        item_ids: Sequence[str],
        n: int = 10,
        filters: Filters = NO_FILTERS,
        exclude: Sequence[int] | NDArray[np.integer] = (),
        after: int | None = None,
    ) -> tuple[Search, tuple[Ignored, ...]]:
        """Return the search for the items with the highest mean cosine to several items, and the unknown ones of these.

        Raises:
            NotFoundError: the version knows none of the items.
        """
        item_idx, ignored = [], []
        for item_id in dict.fromkeys(item_ids):
            idx = self._catalogue.idx_of.get(item_id)
            if idx is not None and self._model.known[idx]:
                item_idx.append(idx)
            else:
                reason = "there is no such item" if idx is None else f"it {self._unknown()}"
                ignored.append(Ignored(where="item_ids", value=item_id, reason=reason))
        if not item_idx:
            raise NotFoundError(
                f"none of the {len(ignored)} items is known to the model, the first being {ignored[0].value[:80]!r}: "
                "search by title with GET /v1/items?title=…"
            )
        return self._search(np.array(item_idx), n, filters, exclude, after), tuple(ignored)

    @cached_property
    def _not_in_pool(self) -> NDArray[np.int64]:
        """Positions of the items that were no possible neighbours at the training, and are often rated now."""
        near = self._model.neighbours
        if near is None:
            return _NO_ITEMS
        in_pool = np.zeros(self._catalogue.n_items, bool)
        in_pool[: len(near.in_pool)] = near.in_pool
        return np.flatnonzero(self._often_rated & ~in_pool)

    def finish(self, search: Search, best: TopN) -> RankedItems:
        """Return the list that a search found, with cosines or weights as scores."""
        penalty = np.where(self._catalogue.n_ratings[best.item_idx] < MIN_RATINGS, _RARELY_RATED, 0.0)
        return search.finish(TopN(best.item_idx, np.round(best.scores + penalty, 6)))

    def _search(
        self,
        item_idx: NDArray[np.int64],
        n: int,
        filters: Filters,
        exclude: Sequence[int] | NDArray[np.integer],
        after: int | None,
    ) -> Search:
        model = self._model
        left_out = np.concatenate([item_idx, exclude]).astype(np.int64) if len(exclude) else item_idx
        directions = model.embeddings[item_idx] * model.inverse_norms[item_idx, None]
        profile = None
        if model.similarity is not None:
            profile = Profile(np.sort(item_idx).astype(np.int32), np.full(len(item_idx), 1 / len(item_idx), np.float32))
        return Search(
            index=self._index,
            vector=directions[0] if len(item_idx) == 1 else directions.mean(0),
            n=n,
            excluded=self._catalogue.exclusions(filters, left_out),
            model_version=model.number,
            source="model",
            score_kind="cosine" if profile is None else "weight",
            after=after,
            profile=profile,
        )

    def _unknown(self) -> str:
        return f"has no ratings in model version {self._model.number}"
