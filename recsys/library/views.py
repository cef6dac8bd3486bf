"""Model versions as `recsys.analysis` looks at them, from a database or from a trained model in memory."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from operator import attrgetter
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection

from recsys.analysis.labels import ItemLabels
from recsys.analysis.maps import ItemMap
from recsys.analysis.view import ModelView
from recsys.data.dataset import NO_TIME, Ratings
from recsys.database.clock import now_ms
from recsys.database.maps import has_map, read_map
from recsys.database.model_rows import read_users_side, some_user_keys
from recsys.database.models import load_factors, version
from recsys.database.user_states import read_ratings_of
from recsys.factors import Factors
from recsys.serving.catalogue import Catalogue

if TYPE_CHECKING:
    from recsys.library.loading import RatingData


def read_view(
    connection: Connection,
    number: int,
    catalogue: Catalogue,
    *,
    users: bool = False,
    ratings: Ratings | None = None,
    with_map: bool = True,
    factors: Factors | None = None,
) -> ModelView:
    """Read a model version with the names of its items.

    Args:
        users: read the users too, for lists and residuals.
        ratings: for lists and residuals.
        with_map: read its map too, if one is stored.
        factors: of the version, where they are in memory already.

    Raises:
        NotFoundError: there is no such version.
        DamagedVersionError: what is stored is not what was written.
    """
    stored = version(connection, number)
    if factors is None:
        factors = load_factors(connection, number, users=users)
    return ModelView(
        number=stored.number,
        objective=stored.objective,
        created_at=stored.created_at,
        configuration=stored.training.configuration,
        metrics=stored.training.metrics,
        baselines=stored.training.baselines,
        history=stored.training.history,
        factors=factors,
        items=labels_of(catalogue, catalogue.positions(factors.item_keys)),
        stored_map=item_map_of(connection, number, factors) if with_map else None,
        ratings=ratings,
    )


def with_some_users(
    connection: Connection, view: ModelView, n_users: int = 1000, among: Sequence[int] | None = None
) -> ModelView:
    """Return a view with some of its users and their ratings, for residuals and lists.

    Args:
        n_users: the largest number of users, evenly chosen.
        among: keys of users to choose in their place, at most some thousand; those that the version does not know are
            left out.
    """
    keys = some_user_keys(connection, view.number, n_users) if among is None else list(among)
    side = read_users_side(connection, view.number, view.factors.n_factors, keys)
    user_key, item_key, rating, is_implicit = read_ratings_of(connection, keys)
    if view.objective == "rating":
        user_key, item_key, rating = user_key[~is_implicit], item_key[~is_implicit], rating[~is_implicit]
    user_keys, user_idx = np.unique(user_key, return_inverse=True)
    item_keys, item_idx = np.unique(item_key, return_inverse=True)
    ratings = Ratings(
        user_idx=user_idx.astype(np.int32),
        item_idx=item_idx.astype(np.int32),
        rating=rating,
        rated_at=np.full(len(rating), NO_TIME),
        user_keys=user_keys,
        item_keys=item_keys,
        user_hash=np.zeros(len(user_keys), np.uint64),
        item_hash=np.zeros(len(item_keys), np.uint64),
    )
    users = replace(side, features=view.factors.users.features)
    return replace(view, factors=replace(view.factors, users=users), ratings=ratings)


def stored_item_map(connection: Connection, number: int) -> ItemMap | None:
    """Return the map that is stored with a version; `None` without one."""
    if not has_map(connection, number):
        return None
    return item_map_of(connection, number, load_factors(connection, number, users=False))


def item_map_of(connection: Connection, number: int, factors: Factors) -> ItemMap | None:
    """Return the map that is stored with a version whose factors were read; `None` without one."""
    found = read_map(connection, number, factors.n_items)
    return None if found is None else ItemMap(found.method, factors.item_keys, found.xy, found.clusters)


def labels_of(catalogue: Catalogue, item_idx: NDArray[np.int64]) -> ItemLabels:
    """Return the names and counts of some items of a catalogue, in the given order."""
    items = list(catalogue.items)
    everything = len(item_idx) == catalogue.n_items and bool((item_idx == np.arange(catalogue.n_items)).all())
    if not everything:
        items = [items[idx] for idx in item_idx.tolist()]
    n_ratings = catalogue.n_ratings[item_idx]
    years = [item.attributes.get("year") for item in items]
    if not set(map(type, years)) <= {int, type(None)}:
        years = [value if isinstance(value, int) else None for value in years]
    year = np.array(years, np.float64)  # NaN for None
    return ItemLabels(
        item_ids=list(map(attrgetter("item_id"), items)),
        titles=list(map(attrgetter("title"), items)),
        categories=list(map(attrgetter("categories"), items)),
        n_ratings=n_ratings,
        mean_rating=np.where(n_ratings > 0, catalogue.mean_rating[item_idx], np.nan),
        year=np.empty(0) if np.isnan(year).all() else year,
        by_category=catalogue.idx_by_category if everything else None,
    )


def view_of_model(
    data: "RatingData",
    factors: Factors,
    catalogue: Catalogue,
    configuration: Mapping[str, Any],
    metrics: Mapping[str, float],
    history: Sequence[Mapping[str, object]],
) -> ModelView:
    """Return the view of a model that no database has stored."""
    return ModelView(
        number=0,
        objective=factors.objective,
        created_at=now_ms(),
        configuration=configuration,
        metrics=metrics,
        baselines={},
        history=history,
        factors=factors,
        items=labels_of(catalogue, catalogue.positions(factors.item_keys)),
        ratings=data.ratings,
    )
