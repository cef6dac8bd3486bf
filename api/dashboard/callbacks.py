"""Check what a page sends to a callback, before Dash reads it: a client may send anything."""

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from starlette.types import Message, Receive

from recsys.errors import InputError

PATH = "_dash-update-component"

MAX_SELECTED = 1_000_000
Text = Annotated[str, Field(max_length=65_536)]


class Focus(BaseModel):
    """The item that the map marks."""

    item: Text | None = None


class Selected(BaseModel):
    """The items that were selected on the map."""

    idx: Annotated[list[Annotated[int, Field(ge=0, strict=True)]], Field(max_length=MAX_SELECTED)]
    n: Annotated[int, Field(ge=0, strict=True)]


VALUES: Mapping[str, TypeAdapter[Any]] = {
    "address.data": TypeAdapter(Text | None),
    "download.n_clicks": TypeAdapter(int | None),
    "focus.data": TypeAdapter(Focus | None),
    "map.id": TypeAdapter(Text | None),
    "query.data": TypeAdapter(Text | None),
    "selected.data": TypeAdapter(Selected | None),
    "url.pathname": TypeAdapter(Text | None),
    "url.search": TypeAdapter(Text | None),
}
"""Component and property → what a callback takes of it."""


class Property(BaseModel):
    """A property of a component on the page, and its value."""

    model_config = ConfigDict(extra="ignore")

    id: str
    property: str
    value: Any = None


class CallbackRequest(BaseModel):
    """What Dash's script sends when an input of a callback changed."""

    model_config = ConfigDict(extra="ignore")

    output: str
    outputs: list[Property] | Property
    inputs: list[Property]
    state: list[Property] = []
    changedPropIds: list[str] = []  # noqa: N815 - Dash's name


def check_callback(body: bytes, callbacks: Mapping[str, Any]) -> None:
    """Check that a body asks for a callback, with the inputs that it takes.

    Args:
        callbacks: output → callback, as Dash keeps them.

    Raises:
        InputError: it is malformed, no callback has this output, or an input is missing or of another type.
    """
    try:
        asked = CallbackRequest.model_validate_json(body)
    except ValidationError as error:
        raise InputError(f"the body is not a request of Dash's script: {describe(error)}; reload the page") from error
    callback = callbacks.get(asked.output)
    if callback is None or "callback" not in callback:  # unknown, or run by the browser
        raise InputError("no callback has this output: reload the page, which may be of an earlier version")
    outputs = asked.outputs if isinstance(asked.outputs, list) else [asked.outputs]
    expected = asked.output.strip(".").split("...")
    if [name_of(each) for each in outputs] != expected or isinstance(asked.outputs, list) != asked.output.startswith(
        ".."
    ):
        raise InputError("the outputs are not those of the callback: reload the page")
    for given, taken in ((asked.inputs, callback["inputs"]), (asked.state, callback["state"])):
        if [name_of(each) for each in given] != [f"{each['id']}.{each['property']}" for each in taken]:
            raise InputError("the inputs are not those of the callback: reload the page")
        for each in given:
            try:
                VALUES[name_of(each)].validate_python(each.value)
            except ValidationError as error:
                raise InputError(f"{name_of(each)}: {describe(error)}; reload the page") from error


def name_of(each: Property) -> str:
    """Return the component and the property."""
    return f"{each.id}.{each.property}"


def describe(error: ValidationError) -> str:
    """Return the first thing that is wrong, without the value."""
    first = error.errors(include_url=False, include_input=False)[0]
    where = ".".join(map(str, first["loc"]))
    return f"{where}: {first['msg']}" if where else str(first["msg"])


def replay(body: bytes, receive: Receive) -> Receive:
    """Return what receives a body that was read already, and then what comes after it."""
    messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive_again() -> Message:
        return messages.pop() if messages else await receive()

    return receive_again
