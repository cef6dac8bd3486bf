"""One consistent state of the catalogue and the live versions."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import count
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection

from recsys.database.items import StoredItem
from recsys.database.models import live_numbers, load_factors, version
from recsys.database.publications import previously_published
from recsys.errors import DamagedVersionError, NoModelError, NotFoundError
from recsys.results import Objective, Order, PopularBy
from recsys.scoring.search import TopN
from recsys.serving.catalogue import Catalogue, read_catalogue
from recsys.serving.filters import NO_FILTERS, Filters
from recsys.serving.live_model import LiveModel
from recsys.serving.popularity import MIN_RATINGS, Popularity, Ranking
from recsys.serving.searches import RankedItems
from recsys.serving.similar import SimilarItems

_NO_ITEMS = np.empty(0, np.int64)


@dataclass(frozen=True)
class Recommender:
    """A snapshot: the catalogue and the live versions. Never changes.

    Attributes:
        number: distinguishes the snapshots of a process.
    """

    catalogue: Catalogue
    models: Mapping[Objective, LiveModel]
    number: int = field(default_factory=count().__next__, compare=False)

    @cached_property
    def popularity(self) -> Popularity:
        """Items by count, mean and bias."""
        return Popularity(self.catalogue, self.models.get("rating"))

    @cached_property
    def similar(self) -> SimilarItems:
        """Similar items, from the ranking version, or from the rating version if no ranking version is live.

        Raises:
            NoModelError: no version is live.
        """
        model = self.models.get("ranking") or self.models.get("rating")
        if model is None:
            raise self.nothing_live("ranking")
        return SimilarItems(self.catalogue, model)

    def list_model(self, name: str | None = None) -> LiveModel | None:
        """Return the version that lists come from.

        Args:
            name: `ranking`, `rating`, or the number of a live version. `None`: the live ranking version, or `None` if
                no ranking version is live, because a rating version orders a catalogue worse than popularity does.

        Raises:
            NoModelError: no version of that objective is live; or there are no items to list at all.
            NotFoundError: no live version has that number.
        """
        if name is None:
            model = self.models.get("ranking")
            if model is None and not self.models and self.catalogue.n_items == 0:
                raise self.nothing_live("ranking")
            return model
        for objective, model in self.models.items():
            if name in (objective, str(model.number)):
                return model
        if name in ("ranking", "rating"):
            raise self.nothing_live("rating" if name == "rating" else "ranking")
        numbers = ", ".join(str(model.number) for model in self.models.values()) or "none"
        raise NotFoundError(
            f"model version {name} is not live (live versions: {numbers}): ask for `ranking`, `rating` or the number "
            "of a live version, or publish this version first"
        )

    def popular(
        self,
        by: PopularBy = "bias",
        n: int = 10,
        order: Order = "desc",
        min_ratings: int | None = None,
        filters: Filters = NO_FILTERS,
        *,
        exclude: NDArray[np.int64] | None = None,
        after: int | None = None,
        trending: Ranking | None = None,
    ) -> RankedItems:
        """Return items by bias ("liked beyond its kind"), number of ratings, mean rating or trend.

        Where no rating version is live, a list by bias is one by number of ratings, and says so.

        Args:
            order: `asc` for the other end of the ranking.
            min_ratings: fewest ratings of a listed item; `None`: 10 by bias and mean, 0 by count and trend.
            exclude: positions of items to leave out.
            after: position of an item; the list continues after it.
            trending: the items ranked by trend, for a list by trend; see `recsys.serving.trending`.
        """
        fallback = None
        if by == "bias" and "rating" not in self.models:
            by, fallback = "count", f"{self.nothing_live('rating')}; these are the most rated items"
        if min_ratings is None:
            min_ratings = MIN_RATINGS if by in ("bias", "mean") else 0
        filters = replace(filters, min_ratings=max(filters.min_ratings, min_ratings))
        ranking = self.popularity.ranking(by, order) if trending is None else trending
        best = ranking.first(n, self.catalogue.exclusions(filters, _NO_ITEMS if exclude is None else exclude), after)
        model = self.models.get("rating") or self.models.get("ranking")
        return RankedItems(
            model.number if model else None,
            "popularity",
            TopN(best.item_idx, np.round(best.scores, 6)),
            fallback,
            by,
        )

    def nothing_live(self, objective: Objective) -> NoModelError:
        """Return the error that no version of an objective is live, with what to do about it.

        A shop that has only events, or ratings that are all equal, has no rating version, and need not wait for one.
        """
        rated = self.catalogue.n_explicit > 0
        means = self.catalogue.mean_rating[rated]
        if objective == "rating" and self.catalogue.n_ratings.any():
            if not rated.any():
                return NoModelError("no rating model is live: there are only events, and predictions need ratings")
            if means.min() == means.max() and rated.sum() > 1:
                return NoModelError(
                    f"no rating model is live: all ratings are {means[0]:g}, so there is nothing to predict"
                )
        return NoModelError(f"no {objective} model is live yet: run `recsys train --objective {objective}`")

    def with_items(self, changed: list[StoredItem]) -> "Recommender":
        """Return the same snapshot with some items changed or added; this one if it has all of them as they are."""
        changed = [item for item in changed if not self.catalogue.holds(item)]
        if not changed:
            return self
        catalogue = self.catalogue.with_items(changed)
        models = {objective: model.with_catalogue(catalogue, changed) for objective, model in self.models.items()}
        return Recommender(catalogue, models)


class LoadedModels(NamedTuple):
    """The versions that are served, and why one of them is not the live version.

    Attributes:
        models: objective → the live version, or the version before it if the live version is damaged.
        problem: names the damaged versions; `None` if there are none.
    """

    models: dict[Objective, LiveModel]
    problem: str | None


def load_models(
    connection: Connection,
    catalogue: Catalogue,
    known: Mapping[int, LiveModel] | None = None,
    refused: Mapping[int, str] | None = None,
) -> LoadedModels:
    """Load the live versions; in place of a damaged or refused one the version that was live before it.

    Args:
        known: number → versions that are loaded already.
        refused: number → why a version must not be served.
    """
    models: dict[Objective, LiveModel] = {}
    problems: list[str] = []
    for objective, live in live_numbers(connection).items():
        for number in (live, *previously_published(connection, objective)):
            if number in (refused or {}):
                problems.append(f"model version {number} was refused: {(refused or {})[number]}")
                continue
            try:
                model = (known or {}).get(number) or load_live_model(connection, number, catalogue)
            except DamagedVersionError as error:
                problems.append(str(error))
                continue
            models[objective] = model
            if number != live:
                problems.append(f"the {objective} version {number} is served in place of the live version {live}")
            break
        else:
            problems.append(f"no {objective} version is served")
    return LoadedModels(models, "; ".join(problems) or None)


def load_recommender(connection: Connection) -> Recommender:
    """Load the catalogue and the live versions, in one consistent state."""
    catalogue = read_catalogue(connection)
    return Recommender(catalogue, load_models(connection, catalogue).models)


def load_live_model(connection: Connection, number: int, catalogue: Catalogue) -> LiveModel:
    """Load a version without its users, aligned to the catalogue."""
    factors = load_factors(connection, number, users=False)
    return LiveModel.from_version(version(connection, number), factors, catalogue)
