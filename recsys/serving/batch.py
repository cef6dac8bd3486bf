"""Lists of many users and visitors at once."""

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Engine

from recsys.database.engine import read_latest
from recsys.database.posts import scale_problem
from recsys.errors import DatabaseError, InputError
from recsys.results import Explanation, Ignored
from recsys.serving.batching import read_users
from recsys.serving.checks import ignored_diversity
from recsys.serving.encode import ItemDetails, metadata_fields, to_json_lists
from recsys.serving.explain import explain_items
from recsys.serving.lists import ListQuery, recommend
from recsys.serving.live_model import LiveModel
from recsys.serving.predictions import predicted_ratings
from recsys.serving.snapshot import Recommender
from recsys.serving.user_cache import UserCache
from recsys.serving.users import UNKNOWN_USER, RatedItems, UserState, new_state, read_rated_items_by_id

_ONLY_SENT = "the database cannot be reached: the list is from the ratings that were sent alone"

UNEXPLAINED = Ignored(
    where="explain",
    value="true",
    reason="the database cannot be reached, so the ratings behind the lists of users are not known",
)


class SentFeedback(NamedTuple):
    """A rating, or the weight of an event, that came with a request and is not stored."""

    item_id: str
    value: float
    is_implicit: bool = False


class ListRequest(NamedTuple):
    """A list that was requested: for a user by id, for a visitor by what they sent, or for both."""

    user_id: str | None
    sent: Sequence[SentFeedback] = ()


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
    scale: tuple[float | None, float | None] = (None, None),
) -> bytes:
    """Return the requested lists, in their order, as the JSON of `UserLists`.

    Args:
        explain: whether to explain each item.
        fields: what the items have beside their title: metadata and `prediction`.
        ignored: parts of the request without effect, which the answer names.
        scale: lowest and highest rating, where they are configured.

    Raises:
        InputError: a visitor's rating lies outside the configured scale.
    """
    check_scale(requests, scale)
    stored, ignored = _read_stored(engine, recommender, requests, explain), list(ignored)
    if stored is None:
        ignored += [
            Ignored(where=f"users.{at}.user_id", value=request.user_id, reason=_ONLY_SENT)
            for at, request in enumerate(requests)
            if request.user_id is not None and request.sent
        ]
        ignored += [UNEXPLAINED] if explain else []
    rated = [_rated(recommender, request, stored or {}) for request in requests]
    users = _read_states(engine, cache, recommender, model, requests, rated)
    lists = recommend(recommender, model, users, query)
    ignored += ignored_diversity(query.diversity, [ranked.source for ranked in lists])
    number = model.number if model else None
    user_ids = [request.user_id for request in requests]
    details = None
    if explain or fields:
        explanations: list[list[Explanation] | None] = [None] * len(lists)
        predictions: list[NDArray[np.float64] | None] = [None] * len(lists)
        if explain:
            explanations = [
                None
                if stored is None and request.user_id is not None
                else explain_items(recommender, model, user, mine.for_model(model), ranked)
                for request, user, mine, ranked in zip(requests, users, rated, lists, strict=True)
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
        if request.sent:
            state = new_state(model, mine.for_model(model), np.union1d(state.seen, mine.item_idx).astype(np.int32))
        result.append(state)
    return result


def _read_stored(
    engine: Engine, recommender: Recommender, requests: Sequence[ListRequest], explain: bool
) -> Mapping[str, RatedItems] | None:
    """Return the stored ratings of users, by id, where they are needed; `None` if the database cannot be reached."""
    user_ids = [r.user_id for r in requests if r.user_id is not None and (explain or r.sent)]
    if not user_ids:
        return {}
    try:
        with read_latest(engine) as connection:
            return read_rated_items_by_id(connection, user_ids, recommender.catalogue)
    except DatabaseError:
        return None


def _rated(recommender: Recommender, request: ListRequest, stored: Mapping[str, RatedItems]) -> RatedItems:
    """Return the feedback of a request: what is stored, with the ratings in it replaced and the events added to."""
    mine = stored.get(request.user_id or "", RatedItems.none())
    is_implicit = np.zeros(len(mine.item_idx), bool) if mine.is_implicit is None else mine.is_implicit
    pairs = zip(mine.item_idx.tolist(), is_implicit.tolist(), strict=True)
    value_of: dict[tuple[int, bool], float] = dict(zip(pairs, mine.ratings.tolist(), strict=True))
    for row in request.sent:
        item_idx = recommender.catalogue.idx_of.get(row.item_id)
        if item_idx is not None:
            pair = item_idx, row.is_implicit
            value_of[pair] = row.value + (value_of.get(pair, 0.0) if row.is_implicit else 0.0)
    implicit = np.array([event for _, event in value_of], bool)
    return RatedItems(
        np.array([item_idx for item_idx, _ in value_of], np.int64),
        np.array(list(value_of.values()), np.float32),
        implicit if implicit.any() else None,
    )


def check_scale(requests: Sequence[ListRequest], scale: tuple[float | None, float | None]) -> None:
    """Check that the ratings that were sent lie on the configured scale, as `posts.row_problem` checks posted ones.

    Raises:
        InputError: names the first that does not.
    """
    for user, request in enumerate(requests):
        for row, each in enumerate(request.sent):
            problem = None if each.is_implicit else scale_problem(each.value, scale)
            if problem is not None:
                raise InputError(f"body.users.{user}.ratings.{row}: {problem}")
