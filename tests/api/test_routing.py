"""The fast path: which requests it takes, and what it keeps."""

import asyncio
from typing import Any

import httpx
import pytest
from fastapi.exceptions import RequestValidationError

from api.app import create_app
from api.routing import MAX_KEPT, MAX_KEPT_LENGTH, FastPaths, FastRoute, QueryParser
from api.schemas import RecommendParams
from recsys.settings import Settings
from tests.api.asking import eventually, ids

SERVICE = create_app(Settings(database_url="sqlite:///none.db"))
FAST = [route for route in SERVICE.routes if isinstance(route, FastRoute) and "GET" in (route.methods or ())]


async def refuse(*_: Any) -> None:
    raise LookupError("not on the fast path")


def routed(path: str, method: str = "GET", monkeypatch: Any = None) -> tuple[str, dict[str, str]]:
    """The route that the fast path finds, and the parameters of the path."""
    found: list[tuple[str, dict[str, str]]] = []

    async def note(self: FastRoute, scope: Any, receive: Any, send: Any) -> None:
        assert scope["route"] is self
        assert scope["app"] is SERVICE
        found.append((self.path, scope["path_params"]))

    monkeypatch.setattr(FastRoute, "answer", note)
    scope = {"type": "http", "method": method, "path": path}
    asyncio.run(FastPaths(refuse, SERVICE)(scope, refuse, refuse))
    return found[0]


@pytest.mark.parametrize("route", FAST, ids=lambda route: route.path)
def test_every_get_of_the_fast_path_is_found(route: FastRoute, monkeypatch: pytest.MonkeyPatch) -> None:
    parameters = dict.fromkeys(route.ids, "a%2Fb")
    assert routed(route.path.format(**parameters), monkeypatch=monkeypatch) == (route.path, parameters)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v1/items"),
        ("PUT", "/v1/ratings"),
        ("DELETE", "/v1/items/a"),
        ("GET", "/v1/items/"),
        ("GET", "/v1/items/a/"),
        ("GET", "/v1/items//similar"),
        ("GET", "/v1/items/a/similar/"),
        ("GET", "/v2/items/a"),
        ("GET", "/v1/models"),
        ("GET", "/v1"),
        ("GET", ""),
    ],
)
def test_all_else_is_passed_on(method: str, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(LookupError):
        routed(path, method, monkeypatch)


def test_parsed_queries_are_kept_and_bounded() -> None:
    parser = QueryParser(RecommendParams)
    assert parser.parse(b"n=3") is parser.parse(b"n=3")
    assert parser.parse(b"n=3") == RecommendParams(n=3)
    long = b"exclude=" + b"x" * MAX_KEPT_LENGTH
    assert parser.parse(long) is not parser.parse(long)
    for n in range(MAX_KEPT + 5):
        parser.parse(b"exclude=%d" % n)
    assert len(parser._kept) <= MAX_KEPT
    for _ in range(2):
        with pytest.raises(RequestValidationError):
            parser.parse(b"n=0")


@pytest.mark.parametrize("engine", ["sqlite"], indirect=True)
def test_kept_similar_lists_follow_changes_of_items(client: httpx.Client) -> None:
    first = client.get("/v1/items/a/similar")
    assert (first.content, first.headers) != (b"", {})
    again = client.get("/v1/items/a/similar")
    assert (again.content, again.headers["etag"]) == (first.content, first.headers["etag"])
    hidden = ids(first)[0]
    assert client.put(f"/v1/items/{hidden}", json={"hidden": True}).status_code == 200
    eventually(lambda: hidden not in ids(client.get("/v1/items/a/similar")))
    assert client.get("/v1/items/a/similar").headers["etag"] != first.headers["etag"]
