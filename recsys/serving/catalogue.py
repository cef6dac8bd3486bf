"""All items of the database and what is known of them, as one immutable snapshot."""

import unicodedata
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection, func, select

from recsys.data import schema
from recsys.data.database import fetch_columns
from recsys.data.dataset import positions
from recsys.errors import InputError
from recsys.results import Item, ItemPage


@dataclass(frozen=True, slots=True)
class Catalogue:
    """Items in the order of their keys; a position in these arrays is an item's `item_position`.

    Attributes:
        item_keys: (n_items,) int64, ascending.
        item_ids, titles, categories, years: one each, for people.
        folded_titles: titles as `fold` leaves them, for searching.
        by_title: (n_items,) positions ordered by folded title, then key.
        hidden: (n_items,) mask of items that no list shows.
        n_ratings: (n_items,) int64, how often each was rated.
        mean_rating: (n_items,) float64, 0 where nobody rated it.
        position: external id → position.
    """

    item_keys: NDArray[np.int64]
    item_ids: list[str]
    titles: list[str | None]
    folded_titles: list[str]
    by_title: NDArray[np.int64]
    categories: list[list[str]]
    years: list[int | None]
    hidden: NDArray[np.bool_]
    n_ratings: NDArray[np.int64]
    mean_rating: NDArray[np.float64]
    position: dict[str, int]

    @property
    def n_items(self) -> int:
        return len(self.item_keys)

    def item(self, place: int) -> Item:
        count = int(self.n_ratings[place])
        return Item(
            item_id=self.item_ids[place],
            title=self.titles[place],
            categories=self.categories[place],
            year=self.years[place],
            hidden=bool(self.hidden[place]),
            n_ratings=count,
            mean_rating=float(self.mean_rating[place]) if count else None,
        )

    def search(self, text: str, limit: int, after: str | None = None) -> ItemPage:
        """Items whose title has all the words of `text`, by title; no words: all items.

        Case and accents do not matter. Hidden items are not found.

        Args:
            after: the cursor of the page before, an item id.

        Raises:
            InputError: the cursor names no item.
        """
        words = fold(text).split()
        start = 0
        if after is not None:
            if after not in self.position:
                raise InputError(f"cursor {after!r} is not one that a page ended with: start without a cursor")
            start = int(np.flatnonzero(self.by_title == self.position[after])[0]) + 1
        found: list[int] = []
        for place in self.by_title[start:].tolist():
            title = self.folded_titles[place]
            if not self.hidden[place] and all(word in title for word in words):
                found.append(place)
                if len(found) > limit:
                    break
        more = len(found) > limit
        items = [self.item(place) for place in found[:limit]]
        return ItemPage(items=items, next_cursor=items[-1].item_id if more else None)


def fold(text: str) -> str:
    """Text for comparing: case and accents gone."""
    decomposed = unicodedata.normalize("NFKD", text)
    return "".join(char for char in decomposed if not unicodedata.combining(char)).casefold()


def read_catalogue(connection: Connection) -> Catalogue:
    """The catalogue as the database has it now."""
    items, rated = schema.items.c, schema.ratings.c
    rows = connection.execute(
        select(items.item_key, items.item_id, items.title, items.categories, items.attributes, items.hidden).order_by(
            items.item_key
        )
    ).all()
    item_keys = np.fromiter((row.item_key for row in rows), np.int64, len(rows))
    keys, counts, means = fetch_columns(
        connection,
        select(rated.item_key, func.count(), func.avg(rated.rating)).group_by(rated.item_key),
        (np.int64, np.int64, np.float64),
    )
    n_ratings, mean_rating = np.zeros(len(rows), np.int64), np.zeros(len(rows))
    place = positions(item_keys, keys)
    n_ratings[place], mean_rating[place] = counts, means
    item_ids = [row.item_id for row in rows]
    folded = [fold(row.title or "") for row in rows]
    return Catalogue(
        item_keys=item_keys,
        item_ids=item_ids,
        titles=[row.title for row in rows],
        folded_titles=folded,
        by_title=np.array(sorted(range(len(rows)), key=folded.__getitem__), np.int64),
        categories=[row.categories for row in rows],
        years=[row.attributes.get("year") for row in rows],
        hidden=np.fromiter((row.hidden for row in rows), bool, len(rows)),
        n_ratings=n_ratings,
        mean_rating=mean_rating,
        position={item_id: place for place, item_id in enumerate(item_ids)},
    )
