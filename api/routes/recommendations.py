"""Lists: recommendations, similar items, popular items, predictions."""

from collections.abc import Collection
from typing import Annotated

import numpy as np
from fastapi import Query, Request
from numpy.typing import NDArray
from starlette.responses import Response

from api.caching import JsonResponse, etag_of, with_etag
from api.problems import BODY_RESPONSES
from api.routing import ItemId, UserId, fast_route, router
from api.schemas import (
    ListsBody,
    PopularParams,
    PredictParams,
    RecommendParams,
    SimilarBody,
    SimilarParams,
)
from api.state import AppState, in_thread, state_of
from recsys.database.engine import read_latest
from recsys.errors import DatabaseError
from recsys.results import Explanation, Ignored, ItemList, Predictions, UserLists
from recsys.scoring.search import TopN
from recsys.serving.batch import UNEXPLAINED, ListRequest, lists_for
from recsys.serving.checks import ignored_diversity, ignored_parts
from recsys.serving.encode import PLAIN, ItemDetails, metadata_fields, to_json
from recsys.serving.explain import explain_items
from recsys.serving.filters import NO_FILTERS
from recsys.serving.lists import ListQuery, plan_list
from recsys.serving.live_model import LiveModel
from recsys.serving.pages import Start, as_page, start_page
from recsys.serving.predictions import predict as predict_ratings
from recsys.serving.predictions import predicted_ratings
from recsys.serving.searches import RankedItems, Search, run_searches
from recsys.serving.snapshot import Recommender
from recsys.serving.users import UNKNOWN_USER, UNREAD_USER, UserState, read_rated_items_by_id

routes = router("lists", fast_route("lists:read"))

_PLAIN = frozenset({"n"})
"""Parameters of lists that are cached until the user or the snapshot changes."""

MAX_CACHED_BYTES = 2000
"""Longer lists are not cached: the cache of users reserves this much for a list."""

MAX_KEPT_SIMILAR = 8192
"""Most lists of similar items that are kept with a snapshot, at most 16 MB of them."""

MAX_INLINE_POOL = 100
"""Most items that the event loop re-ranks itself for a diverse list, in less than a millisecond; a list of 1,000 takes
a tenth of a second."""

TRENDS_UNREAD = "the database cannot be reached, so trends are not known; these are the most rated items"

_NO_ITEMS = np.empty(0, np.int64)


@routes.get("/users/{user_id}/recommendations", response_model=ItemList)
async def recommend(request: Request, user_id: UserId, query: Annotated[RecommendParams, Query()]) -> Response:
    """Return the best items for a user, by the user's own vector, or by a vector computed from their ratings if these
    are newer than the model or the model does not know the user. An unknown user gets the most rated items (`source:
    popularity`).

    `next_cursor` continues the list: send it as `cursor`, with the same filters. No item is listed twice, whatever is
    rated or published in between.
    """
    state = state_of(request)
    recommender = state.live.current
    model = recommender.list_model(query.model)
    state.live.requests.add(user_id, query.n)
    user = await state.reader.state(user_id, recommender.catalogue, model)
    is_plain = query.model_fields_set <= _PLAIN
    if is_plain and user.answer is not None and user.answer[:2] == (recommender.number, query.n):
        state.metrics.count_list(user.source)
        return _of_users(state, user.answer[2])
    catalogue = recommender.catalogue
    start = start_page(catalogue, "recommendations", query.cursor)
    exclude = start.shown
    if query.exclude:
        exclude = np.concatenate([catalogue.find(query.exclude), exclude])
    filters = query.filters(query.min_ratings)
    list_query = ListQuery(
        query.n + 1, query.exclude_seen, exclude, filters=filters, after=start.last, diversity=query.diversity
    )
    ignored: tuple[Ignored, ...] = ()
    if query.exclude or filters is not NO_FILTERS:
        ignored = ignored_parts(catalogue, filters, [("exclude", query.exclude)])
    plan = plan_list(recommender, model, user, list_query, keep=user.user_key is not None)
    ranked = plan if isinstance(plan, RankedItems) else await _finish(state, plan, await _find(state, plan))
    ranked = as_page(catalogue, ranked, query.n, start)
    state.metrics.count_list(ranked.source)
    if query.diversity:
        ignored += ignored_diversity(query.diversity, [ranked.source])
    details = PLAIN
    if query.explain or query.fields:
        details, missing = await _details(state, recommender, model, user, user_id, ranked, query)
        ignored += missing
    content = to_json(catalogue, ranked._replace(ignored=ignored) if ignored else ranked, details)
    if is_plain and user.user_key is not None and len(content) <= MAX_CACHED_BYTES:
        user.answer = (recommender.number, query.n, content)
    return _of_users(state, content)


def _of_users(state: AppState, content: bytes) -> JsonResponse:
    """Return the answer with lists of users; it says so while the database cannot be read."""
    return JsonResponse(content[:-1] + b',"degraded":true}' if state.database.is_away else content)


