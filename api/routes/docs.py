"""The pages for people: `/`, which says where things are, and `/docs`, which needs no network."""

import json
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

from fastapi import APIRouter, FastAPI, Request
from fastapi.responses import HTMLResponse, JSONResponse, Response
from starlette.exceptions import HTTPException

import recsys
from api.caching import KeptAnswer

routes = APIRouter(include_in_schema=False)

FILES = {"swagger-ui.css": "text/css", "swagger-ui-bundle.js": "text/javascript", "start.js": "text/javascript"}
"""Files of Swagger UI, as the package fastapi-offline ships them, and our own that starts it."""

# All addresses are relative, so that the pages work behind any prefix.
PAGE = """\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>recsys: HTTP API</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="docs/swagger-ui.css">
</head>
<body>
<div id="swagger-ui"></div>
<script src="docs/swagger-ui-bundle.js"></script>
<script src="docs/start.js"></script>
</body>
</html>
"""

START = """\
SwaggerUIBundle({url: "openapi.json", dom_id: "#swagger-ui", deepLinking: true, validatorUrl: null});
"""

HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data:; connect-src 'self'; frame-ancestors 'none'; base-uri 'none'",
    "x-content-type-options": "nosniff",
}


@routes.get("/")
async def index(request: Request) -> Response:
    """Say where things are: a page for browsers, JSON for all others."""
    links = {
        "docs": "docs",
        "openapi": "openapi.json",
        "live": "health/live",
        "ready": "health/ready",
        "metrics": "metrics",
        "popular": "v1/popular",
    }
    if any(getattr(route, "path", "").startswith("/dashboard") for route in request.app.routes):
        links["dashboard"] = "dashboard/"
    if "text/html" not in request.headers.get("accept", ""):
        return JSONResponse({"name": "recsys", "version": recsys.__version__, "links": links})
    rows = "".join(f'<li><a href="{address}">/{address}</a></li>' for address in links.values())
    page = (
        '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>recsys</title>'
        f'<link rel="icon" href="data:,"></head><body><h1>recsys {recsys.__version__}</h1><ul>{rows}</ul></body></html>'
    )
    return HTMLResponse(page, headers=HEADERS)


@routes.get("/docs")
async def docs() -> Response:
    """Return the description of all requests, as a page."""
    return HTMLResponse(PAGE, headers=HEADERS)


@routes.get("/docs/{file}")
async def docs_file(request: Request, file: str) -> Response:
    """Return a file of that page."""
    if file not in FILES:
        raise HTTPException(404)
    return kept_file(file).answer(request)


@routes.get("/openapi.json")
async def document(request: Request) -> Response:
    """Return the OpenAPI document."""
    return kept_document(request.app, request.scope.get("root_path", "")).answer(request)


@lru_cache(maxsize=8)
def kept_document(app: FastAPI, root_path: str) -> KeptAnswer:
    """Return the OpenAPI document of an application behind a prefix."""
    servers = {"servers": [{"url": root_path}]} if root_path else {}
    return KeptAnswer(json.dumps({**app.openapi(), **servers}, separators=(",", ":")).encode(), "application/json")


@lru_cache
def kept_file(file: str) -> KeptAnswer:
    """Return one of `FILES`."""
    content = START.encode() if file == "start.js" else (static_folder() / file).read_bytes()
    return KeptAnswer(content, f"{FILES[file]}; charset=utf-8", {**HEADERS, "cache-control": "max-age=3600"})


def static_folder() -> Path:
    """Return the folder with the files of Swagger UI, without importing the package that has it."""
    spec = find_spec("fastapi_offline")
    if spec is None or not spec.submodule_search_locations:
        raise HTTPException(404, "fastapi-offline is not installed: install recsys[serve]")
    return Path(spec.submodule_search_locations[0]) / "static"
