"""Lists for many users at once."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from sqlalchemy import Engine

from recsys.database.engine import glancing
from recsys.errors import InputError
from recsys.results import UserList, UserLists
from recsys.serving.batching import read_users
from recsys.serving.catalogue import Catalogue
from recsys.serving.explain import explained
from recsys.serving.live_model import LiveModel
from recsys.serving.recommender import Recommender, Wish
from recsys.serving.users import NOBODY, Rated, UserCache, UserState, new_state, read_rated_by


class Asking(NamedTuple):
    """Somebody who wants a list: a user by id, a visitor by ratings (item id, rating), or a user with some more."""

    user_id: str | None
    ratings: Sequence[tuple[str, float]] = ()


def lists_for(
    engine: Engine,
    cache: UserCache,
    recommender: Recommender,
    model: LiveModel,
    asking: Sequence[Asking],
    wish: Wish,
    explain: bool = False,
) -> bytes:
    """Lists for all who ask, in their order, as the JSON of `UserLists`.

    Raises:
        InputError: a visitor's rating is off the scale.
    """
    _check_scale(recommender, asking)
    rated = _rated(engine, recommender, asking, explain)
    users = _states(engine, cache, recommender, model, asking, rated)
    listed = recommender.recommend(model, users, wish)
    if not explain:
        return recommender.as_json_lists(model.number, [asked.user_id for asked in asking], listed)
    lists = []
    for asked, user, mine, found in zip(asking, users, rated, listed, strict=True):
        single = explained(recommender, model, user, mine, found)
        lists.append(
            UserList(user_id=asked.user_id, source=single.source, items=single.items, fallback=single.fallback)
        )
    return UserLists(model_version=model.number, lists=lists).model_dump_json().encode()


def _states(
    engine: Engine,
    cache: UserCache,
    recommender: Recommender,
    model: LiveModel,
    asking: Sequence[Asking],
    rated: Sequence[Rated],
) -> list[UserState]:
    catalogue = recommender.catalogue
    by_id = {asked.user_id: cache.get(model.number, asked.user_id) for asked in asking if asked.user_id is not None}
    missing = [user_id for user_id, state in by_id.items() if state is None]
    if missing:
        by_id |= read_users(engine, cache, missing, catalogue, model)
    states = []
    for asked, mine in zip(asking, rated, strict=True):
        known = NOBODY if asked.user_id is None else by_id[asked.user_id] or NOBODY
        if asked.ratings:
            known = new_state(model, mine, np.union1d(known.seen, mine.places).astype(np.int32))
        states.append(known)
    return states


def _rated(engine: Engine, recommender: Recommender, asking: Sequence[Asking], explain: bool) -> list[Rated]:
    """What each rated: what is stored, where that is needed, and what they came with in its place."""
    catalogue = recommender.catalogue
    wanted = [asked.user_id for asked in asking if asked.user_id is not None and (explain or asked.ratings)]
    stored: dict[str, Rated] = {}
    if wanted:
        with glancing(engine) as connection:
            stored = read_rated_by(connection, wanted, catalogue)
    return [_merged(stored.get(asked.user_id or ""), asked.ratings, catalogue) for asked in asking]


def _merged(stored: Rated | None, given: Sequence[tuple[str, float]], catalogue: Catalogue) -> Rated:
    ratings: dict[int, float] = {}
    if stored is not None:
        ratings = dict(zip(stored.places.tolist(), stored.ratings.tolist(), strict=True))
    for item_id, rating in given:
        place = catalogue.idx_of.get(item_id)
        if place is not None:
            ratings[place] = rating
    return Rated(np.array(list(ratings), np.int64), np.array(list(ratings.values()), np.float32))


def _check_scale(recommender: Recommender, asking: Sequence[Asking]) -> None:
    scale = recommender.rating_scale
    if scale is None:
        return
    low, high = scale
    for at, asked in enumerate(asking):
        for place, (_, rating) in enumerate(asked.ratings):
            if not low <= rating <= high:
                where = f"body.users.{at}.ratings.{place}"
                raise InputError(f"{where}: rating {rating:g} is outside the scale: expected {low:g} to {high:g}")
