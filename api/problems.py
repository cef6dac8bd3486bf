"""Problem documents (RFC 9457): the one place that maps errors to HTTP."""

import logging
from collections.abc import Sequence
from http import HTTPStatus
from typing import Any, Literal

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field, create_model
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from recsys import errors
from recsys.errors import RecsysError, TooManyError
from recsys.results import RowError

MEDIA_TYPE = "application/problem+json"
RETRY_SECONDS = 2
"""Sent as Retry-After with every 503."""
MAX_ERRORS = 100
"""Errors of one request that its answer lists."""

_log = logging.getLogger(__name__)


class Where(BaseModel):
    """One error of a request."""

    where: str = Field(description="The part of the request that is wrong.", examples=["query.n"])
    message: str


class Problem(BaseModel):
    """Problem details, RFC 9457."""

    type: str = Field(examples=["about:blank"])
    title: str = Field(examples=["Not found"])
    status: int = Field(examples=[404])
    detail: str = Field(description="The cause, the expected value, and the fix.")
    errors: list[Where] = []


def described(
    name: str,
    error: type[RecsysError],
    description: str,
    detail: str,
    where: str | None = None,
    titles: Sequence[str] = (),
) -> dict[str, Any]:
    """Return the OpenAPI description of an error's answer: its schema and an example.

    Args:
        name: of the schema.
        error: whose status and title the schema has.
        titles: further titles of answers with this status.
        detail: the detail of the example.
        where: the part of the request that the example's one error names.
    """
    listed = [{"where": where, "message": detail.partition(": ")[2]}] if where else []
    example = {"type": "about:blank", "title": error.title, "status": error.status, "detail": detail, "errors": listed}
    possible: Any = Literal[(error.title, *titles)]
    fixed_status: Any = Literal[error.status]
    model = create_model(name, __base__=Problem, __doc__=description, title=(possible, ...), status=(fixed_status, ...))
    content = {MEDIA_TYPE: {"schema": {"$ref": f"#/components/schemas/{name}"}, "example": example}}
    return {"model": model, "description": description, "content": content}


RESPONSES: dict[int | str, dict[str, Any]] = {
    401: described(
        "UnauthorizedProblem",
        errors.UnauthorizedError,
        "A key is needed, and the request has none that is active.",
        "send a key: Authorization: Bearer recsys_…; create one with `recsys keys create NAME --scope read`",
    ),
    403: described(
        "ForbiddenProblem",
        errors.ForbiddenError,
        "The key does not have the scope that this request needs.",
        "the key 'shop' has the scope read, and this request needs write: "
        "create a key with `recsys keys create NAME --scope write`",
    ),
    404: described(
        "NotFoundProblem",
        errors.NotFoundError,
        "The user, item or model version does not exist.",
        "there is no item '50': search by title with GET /v1/items?title=…",
    ),
    422: described(
        "InvalidProblem",
        errors.InputError,
        "The request is not valid; `errors` lists the parts that are wrong.",
        "query.n: Input should be less than or equal to 1000",
        where="query.n",
        titles=("No rating could be stored", "No item could be stored"),
    ),
    429: described(
        "TooManyProblem",
        errors.TooManyError,
        "The key, user or address sent more requests than its limit allows; `Retry-After` says when to go on.",
        "more than 600 requests in 60 seconds: send this one again in 12 seconds",
    ),
    503: described(
        "UnavailableProblem",
        errors.NoModelError,
        "No model is live, the database is not available, or there are too many requests; `detail` says which.",
        "no ranking model is live yet: run `recsys train --objective ranking`",
        titles=(
            errors.DatabaseError.title,
            errors.DamagedVersionError.title,
            errors.OverloadedError.title,
            "The server is stopping",
        ),
    ),
}
BODY_RESPONSES: dict[int | str, dict[str, Any]] = {
    413: described(
        "TooLargeProblem",
        errors.TooLargeError,
        "The body is larger than the limit.",
        "the body is larger than 4,194,304 bytes: send it in several requests",
    ),
    415: described(
        "MediaTypeProblem",
        errors.MediaTypeError,
        "The body is not JSON, or its content type does not say so.",
        "the content type is text/plain: send JSON, as application/json",
    ),
}
CONFLICT_RESPONSES: dict[int | str, dict[str, Any]] = {
    409: described(
        "ConflictProblem",
        errors.GateRefusedError,
        "The publish gate refused the version, or another change came first.",
        "the gate refused version 7: publish it with force and a reason",
        titles=(errors.LiveChangedError.title, errors.LockedError.title),
    ),
}


