"""Lists: recommendations, similar items, popularity."""

import logging
from typing import Annotated

from fastapi import APIRouter, Query

from api.paths import ItemId, UserId
from api.schemas import N
from api.state import EngineOf, RecommenderOf
from recsys.data.database import reading
from recsys.errors import DatabaseError
from recsys.results import ItemList, Order, PopularBy
from recsys.serving.users import NOBODY, read_user

router = APIRouter(tags=["lists"])

_log = logging.getLogger(__name__)


@router.get("/users/{user_id}/recommendations")
def recommend(
    user_id: UserId,
    recommender: RecommenderOf,
    engine: EngineOf,
    n: N = 10,
    exclude_seen: Annotated[bool, Query(description="Leave out what the user has rated.")] = True,
) -> ItemList:
    """The best items for a user. A user nobody knows gets the most rated ones (`source: popularity`)."""
    model = recommender.list_model
    try:
        with reading(engine) as connection:
            user = read_user(connection, user_id, model.number if model else None)
    except DatabaseError as error:
        # The snapshot still answers, but not for this user: better the popular items than none.
        _log.warning("answered without the database", extra={"reason": str(error)})
        user = NOBODY
    return recommender.recommend(user, n, exclude_seen=exclude_seen)


@router.get("/items/{item_id}/similar")
def similar(item_id: ItemId, recommender: RecommenderOf, n: N = 10) -> ItemList:
    """The items that appeal to the same people: cosine between item factors."""
    return recommender.similar(item_id, n)


@router.get("/popular")
def popular(
    recommender: RecommenderOf,
    by: Annotated[
        PopularBy,
        Query(description="`bias`: liked beyond its kind; `count`: number of ratings; `mean`: mean rating."),
    ] = "bias",
    order: Annotated[Order, Query(description="`asc` lists the other end.")] = "desc",
    min_ratings: Annotated[
        int | None, Query(ge=0, description="Fewest ratings of a listed item; by default 10, by count 0.")
    ] = None,
    n: N = 10,
) -> ItemList:
    """Items by how much they are liked beyond their kind, by number of ratings, or by mean rating."""
    return recommender.popular(by, n, order=order, min_ratings=min_ratings)
