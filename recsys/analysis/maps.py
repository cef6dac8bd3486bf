"""Two-dimensional maps of items: t-SNE, aligned to an earlier map, and the clusters on it."""

from dataclasses import dataclass
from importlib.util import find_spec

import numpy as np
from numpy.typing import NDArray

from recsys.analysis.cells import near_neighbours
from recsys.analysis.clusters import cluster_items
from recsys.analysis.components import principal_components
from recsys.analysis.neighbours import nearest_neighbours
from recsys.data.keyed import positions

MOST_EMBEDDED = 80_000
"""Largest number of items that t-SNE places itself; the rest is placed among its nearest neighbours of these."""

MIN_EMBEDDED = 50
"""Fewer items are placed along their principal components."""

PERPLEXITY = 12
_EARLY, _LATE = 100, 250


@dataclass(frozen=True, slots=True)
class ItemMap:
    """Places of items on a plane. Only nearness means something: axes and distances between groups do not.

    Attributes:
        method: `tsne`, or `pca` where there are too few items or openTSNE is not installed.
        item_keys: (n_items,) int64, ascending.
        xy: (n_items, 2) float32.
        clusters: (n_items,) int32 of `cluster_items`; −1: none.
    """

    method: str
    item_keys: NDArray[np.int64]
    xy: NDArray[np.float32]
    clusters: NDArray[np.int32]


def map_items(
    item_keys: NDArray[np.int64],
    vectors: NDArray[np.float32],
    n_ratings: NDArray[np.int64],
    earlier: ItemMap | None = None,
    seed: int = 0,
) -> ItemMap:
    """Place items so that items with a high cosine are close together. The same arguments give the same map.

    Reference: van der Maaten & Hinton, "Visualizing Data using t-SNE", 2008; Poličar et al., "openTSNE", 2024.

    Args:
        item_keys: (n_items,) ascending.
        vectors: (n_items, n_factors).
        n_ratings: (n_items,) decides which items of a very large catalogue are placed first.
        earlier: map of another version; the new one starts from it and is turned, mirrored and moved to fit it.
    """
    if len(item_keys) < MIN_EMBEDDED or vectors.shape[1] < 2 or not has_tsne():
        return plane_map(item_keys, vectors, seed)
    clusters = cluster_items(vectors, seed=seed)
    shown = np.sort(np.argsort(-n_ratings, kind="stable")[:MOST_EMBEDDED])
    xy = np.zeros((len(item_keys), 2))
    xy[shown] = tsne(vectors[shown], _start(item_keys[shown], vectors[shown], earlier), seed)
    rest = np.setdiff1d(np.arange(len(item_keys)), shown)
    if len(rest):
        among = np.zeros(len(item_keys), bool)
        among[shown] = True
        near = near_neighbours(vectors, 3, rest, among, seed)
        weight = np.maximum(near.cosine, 1e-3)[:, :, None]
        xy[rest] = (xy[near.item_idx] * weight).sum(axis=1) / weight.sum(axis=1)
    if earlier is not None:
        at = positions(earlier.item_keys, item_keys)
        if (at >= 0).sum() >= 3:
            xy = align(xy, xy[at >= 0], earlier.xy[at[at >= 0]].astype(np.float64))
    return ItemMap("tsne", item_keys, xy.astype(np.float32), clusters)


def plane_map(item_keys: NDArray[np.int64], vectors: NDArray[np.float32], seed: int = 0) -> ItemMap:
    """Place items along their two principal components."""
    return ItemMap("pca", item_keys, _plane(vectors), cluster_items(vectors, seed=seed))


def has_tsne() -> bool:
    """Return whether openTSNE is installed."""
    return find_spec("openTSNE") is not None


def tsne(vectors: NDArray[np.float32], start: NDArray[np.float64], seed: int = 0) -> NDArray[np.float64]:
    """Return the t-SNE of vectors by cosine: (n, n_factors) → (n, 2).

    Args:
        start: (n, 2) first places; their scale does not matter.
    """
    from openTSNE import TSNEEmbedding
    from openTSNE.affinity import PerplexityBasedNN
    from openTSNE.nearest_neighbors import PrecomputedNeighbors

    perplexity = min(PERPLEXITY, (len(vectors) - 1) / 3)
    near = near_neighbours(vectors, int(3 * perplexity), seed=seed)
    distance = np.sqrt(np.maximum(0, 2 - 2 * near.cosine)).astype(np.float64)
    index = PrecomputedNeighbors(near.item_idx, distance)
    affinities = PerplexityBasedNN(perplexity=perplexity, knn_index=index, n_jobs=1)
    start = start / (start[:, 0].std() or 1.0) * 1e-4
    # Barnes-Hut is faster for a small number of points, interpolation for a large one.
    method = {"negative_gradient_method": "bh", "theta": 0.8} if len(vectors) < 10_000 else {}
    embedding = TSNEEmbedding(start, affinities, n_jobs=1, random_state=seed, learning_rate="auto", **method)
    embedding = embedding.optimize(n_iter=_EARLY, exaggeration=12, momentum=0.5)
    return np.asarray(embedding.optimize(n_iter=_LATE, momentum=0.8), np.float64)


def align(places: NDArray[np.float64], ours: NDArray[np.float64], theirs: NDArray[np.float64]) -> NDArray[np.float64]:
    """Turn, mirror and move places so that `ours` come as close as possible to `theirs`.

    Orthogonal Procrustes: R = U Vᵀ of the singular value decomposition of oursᵀ · theirs, both centred.

    Reference: Schönemann, "A generalized solution of the orthogonal Procrustes problem", 1966.

    Args:
        places: (n, d) to transform.
        ours, theirs: (n_shared, d) the same points in both.
    """
    rotation, centre = procrustes(ours, theirs)
    aligned: NDArray[np.float64] = (places - centre) @ rotation + theirs.mean(axis=0)
    return aligned


def procrustes(
    ours: NDArray[np.float64], theirs: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the rotation (d, d) that takes our centred points closest to theirs, and our centre (d,)."""
    centre = ours.mean(axis=0)
    left, _, right = np.linalg.svd((ours - centre).T @ (theirs - theirs.mean(axis=0)))
    return left @ right, centre


def _plane(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the positions along two principal components, (n, 2); zeros where there are fewer."""
    found = principal_components(vectors, 2).positions
    plane = np.zeros((len(vectors), 2), np.float32)
    plane[:, : found.shape[1]] = found
    return plane


def _start(item_keys: NDArray[np.int64], vectors: NDArray[np.float32], earlier: ItemMap | None) -> NDArray[np.float64]:
    """Return first places: of an earlier map where half of the items have one, else the principal components."""
    random = np.random.default_rng(0)
    plane = _plane(vectors).astype(np.float64)
    plane += random.normal(scale=1e-3 * (plane.std() or 1.0), size=plane.shape)
    at = np.full(len(item_keys), -1) if earlier is None else positions(earlier.item_keys, item_keys)
    known = at >= 0
    if earlier is None or known.mean() < 0.5:
        return plane
    start = plane.copy()
    start[known] = earlier.xy[at[known]]
    if not known.all():
        near = nearest_neighbours(vectors, 3, np.flatnonzero(~known), known)
        start[~known] = start[near.item_idx].mean(axis=1)
    return start + random.normal(scale=1e-3 * (start.std() or 1.0), size=start.shape)
