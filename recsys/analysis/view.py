"""A model version as analysts look at it: what it learned, the names of its items, and what follows from both."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from recsys.analysis.clusters import Cluster, cluster_items, describe_clusters
from recsys.analysis.components import Components, principal_components
from recsys.analysis.health import Finding, check_health
from recsys.analysis.labels import ItemLabels
from recsys.analysis.maps import ItemMap, map_items, plane_map
from recsys.analysis.neighbours import Neighbours, nearest_neighbours
from recsys.analysis.spectrum import item_vectors
from recsys.data.dataset import Ratings
from recsys.data.keyed import positions
from recsys.errors import NotFoundError
from recsys.factors import Factors
from recsys.results import Objective
from recsys.scoring.score import to_rating_scale

if TYPE_CHECKING:
    from recsys.analysis.plots import Plots
    from recsys.analysis.tables import Tables

N_COMPONENTS = 8
N_NEIGHBOURS = 10
MOST_JUDGED = 20_000
"""Health and neighbours of all items look at this many items at most: the work grows with the square."""


@dataclass(frozen=True)
class ModelView:
    """A model version and what belongs to it. Nothing is computed before it is asked for, and everything only once.

    Attributes:
        number: number of the version; 0: not stored.
        objective: what was optimised.
        created_at: Unix milliseconds in UTC, or a text that is printed as it is.
        configuration: the settings of the training.
        metrics: measure → value on the held-out ratings.
        baselines: baseline → measure → value on the same ratings.
        history: one mapping per epoch: `epoch`, `train_loss`, `valid`, …
        factors: what was learned; without users where only items are looked at.
        items: names in the order of `factors.item_keys`.
        stored_map: the map that was stored with the version; `None` computes one when it is asked for.
        ratings: for residuals and lists; `None` where they are not at hand.
    """

    number: int
    objective: Objective
    created_at: int | str
    configuration: Mapping[str, object]
    metrics: Mapping[str, float]
    baselines: Mapping[str, Mapping[str, float]]
    history: Sequence[Mapping[str, object]]
    factors: Factors
    items: ItemLabels
    stored_map: ItemMap | None = None
    ratings: Ratings | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if len(self.items) != self.factors.n_items:
            raise ValueError(f"labels for {len(self.items)} items, factors for {self.factors.n_items}")

    @property
    def name(self) -> str:
        """`Rating model, version 7`; without a number if it is not stored."""
        version = f", version {self.number}" if self.number else ""
        return f"{self.objective.capitalize()} model{version}"

    @property
    def table(self) -> "Tables":
        """Everything as pandas data frames."""
        from recsys.analysis.tables import Tables  # pandas takes a while to import

        return Tables(self)

    @property
    def plot(self) -> "Plots":
        """Everything as plotly figures."""
        from recsys.analysis.plots import Plots

        return Plots(self)

    @cached_property
    def embeddings(self) -> NDArray[np.float32]:
        """The vectors of the items, (n_items, width); see `item_vectors`."""
        return item_vectors(self.factors)

    @cached_property
    def components(self) -> Components:
        """The principal components of the item vectors."""
        return principal_components(self.embeddings, N_COMPONENTS)

    @cached_property
    def map(self) -> ItemMap:
        """The map of the items, stored or computed now; its rows are those of `items`."""
        keys, stored = self.factors.item_keys, self.stored_map
        if stored is not None:
            at = positions(stored.item_keys, keys)
            if (at >= 0).all():
                return ItemMap(stored.method, keys, stored.xy[at], stored.clusters[at])
        return self.compute_map()

    def compute_map(self, earlier: ItemMap | None = None) -> ItemMap:
        """Compute the map of the items: see `map_items`.

        Args:
            earlier: map of another version, to start from and to be turned to.
        """
        return map_items(self.factors.item_keys, self.embeddings, self.items.n_ratings, earlier)

    def with_plane(self) -> "ModelView":
        """Return the view with its components in place of a map, where no map is stored: a map takes too long."""
        if self.stored_map is not None:
            return self
        return replace(self, stored_map=plane_map(self.factors.item_keys, self.embeddings))

    @cached_property
    def cluster_labels(self) -> NDArray[np.int32]:
        """(n_items,) the cluster of each item; −1: none."""
        if self.stored_map is not None or "map" in self.__dict__:
            return self.map.clusters
        return cluster_items(self.embeddings)

    @cached_property
    def clusters(self) -> list[Cluster]:
        """The clusters, the largest first."""
        return describe_clusters(self.cluster_labels, self.items)

    @cached_property
    def judged(self) -> NDArray[np.int64]:
        """Positions of the items that health and neighbours of all items look at, ascending: the most rated ones."""
        return np.sort(self.items.most_rated(MOST_JUDGED))

    @cached_property
    def neighbours(self) -> Neighbours:
        """The ten nearest neighbours of each judged item, among those; rows and positions are those of `judged`."""
        return nearest_neighbours(self.embeddings[self.judged], N_NEIGHBOURS)

    def prepare_nearest(self) -> None:
        """Compute what `nearest` and `require` need, so that the first item is as fast as the others."""
        _ = self.norms, self.items.idx_of, self.cluster_labels

    def nearest(self, idx: int, k: int, among: NDArray[np.bool_] | None = None) -> Neighbours:
        """Return the nearest items of one; as `nearest_neighbours`, without looking at all lengths again.

        Args:
            among: (n_items,) which items may be neighbours; by default all.
        """
        vectors, norms = self.embeddings, self.norms
        cosine = np.divide(vectors @ vectors[idx], norms, out=np.zeros(len(norms), np.float32), where=norms > 0)
        cosine /= np.float32(norms[idx] or 1.0)
        if among is not None:
            cosine[~among] = -np.inf
        cosine[idx] = -np.inf
        k = max(0, min(k, (len(norms) if among is None else int(among.sum()) + (not among[idx])) - 1))
        best = np.sort(np.argpartition(-cosine, k)[:k]) if k else np.empty(0, np.int64)
        best = best[np.argsort(-cosine[best], kind="stable")]
        return Neighbours(best[None], cosine[best][None])

    @cached_property
    def norms(self) -> NDArray[np.float64]:
        """(n_items,) the length of each item's vector."""
        vectors = self.embeddings
        norms: NDArray[np.float64] = np.sqrt(np.einsum("if,if->i", vectors, vectors, dtype=np.float64))
        return norms

    @cached_property
    def bias(self) -> NDArray[np.float32]:
        """(n_items,) see `item_bias`."""
        return item_bias(self.factors)

    @property
    def bias_title(self) -> str:
        """What the bias is measured in."""
        return "Item bias" if self.factors.rating_range is None else "Item bias (rating points)"

    @cached_property
    def beyond_kind(self) -> NDArray[np.float64]:
        """(n_items,) the bias minus the mean bias of the nearest neighbours: loved beyond its kind, or the reverse.

        NaN for an item that is not judged.
        """
        beyond = np.full(len(self.items), np.nan)
        near, bias = self.neighbours.item_idx, self.bias[self.judged].astype(np.float64)
        beyond[self.judged] = bias - bias[near].mean(axis=1) if near.shape[1] else 0.0
        return beyond

    @cached_property
    def findings(self) -> list[Finding]:
        """What looks wrong; see `recsys.analysis.health`."""
        judged = self.judged
        if len(judged) == len(self.items):
            return check_health(self.embeddings, self.items)
        found = check_health(self.embeddings[judged], self.items.select(judged))
        return [replace(one, item_idx=tuple(judged[list(one.item_idx)].tolist())) for one in found]

    def require(self, item_id: str) -> int:
        """Return the position of an item.

        Raises:
            NotFoundError: the version does not know the item.
        """
        idx = self.items.idx_of.get(item_id)
        if idx is None:
            raise NotFoundError(f"the model does not know the item {item_id[:80]!r}: search for it by title")
        return idx

    def search(self, text: str, n: int = 20) -> NDArray[np.int64]:
        """Return items whose name or id has all words of a text, the most rated first: (≤ n,)."""
        words = text.casefold().split()
        if not words:
            return np.empty(0, np.int64)
        found = [
            idx
            for idx, name in enumerate(self._folded)
            if all(word in name for word in words) or self.items.item_ids[idx] == text
        ]
        idx = np.array(found, np.int64)
        return idx[np.argsort(-self.items.n_ratings[idx], kind="stable")][:n]

    @cached_property
    def _folded(self) -> list[str]:
        return [name.casefold() for name in self.items.names]


def item_bias(factors: Factors) -> NDArray[np.float32]:
    """Return the bias of each item: (n_items,), in rating points where the model has a rating scale.

        points_i = rating(b + b_i) − rating(b)

    where b is the global bias, b_i the item's bias and rating(z) = low + (high − low) sigmoid(z). A ranking
    model has no scale: its biases are returned as they are.
    """
    if factors.rating_range is None:
        return factors.item_bias
    without_bias = np.full(1, factors.global_bias, np.float32)
    return to_rating_scale(without_bias + factors.item_bias, factors.rating_range) - to_rating_scale(
        without_bias, factors.rating_range
    )
