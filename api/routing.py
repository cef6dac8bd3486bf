"""The fast path of lists and other reads, and the router of all other endpoints.

A list takes less time than FastAPI's own handling of a request: dependencies, validation of the answer, its thread.
`FastRoute` leaves that out. An endpoint of the fast path is `async def endpoint(request, …) -> Response | Result` and
may have these parameters:

- path parameters, `UserId` or `ItemId`: the decoded segment of the path;
- `query`: a pydantic model, read from the query string;
- `body`: a pydantic model, read from JSON.

FastAPI reads the same signature for the OpenAPI document, so the document and the answers agree.
"""

from collections.abc import Callable
from typing import Annotated, Any, get_args, get_origin, get_type_hints
from urllib.parse import parse_qsl, unquote

from fastapi import APIRouter, FastAPI, Path, Request
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from api import problems
from api.body import JsonBody, validated
from api.caching import JsonResponse
from api.cycle import in_task
from api.security import check_key
from api.state import state_of
from recsys.database.keys import Scope as KeyScope
from recsys.results import Result


def decode_segment(segment: str) -> str:
    """Return a segment of a path without percent-encoding.

    Raises:
        ValueError: its bytes are not UTF-8; decoded all the same, two ids would become one.
    """
    try:
        return unquote(segment, errors="strict")
    except UnicodeDecodeError as error:
        raise ValueError("the bytes are not UTF-8: percent-encode the text in UTF-8") from error


# Requests are routed by their raw path (`RequestMiddleware`), so path parameters are still percent-encoded.
UserId = Annotated[str, BeforeValidator(decode_segment), Path(description="External id of a user.", examples=["196"])]
ItemId = Annotated[str, BeforeValidator(decode_segment), Path(description="External id of an item.", examples=["50"])]
Number = Annotated[
    int,
    Field(ge=1, le=2**63 - 1),
    BeforeValidator(decode_segment),
    Path(description="Number of a model version.", examples=[1]),
]


MAX_KEPT, MAX_KEPT_LENGTH = 1024, 100
"""Most query strings of a route that are kept parsed, and the bytes of the longest one: together less than 10 MB."""


