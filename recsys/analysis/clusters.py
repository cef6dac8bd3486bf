"""Clusters of items, and the properties that set each apart."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recsys.analysis.labels import ItemLabels
from recsys.analysis.neighbours import unit_rows

_STANDS_OUT = 1.3
"""A property names a cluster if it is this many times as frequent there as in the catalogue."""


def default_clusters(n_items: int) -> int:
    """Return the number of clusters for a catalogue: a quarter of √n, from 2 to 24."""
    return int(np.clip(round(np.sqrt(n_items) / 4), 2, 24))


def cluster_items(
    vectors: NDArray[np.float32], n_clusters: int | None = None, seed: int = 0, n_steps: int = 40
) -> NDArray[np.int32]:
    """Return the cluster of each item by direction of its vector: (n_items,), the largest cluster is 0.

    Spherical k-means with k-means++ seeds. Items whose vector is zero are in cluster −1.

    Reference: Dhillon & Modha, "Concept Decompositions for Large Sparse Text Data using Clustering", 2001.

    Args:
        vectors: (n_items, n_factors).
        n_clusters: by default `default_clusters`.
    """
    labels = np.full(len(vectors), -1, np.int32)
    units = unit_rows(vectors)
    given = np.flatnonzero(np.any(units, axis=1))
    points = units[given]
    k = min(n_clusters or default_clusters(len(given)), len(given))
    if k == 0:
        return labels
    random = np.random.default_rng(seed)
    centres = points[[int(random.integers(len(points)))]]
    distance = np.maximum(0, 1 - points @ centres[0])
    for _ in range(k - 1):
        total = float(distance.sum())
        chosen = int(random.choice(len(points), p=distance / total)) if total > 0 else int(random.integers(len(points)))
        centres = np.concatenate([centres, points[[chosen]]])
        distance = np.minimum(distance, np.maximum(0, 1 - points @ points[chosen]))
    nearest = np.full(len(points), -1)
    for _ in range(n_steps):
        moved = (points @ centres.T).argmax(axis=1)
        if (moved == nearest).all():
            break
        nearest = moved
        sums = np.zeros_like(centres)
        np.add.at(sums, nearest, points)
        empty = np.bincount(nearest, minlength=k) == 0
        sums[empty] = centres[empty]
        centres = unit_rows(sums)
    sizes = np.bincount(nearest, minlength=k)
    rank = np.empty(k, np.int32)
    rank[np.argsort(-sizes, kind="stable")] = np.arange(k)
    labels[given] = rank[nearest]
    return labels


@dataclass(frozen=True, slots=True)
class Cluster:
    """A cluster of items.

    Attributes:
        number: counted from 0, the largest first.
        name: what sets it apart, for example `Horror · 1980s`; else `like` and its most rated item.
        size: number of items.
        properties: (property, share in the cluster, share in the catalogue), the most telling first.
        examples: names of its most rated items.
    """

    number: int
    name: str
    size: int
    properties: tuple[tuple[str, float, float], ...]
    examples: tuple[str, ...]


def describe_clusters(labels: NDArray[np.int32], items: ItemLabels, n_examples: int = 5) -> list[Cluster]:
    """Return each cluster with the categories, decades and popularity that set it apart.

    A property with share p in the cluster and q in the catalogue is told by p · log(p / q): frequent there, and more
    frequent than elsewhere.

    Args:
        labels: (n_items,) of `cluster_items`.
        items: in the order of `labels`.
    """
    masks = {name: items.in_category(name) for name, idx in items.category_idx.items() if len(idx) >= 2}
    if len(items.year):
        decade = np.floor(items.year / 10) * 10
        masks |= {f"{int(value)}s": decade == value for value in np.unique(decade[~np.isnan(decade)])}
    if len(items) >= 10:
        low, high = np.quantile(items.n_ratings, [0.25, 0.9])
        masks |= {"rarely rated": items.n_ratings <= low, "popular": items.n_ratings > high}
    shares = {name: float(mask.mean()) for name, mask in masks.items()}
    clusters: list[Cluster] = []
    names: set[str] = set()
    for number in range(int(labels.max(initial=-1)) + 1):
        members = np.flatnonzero(labels == number)
        told = []
        for name, mask in masks.items():
            inside, overall = float(mask[members].mean()), shares[name]
            if inside * len(members) >= 2 and inside >= 0.2 and inside > _STANDS_OUT * overall:
                told.append((inside * np.log(inside / overall), name, inside, overall))
        told.sort(key=lambda row: (-row[0], row[1]))
        by_count = members[np.argsort(-items.n_ratings[members], kind="stable")]
        examples = tuple(items.name(idx) for idx in by_count[:n_examples].tolist())
        name = " · ".join(row[1] for row in told[:2]) or f"like {examples[0]}"
        if name in names:
            name = f"{name}, like {examples[0]}"
        names.add(name)
        clusters.append(Cluster(number, name, len(members), tuple(row[1:] for row in told), examples))
    return clusters
