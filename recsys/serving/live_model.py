"""One live version as lists need it: its item side laid over the catalogue."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from recsys.data.features import match_features
from recsys.data.keyed import positions
from recsys.database.items import StoredItem
from recsys.database.models import ItemSide, ModelVersion
from recsys.factors import FeatureRows, Head, RankingConstants, embeddings
from recsys.results import Objective
from recsys.scoring.fold_in import FoldIn
from recsys.scoring.search import Scored
from recsys.serving.catalogue import Catalogue


class Row(NamedTuple):
    """The row (width,) and bias of one user or item."""

    vector: NDArray[np.float32]
    bias: float


@dataclass(frozen=True)
class LiveModel:
    """The item side of one version. All arrays go by place in the catalogue.

    Attributes:
        item_factors: (n_items, width) float32; of the dot product in the order in which a product with few users is
            fastest.
        item_bias: (n_items,) float32; −inf where the version knows nothing of an item.
        list_bias: the same, and −inf for hidden items too: what lists go by.
        item_implicit: (n_items, width) float32 or None, as in `Factors`.
        trained: (n_items,) mask of the items that the version has a row of its own for. Others have one of their
            metadata, or none.
        user_features, item_features, user_map, ranking: as in `Factors`.
    """

    version: ModelVersion
    head: Head | None
    item_factors: NDArray[np.float32]
    item_bias: NDArray[np.float32]
    list_bias: NDArray[np.float32]
    item_implicit: NDArray[np.float32] | None
    trained: NDArray[np.bool_]
    user_features: FeatureRows | None
    item_features: FeatureRows | None
    user_map: NDArray[np.float32] | None
    ranking: RankingConstants | None

    @property
    def number(self) -> int:
        return self.version.number

    @property
    def objective(self) -> Objective:
        return self.version.objective

    @property
    def embeddings(self) -> NDArray[np.float32]:
        """Where the items lie: (n_items, width)."""
        return embeddings(self.item_factors, self.head)

    @property
    def known(self) -> NDArray[np.bool_]:
        """(n_items,) mask of the items that the version can list."""
        return np.isfinite(self.item_bias)

    @cached_property
    def listed(self) -> Scored:
        """What lists are found among."""
        return Scored(self.item_factors, self.list_bias, self.head)

    @cached_property
    def inverse_lengths(self) -> NDArray[np.float32]:
        """(n_items,) 1 / ‖q_i‖, 0 for an item without a direction."""
        lengths = np.sqrt(np.einsum("nf,nf->n", self.embeddings, self.embeddings))
        inverse: NDArray[np.float32] = np.divide(1, lengths, out=np.zeros_like(lengths), where=lengths > 0)
        return inverse

    @cached_property
    def fold_in(self) -> FoldIn:
        """What solves the rows of users whom the version does not know, or not as they are now."""
        return FoldIn(
            objective=self.objective,
            item_factors=self.item_factors,
            item_bias=self.item_bias,
            item_implicit=self.item_implicit,
            head=self.head,
            global_bias=self.version.global_bias,
            rating_range=self.version.rating_range,
            configuration=self.version.training.configuration,
            user_map=self.user_map,
            ranking=self.ranking,
        )

    def warm(self) -> None:
        """Work out what the first requests would have to wait for."""
        _ = self.listed.longest, self.inverse_lengths, self.fold_in

    def with_catalogue(self, catalogue: Catalogue, changed: list[StoredItem]) -> "LiveModel":
        """The same over a catalogue in which some items were changed or added."""
        n_new = catalogue.n_items - len(self.item_bias)
        factors, bias, implicit, trained = self.item_factors, self.item_bias.copy(), self.item_implicit, self.trained
        if n_new:
            rows = np.zeros((n_new, factors.shape[1]), np.float32)
            factors = _laid_out(np.concatenate([factors, rows]), self.head)
            implicit = None if implicit is None else np.concatenate([implicit, rows])
            bias = np.append(bias, np.full(n_new, -np.inf, np.float32))
            trained = np.append(trained, np.zeros(n_new, bool))
        places = np.array([catalogue.place_of[item.item_id] for item in changed], np.int64)
        untrained = places[~trained[places]]
        if len(untrained):
            if not n_new:
                factors = factors.copy(order="K")
            _describe(factors, bias, catalogue, untrained, self.item_features)
        return replace(
            self,
            item_factors=factors,
            item_bias=bias,
            list_bias=np.where(catalogue.hidden, np.float32(-np.inf), bias),
            item_implicit=implicit,
            trained=trained,
        )


def described(known: FeatureRows, categories: Sequence[str], attributes: Mapping[str, object]) -> Row | None:
    """The row and bias of a user or item of whom only metadata is known; None where it says nothing."""
    idx = match_features(known.names, categories, attributes)
    if not len(idx):
        return None
    return Row(known.base + known.rows[idx].sum(0), float(known.bias[idx].sum()))


def laid_over(side: ItemSide, catalogue: Catalogue) -> LiveModel:
    """A version over the catalogue; items that are new since its training have the row of their metadata."""
    place = positions(catalogue.item_keys, side.item_keys)  # (n_items of the version,)
    at, n_items = place[place >= 0], catalogue.n_items
    shape = (n_items, side.item_factors.shape[1])
    factors = _laid_out(np.zeros(shape, np.float32), side.head)
    factors[at] = side.item_factors[place >= 0]
    bias = np.full(n_items, -np.inf, np.float32)
    bias[at] = side.item_bias[place >= 0]
    implicit = None
    if side.item_implicit is not None:
        implicit = np.zeros(shape, np.float32)
        implicit[at] = side.item_implicit[place >= 0]
    trained = np.isfinite(bias)
    if side.item_features is not None:
        _describe(factors, bias, catalogue, np.flatnonzero(~trained), side.item_features)
    return LiveModel(
        version=side.version,
        head=side.head,
        item_factors=factors,
        item_bias=bias,
        list_bias=np.where(catalogue.hidden, np.float32(-np.inf), bias),
        item_implicit=implicit,
        trained=trained,
        user_features=side.user_features,
        item_features=side.item_features,
        user_map=side.user_map,
        ranking=side.ranking,
    )


def _describe(
    factors: NDArray[np.float32],
    bias: NDArray[np.float32],
    catalogue: Catalogue,
    places: NDArray[np.int64],
    known: FeatureRows | None,
) -> None:
    """Give items that have no row of their own that of their metadata, in place."""
    for place in places.tolist():
        item = catalogue.items[place]
        row = described(known, item.categories, item.attributes) if known is not None else None
        factors[place], bias[place] = row if row is not None else (0.0, -np.inf)


def _laid_out(factors: NDArray[np.float32], head: Head | None) -> NDArray[np.float32]:
    """The layers of a neural model go item by item, a product goes fastest factor by factor."""
    return np.asfortranarray(factors) if head is None else np.ascontiguousarray(factors)
