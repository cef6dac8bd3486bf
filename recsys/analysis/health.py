"""Health of a model: what looks wrong in the vectors of its items, named."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from recsys.analysis.labels import ItemLabels
from recsys.analysis.neighbours import Neighbours, chance_cosine, nearest_neighbours, unit_rows

Kind = Literal["collapsed", "duplicates", "hub", "category", "popularity", "chance", "zero"]

MIN_ITEMS = 20
"""A model of fewer items is not judged."""

K = 10
_COLLAPSED = 0.02
"""A dimension has collapsed if its spread is below this share of the median."""
_DUPLICATE = 1e-3
"""Two items are duplicates if their vectors differ by less than this share of their length."""
_FEW_RATINGS = 5
"""Items with fewer ratings have vectors of their categories mostly."""
_HUB = 12
"""A hub is among the nearest K of at least this many times K items, which is the mean."""
_HUB_SHARE = 0.08
"""… and of at least this share of all items."""
_NOT_OWN, _OTHER = 0.2, 0.5
"""An item is misplaced if its cosine with its category is below the first, with another one above the second."""
_MISPLACED_SHARE = 0.1
"""Share of a category that must lie among one other category: single items always do."""
_FOLLOWS = 0.7
"""Rank correlation of lengths and numbers of ratings above which lengths tell popularity."""


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that looks wrong.

    Attributes:
        kind: what was looked for.
        severity: `warning`, or `note` for what is usual but good to know.
        title: in a few words, with names and numbers.
        detail: what it means, and what helps.
        item_idx: the items concerned, at most 100.
    """

    kind: Kind
    severity: Literal["warning", "note"]
    title: str
    detail: str
    item_idx: tuple[int, ...] = ()


def check_health(vectors: NDArray[np.float32], items: ItemLabels, seed: int = 0) -> list[Finding]:
    """Return everything that looks wrong, warnings first; nothing for fewer than `MIN_ITEMS` items.

    Args:
        vectors: (n_items, n_factors).
        items: in the order of `vectors`.
    """
    if len(vectors) < MIN_ITEMS or not vectors.shape[1]:
        return []
    near = nearest_neighbours(vectors, K)
    findings = [
        *collapsed_dimensions(vectors),
        *duplicate_items(vectors, items, near),
        *hubs(vectors, items, near),
        *misplaced_categories(vectors, items),
        *zero_vectors(vectors),
        *popularity_in_lengths(vectors, items),
        *chance_neighbours(vectors, items, near, seed),
    ]
    return sorted(findings, key=lambda finding: finding.severity != "warning")


def collapsed_dimensions(vectors: NDArray[np.float32]) -> list[Finding]:
    """Find factors in which the items hardly differ."""
    spread = vectors.std(axis=0)
    collapsed = np.flatnonzero(spread <= _COLLAPSED * np.median(spread))
    if not len(collapsed):
        return []
    names = ", ".join(str(idx + 1) for idx in collapsed[:10].tolist()) + (", …" if len(collapsed) > 10 else "")
    return [
        Finding(
            "collapsed",
            "warning",
            f"{len(collapsed)} of {vectors.shape[1]} dimensions collapsed: {names}",
            "The items hardly differ in them, so they cost memory and say nothing. Train with fewer factors or less "
            "weight decay.",
        )
    ]


def duplicate_items(vectors: NDArray[np.float32], items: ItemLabels, near: Neighbours) -> list[Finding]:
    """Find groups of items whose vectors are the same."""
    length = np.linalg.norm(vectors, axis=1)
    group = np.arange(len(vectors))

    def root(idx: int) -> int:
        while group[idx] != idx:
            group[idx] = idx = int(group[group[idx]])
        return idx

    distance = np.linalg.norm(vectors[near.item_idx] - vectors[:, None], axis=2)
    same = (distance <= _DUPLICATE * length[:, None]) & (length[:, None] > 0)
    for idx, place in np.argwhere(same).tolist():
        one, other = root(idx), root(int(near.item_idx[idx, place]))
        group[max(one, other)] = min(one, other)
    members: dict[int, list[int]] = {}
    for idx in range(len(vectors)):
        members.setdefault(root(idx), []).append(idx)
    found = sorted((idx for idx in members.values() if len(idx) > 1), key=len, reverse=True)
    rated = [idx for idx in found if np.median(items.n_ratings[idx]) >= _FEW_RATINGS]
    findings = [
        Finding(
            "duplicates",
            "warning",
            f"{len(idx)} items have the same vector: {_names(items, idx)}",
            "They stand beside each other in every list: they may be one item under several ids.",
            tuple(idx[:100]),
        )
        for idx in rated[:10]
    ]
    barely = [idx for idx in found if np.median(items.n_ratings[idx]) < _FEW_RATINGS]
    if barely:
        together = [at for idx in barely for at in idx]
        findings.append(
            Finding(
                "duplicates",
                "note",
                f"{len(together):,} items have so few ratings that they share their vectors in {len(barely):,} groups",
                f"The largest group has {len(barely[0])} ({_names(items, barely[0])}). Such vectors come from the "
                "categories alone.",
                tuple(together[:100]),
            )
        )
    return findings


def hubs(vectors: NDArray[np.float32], items: ItemLabels, near: Neighbours) -> list[Finding]:
    """Find items that are among the nearest neighbours of very many others.

    Reference: Radovanović et al., "Hubs in Space", JMLR 2010.
    """
    n_near = np.bincount(near.item_idx.ravel(), minlength=len(vectors))
    found = np.flatnonzero(n_near >= max(_HUB * near.k, _HUB_SHARE * len(vectors)))
    return [
        Finding(
            "hub",
            "warning",
            f"{items.name(idx)} is a hub: near {n_near[idx]:,} of {len(vectors):,} items",
            f"It is among the {near.k} nearest neighbours of {n_near[idx] / len(vectors):.0%} of the items, where "
            f"{near.k / len(vectors):.1%} is the mean. Similar-item lists will show it everywhere.",
            (int(idx),),
        )
        for idx in found[np.argsort(-n_near[found], kind="stable")][:10].tolist()
    ]


