"""Names, categories and counts of items, for figures and tables."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class ItemLabels:
    """Names of items, in the order of `Factors.item_keys`.

    Attributes:
        item_ids: (n_items,) external ids.
        titles: (n_items,) titles; None or blank for an item without one.
        categories: (n_items,) the categories of each item. An item counts in each of them.
        n_ratings: (n_items,) number of ratings of each item.
        mean_rating: (n_items,) float64, NaN without ratings; empty if it is not known.
        year: (n_items,) float64, NaN where it is not known; empty if no item has one.
        by_category: category → positions of its items, ascending, where they are known already.
    """

    item_ids: Sequence[str]
    titles: Sequence[str | None]
    categories: Sequence[Sequence[str]]
    n_ratings: NDArray[np.int64]
    mean_rating: NDArray[np.float64] = field(default_factory=lambda: np.empty(0))
    year: NDArray[np.float64] = field(default_factory=lambda: np.empty(0))
    by_category: Mapping[str, NDArray[np.int64]] | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        lengths = {len(self.item_ids), len(self.titles), len(self.categories), len(self.n_ratings)}
        lengths |= {len(column) for column in (self.mean_rating, self.year) if len(column)}
        if len(lengths) > 1:
            raise ValueError(f"item_ids, titles, categories and n_ratings differ in length: {sorted(lengths)}")

    def __len__(self) -> int:
        return len(self.item_ids)

    def select(self, item_idx: NDArray[np.int64]) -> "ItemLabels":
        """Return the labels of some items, in the given order."""
        idx = item_idx.tolist()
        return ItemLabels(
            item_ids=[self.item_ids[at] for at in idx],
            titles=[self.titles[at] for at in idx],
            categories=[self.categories[at] for at in idx],
            n_ratings=self.n_ratings[item_idx],
            mean_rating=self.mean_rating[item_idx] if len(self.mean_rating) else self.mean_rating,
            year=self.year[item_idx] if len(self.year) else self.year,
        )

    @cached_property
    def idx_of(self) -> dict[str, int]:
        """External id → position."""
        return {item_id: idx for idx, item_id in enumerate(self.item_ids)}

    @cached_property
    def names(self) -> list[str]:
        """(n_items,) `name` of each item."""
        return [self.name(item_idx) for item_idx in range(len(self))]

    def name(self, item_idx: int) -> str:
        """Return the title on one line, or the id of an item without a title."""
        return " ".join((self.titles[item_idx] or "").split()) or self.item_ids[item_idx]

    def rating_count(self, item_idx: int) -> str:
        """Return the number of ratings in words: `1 rating`, `1,234 ratings`."""
        n = int(self.n_ratings[item_idx])
        return f"{n:,} rating{'' if n == 1 else 's'}"

    def most_rated(self, n: int) -> NDArray[np.int64]:
        """Return the positions of the n most rated items, most rated first; equal counts in the order of the items."""
        return np.argsort(-self.n_ratings, kind="stable")[:n].astype(np.int64)

    @cached_property
    def category_idx(self) -> dict[str, NDArray[np.int64]]:
        """Category → positions of its items, ascending; the largest category first, equal ones by name."""
        if self.by_category is not None:
            known = [(name, idx) for name, idx in self.by_category.items() if len(idx)]
            return dict(sorted(known, key=lambda each: (-len(each[1]), each[0])))
        counts = Counter(name for categories in self.categories for name in set(categories))
        found: dict[str, list[int]] = {name: [] for name in sorted(counts, key=lambda name: (-counts[name], name))}
        for idx, categories in enumerate(self.categories):
            for name in set(categories):
                found[name].append(idx)
        return {name: np.array(idx, np.int64) for name, idx in found.items()}

    def in_category(self, name: str) -> NDArray[np.bool_]:
        """Return a mask (n_items,) of the items of a category."""
        mask = np.zeros(len(self), bool)
        mask[self.category_idx.get(name, [])] = True
        return mask
