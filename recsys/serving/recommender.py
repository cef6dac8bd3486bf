"""The answers: lists, similar items, popularity and predictions, over one immutable snapshot."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import count
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection

from recsys.database.items import StoredItem
from recsys.database.models import live_numbers, load_factors, version
from recsys.errors import NoModelError, NotFoundError
from recsys.results import ItemList, ListedItem, Objective, Order, PopularBy, Prediction, Predictions, Source
from recsys.scoring.search import Excluded, Index, TopN
from recsys.serving.catalogue import Catalogue, read_catalogue
from recsys.serving.live_model import LiveModel
from recsys.serving.users import UserState

MIN_RATINGS = 10
"""Fewest ratings of an item in a list by bias or mean, unless asked otherwise, and at the head of similar items."""

_LITTLE_KNOWN = 4.0
"""What similar items of fewer ratings are put back by: more than any two cosines differ."""


@dataclass(frozen=True, slots=True)
class Wish:
    """What a list should be like.

    Attributes:
        n: how many items.
        exclude_seen: leave out what the user has rated.
        exclude: (n_excluded,) places of other items to leave out.
        among: (n_candidates,) places to choose from; None: all.
        categories: list only items that have one of these; none: all.
        min_ratings: fewest ratings of a listed item.
    """

    n: int = 10
    exclude_seen: bool = True
    exclude: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    among: NDArray[np.int64] | None = None
    categories: tuple[str, ...] = ()
    min_ratings: int = 0


DEFAULT_WISH = Wish()


class Search(NamedTuple):
    """One list to be found by `best_items`: of `among` the `n` best for `vector` (width,), without `excluded`.

    Attributes:
        offset: what is added to the scores of all items: b_u + b.
    """

    among: Index
    vector: NDArray[np.float32]
    offset: float
    n: int
    excluded: Excluded


class Listed(NamedTuple):
    """A list as places and scores."""

    number: int | None
    source: Source
    best: TopN
    fallback: str | None = None


@dataclass(frozen=True)
class Recommender:
    """One consistent snapshot: the catalogue and the live versions. Nothing in it ever changes.

    Attributes:
        number: no two snapshots of a process have the same.
    """

    catalogue: Catalogue
    models: dict[Objective, LiveModel]
    number: int = field(default_factory=count().__next__, compare=False)
    _rankings: dict[tuple[PopularBy, Order], tuple[NDArray[np.float64], NDArray[np.int64]]] = field(
        default_factory=dict, repr=False, compare=False
    )

    @property
    def list_model(self) -> LiveModel | None:
        """The version that lists come from: ranking, and where none is live, rating."""
        return self.models.get("ranking") or self.models.get("rating")

    @property
    def rating_scale(self) -> tuple[float, float] | None:
        """Lowest and highest rating of the live version; None where none is live."""
        model = self.models.get("rating") or self.models.get("ranking")
        return model.version.training.rating_scale if model else None

    def model_for_lists(self, asked: str | None = None) -> LiveModel:
        """The live version of an objective, or that of a number; by default the one that lists come from.

        Args:
            asked: `ranking`, `rating`, or the number of a live version.

        Raises:
            NoModelError: none is live.
            NotFoundError: that number is not live.
        """
        if asked is None:
            model = self.list_model
            if model is None:
                raise _nothing_live("ranking")
            return model
        for objective, model in self.models.items():
            if asked in (objective, str(model.number)):
                return model
        if asked in ("ranking", "rating"):
            raise _nothing_live("rating" if asked == "rating" else "ranking")
        raise NotFoundError(
            f"model version {asked} is not live: ask for `ranking`, `rating` or one of "
            f"{sorted(model.number for model in self.models.values())}, or publish it first"
        )

    def search_for(self, model: LiveModel, user: UserState, wish: Wish = DEFAULT_WISH) -> Search | None:
        """What to search for the user's list; None where they have no row, and get popularity."""
        if user.row is None:
            return None
        offset = user.row.bias + model.version.global_bias
        return Search(model.index, user.row.vector, offset, wish.n, self._excluded(user, wish))

    def found(self, model: LiveModel, user: UserState, best: TopN) -> Listed:
        """A list that was searched for."""
        return Listed(model.number, user.source, best, user.fallback)

    def popularity(self, model: LiveModel, user: UserState, wish: Wish = DEFAULT_WISH) -> Listed:
        """The most rated items, for a user without a row; first those of the categories that the user has."""
        excluded = self._excluded(user, wish)
        counts = self.catalogue.n_ratings
        _, order = self._ranked("count", "desc")
        mine = self.catalogue.in_categories(user.categories) if user.categories else order[:0]
        if len(mine):
            among = np.zeros(self.catalogue.n_items, bool)
            among[mine] = True
            order = np.concatenate([order[among[order]], order[~among[order]]])
        best = _first(order, wish.n, excluded, self.catalogue.n_items)
        said = f"{user.fallback}: the most rated items"
        if len(mine):
            said += f", those of the user's categories first ({', '.join(user.categories)})"
        return Listed(model.number, "popularity", TopN(best, counts[best].astype(np.float64)), said)

    def recommend(self, model: LiveModel, users: Sequence[UserState], wish: Wish = DEFAULT_WISH) -> list[Listed]:
        """The `n` best items for each user by z = p_u · q_i + b_u + b_i + b, without what they have rated.

        A user of whom nothing is known gets the most rated items instead (`source: popularity`).
        """
        searches = [self.search_for(model, user, wish) for user in users]
        found = iter(find([search for search in searches if search is not None]))
        return [
            self.popularity(model, user, wish) if search is None else self.found(model, user, next(found))
            for user, search in zip(users, searches, strict=True)
        ]

    def search_similar(self, item_id: str, n: int = 10, categories: Sequence[str] = ()) -> tuple[LiveModel, Search]:
        """What to search for the items whose factors point the same way: cos(q_i, q_j).

        Items with fewer than 10 ratings come after all others: where they point is mostly chance, or their metadata.

        Raises:
            NoModelError: no version is live.
            NotFoundError: no such item, or the version does not know it yet.
        """
        model = self.model_for_lists()
        place = self.place_of(item_id)
        if not model.known[place]:
            raise NotFoundError(
                f"item {item_id!r} has no ratings in model version {model.number}: it is known after the "
                "next training that sees one"
            )
        direction = model.embeddings[place] * model.inverse_norms[place]
        excluded: Excluded = np.array([place])
        if categories:
            excluded = ~self._mask_of(self.catalogue.in_categories(categories))
            excluded[place] = True
        return model, Search(self._cosines, direction, 0.0, n, excluded)

    def similar(self, model: LiveModel, best: TopN) -> Listed:
        """A list of similar items that was searched for."""
        behind = np.where(self.catalogue.n_ratings[best.item_idx] < MIN_RATINGS, _LITTLE_KNOWN, 0.0)
        return Listed(model.number, "model", TopN(best.item_idx, np.round(best.scores + behind, 6)))

    def popular(
        self,
        by: PopularBy = "bias",
        n: int = 10,
        *,
        order: Order = "desc",
        min_ratings: int | None = None,
        categories: Sequence[str] = (),
    ) -> Listed:
        """Items by bias ("liked beyond its kind"), number of ratings or mean rating.

        Args:
            order: `asc` for the other end of the list.
            min_ratings: fewest ratings of a listed item; None: 10 by bias and mean, 0 by count.

        Raises:
            NoModelError: by bias, and no rating version is live.
        """
        if min_ratings is None:
            min_ratings = 0 if by == "count" else MIN_RATINGS
        model = self.models.get("rating") or self.list_model
        if by == "bias" and (model is None or model.objective != "rating"):
            raise _nothing_live("rating")
        excluded: Excluded = None
        if min_ratings > 0 or categories:
            excluded = self.catalogue.n_ratings < min_ratings
            if categories:
                excluded |= ~self._mask_of(self.catalogue.in_categories(categories))
        values, places = self._ranked(by, order)
        best = _first(places, n, excluded, self.catalogue.n_items)
        return Listed(model.number if model else None, "popularity", TopN(best, np.round(values[best], 6)))

    def predict(self, user: UserState, item_ids: Sequence[str]) -> Predictions:
        """Predicted ratings: low + (high − low) · sigmoid(z), with nothing in z that the version does not know.

        Args:
            user: their state for the rating version.

        Raises:
            NoModelError: no rating version is live.
            NotFoundError: there is no such item.
        """
        model = self.models.get("rating")
        if model is None:
            raise _nothing_live("rating")
        places = np.array([self.place_of(item_id) for item_id in item_ids], np.int64)
        z = self.rating_scores(model, user, places)
        assert model.version.rating_range is not None
        low, high = model.version.rating_range
        ratings = low + (high - low) / (1 + np.exp(-z))
        return Predictions(
            model_version=model.number,
            source=user.source,
            items=[
                Prediction(item_id=item_id, title=self.catalogue.items[place].title, prediction=rating)
                for item_id, place, rating in zip(item_ids, places.tolist(), ratings.tolist(), strict=True)
            ],
        )

    def rating_scores(self, model: LiveModel, user: UserState, places: NDArray[np.int64]) -> NDArray[np.float64]:
        """z of a user and some items: (n,)."""
        known = model.known[places]
        z = np.full(len(places), model.version.global_bias)
        if user.row is None:
            z[known] += model.item_bias[places[known]]
            return z
        index = Index(model.item_factors, model.item_bias, model.head)
        vectors = np.broadcast_to(user.row.vector, (int(known.sum()), len(user.row.vector)))
        z[known] += index.pair_scores(vectors, places[known])
        return z + user.row.bias

    def place_of(self, item_id: str) -> int:
        """Place of an item in the catalogue.

        Raises:
            NotFoundError: there is no such item.
        """
        place = self.catalogue.idx_of.get(item_id)
        if place is None:
            raise NotFoundError(f"there is no item {item_id[:80]!r}: search by title with GET /v1/items?title=…")
        return place

    def places_of(self, item_ids: Sequence[str]) -> NDArray[np.int64]:
        """Places of items, each once; ids that are not there have none."""
        found = {self.catalogue.idx_of.get(item_id, -1) for item_id in item_ids} - {-1}
        return np.array(sorted(found), np.int64)

    def with_changes(self, changed: list[StoredItem]) -> "Recommender":
        """The same with some items changed or added."""
        catalogue = self.catalogue.with_items(changed)
        models = {objective: model.with_catalogue(catalogue, changed) for objective, model in self.models.items()}
        return Recommender(catalogue, models)

    def as_list(self, listed: Listed) -> ItemList:
        """A list for people and programs."""
        items = self._items(listed.best)
        return ItemList(model_version=listed.number, source=listed.source, items=items)

    def as_json(self, listed: Listed) -> bytes:
        """`as_list` as JSON, written straight from the places."""
        number = b"null" if listed.number is None else b"%d" % listed.number
        items = self._items_as_json(listed.best)
        return b'{"model_version":%b,"source":"%b","items":[%b]}' % (number, listed.source.encode(), items)

    def as_json_lists(self, number: int, user_ids: Sequence[str | None], lists: Sequence[Listed]) -> bytes:
        """Lists of several users as the JSON of `UserLists`."""
        parts = [
            b'{"user_id":%b,"source":"%b","items":[%b]}'
            % (json.dumps(user_id).encode(), listed.source.encode(), self._items_as_json(listed.best))
            for user_id, listed in zip(user_ids, lists, strict=True)
        ]
        return b'{"model_version":%d,"lists":[%b]}' % (number, b",".join(parts))

    def _items(self, best: TopN) -> list[ListedItem]:
        stored = self.catalogue.items
        return [
            ListedItem(item_id=stored[place].item_id, title=stored[place].title, score=score)
            for place, score in zip(best.item_idx.tolist(), best.scores.tolist(), strict=True)
        ]

    def _items_as_json(self, best: TopN) -> bytes:
        head = self.catalogue.json_head
        pairs = zip(best.item_idx.tolist(), best.scores.tolist(), strict=True)
        return b",".join([b"%b%a}" % (head(place), score) for place, score in pairs])

    def _excluded(self, user: UserState, wish: Wish) -> Excluded:
        """What a list for the user leaves out, beside hidden items."""
        seen = user.seen if wish.exclude_seen else user.seen[:0]
        if wish.among is None and not wish.categories and wish.min_ratings <= 0:
            return np.concatenate([seen, wish.exclude]) if len(wish.exclude) else seen
        catalogue = self.catalogue
        excluded = catalogue.n_ratings < wish.min_ratings
        if wish.among is not None:
            excluded |= ~self._mask_of(wish.among)
        if wish.categories:
            excluded |= ~self._mask_of(catalogue.in_categories(wish.categories))
        excluded[seen] = True
        excluded[wish.exclude] = True
        return excluded

    def _mask_of(self, places: NDArray[np.int64]) -> NDArray[np.bool_]:
        mask = np.zeros(self.catalogue.n_items, bool)
        mask[places] = True
        return mask

    def _ranked(self, by: PopularBy, order: Order) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """What all items are ranked by, (n_items,), and the places of those that have it and are not hidden."""
        known = self._rankings.get((by, order))
        if known is None:
            shown = ~self.catalogue.hidden
            values = self.catalogue.n_ratings.astype(np.float64)
            if by == "mean":
                values, shown = self.catalogue.mean_rating, shown & (values > 0)
            elif by == "bias":
                model = self.models["rating"]
                values, shown = model.item_bias.astype(np.float64), shown & model.known
            places = np.flatnonzero(shown)
            ascending = values[places] if order == "asc" else -values[places]
            known = values, places[np.argsort(ascending, kind="stable")]
            self._rankings[by, order] = known
        return known

    @cached_property
    def _cosines(self) -> Index:
        model = self.model_for_lists()
        behind = np.where(self.catalogue.n_ratings < MIN_RATINGS, np.float32(-_LITTLE_KNOWN), np.float32(0))
        out = self.catalogue.hidden | ~model.known
        return Index(model.embeddings, np.where(out, np.float32(-np.inf), behind), scale=model.inverse_norms)


