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
from recsys.factors import Factors, FeatureEmbeddings, Head, Side
from recsys.results import Objective
from recsys.scoring.fold_in import FoldIn
from recsys.scoring.search import Index
from recsys.serving.catalogue import Catalogue


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
    """

    version: ModelVersion
    factors: Factors
    list_bias: NDArray[np.float32]
    trained: NDArray[np.bool_]

    @classmethod
    def from_version(cls, version: ModelVersion, factors: Factors, catalogue: Catalogue) -> "LiveModel":
        """Return a version aligned to a catalogue; items newer than its training get the embedding of their metadata.

        Args:
            factors: of the version; users are ignored.
        """
        idx = catalogue.positions(factors.item_keys)  # (n_items of the version,), in the catalogue
        present = idx >= 0
        aligned = np.zeros((catalogue.n_items, factors.n_factors), np.float32)
        vectors = _in_memory_order(aligned, factors.head)
        vectors[idx[present]] = factors.item_factors[present]
        bias = np.full(catalogue.n_items, -np.inf, np.float32)
        bias[idx[present]] = factors.item_bias[present]
        implicit = None
        if factors.items.implicit is not None:
            implicit = np.zeros_like(aligned)
            implicit[idx[present]] = factors.items.implicit[present]
        trained = np.isfinite(bias)
        items = Side(catalogue.item_keys, vectors, bias, implicit, factors.items.features)
        if items.features is not None:
            _embed_metadata(items, catalogue, np.flatnonzero(~trained))
        return cls(
            version=version,
            factors=replace(factors, items=items, users=Side.empty(factors.n_factors, factors.users.features)),
            list_bias=np.where(catalogue.hidden, np.float32(-np.inf), bias),
            trained=trained,
        )

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

    @property
    def known(self) -> NDArray[np.bool_]:
        """(n_items,) mask of the items that the version can list."""
        return np.isfinite(self.item_bias)

    @cached_property
    def index(self) -> Index:
        """The items that lists are searched in."""
        return Index(self.item_factors, self.list_bias, self.head)

    @cached_property
    def inverse_norms(self) -> NDArray[np.float32]:
        """(n_items,) 1 / ‖q_i‖, 0 for an item whose vector is zero."""
        norms = np.sqrt(np.einsum("nf,nf->n", self.embeddings, self.embeddings))
        inverse: NDArray[np.float32] = np.divide(1, norms, out=np.zeros_like(norms), where=norms > 0)
        return inverse

    @cached_property
    def fold_in(self) -> FoldIn:
        """Solves vectors of users that the version does not know, or whose ratings changed since."""
        return FoldIn(self.factors)

    def warm(self) -> None:
        """Compute everything that the first requests would have to wait for."""
        _ = self.index.max_norm, self.inverse_norms, self.fold_in

    def with_catalogue(self, catalogue: Catalogue, changed: list[StoredItem]) -> "LiveModel":
        """Return the same version over a catalogue in which some items were changed or added."""
        items = self.factors.items
        n_new = catalogue.n_items - len(items)
        vectors, bias, implicit, trained = items.factors, items.bias.copy(), items.implicit, self.trained
        if n_new:
            zeros = np.zeros((n_new, vectors.shape[1]), np.float32)
            vectors = _in_memory_order(np.concatenate([vectors, zeros]), self.head)
            implicit = None if implicit is None else np.concatenate([implicit, zeros])
            bias = np.append(bias, np.full(n_new, -np.inf, np.float32))
            trained = np.append(trained, np.zeros(n_new, bool))
        idx = np.array([catalogue.idx_of[item.item_id] for item in changed], np.int64)
        new_idx = idx[~trained[idx]]
        if len(new_idx) and not n_new:
            vectors = vectors.copy(order="K")
        items = Side(catalogue.item_keys, vectors, bias, implicit, items.features)
        if len(new_idx):
            _embed_metadata(items, catalogue, new_idx)
        return replace(
            self,
            factors=replace(self.factors, items=items),
            list_bias=np.where(catalogue.hidden, np.float32(-np.inf), bias),
            trained=trained,
        )


def metadata_embedding(
    features: FeatureEmbeddings, categories: Sequence[str], attributes: Mapping[str, object]
) -> Embedding | None:
    """Return the embedding of a user or item from its metadata alone; `None` if no feature matches."""
    idx = match_features(features.names, categories, attributes)
    if not len(idx):
        return None
    return Embedding(features.base + features.vectors[idx].sum(0), float(features.bias[idx].sum()))


def _embed_metadata(items: Side, catalogue: Catalogue, item_idx: NDArray[np.int64]) -> None:
    """Give some items the embedding of their metadata, in place; bias −inf to items without any."""
    for idx in item_idx.tolist():
        item = catalogue.items[idx]
        embedding = None
        if items.features is not None:
            embedding = metadata_embedding(items.features, item.categories, item.attributes)
        items.factors[idx], items.bias[idx] = embedding or (0.0, -np.inf)


def _in_memory_order(factors: NDArray[np.float32], head: Head | None) -> NDArray[np.float32]:
    """Return the factors column by column for a dot product, row by row for the layers of a neural model."""
    return np.asfortranarray(factors) if head is None else np.ascontiguousarray(factors)
