"""One live version as lists need it: its factors aligned to the catalogue."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from recsys.data.features import match_features
from recsys.database.items import StoredItem
from recsys.database.models import ModelVersion
from recsys.factors import Factors, FeatureEmbeddings, Head, ItemWeights, Neighbours, Side
from recsys.results import Objective
from recsys.scoring.fold_in import FoldIn
from recsys.scoring.neighbours import inverse_norms
from recsys.scoring.search import Index
from recsys.serving.catalogue import Catalogue
from recsys.serving.growing import GrowingRows


class Embedding(NamedTuple):
    """The vector (width,) and bias of one user or item."""

    vector: NDArray[np.float32]
    bias: float


@dataclass(frozen=True)
class LiveModel:
    """One live version, its items in the order of the catalogue. Never changes.

    Attributes:
        version: number, objective, metrics and more.
        factors: of the version, without users. The item side has one row for each item of the catalogue; an item that
            the version does not know has the bias −inf. The factors of a dot product are stored column by column, the
            fastest order for a product with few users.
        list_bias: (n_items,) the item biases, with −inf for hidden items too.
        trained: (n_items,) mask of the items that the version was trained with. Other items have the embedding of
            their metadata, or none.
        vectors, implicit: the rows that `factors.items` shows, with room for those of new items.
        neighbours: of the items that the version was trained with; `None`: similar items are searched for.
    """

    version: ModelVersion
    factors: Factors
    list_bias: NDArray[np.float32]
    trained: NDArray[np.bool_]
    vectors: GrowingRows
    implicit: GrowingRows | None
    neighbours: Neighbours | None = None

    @classmethod
    def from_version(cls, version: ModelVersion, factors: Factors, catalogue: Catalogue) -> "LiveModel":
        """Return a version aligned to a catalogue; items newer than its training get the embedding of their metadata.

        Args:
            factors: of the version; users are ignored.
        """
        idx = catalogue.positions(factors.item_keys)  # (n_items of the version,), in the catalogue
        present, n_items = idx >= 0, catalogue.n_items
        by_column = factors.head is None
        vectors = GrowingRows(n_items, factors.n_factors, by_column=by_column)
        vectors.first(n_items)[idx[present]] = factors.item_factors[present]
        bias = np.full(n_items, -np.inf, np.float32)
        bias[idx[present]] = factors.item_bias[present]
        implicit = None
        if factors.items.implicit is not None:
            implicit = GrowingRows(n_items, factors.n_factors, by_column=by_column)
            implicit.first(n_items)[idx[present]] = factors.items.implicit[present]
        trained = np.isfinite(bias)
        if factors.items.features is not None:
            others = np.flatnonzero(~trained)
            items = [catalogue.items[item_idx] for item_idx in others.tolist()]
            vectors.first(n_items)[others], bias[others] = embed_items(factors.items.features, items)
        return cls(
            version=version,
            factors=replace(
                factors,
                items=_side(catalogue, vectors, bias, implicit, factors.items.features),
                users=Side.empty(factors.n_factors, factors.users.features),
                weights=None if factors.weights is None else factors.weights.moved(idx, n_items),
                neighbours=None,
            ),
            list_bias=np.where(catalogue.hidden, np.float32(-np.inf), bias),
            trained=trained,
            vectors=vectors,
            implicit=implicit,
            neighbours=factors.neighbours.moved(idx, n_items) if factors.neighbours and present.all() else None,
        )

    def as_trained(self) -> Factors | None:
        """Return the factors with the items of the training only, ascending by key.

        Where the version knows the whole catalogue, the arrays are those of this model. `None` if the catalogue's keys
        do not ascend, or the version has weights between its items, which are those of the catalogue here.
        """
        keys, items = self.factors.item_keys, self.factors.items
        if self.factors.weights is not None or not (keys[1:] > keys[:-1]).all():
            return None
        if self.trained.all():
            return self.factors
        kept = np.flatnonzero(self.trained)
        implicit = None if items.implicit is None else items.implicit[kept]
        side = Side(keys[kept], items.factors[kept], items.bias[kept], implicit, items.features)
        return replace(self.factors, items=side)

    @property
    def number(self) -> int:
        return self.version.number

    @property
    def objective(self) -> Objective:
        return self.version.objective

    @property
    def head(self) -> Head | None:
        return self.factors.head

    @property
    def item_factors(self) -> NDArray[np.float32]:
        return self.factors.item_factors

    @property
    def item_bias(self) -> NDArray[np.float32]:
        return self.factors.item_bias

    @property
    def embeddings(self) -> NDArray[np.float32]:
        """The part of the item vectors that is multiplied: (n_items, n_dot)."""
        return self.factors.embeddings

    @cached_property
    def known(self) -> NDArray[np.bool_]:
        """(n_items,) mask of the items that the version can list."""
        return np.isfinite(self.item_bias)

    @cached_property
    def index(self) -> Index:
        """The items that lists are searched in."""
        return Index(self.item_factors, self.list_bias, self.head, weights=self.factors.weights)

    @cached_property
    def inverse_norms(self) -> NDArray[np.float32]:
        """(n_items,) 1 / ‖q_i‖, 0 for an item whose vector is zero."""
        return inverse_norms(self.embeddings)

    @cached_property
    def similarity(self) -> ItemWeights | None:
        """The similarities of items where their vectors say nothing of them; `None`: they are the cosines."""
        weights = self.factors.weights
        return None if weights is None or self.factors.n_factors else weights.similarity()

    def alikeness(self, item_idx: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return how alike some items are, at most 1: (m,) → (m, m).

        It is the cosine of their vectors, or their weights as shares of the largest weight between two of them.
        """
        if self.similarity is None:
            directions = self.embeddings[item_idx] * self.inverse_norms[item_idx, None]
            cosines: NDArray[np.float32] = directions @ directions.T
            return cosines
        among = self.similarity.among(item_idx)
        largest = float(among.max(initial=0.0))
        return among / np.float32(largest) if largest > 0 else among

    @cached_property
    def fold_in(self) -> FoldIn:
        """Solves vectors of users that the version does not know, or whose ratings changed since."""
        return FoldIn(self.factors)

    def warm(self) -> None:
        """Compute everything that the first requests would have to wait for."""
        _ = self.index.max_norm, self.inverse_norms, self.fold_in, self.similarity

    def with_catalogue(self, catalogue: Catalogue, changed: list[StoredItem]) -> "LiveModel":
        """Return the same version over a catalogue in which some items were changed or added."""
        side, n_before = self.factors.items, len(self.factors.items)
        n_new = catalogue.n_items - n_before
        vectors, bias, implicit, trained = self.vectors, side.bias, self.implicit, self.trained
        idx = np.array([catalogue.idx_of[item.item_id] for item in changed], np.int64)
        if side.features is not None:
            rows, row_bias = embed_items(side.features, changed)
            stored = idx < n_before
            at = idx[stored]
            differs = (vectors.first(n_before)[at] != rows[stored]).any(1) | (bias[at] != row_bias[stored])
            stored[stored] = ~trained[at] & differs
            if stored.any():  # the embeddings of items that others may be looking at
                vectors, bias = vectors.copy(n_before), bias.copy()
                vectors.first(n_before)[idx[stored]], bias[idx[stored]] = rows[stored], row_bias[stored]
        if n_new:
            new, new_bias = np.zeros((n_new, self.factors.n_factors), np.float32), np.full(n_new, -np.inf, np.float32)
            implicit = None if implicit is None else implicit.append(n_before, new)
            if side.features is not None:
                added = idx >= n_before
                new[idx[added] - n_before], new_bias[idx[added] - n_before] = rows[added], row_bias[added]
            vectors = vectors.append(n_before, new)
            bias = np.append(bias, new_bias)
            trained = np.append(trained, np.zeros(n_new, bool))
        return replace(
            self,
            factors=replace(self.factors, items=_side(catalogue, vectors, bias, implicit, side.features)),
            list_bias=np.where(catalogue.hidden, np.float32(-np.inf), bias),
            trained=trained,
            vectors=vectors,
            implicit=implicit,
        )


