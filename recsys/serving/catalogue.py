"""All items of the database and their metadata, as one immutable snapshot."""

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection

from recsys.data.keyed import positions
from recsys.database.counts import ItemCounts, read_counts
from recsys.database.items import StoredItem, read_items
from recsys.errors import NotFoundError
from recsys.results import Categories, Category, Item, ItemPage
from recsys.serving.filters import NO_FILTERS, AttributeIndex, Filters
from recsys.serving.growing import GrowingIds, GrowingList
from recsys.serving.titles import TitleIndex, title_index

Counts = ItemCounts | tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]
"""What `read_counts` returns, or the same without `n_explicit` if all are ratings."""

as_json = json.JSONEncoder().encode
"""Returns a text as JSON. `json.dumps` with an argument makes an encoder each time."""

_MAX_MASKS = 64
"""Most combinations of filters whose result is kept with a catalogue."""


@dataclass(frozen=True)
class Catalogue:
    """The items of the database. An item's position in these arrays is its `item_idx`.

    Items are never deleted, and new items are appended, so positions stay valid while items are added. Keys are not
    always ascending: PostgreSQL hands out a key before the transaction commits, so a smaller key can arrive later.

    Attributes:
        item_keys: (n_items,) int64.
        items: the stored metadata of each item.
        idx_by_category: category → positions of its items, ascending.
        hidden: (n_items,) mask of items that no list shows.
        n_ratings: (n_items,) int64.
        n_explicit: (n_items,) int64, ratings that say how much.
        mean_rating: (n_items,) float64 of these, 0 for an item without any.
        idx_of: external id → position.
        json_prefixes: position → the beginning of the item in a list as JSON, of those that were listed.
        json_metadata: position and fields → these metadata of the item as JSON, of some that were listed.
        attributes: index of the attributes, for filters.
    """

    item_keys: NDArray[np.int64]
    items: GrowingList[StoredItem]
    idx_by_category: Mapping[str, NDArray[np.int64]]
    hidden: NDArray[np.bool_]
    n_ratings: NDArray[np.int64]
    n_explicit: NDArray[np.int64]
    mean_rating: NDArray[np.float64]
    idx_of: GrowingIds
    json_prefixes: dict[int, bytes] = field(repr=False)
    attributes: AttributeIndex = field(repr=False)
    json_metadata: dict[tuple[int, frozenset[str]], bytes] = field(default_factory=dict, repr=False, compare=False)
    _left_out: dict[Filters, NDArray[np.bool_]] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def from_items(cls, items: Sequence[StoredItem], counts: Counts) -> "Catalogue":
        """Return a catalogue of these items, in their order.

        Args:
            counts: item keys, ascending, with their numbers of ratings and sums of ratings.
        """
        keys, ids, _, categories, _, hidden = zip(*items, strict=True) if items else ((),) * 6
        item_keys = np.array(keys, np.int64)
        # `read_items` gives items with equal categories the same object, so there are few to look into.
        alike: dict[int, list[int]] = defaultdict(list)
        for idx, place in enumerate(map(id, categories)):
            alike[place].append(idx)
        by_category: dict[str, list[list[int]]] = defaultdict(list)
        for found in alike.values():
            for category in categories[found[0]]:
                by_category[category].append(found)
        return cls(
            item_keys=item_keys,
            items=GrowingList(list(items)),
            idx_by_category={
                name: np.unique(np.concatenate([np.array(found, np.int64) for found in parts]))
                for name, parts in by_category.items()
            },
            hidden=np.array(hidden, bool),
            **_align_counts(item_keys, counts),
            idx_of=GrowingIds(dict(zip(ids, range(len(ids)), strict=True))),
            json_prefixes={},
            attributes=AttributeIndex(items),
        )

    @property
    def n_items(self) -> int:
        return len(self.item_keys)

    @cached_property
    def _key_order(self) -> NDArray[np.int64] | None:
        """The order of the keys; `None` if they are ascending."""
        if (self.item_keys[1:] > self.item_keys[:-1]).all():
            return None
        return np.argsort(self.item_keys, kind="stable")

    def positions(self, item_keys: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the positions of items by key, (n,) → (n,); −1 for a key that the catalogue does not have."""
        order = self._key_order
        if order is None:
            return positions(self.item_keys, item_keys)
        found = positions(self.item_keys[order], item_keys)
        return np.where(found >= 0, order[found], -1)

    def require(self, item_id: str) -> int:
        """Return the position of an item.

        Raises:
            NotFoundError: there is no such item.
        """
        item_idx = self.idx_of.get(item_id)
        if item_idx is None:
            raise NotFoundError(f"there is no item {item_id[:80]!r}: search by title with GET /v1/items?title=…")
        return item_idx

    def holds(self, item: StoredItem) -> bool:
        """Return whether an item is in the catalogue, exactly as it is."""
        item_idx = self.idx_of.get(item.item_id)
        return item_idx is not None and self.items[item_idx] == item

    def find(self, item_ids: Iterable[str]) -> NDArray[np.int64]:
        """Return the positions of items, each once, ascending; ids that do not exist are left out."""
        found = {self.idx_of.get(item_id, -1) for item_id in item_ids} - {-1}
        return np.array(sorted(found), np.int64)

    def mask(self, item_idx: NDArray[np.integer]) -> NDArray[np.bool_]:
        """Return a mask (n_items,) of some items."""
        mask = np.zeros(self.n_items, bool)
        mask[item_idx] = True
        return mask

    def category_mask(self, categories: Sequence[str]) -> NDArray[np.bool_]:
        """Return a mask (n_items,) of the items in any of the categories."""
        mask = np.zeros(self.n_items, bool)
        for category in categories:
            mask[self.idx_by_category.get(category, [])] = True
        return mask

    def left_out(self, filters: Filters) -> NDArray[np.bool_]:
        """Return a mask (n_items,) of the items that filters leave out; copy it before changing it."""
        mask = self._left_out.get(filters)
        if mask is None:
            mask = self.n_ratings < filters.min_ratings
            if filters.categories:
                mask |= ~self.category_mask(filters.categories)
            if filters.not_categories:
                mask |= self.category_mask(filters.not_categories)
            if filters.year_from is not None or filters.year_to is not None:
                years = self.attributes.column("year").numbers  # NaN is in no range
                low = -np.inf if filters.year_from is None else filters.year_from
                mask |= ~((years >= low) & (years <= (np.inf if filters.year_to is None else filters.year_to)))
            if filters.attributes:
                mask |= ~self.attributes.mask(filters.attributes)
            mask.flags.writeable = False
            if len(self._left_out) >= _MAX_MASKS:
                self._left_out.clear()
            self._left_out[filters] = mask
        return mask

    def exclusions(self, filters: Filters, item_idx: NDArray[np.integer]) -> NDArray[np.integer] | NDArray[np.bool_]:
        """Return what a list leaves out: the items at these positions, and those that filters leave out."""
        if filters is NO_FILTERS or filters == NO_FILTERS:
            return item_idx
        mask = self.left_out(filters).copy()
        mask[item_idx] = True
        return mask

    def item(self, item_idx: int) -> Item:
        """Return an item as a result."""
        stored, count = self.items[item_idx], int(self.n_ratings[item_idx])
        return Item(
            item_id=stored.item_id,
            title=stored.title,
            categories=list(stored.categories),
            year=year_of(stored),
            attributes={name: value for name, value in stored.attributes.items() if name != "year"},
            hidden=stored.hidden,
            n_ratings=count,
            mean_rating=float(self.mean_rating[item_idx]) if self.n_explicit[item_idx] else None,
        )

    def json_prefix(self, item_idx: int) -> bytes:
        """Return `{"item_id":…,"title":…,"score":` for an item."""
        prefix = self.json_prefixes.get(item_idx)
        if prefix is None:
            item = self.items[item_idx]
            title = "null" if item.title is None else as_json(item.title)
            text = f'{{"item_id":{as_json(item.item_id)},"title":{title},"score":'
            self.json_prefixes[item_idx] = prefix = text.encode()
        return prefix

    @cached_property
    def titles(self) -> TitleIndex:
        """The index of titles, built at the first search: a change of an item does not wait for it."""
        return title_index(self.items)

    def search(self, text: str, limit: int, after: str | None = None) -> ItemPage:
        """Return items whose title has all words of `text`, ordered by title; all items if there are no words.

        Case and accents do not matter. Hidden items are left out.

        Args:
            after: the cursor of the page before; see `TitleIndex.cursor`.

        Raises:
            InputError: the cursor is not valid.
        """
        titles = self.titles
        shown = (at for at in titles.search(text, after) if not self.hidden[titles.item_idx[at]])
        found = list(islice(shown, limit + 1))
        items = [self.item(int(titles.item_idx[at])) for at in found[:limit]]
        return ItemPage(items=items, next_cursor=titles.cursor(found[limit - 1]) if len(found) > limit else None)

    def categories(self) -> Categories:
        """Return all categories of items that are not hidden, by name, with the number of these."""
        shown = ~self.hidden
        counts = ((name, int(shown[idx].sum())) for name, idx in sorted(self.idx_by_category.items()))
        return Categories(categories=[Category(name=name, n_items=n) for name, n in counts if n])

    def with_counts(self, counts: Counts) -> "Catalogue":
        """Return the same items with new numbers of ratings."""
        return replace(self, **_align_counts(self.item_keys, counts), _left_out={})

    def with_items(self, changed: Iterable[StoredItem]) -> "Catalogue":
        """Return the same catalogue with some items changed or added."""
        new: dict[str, StoredItem] = {}
        differing: dict[int, StoredItem] = {}
        by_category = dict(self.idx_by_category)
        hidden: dict[int, bool] = {}
        for item in sorted(changed, key=lambda item: item.item_key):
            item_idx = self.idx_of.get(item.item_id, self.n_items + len(new))
            before: Sequence[str] = ()
            if item_idx >= self.n_items:
                new[item.item_id] = item
            else:
                before = self.items[item_idx].categories
                differing[item_idx] = item
            hidden[item_idx] = item.hidden
            for category in {*before} - {*item.categories}:
                by_category[category] = by_category[category][by_category[category] != item_idx]
                if not len(by_category[category]):
                    del by_category[category]
            for category in {*item.categories} - {*before}:
                found = by_category.get(category, np.empty(0, np.int64))
                by_category[category] = np.insert(found, np.searchsorted(found, item_idx), item_idx)
        items = self.items.with_changes(differing) if differing else self.items
        if new:
            items = items.with_more(list(new.values()))
        n_new = len(items) - self.n_items
        mask = np.append(self.hidden, np.zeros(n_new, bool))
        mask[list(hidden)] = list(hidden.values())
        return Catalogue(
            item_keys=np.append(self.item_keys, [item.item_key for item in items[self.n_items :]]).astype(np.int64),
            items=items,
            idx_by_category=by_category,
            hidden=mask,
            n_ratings=np.append(self.n_ratings, np.zeros(n_new, np.int64)),
            n_explicit=np.append(self.n_explicit, np.zeros(n_new, np.int64)),
            mean_rating=np.append(self.mean_rating, np.zeros(n_new)),
            idx_of=self.idx_of.with_more({item_id: self.n_items + at for at, item_id in enumerate(new)}),
            json_prefixes={},
            attributes=self.attributes.with_items(items, hidden),
        )


def year_of(item: StoredItem) -> int | None:
    """Return the year of an item; `None` if it is not known."""
    year = item.attributes.get("year")
    return year if isinstance(year, int) else None


def read_catalogue(connection: Connection) -> Catalogue:
    """Read the catalogue from the database."""
    return Catalogue.from_items(read_items(connection), read_counts(connection))


def _align_counts(item_keys: NDArray[np.int64], counts: Counts) -> dict[str, Any]:
    """Return the fields `n_ratings`, `n_explicit` and `mean_rating` of items, (n_items,) each; 0 without any."""
    keys, n, total, n_rated = (*counts[:3], counts[3] if len(counts) == 4 else counts[1])
    found = positions(keys, item_keys)
    n_ratings, n_explicit = (np.where(found >= 0, np.append(each, 0)[found], 0) for each in (n, n_rated))
    sums = np.where(found >= 0, np.append(total, 0.0)[found], 0.0)
    return {"n_ratings": n_ratings, "n_explicit": n_explicit, "mean_rating": sums / np.maximum(n_explicit, 1)}