async def _find(state: AppState, search: Search) -> TopN:
    """Run a search, alone and in a thread if it continues after an item: such a search is slow."""
    if search.after is None:
        return await state.searcher.find(search)
    (found,) = await in_thread(state, run_searches, [search])
    return found


async def _finish(state: AppState, search: Search, best: TopN) -> RankedItems:
    """Return the list that a search found, in a thread if many items are re-ranked."""
    if search.diversity and search.n_searched > MAX_INLINE_POOL:
        return await in_thread(state, search.finish, best)
    return search.finish(best)


async def _details(
    state: AppState,
    recommender: Recommender,
    model: LiveModel | None,
    user: UserState,
    user_id: str,
    ranked: RankedItems,
    query: RecommendParams,
) -> tuple[ItemDetails, tuple[Ignored, ...]]:
    """Return what the items of a user's list have beside their title, and what of it is not available."""
    explanations, predictions = None, None
    ignored: tuple[Ignored, ...] = ()
    if query.explain:
        try:
            explanations = await in_thread(state, _explain, state, recommender, model, user, user_id, ranked)
        except DatabaseError:
            ignored += (UNEXPLAINED,)
    if "prediction" in query.fields:
        rating_model = recommender.models.get("rating")
        if rating_model is None:
            ignored += (_unpredicted(recommender),)
        else:
            rater = user
            if model is not rating_model:
                rater = await state.reader.state(user_id, recommender.catalogue, rating_model)
            predictions = predicted_ratings(rating_model, rater, ranked.best.item_idx)
    return ItemDetails(metadata_fields(query.fields), predictions, explanations), ignored


def _unpredicted(recommender: Recommender) -> Ignored:
    """Return that the field `prediction` has no effect, and why."""
    return Ignored(where="fields", value="prediction", reason=str(recommender.nothing_live("rating")))


def _explain(
    state: AppState,
    recommender: Recommender,
    model: LiveModel | None,
    user: UserState,
    user_id: str,
    ranked: RankedItems,
) -> list[Explanation] | None:
    if ranked.source == "popularity":
        return None
    with read_latest(state.engine) as connection:
        rated = read_rated_items_by_id(connection, [user_id], recommender.catalogue)[user_id]
    return explain_items(recommender, model, user, rated, ranked)


@routes.post("/recommendations", response_model=UserLists, responses=BODY_RESPONSES)
async def recommend_many(request: Request, body: ListsBody) -> Response:
    """Return lists for up to 1,000 users and visitors at once.

    A visitor has no `user_id`: a vector is computed from their ratings or events (`source: fold_in`), which are not
    stored. With a `user_id`, they are added to the stored ones. For the next page, add the listed items to `exclude`.
    """
    state = state_of(request)
    recommender = state.live.current
    catalogue = recommender.catalogue
    model = recommender.list_model(body.model)
    filters = body.filters()
    list_query = ListQuery(
        n=body.n,
        exclude_seen=body.exclude_seen,
        exclude=catalogue.find(body.exclude),
        candidates=None if body.candidates is None else catalogue.find(body.candidates),
        filters=filters,
        diversity=body.diversity,
    )
    ignored = ignored_parts(catalogue, filters, [("exclude", body.exclude), ("candidates", body.candidates or ())])
    if "prediction" in body.fields and "rating" not in recommender.models:
        ignored += (_unpredicted(recommender),)
    weights, scale = state.settings.weights_of_events, (state.settings.rating_min, state.settings.rating_max)
    requests = [ListRequest(user.user_id, tuple(row.as_sent(weights) for row in user.ratings)) for user in body.users]
    content = await in_thread(
        state,
        lists_for,
        state.engine,
        state.live.users,
        recommender,
        model,
        requests,
        list_query,
        body.explain,
        body.fields,
        ignored,
        scale,
    )
    return _of_users(state, content)


@routes.get("/users/{user_id}/predictions", response_model=Predictions)
async def predict(request: Request, user_id: UserId, query: Annotated[PredictParams, Query()]) -> Predictions:
    """Predict the ratings that a user would give, by the rating model. For an unknown user, the prediction is each
    item's usual rating. Unknown items are named in `unknown`."""
    state = state_of(request)
    recommender = state.live.current
    model = recommender.list_model("rating")
    user = await state.reader.state(user_id, recommender.catalogue, model)
    return predict_ratings(recommender, user, query.item_id)


