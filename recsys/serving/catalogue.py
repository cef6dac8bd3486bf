"""All items of the database and what is known of them, as one immutable snapshot."""

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import islice

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection

from recsys.data.keyed import positions
from recsys.database.counts import read_counts
from recsys.database.items import StoredItem, read_items
from recsys.results import Item, ItemPage
from recsys.serving.titles import TitleIndex, title_index

Counts = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]
"""What `read_counts` returns."""


@dataclass(frozen=True)
class Catalogue:
    """Items in the order of their keys; a position in these arrays is an item's `place`.

    Items are never deleted and keys only grow, so that places stay as they are while items are added.

    Attributes:
        item_keys: (n_items,) int64, ascending.
        items: what the database has of each.
        places_by_category: category → places of its items, ascending.
        hidden: (n_items,) mask of items that no list shows.
        n_ratings: (n_items,) int64, how often each was rated.
        mean_rating: (n_items,) float64, 0 where nobody rated it.
        idx_of: external id → position.
        json_heads: (n_items,) the beginning of each item in a list as JSON, made when it is first listed.
    """

    item_keys: NDArray[np.int64]
    items: Sequence[StoredItem]
    places_by_category: Mapping[str, NDArray[np.int64]]
    hidden: NDArray[np.bool_]
    n_ratings: NDArray[np.int64]
    mean_rating: NDArray[np.float64]
    idx_of: Mapping[str, int]
    json_heads: list[bytes | None] = field(repr=False)

    @property
    def n_items(self) -> int:
        return len(self.item_keys)

    def item(self, place: int) -> Item:
        stored, count = self.items[place], int(self.n_ratings[place])
        year = stored.attributes.get("year")
        return Item(
            item_id=stored.item_id,
            title=stored.title,
            categories=list(stored.categories),
            year=year if isinstance(year, int) else None,
            attributes={name: value for name, value in stored.attributes.items() if name != "year"},
            hidden=stored.hidden,
            n_ratings=count,
            mean_rating=float(self.mean_rating[place]) if count else None,
        )

    def json_head(self, place: int) -> bytes:
        """`{"item_id":…,"title":…,"score":` of an item."""
        head = self.json_heads[place]
        if head is None:
            item = self.items[place]
            as_text = json.dumps({"item_id": item.item_id, "title": item.title}, separators=(",", ":"))
            self.json_heads[place] = head = f'{as_text[:-1]},"score":'.encode()
        return head

    def in_categories(self, categories: Sequence[str]) -> NDArray[np.int64]:
        """Places of the items that have any of the categories; a category nobody has has none."""
        nothing = np.empty(0, np.int64)
        found = [self.places_by_category.get(category, nothing) for category in categories]
        return found[0] if len(found) == 1 else np.unique(np.concatenate([nothing, *found]))

    @cached_property
    def titles(self) -> TitleIndex:
        """Made when a title is first searched: whoever changes an item need not wait for it."""
        return title_index(self.items)

    def search(self, text: str, limit: int, after: str | None = None) -> ItemPage:
        """Items whose title has all the words of `text`, by title; no words: all items.

        Case and accents do not matter. Hidden items are not found.

        Args:
            after: the cursor of the page before; see `TitleIndex.cursor`.

        Raises:
            InputError: it is not a cursor.
        """
        titles = self.titles
        shown = (at for at in titles.search(text, after) if not self.hidden[titles.places[at]])
        found = list(islice(shown, limit + 1))
        items = [self.item(int(titles.places[at])) for at in found[:limit]]
        return ItemPage(items=items, next_cursor=titles.cursor(found[limit - 1]) if len(found) > limit else None)

    def with_counts(self, counts: Counts) -> "Catalogue":
        """The same items with other numbers of ratings."""
        n_ratings, mean_rating = _spread(self.item_keys, counts)
        return replace(self, n_ratings=n_ratings, mean_rating=mean_rating)

    def with_items(self, changed: Iterable[StoredItem]) -> "Catalogue":
        """The same with some items changed or added."""
        items, heads, place_of = list(self.items), list(self.json_heads), dict(self.idx_of)
        hidden = self.hidden.tolist()
        touched: set[str] = set()  # categories
        for item in sorted(changed, key=lambda item: item.item_key):
            place = place_of.setdefault(item.item_id, len(items))
            if place == len(items):
                items.append(item)
                heads.append(None)
                hidden.append(item.hidden)
            touched.update(items[place].categories, item.categories)
            items[place], heads[place], hidden[place] = item, None, item.hidden
        n_new = len(items) - self.n_items
        by_category = {**self.places_by_category, **_by_category(items, touched)}
        return Catalogue(
            item_keys=np.append(self.item_keys, [item.item_key for item in items[self.n_items :]]).astype(np.int64),
            items=items,
            places_by_category={name: places for name, places in by_category.items() if len(places)},
            hidden=np.array(hidden, bool),
            n_ratings=np.append(self.n_ratings, np.zeros(n_new, np.int64)),
            mean_rating=np.append(self.mean_rating, np.zeros(n_new)),
            idx_of=place_of,
            json_heads=heads,
        )


def read_catalogue(connection: Connection) -> Catalogue:
    """The catalogue as the database has it now."""
    items = read_items(connection)
    item_keys = np.fromiter((item.item_key for item in items), np.int64, len(items))
    n_ratings, mean_rating = _spread(item_keys, read_counts(connection))
    return Catalogue(
        item_keys=item_keys,
        items=items,
        places_by_category=_by_category(items),
        hidden=np.fromiter((item.hidden for item in items), bool, len(items)),
        n_ratings=n_ratings,
        mean_rating=mean_rating,
        idx_of={item.item_id: place for place, item in enumerate(items)},
        json_heads=[None] * len(items),
    )


def _by_category(items: Sequence[StoredItem], wanted: set[str] | None = None) -> dict[str, NDArray[np.int64]]:
    """Category → places of its items, ascending, of the categories that are wanted; None: all."""
    found: dict[str, list[int]] = defaultdict(list)
    for place, item in enumerate(items):
        for category in item.categories:
            if wanted is None or category in wanted:
                found[category].append(place)
    empty: list[int] = []
    return {name: np.unique(np.array(found.get(name, empty), np.int64)) for name in (wanted or found)}


def _spread(item_keys: NDArray[np.int64], counts: Counts) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Numbers of ratings and means of these items."""
    keys, n, total = counts
    place = positions(keys, item_keys)
    n_ratings = np.where(place >= 0, np.append(n, 0)[place], 0)
    sums = np.where(place >= 0, np.append(total, 0.0)[place], 0.0)
    return n_ratings, sums / np.maximum(n_ratings, 1)
