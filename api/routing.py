"""Routes that FastAPI describes and that answer without its machinery, which takes longer than most answers.

An endpoint is `async def endpoint(request, …) -> Response | Result`, and may have, beside the request:

- path parameters, `UserId`, `ItemId` or `Number`: the segment, decoded;
- `query`: a pydantic model, from the query string;
- `body`: a pydantic model, from JSON.

FastAPI reads the same signature for the OpenAPI document, so both say the same.
"""

import json
from collections.abc import Awaitable, Callable
from typing import Annotated, Any, ClassVar, get_args, get_origin, get_type_hints
from urllib.parse import parse_qsl, unquote

from fastapi import APIRouter, Path, Request
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from api import problems
from api.security import check_key
from api.state import State, aside, state_of
from recsys.database.keys import Scope as KeyScope
from recsys.errors import MediaTypeError, TooLargeError
from recsys.results import Result

UserId = Annotated[str, Path(description="External id of a user.", examples=["196"])]
ItemId = Annotated[str, Path(description="External id of an item.", examples=["50"])]
Number = Annotated[int, Path(ge=1, le=2**63 - 1, description="Number of a model version.", examples=[1])]

_ASIDE_BYTES = 20_000
"""A body of more is read in a thread: it takes milliseconds."""


class Params(BaseModel):
    """Base of query parameters: a name that is not known is an error, not a silent default."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class LeanRoute(APIRoute):
    """See the module."""

    def __init__(self, path: str, endpoint: Callable[..., Any], **options: Any) -> None:
        super().__init__(path, endpoint, **options)
        methods = self.methods or {"GET"}
        extra = self.openapi_extra or {}
        self.key_scope: KeyScope = extra.get("x-key-scope", "read" if "GET" in methods else "admin")
        self._call = _Call(endpoint, self.status_code or 200)
        self.app = self._answer

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        state = state_of(request)
        try:
            check_key(request, state, self.key_scope)
            response = await self._call(request, state)
        except Exception as error:
            response = problems.answer_to(request, error)
        await response(scope, receive, send)


def router(tag: str) -> APIRouter:
    """A router under /v1 of lean routes."""
    return APIRouter(prefix="/v1", tags=[tag], route_class=LeanRoute, responses=problems.RESPONSES)


def needs(scope: KeyScope) -> dict[str, Any]:
    """`openapi_extra` of an endpoint that needs a scope: without, `read` for GET and `admin` for all others."""
    return {"x-key-scope": scope}


class _Call:
    """How an endpoint is called with what a request holds."""

    _plain: ClassVar[tuple[str, ...]] = ("request", "query", "body", "return")

    def __init__(self, endpoint: Callable[..., Awaitable[Any]], status: int) -> None:
        hints = get_type_hints(endpoint, include_extras=True)
        self._endpoint, self._status = endpoint, status
        self._path = {name: TypeAdapter(hint) for name, hint in hints.items() if name not in self._plain}
        self._only_text = {name for name in self._path if _bare(hints[name]) is str}
        self._query: type[BaseModel] | None = _bare(hints["query"]) if "query" in hints else None
        self._lists: set[str] = set()
        self._defaults: BaseModel | None = None
        if self._query is not None:
            fields = self._query.model_fields.items()
            self._lists = {name for name, field in fields if get_origin(field.annotation) is list}
            if not any(field.is_required() for _, field in fields):
                self._defaults = self._query()
        self._body: type[BaseModel] | None = _bare(hints["body"]) if "body" in hints else None

    async def __call__(self, request: Request, state: State) -> Response:
        given: dict[str, Any] = {}
        for name, adapter in self._path.items():
            text = unquote(request.path_params[name])
            given[name] = text if name in self._only_text else _valid(adapter.validate_python, text, ("path", name))
        if self._query is not None:
            text = request.scope["query_string"]
            given["query"] = self._read_query(text) if text or self._defaults is None else self._defaults
        if self._body is not None:
            content = await _read_body(request, state.settings.max_body_kib * 1024)
            read = self._read_body
            given["body"] = await aside(state, read, content) if len(content) > _ASIDE_BYTES else read(content)
        answer = await self._endpoint(request, **given)
        if isinstance(answer, Result):
            return Response(answer.model_dump_json(), self._status, media_type="application/json")
        response: Response = answer
        return response

    def _read_query(self, text: bytes) -> BaseModel:
        assert self._query is not None
        values: dict[str, Any] = {}
        for name, value in parse_qsl(text.decode("latin-1"), keep_blank_values=True):
            if name in self._lists:
                values.setdefault(name, []).append(value)
            else:
                values[name] = value
        model: BaseModel = _valid(self._query.model_validate, values, ("query",))
        return model

    def _read_body(self, content: bytes) -> BaseModel:
        assert self._body is not None
        try:
            values = json.loads(content)
        except (ValueError, RecursionError) as error:
            said = {"type": "json_invalid", "loc": ("body",), "msg": f"not JSON: {error}", "input": None}
            raise RequestValidationError([said]) from error
        model: BaseModel = _valid(self._body.model_validate, values, ("body",))
        return model


async def _read_body(request: Request, most: int) -> bytes:
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json" and not (kind.startswith("application/") and kind.endswith("+json")):
        raise MediaTypeError(f"the content type is {kind[:80] or 'missing'}: send JSON, as application/json")
    too_large = TooLargeError(f"the body is larger than {most:,} bytes: send it in several requests")
    length = request.headers.get("content-length", "")
    if length.isdigit() and int(length) > most:
        raise too_large
    content = bytearray()
    async for part in request.stream():
        content += part
        if len(content) > most:
            raise too_large
    return bytes(content)


def _valid(validate: Callable[[Any], Any], value: Any, where: tuple[str, ...]) -> Any:
    try:
        return validate(value)
    except ValidationError as error:
        found = [{**each, "loc": (*where, *each["loc"])} for each in error.errors(include_url=False)]
        raise RequestValidationError(found) from error


def _bare(hint: Any) -> Any:
    return get_args(hint)[0] if get_origin(hint) is Annotated else hint