def problem(status: int, title: str, detail: str, errors: list[Where] | None = None) -> JSONResponse:
    """Return the answer with a problem document, and the headers that belong to its status."""
    body = Problem(type="about:blank", title=title, status=status, detail=detail, errors=errors or [])
    answer = JSONResponse(body.model_dump(), status, media_type=MEDIA_TYPE)
    if status == HTTPStatus.SERVICE_UNAVAILABLE:
        answer.headers["retry-after"] = str(RETRY_SECONDS)
    elif status == HTTPStatus.UNAUTHORIZED:
        answer.headers["www-authenticate"] = "Bearer"
    return answer


def none_stored(what: str, field: str, errors: Sequence[RowError]) -> JSONResponse:
    """Return the answer to a post of which no row can be stored.

    Args:
        what: `rating` or `item`.
        field: of the body, with the rows.
    """
    found = [Where(where=f"body.{field}.{error.index}", message=error.message) for error in errors]
    return problem(422, f"No {what} could be stored", found[0].message, found)


def install(app: FastAPI) -> None:
    """Answer the errors of this application with problem documents."""
    for kind in (RecsysError, RequestValidationError, HTTPException):
        app.exception_handler(kind)(_handle)
    app.add_middleware(UnexpectedErrors)


class UnexpectedErrors:
    """Middleware that answers an unexpected error with a problem document, and logs it."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        has_started = False

        async def note_start(message: Message) -> None:
            nonlocal has_started
            has_started = True
            await send(message)

        try:
            await self._app(scope, receive, note_start)
        except Exception as error:
            if has_started or scope["type"] != "http":
                raise  # the server closes the connection, so that the client sees that the response is incomplete
            await answer_to(Request(scope, receive), error)(scope, receive, send)


async def _handle(request: Request, error: Exception) -> JSONResponse:
    # Starlette would call a function that is not a coroutine in a thread.
    return answer_to(request, error)


def answer_to(request: Request, error: Exception) -> JSONResponse:
    """Return the HTTP response to a request that failed with an error."""
    if isinstance(error, TooManyError):
        answer = problem(error.status, error.title, error.public)
        answer.headers["retry-after"] = str(error.seconds)
        answer.headers.raw.extend(error.headers)
        return answer
    if isinstance(error, RecsysError):
        if error.public != str(error):
            _log.warning("request failed", extra={"reason": str(error), "route": route_of(request.scope)})
        return problem(error.status, error.title, error.public)
    if isinstance(error, RequestValidationError):
        return invalid(error)
    if isinstance(error, HTTPException):
        phrase = HTTPStatus(error.status_code).phrase.capitalize()  # "Not found", as of what is not in the database
        detail = f"{request.method} {request.url.path}: {error.detail}; see /docs for the endpoints"
        answer = problem(error.status_code, phrase, detail)
        answer.headers.update(error.headers or {})
        if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
            answer.headers["allow"] = ", ".join(allowed_methods(request))
        return answer
    if isinstance(error, ClientDisconnect):
        return problem(400, "The request is incomplete", "the client disconnected before sending the whole body")
    where = {"method": request.method, "route": route_of(request.scope)}
    _log.error("unexpected error", exc_info=error, extra=where)
    return problem(500, "Internal error", "the server failed to answer: its log has the error")


def route_of(scope: Scope) -> str:
    """Return the template of a request's path, which has no ids of users; `none` where no route was found."""
    return getattr(scope.get("route"), "path", "none")


def allowed_methods(request: Request) -> list[str]:
    """Return the methods of the request's path; each method is a route of its own."""
    path = request.scope["path"]
    routes = [route for route in request.app.routes if isinstance(route, Route) and route.path_regex.match(path)]
    exact = [route for route in routes if route.path == path]
    methods = {method for route in exact or routes for method in route.methods or ()}
    return sorted(methods | {"HEAD"} if "GET" in methods else methods)  # the middleware answers HEAD as GET


def invalid(error: RequestValidationError) -> JSONResponse:
    """Return the answer to a request whose parameters or body are not valid."""
    found = [
        Where(where=".".join(str(part) for part in each["loc"]), message=each["msg"].removeprefix("Value error, "))
        for each in error.errors()
    ]
    detail = "; ".join(f"{each.where}: {each.message}" for each in found[:3])
    return problem(422, "The request is not valid", f"{detail}. See /docs for what is expected.", found[:MAX_ERRORS])