def misplaced_categories(vectors: NDArray[np.float32], items: ItemLabels) -> list[Finding]:
    """Find groups of items that carry one category, but point where the items of another category do.

    Cosines are taken to the mean direction of a category, without the item itself, after the mean of all items is
    subtracted: the directions of categories then differ as much as they can.
    """
    names = [name for name, idx in items.category_idx.items() if 5 <= len(idx) < 0.8 * len(items)]
    if len(names) < 2:
        return []
    units = unit_rows(vectors - vectors.mean(axis=0))
    masks = np.stack([items.in_category(name) for name in names])  # (n_categories, n_items)
    sums = masks.astype(np.float32) @ units
    cosine = units @ unit_rows(sums).T  # (n_items, n_categories)
    cosine[masks.T] = -1  # only categories that the item does not carry
    best = cosine.argmax(axis=1)
    findings = []
    for at, name in enumerate(names):
        own = np.flatnonzero(masks[at])
        to_own = np.einsum("nf,nf->n", units[own], unit_rows(sums[at] - units[own]))
        wrong = own[(to_own < _NOT_OWN) & (cosine[own, best[own]] > _OTHER)]
        for other in np.unique(best[wrong]).tolist():
            group = wrong[best[wrong] == other]
            if len(group) < max(5, _MISPLACED_SHARE * len(own)):
                continue
            # The group pulls the direction of its category towards itself: measured without it, all of it shows.
            others = unit_rows(sums[at] - units[group].sum(axis=0) - units[own] * ~np.isin(own, group)[:, None])
            to_others = np.einsum("nf,nf->n", units[own], others)
            belongs = (to_others < _NOT_OWN) & (cosine[own, other] > _OTHER)
            idx = own[belongs].tolist()
            ours, theirs = float(to_others[belongs].mean()), float(cosine[idx, other].mean())
            findings.append(
                Finding(
                    "category",
                    "warning",
                    f"{len(idx)} items are labelled {name} but lie among {names[other]}: {_names(items, idx)}",
                    f"Their mean cosine with the other items of {name} is {ours:.2f}, with those of {names[other]} "
                    f"{theirs:.2f}. Users treat them as {names[other]}: their category may be wrong.",
                    tuple(idx[:100]),
                )
            )
    return sorted(findings, key=lambda finding: -len(finding.item_idx))[:10]


def zero_vectors(vectors: NDArray[np.float32]) -> list[Finding]:
    """Find items without a vector."""
    idx = np.flatnonzero(~vectors.any(axis=1)).tolist()
    if not idx:
        return []
    return [
        Finding(
            "zero",
            "warning",
            f"{len(idx):,} items have no vector",
            "All their factors are zero: they are similar to nothing, and lists order them by bias alone.",
            tuple(idx[:100]),
        )
    ]


def popularity_in_lengths(vectors: NDArray[np.float32], items: ItemLabels) -> list[Finding]:
    """Find out whether the lengths of the vectors follow the numbers of ratings."""
    r = rank_correlation(np.linalg.norm(vectors, axis=1), items.n_ratings)
    if abs(r) < _FOLLOWS:
        return []
    return [
        Finding(
            "popularity",
            "note",
            f"The lengths of the vectors follow popularity (rank correlation {r:.2f})",
            "Scores then favour popular items beyond their biases. Usual in a ranking model.",
        )
    ]


def chance_neighbours(
    vectors: NDArray[np.float32], items: ItemLabels, near: Neighbours, seed: int = 0
) -> list[Finding]:
    """Find items whose nearest neighbours are no nearer than chance would have them."""
    if not near.k:
        return []
    limit = chance_cosine(vectors, seed=seed)
    idx = np.flatnonzero((near.cosine[:, 0] < limit) & vectors.any(axis=1))
    share = len(idx) / len(vectors)
    if share <= 0.05:  # by definition of the level
        return []
    few = float(np.median(items.n_ratings[idx]))
    order = idx[np.argsort(near.cosine[idx, 0], kind="stable")]
    return [
        Finding(
            "chance",
            "note" if share < 0.5 else "warning",
            f"The neighbours of {len(idx):,} items ({share:.0%}) are no nearer than chance",
            f"Their nearest cosine is below {limit:.2f}, which items with shuffled factors reach. Half of them have "
            f"{few:,.0f} ratings or fewer: their similar items mean little.",
            tuple(order[:100].tolist()),
        )
    ]


def rank_correlation(one: NDArray[np.number], other: NDArray[np.number]) -> float:
    """Return Spearman's rank correlation; 0 where either is constant."""

    def ranks(values: NDArray[np.number]) -> NDArray[np.float64]:
        _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
        mean: NDArray[np.float64] = (np.cumsum(counts) - (counts - 1) / 2)[inverse]
        return mean

    first, second = ranks(one), ranks(other)
    if len(first) < 2 or not first.std() or not second.std():
        return 0.0
    return float(np.corrcoef(first, second)[0, 1])


def _names(items: ItemLabels, idx: list[int], n: int = 3) -> str:
    """Return the names of the most rated of some items."""
    first = sorted(idx, key=lambda at: (-int(items.n_ratings[at]), at))[:n]
    return ", ".join(items.name(at) for at in first) + (", …" if len(idx) > n else "")
