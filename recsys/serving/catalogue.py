"""All items of the database and what is known of them, as one immutable snapshot."""

import base64
import json
import unicodedata
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection

from recsys.data.counts import read_counts
from recsys.data.dataset import positions
from recsys.data.items import StoredItem, read_items
from recsys.errors import InputError
from recsys.results import Item, ItemPage

Counts = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]
"""What `read_counts` returns."""


@dataclass(frozen=True, slots=True)
class Catalogue:
    """Items in the order of their keys; a position in these arrays is an item's `place`.

    Items are never deleted and keys only grow, so that places stay as they are while items are added.

    Attributes:
        item_keys: (n_items,) int64, ascending.
        items: what the database has of each.
        by_title: (n_items,) places in the order of (folded title, key).
        titles_text: those folded titles, each ended by a line feed, and
        title_starts: (n_items + 1,) where each begins: text is searched, not 62,000 strings.
        places_by_category: category → places of its items, ascending.
        hidden: (n_items,) mask of items that no list shows.
        n_ratings: (n_items,) int64, how often each was rated.
        mean_rating: (n_items,) float64, 0 where nobody rated it.
        place_of: external id → place.
        json_heads: (n_items,) the beginning of each item in a list as JSON, made when it is first listed.
    """

    item_keys: NDArray[np.int64]
    items: Sequence[StoredItem]
    by_title: NDArray[np.int64]
    titles_text: str = field(repr=False)
    title_starts: NDArray[np.int64] = field(repr=False)
    places_by_category: Mapping[str, NDArray[np.int64]]
    hidden: NDArray[np.bool_]
    n_ratings: NDArray[np.int64]
    mean_rating: NDArray[np.float64]
    place_of: Mapping[str, int]
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

    def search(self, text: str, limit: int, after: str | None = None) -> ItemPage:
        """Items whose title has all the words of `text`, by title; no words: all items.

        Case and accents do not matter. Hidden items are not found.

        Args:
            after: the cursor of the page before. It holds the title and key of that page's last item, so that whatever
                is added or renamed meanwhile, no other item is repeated or skipped.

        Raises:
            InputError: it is not a cursor.
        """
        words = sorted(fold(text).split(), key=len, reverse=True)
        start = 0 if after is None else bisect_right(range(self.n_items), _read_cursor(after), key=self._title_and_key)
        found: list[int] = []
        for at in self._with_word(words[0] if words else "", start):
            title, _ = self._title_and_key(at)
            if not self.hidden[self.by_title[at]] and all(word in title for word in words[1:]):
                found.append(at)
                if len(found) > limit:
                    break
        more = len(found) > limit
        items = [self.item(int(self.by_title[at])) for at in found[:limit]]
        return ItemPage(items=items, next_cursor=_cursor(self._title_and_key(found[limit - 1])) if more else None)

    def _title_and_key(self, at: int) -> tuple[str, int]:
        """Folded title and key of a position in `by_title`."""
        start, end = self.title_starts[at : at + 2].tolist()
        return self.titles_text[start : end - 1], int(self.item_keys[self.by_title[at]])

    def _with_word(self, word: str, start: int) -> Iterator[int]:
        """Positions in `by_title`, from `start` on, of the titles that hold a word; of all where it is empty."""
        if not word:
            yield from range(start, self.n_items)
            return
        while start < self.n_items:
            found = self.titles_text.find(word, int(self.title_starts[start]))
            if found < 0:
                return
            at = int(np.searchsorted(self.title_starts, found, "right")) - 1
            yield at
            start = at + 1

    def with_counts(self, counts: Counts) -> "Catalogue":
        """The same items with other numbers of ratings."""
        n_ratings, mean_rating = _spread(self.item_keys, counts)
        return replace(self, n_ratings=n_ratings, mean_rating=mean_rating)

    def with_items(self, changed: Sequence[StoredItem]) -> "Catalogue":
        """The same with some items changed or added."""
        items = list(self.items)
        for item in sorted(changed, key=lambda item: item.item_key):
            place = self.place_of.get(item.item_id)
            if place is None:
                items.append(item)
            else:
                items[place] = item
        n_new = len(items) - self.n_items
        return _catalogue(
            items, np.append(self.n_ratings, np.zeros(n_new, np.int64)), np.append(self.mean_rating, np.zeros(n_new))
        )


def fold(text: str) -> str:
    """Text for comparing: case and accents gone."""
    if text.isascii():
        return text.casefold()
    decomposed = unicodedata.normalize("NFKD", text)
    return "".join(char for char in decomposed if not unicodedata.combining(char)).casefold()


def read_catalogue(connection: Connection) -> Catalogue:
    """The catalogue as the database has it now."""
    items = read_items(connection)
    item_keys = np.fromiter((item.item_key for item in items), np.int64, len(items))
    return _catalogue(items, *_spread(item_keys, read_counts(connection)))


def _catalogue(
    items: Sequence[StoredItem], n_ratings: NDArray[np.int64], mean_rating: NDArray[np.float64]
) -> Catalogue:
    by_category: dict[str, list[int]] = defaultdict(list)
    for place, item in enumerate(items):
        for category in item.categories:
            by_category[category].append(place)
    folded = [fold(item.title or "") for item in items]
    by_title = sorted(range(len(items)), key=folded.__getitem__)  # stable: equal titles in the order of their keys
    lines = [folded[place] + "\n" for place in by_title]
    return Catalogue(
        item_keys=np.fromiter((item.item_key for item in items), np.int64, len(items)),
        items=items,
        by_title=np.array(by_title, np.int64),
        titles_text="".join(lines),
        title_starts=np.fromiter(accumulate(map(len, lines), initial=0), np.int64, len(lines) + 1),
        places_by_category={name: np.unique(np.array(places)) for name, places in by_category.items()},
        hidden=np.fromiter((item.hidden for item in items), bool, len(items)),
        n_ratings=n_ratings,
        mean_rating=mean_rating,
        place_of={item.item_id: place for place, item in enumerate(items)},
        json_heads=[None] * len(items),
    )


def _spread(item_keys: NDArray[np.int64], counts: Counts) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Numbers of ratings and means of these items."""
    keys, n, total = counts
    place = positions(keys, item_keys)
    n_ratings = np.where(place >= 0, np.append(n, 0)[place], 0)
    sums = np.where(place >= 0, np.append(total, 0.0)[place], 0.0)
    return n_ratings, sums / np.maximum(n_ratings, 1)


def _cursor(at: tuple[str, int]) -> str:
    return base64.urlsafe_b64encode(json.dumps(at).encode()).decode()


def _read_cursor(cursor: str) -> tuple[str, int]:
    try:
        title, key = json.loads(base64.urlsafe_b64decode(cursor.encode()))
        if isinstance(title, str) and type(key) is int:
            return title, key
    except ValueError:
        pass
    raise InputError(f"cursor {cursor[:80]!r} is not one that a page ended with: start without a cursor")
