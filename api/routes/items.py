"""Items: search by title, read one, store one."""

from typing import Annotated

from fastapi import Depends, Query, Response, status

from api.body import JsonBody
from api.problems import BODY_RESPONSES
from api.routing import ItemId, router
from api.schemas import ItemsParams, PutItem
from api.security import Reader, Writer
from api.state import CurrentState
from recsys.data.limits import id_problem, text_problem
from recsys.database.items import put_item
from recsys.errors import InputError
from recsys.results import Item, ItemPage

routes = router("items")


@routes.get("/items")
async def search(_: Reader, query: Annotated[ItemsParams, Query()], state: CurrentState) -> ItemPage:
    """Search items by title, in pages; without a title list all of them. Hidden items are left out."""
    return state.live.current.catalogue.search(query.title, query.limit, query.cursor)


@routes.get("/items/{item_id}")
async def item(_: Reader, item_id: ItemId, state: CurrentState) -> Item:
    """Return one item, hidden or not."""
    recommender = state.live.current
    return recommender.catalogue.item(recommender.catalogue.require(item_id))


@routes.put(
    "/items/{item_id}",
    responses={201: {"model": Item, "description": "The item is new."}, **BODY_RESPONSES},
)
def put(
    actor: Writer,
    item_id: ItemId,
    body: Annotated[PutItem, Depends(JsonBody(PutItem))],
    state: CurrentState,
    response: Response,
) -> Item:
    """Create an item, or change the fields that are sent; fields that are left out keep their values.

    A hidden item is in no list from now on. A new item with categories or attributes that the model knows can be
    recommended at once.
    """
    values = body.model_dump(exclude_unset=True)
    check_texts(item_id, body)
    if "categories" in values:
        values["categories"] = list(dict.fromkeys(values["categories"]))
    with state.writers:
        stored, created = put_item(state.engine, item_id, values, actor=actor)
    if created:
        response.status_code = status.HTTP_201_CREATED
    catalogue = state.live.refresh_items([stored.item_key]).catalogue
    return catalogue.item(catalogue.require(item_id))


def check_texts(item_id: str, body: PutItem) -> None:
    """Check that both databases can store the texts of an item.

    Raises:
        InputError: the id or a text has characters that cannot be stored.
    """
    problem = id_problem(item_id, "item_id", fix="send another id")
    texts = [body.title or "", *body.categories, *body.attributes]
    for value in body.attributes.values():
        texts += value if isinstance(value, list) else [str(value)]
    for text in texts:
        try:
            text.encode()
        except UnicodeEncodeError:
            problem = problem or f"{text[:80]!r} is not UTF-8: send other text"
        else:
            problem = problem or text_problem(text, "text")
    if problem is not None:
        raise InputError(problem)