def find(searches: Sequence[Search]) -> list[TopN]:
    """Find the lists of some searches, those among the same items in one matrix product."""
    found: list[TopN | None] = [None] * len(searches)
    by_among: dict[int, list[int]] = {}
    for at, search in enumerate(searches):
        by_among.setdefault(id(search.among), []).append(at)
    for ats in by_among.values():
        mine = [searches[at] for at in ats]
        vectors = np.stack([search.vector for search in mine])
        lists = mine[0].among.best(vectors, [search.n for search in mine], [search.excluded for search in mine])
        for at, best, search in zip(ats, lists, mine, strict=True):
            found[at] = TopN(best.item_idx, np.round(best.scores + search.offset, 6)) if search.offset else best
    return [best for best in found if best is not None]


def load_live_model(connection: Connection, number: int, catalogue: Catalogue) -> LiveModel:
    """Load a version without its users, aligned to the catalogue."""
    factors = load_factors(connection, number, users=False)
    return LiveModel.from_version(version(connection, number), factors, catalogue)


def load_recommender(connection: Connection) -> Recommender:
    """The catalogue and the live versions as they are in the database now, in one consistent state."""
    catalogue = read_catalogue(connection)
    numbers = live_numbers(connection)
    return Recommender(
        catalogue,
        {objective: load_live_model(connection, number, catalogue) for objective, number in numbers.items()},
    )


def _first(order: NDArray[np.int64], n: int, excluded: Excluded, n_items: int) -> NDArray[np.int64]:
    """The first `n` of `order` that are not excluded."""
    if excluded is None or not len(excluded):
        return order[:n]
    mask = excluded
    if excluded.dtype != np.bool_:
        mask = np.zeros(n_items, bool)
        mask[excluded] = True
    n_looked_at = 4 * n + 100  # mostly enough; else four times as many
    while True:
        head = order[:n_looked_at]
        found: NDArray[np.int64] = head[~mask[head]]
        if len(found) >= n or len(head) == len(order):
            return found[:n]
        n_looked_at *= 4


def _nothing_live(objective: Objective) -> NoModelError:
    return NoModelError(f"no {objective} model is live yet: run `recsys train --objective {objective}`")
