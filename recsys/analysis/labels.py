"""What figures and tables say of items beside their factors."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

OTHER = "other"
"""Main category of items without any, and of those whose category is too rare for a colour of its own."""


@dataclass(frozen=True, slots=True)
class ItemLabels:
    """Names of items, in the order of `Factors.item_keys`.

    Attributes:
        item_ids: (n_items,) external ids.
        titles: (n_items,) titles; None or blank where there is none.
        categories: (n_items,) the categories of each item, the main one first.
        n_ratings: (n_items,) how many ratings each item has.
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
        """The title on one line, or the id of an item without one."""
        return " ".join((self.titles[item_idx] or "").split()) or self.item_ids[item_idx]

    def rated(self, item_idx: int) -> str:
        """How many ratings the item has, in words."""
        n = int(self.n_ratings[item_idx])
        return f"{n:,} rating{'' if n == 1 else 's'}"

    def main_categories(self, most: int) -> list[str]:
        """The first category of each item: (n_items,). All but the `most` frequent become `OTHER`."""
        first = [categories[0] if categories else OTHER for categories in self.categories]
        ranked = Counter(name for name in first if name != OTHER).most_common()
        # Equal counts in the order of the alphabet, so that colours do not hang on the order of items.
        kept = {name for name, _ in sorted(ranked, key=lambda pair: (-pair[1], pair[0]))[:most]}
        return [name if name in kept else OTHER for name in first]
