"""Names, categories and rating counts of items, for figures and tables."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

OTHER = "other"
"""Main category of items without a category, and of items whose category is too rare for a colour of its own."""


@dataclass(frozen=True, slots=True)
class ItemLabels:
    """Names of items, in the order of `Factors.item_keys`.

    Attributes:
        item_ids: (n_items,) external ids.
        titles: (n_items,) titles; None or blank for an item without one.
        categories: (n_items,) the categories of each item, the main one first.
        n_ratings: (n_items,) number of ratings of each item.
    """

    item_ids: Sequence[str]
    titles: Sequence[str | None]
    categories: Sequence[Sequence[str]]
    n_ratings: NDArray[np.int64]

    def __post_init__(self) -> None:
        lengths = {len(self.item_ids), len(self.titles), len(self.categories), len(self.n_ratings)}
        if len(lengths) > 1:
            raise ValueError(f"item_ids, titles, categories and n_ratings differ in length: {sorted(lengths)}")

    def __len__(self) -> int:
        return len(self.item_ids)

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

    def main_categories(self, n: int) -> list[str]:
        """Return the first category of each item: (n_items,). All but the n most frequent become `OTHER`."""
        first = [categories[0] if categories else OTHER for categories in self.categories]
        ranked = Counter(name for name in first if name != OTHER).most_common()
        # Equal counts are ordered by name, so that the colours do not depend on the order of the items.
        kept = {name for name, _ in sorted(ranked, key=lambda pair: (-pair[1], pair[0]))[:n]}
        return [name if name in kept else OTHER for name in first]
