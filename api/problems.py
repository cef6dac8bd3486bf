"""Every error as a problem document (RFC 9457): the one place that maps errors to HTTP."""

import logging
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException

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
    404: _described("There is no such item or model version."),
    422: _described("The request is not valid; `errors` says where."),
    503: _described("No model is live, or the database cannot be reached; `detail` says what to run."),
}


def problem(status: int, title: str, detail: str, errors: list[Where] | None = None) -> JSONResponse:
    body = Problem(type="about:blank", title=title, status=status, detail=detail, errors=errors or [])
    return JSONResponse(body.model_dump(), status, media_type=MEDIA_TYPE)


def install(app: FastAPI) -> None:
    """Answer every error of this application with a problem document."""
    app.exception_handler(RecsysError)(_on_recsys_error)
    app.exception_handler(RequestValidationError)(_on_invalid_request)
    app.exception_handler(HTTPException)(_on_http_error)
    app.exception_handler(Exception)(_on_bug)


async def _on_recsys_error(_request: Request, error: RecsysError) -> JSONResponse:
    answer = problem(error.status, error.title, str(error))
    if error.status == HTTPStatus.SERVICE_UNAVAILABLE:
        answer.headers["retry-after"] = "2"
    return answer


async def _on_invalid_request(_request: Request, error: RequestValidationError) -> JSONResponse:
    errors = [
        Where(where=".".join(str(part) for part in found["loc"]), message=found["msg"]) for found in error.errors()
    ]
    detail = "; ".join(f"{found.where}: {found.message}" for found in errors[:3])
    return problem(422, "The request is not valid", f"{detail}. See /docs for what is expected.", errors)


async def _on_http_error(request: Request, error: HTTPException) -> JSONResponse:
    phrase = HTTPStatus(error.status_code).phrase
    detail = f"{request.method} {request.url.path}: {error.detail}; see /docs for what there is"
    answer = problem(error.status_code, phrase, detail)
    answer.headers.update(error.headers or {})
    return answer


async def _on_bug(request: Request, error: Exception) -> JSONResponse:
    _log.error("unhandled error", exc_info=error, extra={"method": request.method, "path": request.url.path})
    return problem(500, "Internal error", "the server failed to answer; its log says why")
