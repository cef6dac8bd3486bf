"""Items by number of ratings, mean rating or item bias."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from recsys.results import Order, PopularBy
from recsys.scoring.score import Excluded
from recsys.scoring.search import TopN
from recsys.serving.catalogue import Catalogue
from recsys.serving.live_model import LiveModel

MIN_RATINGS = 10
"""Fewest ratings of an item in a list by bias or mean, unless the query says otherwise."""


class Ranking(NamedTuple):
    """All items ranked by one measure.

    Attributes:
        values: (n_items,) the measure of every item.
        order: positions of the items that have the measure and are not hidden, the first of the list first.
    """

    values: NDArray[np.float64]
    order: NDArray[np.int64]

    def first(self, n: int, excluded: Excluded, after: int | None = None) -> TopN:
        """Return the first `n` items that are not excluded, and their values.

        Args:
            after: position of an item; the list continues after its place. `None`: it begins with the first item.
        """
        if after is not None:
            (places,) = np.nonzero(self.order == after)
            return Ranking(self.values, self.order[places[0] + 1 if len(places) else 0 :]).first(n, excluded)
        item_idx = self.order[:n]
        if excluded is not None and len(excluded):
            item_idx = self._first_allowed(n, excluded)
        return TopN(item_idx, self.values[item_idx])

    def _first_allowed(self, n: int, excluded: NDArray[np.integer] | NDArray[np.bool_]) -> NDArray[np.int64]:
        mask = excluded
        if excluded.dtype != np.bool_:
            mask = np.zeros(len(self.values), bool)
            mask[excluded] = True
        n_head = 4 * n + 100  # usually enough; else four times as many
        while True:
            head = self.order[:n_head]
            allowed: NDArray[np.int64] = head[~mask[head]]
            if len(allowed) >= n or len(head) == len(self.order):
                return allowed[:n]
            n_head *= 4


class Popularity:
    """Rankings of the items of one snapshot, each computed when it is first needed."""

    def __init__(self, catalogue: Catalogue, rating_model: LiveModel | None) -> None:
        self._catalogue, self._rating_model = catalogue, rating_model
        self._rankings: dict[tuple[PopularBy, Order], Ranking] = {}

    def ranking(self, by: PopularBy, order: Order = "desc") -> Ranking:
        """Return the items ranked by bias, number of ratings or mean; ties are ordered by position.

        Trends change from minute to minute: see `trending`. By bias, a rating version must be live.
        """
        ranking = self._rankings.get((by, order))
        if ranking is None:
            catalogue = self._catalogue
            shown = ~catalogue.hidden
            values = catalogue.n_ratings.astype(np.float64)
            if by == "mean":
                values, shown = catalogue.mean_rating, shown & (catalogue.n_explicit > 0)
            elif by == "bias":
                model = self._rating_model
                assert model is not None, "Recommender.popular goes by count then"
                values, shown = model.item_bias.astype(np.float64), shown & model.known
            item_idx = np.flatnonzero(shown)
            ascending = values[item_idx] if order == "asc" else -values[item_idx]
            ranking = Ranking(values, item_idx[np.argsort(ascending, kind="stable")])
            self._rankings[by, order] = ranking
        return ranking

    def trending(self, trends: NDArray[np.float64], order: Order) -> Ranking:
        """Return all items ranked by (n_items,) trends; items with equal trends by number of ratings."""
        item_idx = np.flatnonzero(~self._catalogue.hidden)
        sign = 1 if order == "asc" else -1
        ranked = np.lexsort((sign * self._catalogue.n_ratings[item_idx], sign * trends[item_idx]))
        return Ranking(trends, item_idx[ranked])

    def most_rated(self, n: int, excluded: Excluded, categories: Sequence[str] = (), after: int | None = None) -> TopN:
        """Return the most rated items, those in the given categories first; see `Ranking.first`."""
        ranking = self.ranking("count")
        if categories:
            mine = self._catalogue.category_mask(categories)[ranking.order]
            ranking = Ranking(ranking.values, np.concatenate([ranking.order[mine], ranking.order[~mine]]))
        return ranking.first(n, excluded, after)
