"""Two versions of a model side by side: what moved, and how far lists differ."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recsys.analysis.maps import procrustes
from recsys.analysis.neighbours import nearest_neighbours
from recsys.analysis.spectrum import item_vectors
from recsys.factors import Factors


@dataclass(frozen=True, slots=True)
class Comparison:
    """The items that two versions share, before and after.

    Attributes:
        before_idx, after_idx: (n_shared,) positions in each version.
        overlap: (n_shared,) share of the k nearest neighbours that both versions have in common.
        movement: (n_shared,) distance between both vectors after the best rotation, over the mean length of a vector
            before; NaN if the versions have different numbers of factors.
        k: number of neighbours.
        n_new, n_gone: items that only one version has.
    """

    before_idx: NDArray[np.int64]
    after_idx: NDArray[np.int64]
    overlap: NDArray[np.float64]
    movement: NDArray[np.float64]
    k: int
    n_new: int
    n_gone: int

    @property
    def drift(self) -> float:
        """The mean movement; NaN if it is not known."""
        return float(self.movement.mean()) if len(self.movement) else float("nan")


def compare_items(before: Factors, after: Factors, k: int = 10, judged: NDArray[np.int64] | None = None) -> Comparison:
    """Compare the items of two versions.

    The vectors of two trainings differ by a rotation even where they mean the same, so `after` is first rotated onto
    `before` (orthogonal Procrustes). Neighbours need no such step: cosines do not change with a rotation.

    Args:
        judged: positions in `after` of the items that are compared; by default all.
    """
    n_shared = len(np.intersect1d(before.item_keys, after.item_keys))
    keys, before_idx, after_idx = np.intersect1d(
        before.item_keys, after.item_keys if judged is None else after.item_keys[judged], return_indices=True
    )
    after_idx = after_idx if judged is None else judged[after_idx]
    old, new = item_vectors(before)[before_idx], item_vectors(after)[after_idx]
    overlap = np.zeros(len(keys))
    if len(keys) > 1:
        old_near, new_near = nearest_neighbours(old, k).item_idx, nearest_neighbours(new, k).item_idx
        common = (old_near[:, :, None] == new_near[:, None, :]).any(axis=2)
        overlap = common.mean(axis=1)
    movement = np.full(len(keys), np.nan)
    if old.shape[1] == new.shape[1] and len(keys) > 1:
        rotation, centre = procrustes(new.astype(np.float64), old.astype(np.float64))
        moved = (new - centre) @ rotation + old.mean(axis=0)
        scale = float(np.linalg.norm(old, axis=1).mean()) or 1.0
        movement = np.linalg.norm(moved - old, axis=1) / scale
    return Comparison(
        before_idx=before_idx,
        after_idx=after_idx,
        overlap=overlap,
        movement=movement,
        k=k,
        n_new=after.n_items - n_shared,
        n_gone=before.n_items - n_shared,
    )


def list_overlap(one: Sequence[int], other: Sequence[int]) -> float:
    """Return the share of a list that is also in the other one; of the longer one if they differ in length."""
    longest = max(len(one), len(other))
    return len(set(one) & set(other)) / longest if longest else 1.0


def rank_biased_overlap(one: Sequence[int], other: Sequence[int], p: float = 0.9) -> float:
    """Return the rank-biased overlap of two lists, from 0 to 1; the top of the lists counts most.

        RBO_ext = X_k / k · pᵏ + (1 − p) / p · Σ_{d=1..k} pᵈ · X_d / d

    where X_d is the number of items that the first d of both lists share, and k the shorter length. Equal lists have 1.

    Reference: Webber, Moffat & Zobel, "A Similarity Measure for Indefinite Rankings", TOIS 2010, equation 32 for
    lists of equal length.

    Args:
        one, other: items, the best first, each once.
        p: how far down the lists are read: an item at rank d has the weight pᵈ.
    """
    depth = min(len(one), len(other))
    if not depth:
        return 1.0 if len(one) == len(other) else 0.0
    total = 0.0
    for d in range(1, depth + 1):
        shared = len(set(one[:d]) & set(other[:d])) / d
        total += p**d * shared
    return shared * p**depth + (1 - p) / p * total
