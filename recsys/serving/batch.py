"""Lists of many users and visitors at once."""

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Engine

from recsys.database.engine import read_latest
from recsys.errors import InputError
from recsys.results import Explanation, Ignored
from recsys.serving.batching import read_users
from recsys.serving.encode import ItemDetails, metadata_fields, to_json_lists
from recsys.serving.explain import explain_items
from recsys.serving.lists import ListQuery, recommend
from recsys.serving.live_model import LiveModel
from recsys.serving.predictions import predicted_ratings
from recsys.serving.snapshot import Recommender
from recsys.serving.user_cache import UserCache
from recsys.serving.users import UNKNOWN_USER, RatedItems, UserState, new_state, read_rated_items_by_id


class ListRequest(NamedTuple):
    """A list that was requested: for a user by id, for a visitor by ratings (item id, rating), or for both."""

    user_id: str | None
    ratings: Sequence[tuple[str, float]] = ()


def lists_for(
    engine: Engine,
    cache: UserCache,
    recommender: Recommender,
    model: LiveModel | None,
    requests: Sequence[ListRequest],
    query: ListQuery,
    explain: bool = False,
    fields: Collection[str] = (),
    ignored: Sequence[Ignored] = (),
) -> bytes:
    """Return the requested lists, in their order, as the JSON of `UserLists`.

    Args:
        explain: whether to explain each item.
        fields: what the items have beside their title: metadata and `prediction`.
        ignored: parts of the request without effect, which the answer names.

    Raises:
        InputError: a visitor's rating lies outside the scale.
    """
    _check_scale(recommender, requests)
    rated = _read_rated(engine, recommender, requests, explain)
    users = _read_states(engine, cache, recommender, model, requests, rated)
    lists = recommend(recommender, model, users, query)
    number = model.number if model else None
    user_ids = [request.user_id for request in requests]
    details = None
    if explain or fields:
        explanations: list[list[Explanation] | None] = [None] * len(lists)
        predictions: list[NDArray[np.float64] | None] = [None] * len(lists)
        if explain:
            explanations = [
                explain_items(recommender, model, user, mine, ranked)
                for user, mine, ranked in zip(users, rated, lists, strict=True)
            ]
        rating_model = recommender.models.get("rating")
        if "prediction" in fields and rating_model is not None:
            raters = _read_states(engine, cache, recommender, rating_model, requests, rated)
            predictions = [
                predicted_ratings(rating_model, user, ranked.best.item_idx)
                for user, ranked in zip(raters, lists, strict=True)
            ]
        metadata = metadata_fields(fields)
        details = [ItemDetails(metadata, *each) for each in zip(predictions, explanations, strict=True)]
    return to_json_lists(recommender.catalogue, number, user_ids, lists, details, ignored)


def _read_states(
    engine: Engine,
    cache: UserCache,
    recommender: Recommender,
    model: LiveModel | None,
    requests: Sequence[ListRequest],
    rated: Sequence[RatedItems],
) -> list[UserState]:
    user_ids = dict.fromkeys(request.user_id for request in requests if request.user_id is not None)
    cached = {user_id: cache.get(model.number, user_id) if model else None for user_id in user_ids}
    states = {user_id: state for user_id, state in cached.items() if state is not None}
    missing = [user_id for user_id in user_ids if user_id not in states]
    if missing:
        states |= read_users(engine, cache, missing, recommender.catalogue, model)
    result = []
    for request, mine in zip(requests, rated, strict=True):
        state = UNKNOWN_USER if request.user_id is None else states.get(request.user_id, UNKNOWN_USER)
        if request.ratings:
            state = new_state(model, mine, np.union1d(state.seen, mine.item_idx).astype(np.int32))
        result.append(state)
    return result


def _read_rated(
    engine: Engine, recommender: Recommender, requests: Sequence[ListRequest], explain: bool
) -> list[RatedItems]:
    """Return the ratings of each request: the stored ones, if they are needed, overridden by those it came with."""
    user_ids = [r.user_id for r in requests if r.user_id is not None and (explain or r.ratings)]
    stored: Mapping[str, RatedItems] = {}
    if user_ids:
        with read_latest(engine) as connection:
            stored = read_rated_items_by_id(connection, user_ids, recommender.catalogue)
    result = []
    for request in requests:
        mine = stored.get(request.user_id or "", RatedItems.none())
        ratings = dict(zip(mine.item_idx.tolist(), mine.ratings.tolist(), strict=True))
        for item_id, rating in request.ratings:
            item_idx = recommender.catalogue.idx_of.get(item_id)
            if item_idx is not None:
                ratings[item_idx] = rating
        result.append(RatedItems(np.array(list(ratings), np.int64), np.array(list(ratings.values()), np.float32)))
    return result


def _check_scale(recommender: Recommender, requests: Sequence[ListRequest]) -> None:
    scale = recommender.rating_scale
    if scale is None:
        return
    low, high = scale
    for user, request in enumerate(requests):
        for row, (_, rating) in enumerate(request.ratings):
            if not low <= rating <= high:
                where = f"body.users.{user}.ratings.{row}"
                raise InputError(f"{where}: rating {rating:g} is outside the scale: expected {low:g} to {high:g}")