class Params(BaseModel):
    """Base of query parameters; an unknown name is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class FastRoute(APIRoute):
    """A route of the fast path; see the module. `fast_route` gives it the scope that it needs."""

    scope: KeyScope
    checks_rows = False

    def __init__(self, path: str, endpoint: Callable[..., Any], **options: Any) -> None:
        super().__init__(path, endpoint, **options)
        hints = get_type_hints(endpoint, include_extras=True)
        self._endpoint = endpoint
        self.ids = [name for name in hints if name not in ("request", "query", "body", "return")]
        self._query = QueryParser(_bare(hints["query"])) if "query" in hints else None
        self.body = JsonBody(_bare(hints["body"])) if "body" in hints else None
        self.app = self.answer

    async def answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        try:
            response = await self._call(request)
        except Exception as error:
            response = problems.answer_to(request, error)
        await response(scope, receive, send)

    async def _call(self, request: Request) -> Response:
        state = state_of(request)
        check_key(request, state, self.scope, checks_rows=self.checks_rows)
        arguments: dict[str, Any] = {name: _decode(name, request.path_params[name]) for name in self.ids}
        if self._query is not None:
            arguments["query"] = self._query.parse(request.scope["query_string"])
        if self.body is not None:
            arguments["body"] = await self.body.read(request, state)
        answer: Response | Result = await self._endpoint(request, **arguments)
        if isinstance(answer, Result):
            return JsonResponse(answer.model_dump_json().encode())
        return answer


def fast_route(needed: KeyScope, *, of_rows: bool = False) -> type[FastRoute]:
    """Return the class of routes of the fast path that need a scope.

    Args:
        of_rows: whether the endpoint itself checks whose rows a user's token may write; see `api.security`.
    """

    class Scoped(FastRoute):
        scope = needed
        checks_rows = of_rows

    return Scoped


class FastPaths:
    """Middleware that passes requests of the fast path directly to their route, and all others on.

    It takes the place of the search among all routes, and of FastAPI's layers around it, which together take longer
    than a list that is kept.

    Args:
        app: handles all other requests.
        service: whose routes these are: `/v1/KIND`, and for GET `/v1/KIND/{id}` or `/v1/KIND/{id}/MORE` too.
    """

    def __init__(self, app: ASGIApp, service: FastAPI) -> None:
        self._app, self._service = app, service
        self._without_id: dict[tuple[str, str], FastRoute] = {}
        self._with_id: dict[tuple[str, str | None], tuple[FastRoute, str]] = {}
        for route in service.routes:
            if isinstance(route, FastRoute):
                _, version, kind, *rest = route.path.split("/", 4)
                methods = route.methods or set()
                if not rest:
                    self._without_id |= dict.fromkeys(((method, route.path) for method in methods), route)
                elif "GET" in methods and version == "v1" and rest[0] == f"{{{route.ids[0]}}}":
                    self._with_id[kind, rest[1] if len(rest) == 2 else None] = route, route.ids[0]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            path, method = scope["path"], scope["method"]
            route, parameters = self._without_id.get((method, path)), {}
            if route is None and method == "GET":
                parts = path.split("/", 4)  # "", v1, kind, id, more
                if len(parts) > 3 and parts[1] == "v1" and parts[3]:
                    found = self._with_id.get((parts[2], parts[4] if len(parts) == 5 else None))
                    if found is not None:
                        route, parameters = found[0], {found[1]: parts[3]}
            if route is not None:
                scope["app"], scope["route"], scope["path_params"] = self._service, route, parameters
                await route.answer(scope, receive, send)
                return
            await in_task()
        await self._app(scope, receive, send)


class QueryParser:
    """Parses query strings into a model, and keeps what the shorter ones mean: most requests repeat them."""

    def __init__(self, model: type[BaseModel]) -> None:
        fields = model.model_fields.items()
        self._model = model
        self._lists = {name for name, field in fields if get_origin(field.annotation) is list}
        self._kept: dict[bytes, BaseModel] = {}

    def parse(self, query_string: bytes) -> BaseModel:
        """Return the parameters; they may be shared with other requests.

        Raises:
            RequestValidationError: a parameter is unknown, has a wrong value, is repeated although it has one value, or
                is not UTF-8.
        """
        query = self._kept.get(query_string)
        if query is None:
            query = self._read(query_string)
            if len(query_string) <= MAX_KEPT_LENGTH:
                if len(self._kept) >= MAX_KEPT:
                    self._kept.clear()
                self._kept[query_string] = query
        return query

    def _read(self, query_string: bytes) -> BaseModel:
        values: dict[str, Any] = {}
        try:
            pairs = parse_qsl(query_string.decode(), keep_blank_values=True, errors="strict")
        except UnicodeDecodeError as error:
            raise _invalid(("query",), "the bytes are not UTF-8: percent-encode the text in UTF-8") from error
        for name, value in pairs:
            if name in self._lists:
                values.setdefault(name, []).append(value)
            elif name in values:
                raise _invalid(("query", name), "the parameter is given twice: send it once")
            else:
                values[name] = value
        return validated(self._model, values, "query")


def operation_name(route: APIRoute) -> str:
    """Return the name of an operation in the OpenAPI document, which generated clients take over."""
    return route.name


def router(tag: str, route_class: type[APIRoute] = APIRoute) -> APIRouter:
    """Return a router under /v1."""
    return APIRouter(
        prefix="/v1",
        tags=[tag],
        route_class=route_class,
        responses=problems.RESPONSES,
        generate_unique_id_function=operation_name,
    )


def _decode(name: str, segment: str) -> str:
    try:
        return decode_segment(segment)
    except ValueError as error:
        raise _invalid(("path", name), str(error)) from error


def _invalid(location: tuple[str, ...], message: str) -> RequestValidationError:
    return RequestValidationError([{"type": "value_error", "loc": location, "msg": message, "input": None}])


def _bare(hint: Any) -> Any:
    return get_args(hint)[0] if get_origin(hint) is Annotated else hint
