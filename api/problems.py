"""Problem documents (RFC 9457): the one place that maps errors to HTTP."""

import logging
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.routing import Route

from recsys import errors
from recsys.errors import RecsysError

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


def described(error: type[RecsysError], description: str, detail: str, where: str | None = None) -> dict[str, Any]:
    """Return the OpenAPI description of an error's answer, with an example.

    Args:
        detail: the detail of the example.
        where: the part of the request that the example's one error names.
    """
    listed = [{"where": where, "message": detail.partition(": ")[2]}] if where else []
    example = {"type": "about:blank", "title": error.title, "status": error.status, "detail": detail, "errors": listed}
    content = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}, "example": example}}
    return {"model": Problem, "description": description, "content": content}


RESPONSES: dict[int | str, dict[str, Any]] = {
    401: described(
        errors.UnauthorizedError,
        "A key is needed, and the request has none that is active.",
        "send a key: Authorization: Bearer recsys_…; create one with `recsys keys create NAME --scope read`",
    ),
    403: described(
        errors.ForbiddenError,
        "The key does not have the scope that this request needs.",
        "the key 'shop' has the scope read, and this request needs write: "
        "create a key with `recsys keys create NAME --scope write`",
    ),
    404: described(
        errors.NotFoundError,
        "The user, item or model version does not exist.",
        "there is no item '50': search by title with GET /v1/items?title=…",
    ),
    422: described(
        errors.InputError,
        "The request is not valid; `errors` lists the parts that are wrong.",
        "query.n: Input should be less than or equal to 1000",
        where="query.n",
    ),
    503: described(
        errors.NoModelError,
        "No model is live, the database is not available, or there are too many requests; `detail` says which.",
        "no ranking model is live yet: run `recsys train --objective ranking`",
    ),
}
BODY_RESPONSES: dict[int | str, dict[str, Any]] = {
    413: described(
        errors.TooLargeError,
        "The body is larger than the limit.",
        "the body is larger than 4,194,304 bytes: send it in several requests",
    ),
    415: described(
        errors.MediaTypeError,
        "The body is not JSON, or its content type does not say so.",
        "the content type is text/plain: send JSON, as application/json",
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


def install(app: FastAPI) -> None:
    """Answer the errors of this application with problem documents; `RequestMiddleware` does so for all others."""
    for kind in (RecsysError, RequestValidationError, HTTPException):
        app.exception_handler(kind)(_handle)


async def _handle(request: Request, error: Exception) -> JSONResponse:
    # Starlette would call a function that is not a coroutine in a thread.
    return answer_to(request, error)


def answer_to(request: Request, error: Exception) -> JSONResponse:
    """Return the HTTP response to a request that failed with an error."""
    if isinstance(error, RecsysError):
        if error.public != str(error):
            _log.warning("request failed", extra={"reason": str(error), "path": request.url.path[:200]})
        return problem(error.status, error.title, error.public)
    if isinstance(error, RequestValidationError):
        return invalid(error)
    if isinstance(error, HTTPException):
        phrase = HTTPStatus(error.status_code).phrase
        detail = f"{request.method} {request.url.path}: {error.detail}; see /docs for the endpoints"
        answer = problem(error.status_code, phrase, detail)
        answer.headers.update(error.headers or {})
        if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
            answer.headers["allow"] = ", ".join(allowed_methods(request))
        return answer
    if isinstance(error, ClientDisconnect):
        return problem(400, "The request is incomplete", "the client disconnected before sending the whole body")
    where = {"method": request.method, "path": request.url.path}
    _log.error("unexpected error", exc_info=error, extra=where)
    return problem(500, "Internal error", "the server failed to answer: its log has the error")


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
