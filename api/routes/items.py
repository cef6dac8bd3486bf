"""Items and categories: search by title, read, store one or many."""

from typing import Annotated

from fastapi import Depends, Query, Request, Response, status

from api.body import JsonBody, validated_rows
from api.item_schemas import ItemsParams, PostedItem, PostedItems, PutItem
from api.problems import BODY_RESPONSES, none_stored
from api.routing import ItemId, fast_route, router
from api.security import ItemWriter
from api.state import CurrentState, in_thread, state_of
from recsys.data.limits import id_problem, text_problem
from recsys.database.items import put_item, put_items
from recsys.errors import InputError
from recsys.results import Categories, Item, ItemPage, ItemsReport, RowError

routes = router("items")
reading_routes = router("items", fast_route("items:read"))


@reading_routes.get("/items", response_model=ItemPage)
async def search_items(request: Request, query: Annotated[ItemsParams, Query()]) -> ItemPage:
    """Search items by title, in pages; without a title list all of them. Hidden items are left out."""
    state = state_of(request)
    return await in_thread(state, state.live.current.catalogue.search, query.title, query.limit, query.cursor)


@reading_routes.get("/items/{item_id}", response_model=Item)
async def get_item(request: Request, item_id: ItemId) -> Item:
    """Return one item, hidden or not."""
    catalogue = state_of(request).live.current.catalogue
    return catalogue.item(catalogue.require(item_id))


@reading_routes.get("/categories", response_model=Categories)
async def list_categories(request: Request) -> Categories:
    """Return all categories of items that are not hidden, by name."""
    return state_of(request).live.current.catalogue.categories()


@routes.put(
    "/items/{item_id}",
    name="put_item",
    responses={201: {"model": Item, "description": "The item is new."}, **BODY_RESPONSES},
)
def put(
    actor: ItemWriter,
    item_id: ItemId,
    body: Annotated[PutItem, Depends(JsonBody(PutItem))],
    state: CurrentState,
    response: Response,
) -> Item:
    """Create an item, or change the fields that are sent; fields that are left out keep their values.

    A hidden item is in no list from now on. A new item with categories or attributes that the model knows can be
    recommended at once.
    """
    values = given_values(item_id, body)
    with state.writers:
        stored, created = put_item(state.engine, item_id, values, actor=actor)
    if created:
        response.status_code = status.HTTP_201_CREATED
    catalogue = state.live.refresh_items([stored.item_key]).catalogue
    return catalogue.item(catalogue.require(item_id))


@routes.post("/items", response_model=ItemsReport, responses=BODY_RESPONSES)
def post_items(
    actor: ItemWriter, body: Annotated[PostedItems, Depends(JsonBody(PostedItems))], state: CurrentState
) -> ItemsReport | Response:
    """Create or change up to 1,000 items, each as PUT does. Rows that are not valid are listed in `errors`, and the
    others are stored; 422 if none can be. Of two rows of one item, the later one adds to the earlier one.
    """
    rows, errors = validated_rows(PostedItem, body.items)
    given: dict[str, dict[str, object]] = {}
    for index, row in rows:
        try:
            values = given_values(row.item_id, row)
        except InputError as error:
            errors.append(RowError(index=index, message=str(error)))
        else:
            given[row.item_id] = {**given.get(row.item_id, {}), **values}
    errors.sort(key=lambda error: error.index)
    if not given:
        return none_stored("item", "items", errors)
    with state.writers:
        put = put_items(state.engine, given, actor=actor)
    if put.changed:
        state.live.refresh_items([put.items[item_id].item_key for item_id in put.changed])
    n_good = len(body.items) - len(errors)
    return ItemsReport(
        inserted=len(put.new),
        updated=len(put.changed) - len(put.new),
        unchanged=n_good - len(put.changed),
        rejected=len(errors),
        errors=errors,
    )


def given_values(item_id: str, body: PutItem) -> dict[str, object]:
    """Return the values of an item that were sent.

    Raises:
        InputError: the id or a text has characters that cannot be stored.
    """
    check_texts(item_id, body)
    values = body.model_dump(exclude_unset=True, exclude={"item_id"})
    if "categories" in values:
        values["categories"] = list(dict.fromkeys(values["categories"]))
    return values


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
