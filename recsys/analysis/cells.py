"""Nearest neighbours of items by cosine, almost exactly, for maps of large catalogues."""

from concurrent.futures import ThreadPoolExecutor
from os import cpu_count

import numpy as np
from numpy.typing import NDArray

from recsys.analysis.clusters import cluster_items
from recsys.analysis.neighbours import Neighbours, nearest_neighbours, unit_rows

EXACT_ITEMS = 10_000
"""With so few candidates the exact search is as fast."""

N_PROBES = 24
"""Cells that are searched for the items of a cell."""

_STEPS = 6
_BLOCK = 1 << 22
"""Cosines held at once by each thread."""


def near_neighbours(
    vectors: NDArray[np.float32],
    k: int,
    queries: NDArray[np.int64] | None = None,
    among: NDArray[np.bool_] | None = None,
    seed: int = 0,
) -> Neighbours:
    """Return k items with a high cosine to each item, without the item itself; above 10,000 candidates some are missed.

    The candidates are divided into √n cells by direction, and each item is compared with the candidates of the cells
    nearest to its own ("inverted file").

    Reference: Jégou, Douze & Schmid, "Product Quantization for Nearest Neighbor Search", 2011, section IV.

    Args:
        vectors: (n_items, n_factors).
        k: number of neighbours; fewer if there are fewer candidates.
        queries: positions of the items whose neighbours are returned; by default all.
        among: (n_items,) which items may be neighbours; by default all.
    """
    candidates = np.arange(len(vectors)) if among is None else np.flatnonzero(among)
    rows = np.arange(len(vectors)) if queries is None else queries
    if len(candidates) <= EXACT_ITEMS:
        return nearest_neighbours(vectors, k, rows, among)
    units = unit_rows(vectors)
    labels = np.maximum(cluster_items(units[candidates], round(len(candidates) ** 0.5), seed, _STEPS), 0)
    n_cells = int(labels.max()) + 1
    sums = np.zeros((n_cells, units.shape[1]), np.float32)
    np.add.at(sums, labels, units[candidates])
    centres = unit_rows(sums)
    members = np.split(np.argsort(labels, kind="stable"), np.cumsum(np.bincount(labels, minlength=n_cells))[:-1])
    nearest_cells = np.argsort(-(centres @ centres.T), axis=1, kind="stable")
    cell_of = np.concatenate([(units[part] @ centres.T).argmax(axis=1) for part in np.array_split(rows, 64)])
    found = Neighbours(np.zeros((len(rows), k), np.int64), np.zeros((len(rows), k), np.float32))

    def fill(cell: int) -> None:
        asked = np.flatnonzero(cell_of == cell)
        if not len(asked):
            return
        n_probes = N_PROBES
        while (n := sum(len(members[near]) for near in nearest_cells[cell, :n_probes])) <= 2 * k:
            n_probes *= 2
        searched = np.sort(candidates[np.concatenate([members[near] for near in nearest_cells[cell, :n_probes]])])
        targets = units[searched].T
        for part in np.array_split(asked, -(-len(asked) * n // _BLOCK)):
            cosine = units[rows[part]] @ targets
            own = np.searchsorted(searched, rows[part])
            has_own = np.flatnonzero(searched[np.minimum(own, n - 1)] == rows[part])
            cosine[has_own, own[has_own]] = -np.inf
            best = np.sort(np.argpartition(-cosine, k - 1, axis=1)[:, :k], axis=1)
            value = np.take_along_axis(cosine, best, 1)
            order = np.argsort(-value, axis=1, kind="stable")
            found.item_idx[part] = searched[np.take_along_axis(best, order, 1)]
            found.cosine[part] = np.take_along_axis(value, order, 1)

    with ThreadPoolExecutor(min(4, cpu_count() or 1)) as pool:
        list(pool.map(fill, range(n_cells)))
    return found
