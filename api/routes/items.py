"""Items: by title, and one by one."""

from typing import Annotated

from fastapi import APIRouter, Query

from api.paths import ItemId
from api.state import RecommenderOf
from recsys.results import Item, ItemPage

router = APIRouter(tags=["items"])


@router.get("/items")
def search(
    recommender: RecommenderOf,
    title: Annotated[
        str,
        Query(description="Words of the title, in any order; case and accents do not matter.", examples=["star"]),
    ] = "",
    limit: Annotated[int, Query(ge=1, le=1000)] = 50,
    cursor: Annotated[str | None, Query(description="`next_cursor` of the page before.")] = None,
) -> ItemPage:
    """Items by title, in pages; without a title all of them."""
    return recommender.catalogue.search(title, limit, cursor)


@router.get("/items/{item_id}")
def item(item_id: ItemId, recommender: RecommenderOf) -> Item:
    """One item."""
    return recommender.catalogue.item(recommender.place_of(item_id))