def metadata_embedding(
    features: FeatureEmbeddings, categories: Sequence[str], attributes: Mapping[str, object]
) -> Embedding | None:
    """Return the embedding of a user or item from its metadata alone; `None` if no feature matches."""
    idx = match_features(features.names, categories, attributes)
    if not len(idx):
        return None
    return Embedding(features.base + features.vectors[idx].sum(0), float(features.bias[idx].sum()))


def embed_items(
    features: FeatureEmbeddings, items: Sequence[StoredItem]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the embeddings of items by their metadata: (n, width) and (n,); zeros and −inf for an item without any."""
    vectors, bias = np.zeros((len(items), len(features.base)), np.float32), np.full(len(items), -np.inf, np.float32)
    for row, item in enumerate(items):
        embedding = metadata_embedding(features, item.categories, item.attributes)
        if embedding is not None:
            vectors[row], bias[row] = embedding
    return vectors, bias


def _side(
    catalogue: Catalogue,
    vectors: GrowingRows,
    bias: NDArray[np.float32],
    implicit: GrowingRows | None,
    features: FeatureEmbeddings | None,
) -> Side:
    """Return the item side over a catalogue."""
    n_items = catalogue.n_items
    of_users = None if implicit is None else implicit.first(n_items)
    return Side(catalogue.item_keys, vectors.first(n_items), bias, of_users, features)
