"""Lists: recommendations, similar items, popular items, predictions."""

from typing import Annotated

from fastapi import Query, Request
from starlette.responses import Response

from api.problems import BODY_RESPONSES
from api.routing import FastRoute, ItemId, UserId, router
from api.schemas import ListsBody, PopularParams, PredictParams, RecommendParams, SimilarParams
from api.state import AppState, in_thread, state_of
from recsys.database.engine import glancing
from recsys.results import ItemList, Predictions, UserLists
from recsys.serving.batch import Asking, lists_for
from recsys.serving.explain import explained
from recsys.serving.live_model import LiveModel
from recsys.serving.recommender import DEFAULT_WISH, Listed, Recommender, Wish
from recsys.serving.users import UserState, read_rated_by

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
    model = recommender.model_for_lists(query.model)
    user = await state.reader.state(user_id, recommender.catalogue, model)
    is_plain = query.model_fields_set <= _PLAIN
    if is_plain and user.answer is not None and user.answer[:2] == (recommender.number, query.n):
        return Response(user.answer[2], media_type="application/json")
    wish = _wish(recommender, query)
    search = recommender.search_for(model, user, wish)
    if search is None:
        listed = recommender.popularity(model, user, wish)
    else:
        listed = recommender.found(model, user, await state.searcher.find(search))
    if query.explain:
        answer = await in_thread(state, _explained, state, recommender, model, user, user_id, listed)
        return Response(answer.model_dump_json(), media_type="application/json")
    content = recommender.as_json(listed)
    if is_plain and user.user_key is not None and len(content) <= MAX_CACHED_BYTES:
        user.answer = (recommender.number, query.n, content)
    return Response(content, media_type="application/json")


def _wish(recommender: Recommender, query: RecommendParams) -> Wish:
    if not query.model_fields_set:
        return DEFAULT_WISH
    return Wish(
        n=query.n,
        exclude_seen=query.exclude_seen,
        exclude=recommender.places_of(query.exclude),
        categories=tuple(query.category),
        min_ratings=query.min_ratings,
    )


def _explained(
    state: AppState, recommender: Recommender, model: LiveModel, user: UserState, user_id: str, listed: Listed
) -> ItemList:
    with glancing(state.engine) as connection:
        rated = read_rated_by(connection, [user_id], recommender.catalogue)[user_id]
    return explained(recommender, model, user, rated, listed)


@routes.post("/recommendations", response_model=UserLists, responses=BODY_RESPONSES)
async def recommend_many(request: Request, body: ListsBody) -> Response:
    """Return lists for up to 1,000 users and visitors at once.

    A visitor has no `user_id`: a vector is computed from their ratings (`source: fold_in`), which are not stored. With
    a `user_id`, the ratings are added to the stored ones.
    """
    state = state_of(request)
    recommender = state.live.current
    model = recommender.model_for_lists(body.model)
    wish = Wish(
        n=body.n,
        exclude_seen=body.exclude_seen,
        exclude=recommender.places_of(body.exclude),
        among=None if body.candidates is None else recommender.places_of(body.candidates),
        categories=tuple(body.category),
        min_ratings=body.min_ratings,
    )
    asking = [Asking(user.user_id, [(row.item_id, row.rating) for row in user.ratings]) for user in body.users]
    content = await in_thread(
        state, lists_for, state.engine, state.live.users, recommender, model, asking, wish, body.explain
    )
    return Response(content, media_type="application/json")


@routes.get("/users/{user_id}/predictions", response_model=Predictions)
async def predict(request: Request, user_id: UserId, query: Annotated[PredictParams, Query()]) -> Predictions:
    """Predict the ratings that a user would give, by the rating model. For an unknown user, the prediction is each
    item's usual rating."""
    state = state_of(request)
    recommender = state.live.current
    model = recommender.model_for_lists("rating")
    user = await state.reader.state(user_id, recommender.catalogue, model)
    return recommender.predict(user, query.item_id)


@routes.get("/items/{item_id}/similar", response_model=ItemList)
async def similar(request: Request, item_id: ItemId, query: Annotated[SimilarParams, Query()]) -> Response:
    """Return the items that appeal to the same users, by the cosine between item factors."""
    state = state_of(request)
    recommender = state.live.current
    model, search = recommender.search_similar(item_id, query.n, query.category)
    listed = recommender.similar(model, await state.searcher.find(search))
    return Response(recommender.as_json(listed), media_type="application/json")


@routes.get("/popular", response_model=ItemList)
async def popular(request: Request, query: Annotated[PopularParams, Query()]) -> Response:
    """Return popular items by bias (liked more than the factors explain), by number of ratings, or by mean rating."""
    recommender = state_of(request).live.current
    listed = recommender.popular(
        query.by, query.n, order=query.order, min_ratings=query.min_ratings, categories=query.category
    )
    return Response(recommender.as_json(listed), media_type="application/json")
