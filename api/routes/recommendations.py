"""Lists: recommendations, similar items, popular items, predictions."""

from typing import Annotated

from fastapi import Query, Request
from starlette.responses import Response

from api.problems import BODY_RESPONSES
from api.routing import FastRoute, ItemId, UserId, router
from api.schemas import ListsBody, PopularParams, PredictParams, RecommendParams, SimilarParams
from api.state import AppState, in_thread, state_of
from recsys.database.engine import read_latest
from recsys.results import ItemList, Predictions, UserLists
from recsys.serving.batch import ListRequest, lists_for
from recsys.serving.encode import to_json
from recsys.serving.explain import explain_list
from recsys.serving.lists import DEFAULT_QUERY, ListQuery, plan_list
from recsys.serving.live_model import LiveModel
from recsys.serving.predictions import predict as predict_ratings
from recsys.serving.searches import RankedItems
from recsys.serving.snapshot import Recommender
from recsys.serving.users import UserState, read_rated_items_by_id

routes = router("lists", FastRoute)

_PLAIN = frozenset({"n"})
"""Parameters of lists that are cached until the user or the snapshot changes."""

MAX_CACHED_BYTES = 2000
"""Longer lists are not cached: the cache of users reserves this much for a list."""


@routes.get("/users/{user_id}/recommendations", response_model=ItemList)
async def recommend(request: Request, user_id: UserId, query: Annotated[RecommendParams, Query()]) -> Response:
    """Return the best items for a user, by the user's own vector, or by a vector computed from their ratings if these
    are newer than the model or the model does not know the user. An unknown user gets the most rated items (`source:
    popularity`).
    """
    state = state_of(request)
    recommender = state.live.current
    model = recommender.list_model(query.model)
    user = await state.reader.state(user_id, recommender.catalogue, model)
    is_plain = query.model_fields_set <= _PLAIN
    if is_plain and user.answer is not None and user.answer[:2] == (recommender.number, query.n):
        return Response(user.answer[2], media_type="application/json")
    plan = plan_list(recommender, model, user, _list_query(recommender, query))
    ranked = plan if isinstance(plan, RankedItems) else plan.finish(await state.searcher.find(plan))
    if query.explain:
        answer = await in_thread(state, _explain, state, recommender, model, user, user_id, ranked)
        return Response(answer.model_dump_json(), media_type="application/json")
    content = to_json(recommender.catalogue, ranked)
    if is_plain and user.user_key is not None and len(content) <= MAX_CACHED_BYTES:
        user.answer = (recommender.number, query.n, content)
    return Response(content, media_type="application/json")


def _list_query(recommender: Recommender, query: RecommendParams) -> ListQuery:
    if not query.model_fields_set:
        return DEFAULT_QUERY
    return ListQuery(
        n=query.n,
        exclude_seen=query.exclude_seen,
        exclude=recommender.catalogue.find(query.exclude),
        categories=tuple(query.category),
        min_ratings=query.min_ratings,
    )


def _explain(
    state: AppState,
    recommender: Recommender,
    model: LiveModel | None,
    user: UserState,
    user_id: str,
    ranked: RankedItems,
) -> ItemList:
    with read_latest(state.engine) as connection:
        rated = read_rated_items_by_id(connection, [user_id], recommender.catalogue)[user_id]
    return explain_list(recommender, model, user, rated, ranked)


@routes.post("/recommendations", response_model=UserLists, responses=BODY_RESPONSES)
async def recommend_many(request: Request, body: ListsBody) -> Response:
    """Return lists for up to 1,000 users and visitors at once.

    A visitor has no `user_id`: a vector is computed from their ratings (`source: fold_in`), which are not stored. With
    a `user_id`, the ratings are added to the stored ones.
    """
    state = state_of(request)
    recommender = state.live.current
    model = recommender.list_model(body.model)
    list_query = ListQuery(
        n=body.n,
        exclude_seen=body.exclude_seen,
        exclude=recommender.catalogue.find(body.exclude),
        candidates=None if body.candidates is None else recommender.catalogue.find(body.candidates),
        categories=tuple(body.category),
        min_ratings=body.min_ratings,
    )
    requests = [ListRequest(user.user_id, [(row.item_id, row.rating) for row in user.ratings]) for user in body.users]
    content = await in_thread(
        state, lists_for, state.engine, state.live.users, recommender, model, requests, list_query, body.explain
    )
    return Response(content, media_type="application/json")


@routes.get("/users/{user_id}/predictions", response_model=Predictions)
async def predict(request: Request, user_id: UserId, query: Annotated[PredictParams, Query()]) -> Predictions:
    """Predict the ratings that a user would give, by the rating model. For an unknown user, the prediction is each
    item's usual rating."""
    state = state_of(request)
    recommender = state.live.current
    model = recommender.list_model("rating")
    user = await state.reader.state(user_id, recommender.catalogue, model)
    return predict_ratings(recommender, user, query.item_id)


@routes.get("/items/{item_id}/similar", response_model=ItemList)
async def similar(request: Request, item_id: ItemId, query: Annotated[SimilarParams, Query()]) -> Response:
    """Return the items that appeal to the same users, by the cosine between item factors."""
    state = state_of(request)
    recommender = state.live.current
    search = recommender.similar.search(item_id, query.n, query.category)
    ranked = recommender.similar.finish(search, await state.searcher.find(search))
    return Response(to_json(recommender.catalogue, ranked), media_type="application/json")


@routes.get("/popular", response_model=ItemList)
async def popular(request: Request, query: Annotated[PopularParams, Query()]) -> Response:
    """Return popular items by bias (liked more than the factors explain), by number of ratings, or by mean rating."""
    recommender = state_of(request).live.current
    ranked = recommender.popular(query.by, query.n, query.order, query.min_ratings, query.category)
    return Response(to_json(recommender.catalogue, ranked), media_type="application/json")