@routes.get("/items/{item_id}/similar", response_model=ItemList)
async def similar(request: Request, item_id: ItemId, query: Annotated[SimilarParams, Query()]) -> Response:
    """Return the items that appeal to the same users, by the cosine between item factors.

    `exclude_seen_by` leaves out what a user has rated. With the ETag of an answer in `If-None-Match`, a list that did
    not change is answered with 304.
    """
    state = state_of(request)
    recommender = state.live.current
    kept = recommender.similar.kept
    is_plain = query.model_fields_set <= _PLAIN
    if is_plain and (answer := kept.get((item_id, query.n))) is not None:
        return with_etag(request, *answer)
    catalogue = recommender.catalogue
    start = start_page(catalogue, "similar", query.cursor)
    seen, ignored = await _seen_by(state, recommender, query.exclude_seen_by)
    filters = query.filters(query.min_ratings)
    exclude = np.concatenate([start.shown, seen]) if len(seen) else start.shown
    ranked = recommender.similar.near(item_id, query.n + 1, filters, exclude) if start.last is None else None
    if ranked is None:
        search = recommender.similar.search(item_id, query.n + 1, filters, exclude, start.last)
        ranked = recommender.similar.finish(search, await _find(state, search))
    ignored += ignored_parts(catalogue, filters)
    content = _similar_list(recommender, ranked, start, query.n, ignored, query.fields)
    etag = etag_of(content)
    if is_plain and len(content) <= MAX_CACHED_BYTES:
        if len(kept) >= MAX_KEPT_SIMILAR:
            kept.clear()
        kept[item_id, query.n] = content, etag
    return with_etag(request, content, etag)


@routes.post("/items/similar", response_model=ItemList, responses=BODY_RESPONSES)
async def similar_to_many(request: Request, body: SimilarBody) -> Response:
    """Return the items that are most similar to several items, by the mean cosine between item factors.

    Items that the model does not know are named in `ignored`; 404 if it knows none of them.
    """
    state = state_of(request)
    recommender = state.live.current
    catalogue = recommender.catalogue
    start = start_page(catalogue, "similar", body.cursor)
    seen, ignored = await _seen_by(state, recommender, body.exclude_seen_by)
    filters = body.filters()
    exclude = np.concatenate([start.shown, seen, catalogue.find(body.exclude)])
    search, unknown = recommender.similar.search_many(body.item_ids, body.n + 1, filters, exclude, start.last)
    ignored += unknown + ignored_parts(catalogue, filters, [("exclude", body.exclude)])
    ranked = recommender.similar.finish(search, await _find(state, search))
    return JsonResponse(_similar_list(recommender, ranked, start, body.n, ignored, body.fields))


def _similar_list(
    recommender: Recommender,
    ranked: RankedItems,
    start: Start,
    n: int,
    ignored: tuple[Ignored, ...],
    fields: Collection[str],
) -> bytes:
    ranked = as_page(recommender.catalogue, ranked, n, start)
    if ignored:
        ranked = ranked._replace(ignored=ignored)
    return to_json(recommender.catalogue, ranked, ItemDetails(metadata_fields(fields)) if fields else PLAIN)


async def _seen_by(
    state: AppState, recommender: Recommender, user_id: str | None
) -> tuple[NDArray[np.integer], tuple[Ignored, ...]]:
    """Return the positions of the items that a user has rated, and why there are none if the user is not known."""
    if user_id is None:
        return _NO_ITEMS, ()
    user = await state.reader.state(user_id, recommender.catalogue, recommender.models.get("ranking"))
    reason = None
    if user is UNREAD_USER:
        reason = "the database cannot be reached, so what the user has rated is not known"
    elif user is UNKNOWN_USER:
        reason = "there is no such user, so nothing is excluded"
    return user.seen, () if reason is None else (Ignored(where="exclude_seen_by", value=user_id, reason=reason),)


@routes.get("/popular", response_model=ItemList)
async def popular(request: Request, query: Annotated[PopularParams, Query()]) -> Response:
    """Return popular items by bias (liked more than the factors explain), by number of ratings, by mean rating, or by
    trend. Without a live rating version a list by bias is one by number of ratings, and `fallback` says so.

    With the ETag of an answer in `If-None-Match`, a list that did not change is answered with 304.
    """
    state = state_of(request)
    recommender = state.live.current
    catalogue = recommender.catalogue
    start = start_page(catalogue, "popular", query.cursor)
    by, trending, fallback = query.by, None, None
    if by == "trending":
        try:
            items = state.trends.kept(recommender, query.half_life_days, query.order)
            if items is None:
                items = await in_thread(state, state.trends.read, recommender, query.half_life_days, query.order)
            trending, fallback = items
        except DatabaseError:
            by, fallback = "count", TRENDS_UNREAD
    filters = query.filters()
    ranked = recommender.popular(
        by,
        query.n + 1,
        query.order,
        query.min_ratings,
        filters,
        exclude=start.shown,
        after=start.last,
        trending=trending,
    )
    ranked = as_page(catalogue, ranked, query.n, start)
    ranked = ranked._replace(ignored=ignored_parts(catalogue, filters), fallback=fallback or ranked.fallback)
    state.metrics.count_list("popularity")
    details = ItemDetails(metadata_fields(query.fields)) if query.fields else PLAIN
    return with_etag(request, to_json(catalogue, ranked, details))
