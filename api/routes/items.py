"""Items: by title, one by one, and changed."""

from typing import Annotated

from fastapi import Query, Request
from starlette.responses import Response

from api.problems import BODY_RESPONSES
from api.routing import ItemId, needs, router
from api.schemas import ItemsParams, PutItem
from api.security import actor_of
from api.state import State, Turn, aside, state_of
from recsys.data.limits import id_problem, text_problem
from recsys.database.items import put_item
from recsys.errors import InputError
from recsys.results import Item, ItemPage

routes = router("items")


@routes.get("/items", response_model=ItemPage)
async def search(request: Request, query: Annotated[ItemsParams, Query()]) -> ItemPage:
    """Items by title, in pages; without a title all of them. Hidden ones are not found."""
    return state_of(request).live.current.catalogue.search(query.title, query.limit, query.cursor)


@routes.get("/items/{item_id}", response_model=Item)
async def item(request: Request, item_id: ItemId) -> Item:
    """One item, hidden or not."""
    recommender = state_of(request).live.current
    return recommender.catalogue.item(recommender.place_of(item_id))


@routes.put(
    "/items/{item_id}",
    response_model=Item,
    openapi_extra=needs("write"),
    responses={201: {"model": Item, "description": "The item is new."}, **BODY_RESPONSES},
)
async def put(request: Request, item_id: ItemId, body: PutItem) -> Response:
    """Make an item, or change what is sent of it; what is left out stays as it is.

    A hidden item is in no list from now on. A new one with categories or attributes that the model knows can be
    recommended at once.
    """
    state = state_of(request)
    created, answer = await aside(state, _put, state, item_id, body, actor_of(request))
    return Response(answer.model_dump_json(), 201 if created else 200, media_type="application/json")


def _put(state: State, item_id: str, body: PutItem, actor: str) -> tuple[bool, Item]:
    problem = id_problem(item_id, "item_id", fix="send another id")
    given = body.model_dump(exclude_unset=True)
    attributes = given.get("attributes", {})
    texts = [given.get("title") or "", *given.get("categories", ()), *attributes]
    for value in attributes.values():
        texts += value if isinstance(value, list) else [str(value)]
    problem = problem or next((said for said in map(_text_problem, texts) if said), None)
    if problem is not None:
        raise InputError(problem)
    if "categories" in given:
        given["categories"] = list(dict.fromkeys(given["categories"]))
    with Turn(state):
        _, created = put_item(state.engine, item_id, given, actor=actor)
    state.live.refresh()
    recommender = state.live.current
    return created, recommender.catalogue.item(recommender.place_of(item_id))


def _text_problem(text: str) -> str | None:
    try:
        text.encode()
    except UnicodeEncodeError:
        return f"{text[:80]!r} is not UTF-8: send other text"
    return text_problem(text, "text")
