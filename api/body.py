"""Read JSON bodies: their content type, their size, their syntax and their fields are checked in one place."""

import json
from collections import Counter
from collections.abc import Sequence
from typing import Any, Generic, NamedTuple, TypeVar

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ValidationError
from starlette.requests import ClientDisconnect

from api.middleware import InFlight
from api.state import AppState, in_thread, state_of
from recsys.errors import MediaTypeError, OverloadedError, TooLargeError
from recsys.results import RowError

THREAD_BYTES = 20_000
"""Bodies larger than this are parsed in a thread: parsing takes milliseconds."""

MAX_BODIES_BYTES = 64 << 20
"""Most bytes of all bodies that are being received by a process."""

_OF_BODY = frozenset((b"content-type", b"content-encoding", b"content-length"))

Model = TypeVar("Model", bound=BaseModel)


class JsonBody(Generic[Model]):
    """A dependency that reads the body of a request as JSON into a model.

    FastAPI's own reading of a body comes before every dependency, so that a request without a key would have up to
    4 MiB parsed before it is refused. Declare this dependency after the one that checks the key. `api.openapi` adds
    the model to the OpenAPI document.

    Raises:
        MediaTypeError: the content type is not JSON.
        TooLargeError: the body is larger than `RECSYS_MAX_BODY_KIB`.
        RequestValidationError: the body is not JSON, or not what the model expects.
    """

    def __init__(self, model: type[Model]) -> None:
        self.model = model

    async def __call__(self, request: Request) -> Model:
        return await self.read(request, state_of(request))

    async def read(self, request: Request, state: AppState) -> Model:
        """Read, parse and validate the body of a request."""
        content = await read_content(request, state.settings.max_body_kib * 1024, state.in_flight)
        if len(content) > THREAD_BYTES:
            return await in_thread(state, self.parse, content)
        return self.parse(content)

    def parse(self, content: bytes) -> Model:
        """Parse and validate JSON."""
        try:
            text = content.decode(json.detect_encoding(content), "surrogatepass")  # as `json.loads`
            values = _DECODER.decode(text)
        except (ValueError, RecursionError) as error:
            found = {"type": "json_invalid", "loc": ("body",), "msg": f"not JSON: {error}", "input": None}
            raise RequestValidationError([found]) from error
        return validated(self.model, values, "body")


async def read_content(request: Request, max_bytes: int, in_flight: InFlight) -> bytes:
    """Read the body of a request that says it is JSON, up to `max_bytes`."""
    headers: dict[bytes, str] = {}
    for name, value in request.scope["headers"]:
        if name in _OF_BODY and name not in headers:
            headers[name] = value.decode("latin-1")
    kind = headers.get(b"content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json" and not (kind.startswith("application/") and kind.endswith("+json")):
        raise MediaTypeError(f"the content type is {kind[:80] or 'missing'}: send JSON, as application/json")
    encoding = headers.get(b"content-encoding", "identity").strip().lower()
    if encoding not in ("", "identity"):
        raise MediaTypeError(f"the body is compressed ({encoding[:80]}): send it as it is, without Content-Encoding")
    too_large = TooLargeError(f"the body is larger than {max_bytes:,} bytes: send it in several requests")
    length = headers.get(b"content-length", "")
    if length.isdigit() and int(length) > max_bytes:
        raise too_large
    content = bytearray()
    with in_flight.waiting_for_body():
        try:
            more = True
            while more:
                message = await request.receive()
                if message["type"] == "http.disconnect":
                    raise ClientDisconnect
                part, more = message.get("body", b""), message.get("more_body", False)
                content += part
                in_flight.n_body_bytes += len(part)
                if len(content) > max_bytes:
                    raise too_large
                if in_flight.n_body_bytes > max(MAX_BODIES_BYTES, max_bytes):
                    raise OverloadedError("too many bodies are being received: send this request again in a moment")
        finally:
            in_flight.n_body_bytes -= len(content)
    return bytes(content)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return a JSON object.

    Raises:
        ValueError: a name occurs twice; which of the values is meant is not known.
    """
    values = dict(pairs)
    if len(values) < len(pairs):
        counts = Counter(name for name, _ in pairs)
        twice = next(name for name, count in counts.items() if count > 1)
        raise ValueError(f"the name {twice[:80]!r} occurs twice in one object")
    return values


_DECODER = json.JSONDecoder(object_pairs_hook=_object)  # `json.loads` would make one for each body


class Rows(NamedTuple, Generic[Model]):
    """Rows of a body that were validated one by one.

    Attributes:
        good: (index, row) of each valid row.
        errors: what is wrong with each other row.
    """

    good: list[tuple[int, Model]]
    errors: list[RowError]


def validated_rows(model: type[Model], rows: Sequence[object]) -> Rows[Model]:
    """Validate the rows of a body, so that an ill-typed row does not fail the others.

    Declare such a field as `list[SkipValidation[model]]`: the OpenAPI document then has the schema of a row.
    """
    good: list[tuple[int, Model]] = []
    errors: list[RowError] = []
    for index, row in enumerate(rows):
        try:
            good.append((index, model.model_validate(row)))
        except ValidationError as error:
            found = error.errors(include_url=False)
            parts = [".".join(map(str, each["loc"])) for each in found]
            texts = [each["msg"].removeprefix("Value error, ") for each in found]
            message = "; ".join(f"{part}: {text}" if part else text for part, text in zip(parts, texts, strict=True))
            errors.append(RowError(index=index, message=message))
    return Rows(good, errors)


def validated(model: type[Model], values: Any, location: str) -> Model:
    """Return a model of these values.

    Args:
        location: the part of the request that they come from, `query` or `body`; errors name it.

    Raises:
        RequestValidationError: a field is missing, unknown or has another type.
    """
    try:
        return model.model_validate(values)
    except ValidationError as error:
        found = [{**each, "loc": (location, *each["loc"])} for each in error.errors(include_url=False)]
        raise RequestValidationError(found) from error
