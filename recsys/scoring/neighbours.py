"""The most similar items of every item, found once after a training, so that a server need not search for them."""

import numpy as np
from numpy.typing import NDArray

from recsys.data.dataset import Ratings
from recsys.data.keyed import positions
from recsys.factors import NO_NEIGHBOUR, Factors, Neighbours
from recsys.scoring.search import Index, TopN, as_matrix

N_NEIGHBOURS = 32
"""Neighbours of an item: enough for a list of 20 with a next page, of which some are left out."""

MIN_RATINGS = 10
"""Fewest ratings of an item that is a neighbour of others."""

MAX_ITEMS = 250_000
"""Largest catalogue whose neighbours are found: the time grows with the square of it. At 62,000 items of 64 factors it
is about half a minute, at 250,000 eight."""

MARGIN = 2e-6
"""Difference between cosines that the rounding of two machines may hide."""

_BLOCK = 4096
"""Items whose lists are made at a time."""


def inverse_norms(embeddings: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return 1 / ‖q_i‖, 0 for an item whose vector is zero: (n_items, n_dot) → (n_items,)."""
    norms = np.sqrt(np.einsum("nf,nf->n", embeddings, embeddings))
    inverse: NDArray[np.float32] = np.divide(1, norms, out=np.zeros_like(norms), where=norms > 0)
    return inverse


def often_rated(factors: Factors, ratings: Ratings) -> NDArray[np.bool_]:
    """Return which items of a model have at least `MIN_RATINGS` ratings: (n_items,). Lists have the others last."""
    item_idx = positions(factors.item_keys, ratings.item_keys)[ratings.item_idx]
    return np.bincount(item_idx[item_idx >= 0], minlength=factors.n_items) >= MIN_RATINGS


def find_neighbours(
    factors: Factors, in_pool: NDArray[np.bool_], n_neighbours: int = N_NEIGHBOURS, max_items: int = MAX_ITEMS
) -> Neighbours | None:
    """Return the neighbours of each item by cosine, exactly; `None` for a model without vectors or of too many items.

    Args:
        in_pool: (n_items,) mask of the items that may be neighbours.
    """
    if not factors.n_dot or factors.n_items > max_items or not in_pool.any():
        return None
    # In the layout that a server keeps vectors in: sums are rounded in another order in another one.
    embeddings = np.asfortranarray(factors.embeddings) if factors.head is None else factors.embeddings
    scale = inverse_norms(embeddings)
    pool = np.flatnonzero(in_pool)
    index = Index(np.asfortranarray(embeddings[pool]), np.zeros(len(pool), np.float32), scale=scale[pool])
    place = np.full(factors.n_items, NO_NEIGHBOUR, np.int64)  # of each item in the pool
    place[pool] = np.arange(len(pool))
    item_idx = np.full((factors.n_items, n_neighbours), NO_NEIGHBOUR, np.int32)
    scores = np.zeros((factors.n_items, n_neighbours), np.float32)
    for start in range(0, factors.n_items, _BLOCK):
        rows = np.arange(start, min(start + _BLOCK, factors.n_items))
        itself = [place[row : row + 1] if in_pool[row] else None for row in rows.tolist()]
        directions = embeddings[rows] * scale[rows, None]
        lists = index.best(directions, [n_neighbours] * len(rows), itself)
        found = as_matrix(lists, n_neighbours)
        item_idx[rows] = np.where(found >= 0, pool[found], NO_NEIGHBOUR)
        for row, best in zip(rows.tolist(), lists, strict=True):
            scores[row, : len(best.scores)] = best.scores
    return Neighbours(item_idx, scores, in_pool)


def best_of_neighbours(
    neighbours: Neighbours, item_idx: int, n: int, kept: NDArray[np.bool_], others: TopN
) -> TopN | None:
    """Return the `n` most similar items among some, exactly; `None` where only a search can tell.

    An item of the pool that is no neighbour is at most as similar as the last neighbour. So a list of `n` items is
    right if its last item is more similar than that, or if all items of the pool are neighbours.

    Args:
        kept: (n_neighbours,) mask of the neighbours that the list may have.
        others: the items that the list may have and that were not in the pool, and how similar they are.
    """
    row, scores = neighbours.item_idx[item_idx], neighbours.scores[item_idx]
    is_full = row[-1] != NO_NEIGHBOUR
    if not is_full:
        kept = kept & (row != NO_NEIGHBOUR)
    found, cosines = row[kept][:n].astype(np.int64), scores[kept][:n].astype(np.float64).round(6)
    if len(others.item_idx):
        found, cosines = np.concatenate([found, others.item_idx]), np.concatenate([cosines, others.scores])
        order = np.lexsort((found, -cosines))[:n]
        found, cosines = found[order], cosines[order]
    if n < 1 or len(found) < n or (is_full and cosines[-1] <= scores[-1] + MARGIN):
        return None
    return TopN(found, cosines)
