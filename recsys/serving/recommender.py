"""The answers: top-N, similar items and popularity, over one immutable snapshot."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection

from recsys.data.dataset import positions
from recsys.errors import NoModelError, NotFoundError
from recsys.factors import Objective
from recsys.registry import ItemSide, live_numbers, load_items
from recsys.results import ItemList, ListedItem, Order, PopularBy, Source
from recsys.scoring.search import top_n
from recsys.serving.catalogue import Catalogue, read_catalogue
from recsys.serving.users import UserState

MIN_RATINGS = 10
"""Fewest ratings of an item in a list by bias or mean, unless asked otherwise, and at the head of similar items."""


@dataclass(frozen=True, slots=True)
class LiveModel:
    """The item side of one live version, placed in the catalogue.

    Attributes:
        place: (n_items of the model,) position in the catalogue of each of the model's items.
        directions: (n_items of the model, width) item embeddings of length one; zero stays zero.
    """

    side: ItemSide
    place: NDArray[np.int64]
    directions: NDArray[np.float32]

    @property
    def number(self) -> int:
        return self.side.version.number


@dataclass(frozen=True, slots=True)
class Recommender:
    """One consistent snapshot: the catalogue and the live versions. Nothing in it ever changes."""

    catalogue: Catalogue
    models: dict[Objective, LiveModel]

    @property
    def list_model(self) -> LiveModel | None:
        """The version that lists come from: ranking, and where none is live, rating."""
        return self.models.get("ranking") or self.models.get("rating")

    @property
    def rating_scale(self) -> tuple[float, float] | None:
        """Lowest and highest rating of the live version; None where none is live."""
        model = self.models.get("rating") or self.models.get("ranking")
        return model.side.version.training.rating_scale if model else None

    def recommend(self, user: UserState, n: int = 10, *, exclude_seen: bool = True) -> ItemList:
        """The `n` best items for a user by z = p_u · q_i + b_i, without what they have rated.

        A user whom the version does not know gets the most rated items instead (`source: popularity`).

        Args:
            user: their state for `list_model`.
            exclude_seen: leave out what they have rated.

        Raises:
            NoModelError: no version is live.
        """
        model = self.list_model
        if model is None:
            raise _nothing_live("ranking")
        seen = positions(self.catalogue.item_keys, user.seen_keys) if exclude_seen else np.empty(0, np.int64)
        excluded = self._excluded(seen)
        if user.vector is None:
            best = top_n(self.catalogue.n_ratings.astype(np.float32), n, excluded)
            return self._list(model.number, "popularity", best, self.catalogue.n_ratings[best])
        scores = model.side.scores(user.vector, user.bias)  # (n_items of the model,)
        best = top_n(scores, n, excluded[model.place])
        return self._list(model.number, "model", model.place[best], scores[best])

    def similar(self, item_id: str, n: int = 10) -> ItemList:
        """The items whose factors point the same way: cos(q_i, q_j).

        Items with fewer than 10 ratings come after all others: where they point is mostly chance, or their metadata.

        Raises:
            NoModelError: no version is live.
            NotFoundError: no such item, or the version does not know it yet.
        """
        model = self.list_model
        if model is None:
            raise _nothing_live("ranking")
        place = self.place_of(item_id)
        idx = int(positions(model.side.item_keys, self.catalogue.item_keys[[place]])[0])
        if idx < 0:
            raise NotFoundError(
                f"item {item_id!r} has no ratings in model version {model.number}: it is known after the "
                "next training that sees one"
            )
        cosines = model.directions @ model.directions[idx]  # (n_items of the model,)
        excluded = self.catalogue.hidden[model.place]
        excluded[idx] = True
        little_known = self.catalogue.n_ratings[model.place] < MIN_RATINGS
        best = top_n(cosines, n, excluded | little_known)
        if len(best) < n:
            best = np.concatenate([best, top_n(cosines, n - len(best), excluded | ~little_known)])
        return self._list(model.number, "model", model.place[best], cosines[best])

    def popular(
        self,
        by: PopularBy = "bias",
        n: int = 10,
        *,
        order: Order = "desc",
        min_ratings: int | None = None,
    ) -> ItemList:
        """Items by bias ("liked beyond its kind"), number of ratings or mean rating.

        Args:
            order: `asc` for the other end of the list.
            min_ratings: fewest ratings of a listed item; None: 10 by bias and mean, 0 by count.

        Raises:
            NoModelError: by bias, and no rating version is live.
        """
        if min_ratings is None:
            min_ratings = 0 if by == "count" else MIN_RATINGS
        catalogue = self.catalogue
        excluded = catalogue.hidden | (catalogue.n_ratings < min_ratings)
        model = self.models.get("rating") or self.list_model
        if by == "bias":
            if model is None or model.side.version.objective != "rating":
                raise _nothing_live("rating")
            values = np.zeros(catalogue.n_items)
            values[model.place] = model.side.item_bias
            excluded |= ~np.isin(np.arange(catalogue.n_items), model.place)
        elif by == "count":
            values = catalogue.n_ratings.astype(np.float64)
        else:
            values = catalogue.mean_rating
            excluded |= catalogue.n_ratings == 0
        best = top_n((values if order == "desc" else -values).astype(np.float32), n, excluded)
        return self._list(model.number if model else None, "popularity", best, values[best])

    def place_of(self, item_id: str) -> int:
        """Position of an item in the catalogue.

        Raises:
            NotFoundError: there is no such item.
        """
        place = self.catalogue.position.get(item_id)
        if place is None:
            raise NotFoundError(f"there is no item {item_id!r}: search by title with GET /v1/items?title=…")
        return place

    def _excluded(self, seen: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Mask over the catalogue of hidden and seen items."""
        excluded = self.catalogue.hidden.copy()
        excluded[seen[seen >= 0]] = True
        return excluded

    def _list(
        self,
        number: int | None,
        source: Source,
        places: NDArray[np.int64],
        scores: NDArray[np.float32] | NDArray[np.float64] | NDArray[np.int64],
    ) -> ItemList:
        item_ids, titles = self.catalogue.item_ids, self.catalogue.titles
        items = [
            ListedItem(item_id=item_ids[place], title=titles[place], score=score)
            for place, score in zip(places.tolist(), scores.tolist(), strict=True)
        ]
        return ItemList(model_version=number, source=source, items=items)


def load_recommender(connection: Connection) -> Recommender:
    """The catalogue and the live versions as they are in the database now, in one consistent state."""
    catalogue = read_catalogue(connection)
    models = {}
    for objective, number in live_numbers(connection).items():
        side = load_items(connection, number)
        lengths = np.linalg.norm(side.embeddings, axis=1, keepdims=True)
        models[objective] = LiveModel(
            side=side,
            place=positions(catalogue.item_keys, side.item_keys),
            directions=(side.embeddings / np.where(lengths > 0, lengths, 1)).astype(np.float32),
        )
    return Recommender(catalogue, models)


def _nothing_live(objective: Objective) -> NoModelError:
    return NoModelError(f"no {objective} model is live yet: run `recsys train --objective {objective}`")
