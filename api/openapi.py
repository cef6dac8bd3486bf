"""The OpenAPI document: what FastAPI makes of the routes, with API keys, bodies and problem documents."""

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute
from pydantic.json_schema import models_json_schema

from api.body import JsonBody
from api.problems import MEDIA_TYPE
from api.routing import FastRoute
from api.security import RequireScope
from recsys.database.keys import Scope

REFERENCE = "#/components/schemas/{model}"
KEY_SCHEME = {"type": "http", "scheme": "bearer", "description": "A key from `recsys keys create`."}


def document_of(app: FastAPI) -> dict[str, Any]:
    """Return the OpenAPI document of the application; it is built once."""
    if app.openapi_schema is None:
        document = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
        document["components"]["securitySchemes"] = {"key": KEY_SCHEME}
        for route in app.routes:
            if isinstance(route, APIRoute) and route.include_in_schema:
                for method in route.methods or ():
                    complete(document, document["paths"][route.path_format][method.lower()], route)
        app.openapi_schema = document
    return app.openapi_schema


def complete(document: dict[str, Any], operation: dict[str, Any], route: APIRoute) -> None:
    """Describe what FastAPI does not know about an operation: its scope, its body and the media type of its errors."""
    scope = scope_of(route)
    if scope is not None:
        operation["security"] = [{"key": []}, {}]  # a service without keys is open
        operation["x-key-scope"] = scope
    for body in bodies_of(route):
        operation["requestBody"] = body_of(document, body)
    for response in operation["responses"].values():
        if MEDIA_TYPE in response.get("content", ()):
            response["content"].pop("application/json", None)  # FastAPI adds it for the model


def bodies_of(route: APIRoute) -> list[JsonBody[Any]]:
    """Return the bodies of a route that FastAPI does not describe, or not fully."""
    if isinstance(route, FastRoute):  # FastAPI describes its body, except for rows that are validated one by one
        return [route.body] if route.checks_rows and route.body is not None else []
    calls = (dependency.call for dependency in route.dependant.dependencies)
    return [call for call in calls if isinstance(call, JsonBody)]


def scope_of(route: APIRoute) -> Scope | None:
    """Return the scope that a route checks; `None` if it is open to all."""
    if isinstance(route, FastRoute):
        return route.scope
    checks = [dependency.call for dependency in route.dependant.dependencies]
    return next((check.scope for check in checks if isinstance(check, RequireScope)), None)


def body_of(document: dict[str, Any], body: JsonBody[Any]) -> dict[str, Any]:
    """Add the schema of a body to the document, and return the description of the body."""
    names, definitions = models_json_schema([(body.model, "validation")], ref_template=REFERENCE)
    schemas: dict[str, Any] = document["components"]["schemas"]
    schemas |= definitions["$defs"]
    # pydantic writes rows that it does not validate itself in place; with a name they are a type of every client.
    for field in definitions["$defs"][body.model.__name__]["properties"].values():
        row = field.get("items", {})
        if row.get("type") == "object":
            schemas[row["title"]] = row
            field["items"] = {"$ref": REFERENCE.format(model=row["title"])}
    return {"required": True, "content": {"application/json": {"schema": names[body.model, "validation"]}}}
