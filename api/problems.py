"""Every error as a problem document (RFC 9457): the one place that maps errors to HTTP."""

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

from recsys.errors import RecsysError

_log = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"


class Where(BaseModel):
    where: str = Field(description="Which part of the request.", examples=["query.n"])
    message: str


class Problem(BaseModel):
    """Problem details, RFC 9457."""

    type: str = Field(examples=["about:blank"])
    title: str = Field(examples=["Not found"])
    status: int = Field(examples=[404])
    detail: str = Field(description="What was wrong, what was expected, and the fix.")
    errors: list[Where] = []


def _described(description: str) -> dict[str, Any]:
    schema = {"$ref": "#/components/schemas/Problem"}
    return {"model": Problem, "description": description, "content": {MEDIA_TYPE: {"schema": schema}}}


RESPONSES: dict[int | str, dict[str, Any]] = {
    401: _described("A key is needed, and none came that is in force."),
    403: _described("The key may not do this."),
    404: _described("There is no such user, item or model version."),
    422: _described("The request is not valid; `errors` says where."),
    503: _described("No model is live, the database cannot be reached, or too much is being asked; `detail` says so."),
}
BODY_RESPONSES: dict[int | str, dict[str, Any]] = {
    413: _described("The body is larger than the limit."),
    415: _described("The body is not JSON, or does not say that it is."),
}

_RETRY_SECONDS = 2


def problem(status: int, title: str, detail: str, errors: list[Where] | None = None) -> JSONResponse:
    body = Problem(type="about:blank", title=title, status=status, detail=detail, errors=errors or [])
    answer = JSONResponse(body.model_dump(), status, media_type=MEDIA_TYPE)
    if status == HTTPStatus.SERVICE_UNAVAILABLE:
        answer.headers["retry-after"] = str(_RETRY_SECONDS)
    elif status == HTTPStatus.UNAUTHORIZED:
        answer.headers["www-authenticate"] = "Bearer"
    return answer


def install(app: FastAPI) -> None:
    """Answer every error of this application with a problem document."""
    for kind in (RecsysError, RequestValidationError, HTTPException, Exception):
        app.exception_handler(kind)(_handle)


async def _handle(request: Request, error: Exception) -> JSONResponse:
    return answer_to(request, error)


def answer_to(request: Request, error: Exception) -> JSONResponse:
    """What an error means for the client."""
    if isinstance(error, RecsysError):
        return problem(error.status, error.title, str(error))
    if isinstance(error, RequestValidationError):
        return _invalid(error)
    if isinstance(error, HTTPException):
        phrase = HTTPStatus(error.status_code).phrase
        detail = f"{request.method} {request.url.path}: {error.detail}; see /docs for what there is"
        answer = problem(error.status_code, phrase, detail)
        answer.headers.update(error.headers or {})
        if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
            answer.headers["allow"] = ", ".join(_methods(request))
        return answer
    if isinstance(error, ClientDisconnect):
        return problem(400, "The request is not whole", "the client went before the body had come")
    where = {"method": request.method, "path": request.url.path}
    _log.error("unhandled error", exc_info=error, extra=where)
    return problem(500, "Internal error", "the server failed to answer; its log says why")


def _methods(request: Request) -> list[str]:
    """What may be done with the path of a request: each method is a route of its own."""
    path = request.scope["path"]
    routes = [route for route in request.app.routes if isinstance(route, Route) and route.path_regex.match(path)]
    exact = [route for route in routes if route.path == path]
    return sorted({method for route in exact or routes for method in route.methods or ()})


def _invalid(error: RequestValidationError) -> JSONResponse:
    errors = [
        Where(where=".".join(str(part) for part in found["loc"]), message=found["msg"]) for found in error.errors()
    ]
    detail = "; ".join(f"{found.where}: {found.message}" for found in errors[:3])
    return problem(422, "The request is not valid", f"{detail}. See /docs for what is expected.", errors[:100])
