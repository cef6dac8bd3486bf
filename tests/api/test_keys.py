"""Keys: who may do what, of every method and path there is."""

import hmac
import json
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from fastapi.routing import APIRoute
from sqlalchemy import Engine, select

from api.app import create_app
from api.openapi import scope_of
from api.routing import FastRoute
from api.security import RequireScope
from recsys.database import schema
from recsys.database.clock import now_ms
from recsys.database.engine import connect, reading
from recsys.database.keys import PARTS, SCOPES, create_key, hash_of, list_keys, revoke_key
from recsys.database.models import publish
from recsys.database.tokens import LEEWAY_SECONDS, MAX_SECONDS, sign
from recsys.settings import Settings
from tests.api.asking import check_problem, eventually, ids
from tests.api.conftest import serving, url_of
from tests.conftest import add_known_model, add_known_rows

APP = create_app(Settings(database_url="sqlite:///none.db"))
ROUTES = {
    (method, route.path): scope_of(route)
    for route in APP.routes
    if isinstance(route, APIRoute) and route.path.startswith("/v1/")
    for method in route.methods or ()
}
"""Method and path → scope, as the routes have it."""
PATHS = [
    (method.upper(), path)
    for path, operations in APP.openapi()["paths"].items()
    if path.startswith("/v1/")
    for method in operations
]
"""As the OpenAPI document has them."""

EXPECTED = {
    "users:erase": {("DELETE", "/v1/users/{user_id}")},
    "models:publish": {("POST", "/v1/models/{number}/publish"), ("POST", "/v1/models/rollback")},
    "ratings:write": {("POST", "/v1/ratings"), ("DELETE", "/v1/users/{user_id}/ratings/{item_id}")},
    "items:write": {("POST", "/v1/items"), ("PUT", "/v1/items/{item_id}")},
    "items:read": {("GET", "/v1/items"), ("GET", "/v1/items/{item_id}"), ("GET", "/v1/categories")},
    "ratings:read": {("GET", "/v1/users/{user_id}/ratings")},
    "models:read": {
        ("GET", "/v1/models"),
        ("GET", "/v1/models/{number}"),
        ("GET", "/v1/runs"),
        ("GET", "/v1/runs/{number}"),
    },
}
"""All others are lists:read."""
OWN = {
    ("GET", "/v1/users/{user_id}/recommendations"),
    ("GET", "/v1/users/{user_id}/predictions"),
    ("GET", "/v1/users/{user_id}/ratings"),
    ("POST", "/v1/ratings"),
    ("DELETE", "/v1/users/{user_id}/ratings/{item_id}"),
}
"""What the token of a user reaches: the paths of that user."""


def encoded(data: bytes) -> str:
    return urlsafe_b64encode(data).decode().rstrip("=")


def unsigned(token: str) -> str:
    """The token with the algorithm `none`, and no signature."""
    header = urlsafe_b64encode(b'{"alg":"none","kid":"3"}').decode().rstrip("=")
    return f"{header}.{token.split('.')[1]}."


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


@dataclass(frozen=True)
class Keyed:
    client: httpx.Client
    keys: dict[str, str]
    revoked: str
    expired: str

    def token(self, scope: str, user_id: str, seconds: float = 60, key: str | None = None) -> str:
        """A token of a user, signed as an application signs it."""
        number = list(SCOPES).index(scope) + 1  # type: ignore[arg-type]
        return sign(number, hash_of(key or self.keys[scope]), user_id, seconds)


@pytest.fixture(scope="module")
def keyed(tmp_path_factory: pytest.TempPathFactory, migrated_sqlite: Path) -> Iterator[Keyed]:
    """A service with one key of each scope, and one each that is revoked and that has expired."""
    path = tmp_path_factory.mktemp("keyed") / "keyed.db"
    path.write_bytes(migrated_sqlite.read_bytes())
    engine = connect(f"sqlite:///{path}")
    add_known_rows(engine)
    for objective in ("ranking", "rating"):
        publish(engine, add_known_model(engine, objective), "known")  # type: ignore[arg-type]
    keys = {scope: create_key(engine, scope, [scope], actor="test")[1] for scope in SCOPES}
    revoked = create_key(engine, "revoked", list(SCOPES), actor="test")[1]
    revoke_key(engine, "revoked", actor="test")
    expired = create_key(engine, "expired", list(SCOPES), actor="test", seconds=0.001)[1]
    engine.dispose()
    with serving(f"sqlite:///{path}") as client:
        yield Keyed(client, keys, revoked, expired)


def test_the_document_and_the_routes_name_the_same() -> None:
    assert set(PATHS) == set(ROUTES)
    others = {route.path: scope_of(route) for route in APP.routes if isinstance(route, APIRoute)}
    assert {path: scope for path, scope in others.items() if not path.startswith("/v1/")} == {
        "/health/live": None,
        "/health/ready": None,
        "/metrics": "models:read",
        "/": None,
        "/docs": None,
        "/docs/{file}": None,
        "/openapi.json": None,
    }


def test_the_fast_path_is_for_what_is_read_with_parameters_and_for_posted_ratings() -> None:
    assert {route.path for route in APP.routes if isinstance(route, FastRoute)} == {
        "/v1/users/{user_id}/recommendations",
        "/v1/recommendations",
        "/v1/ratings",
        "/v1/users/{user_id}/predictions",
        "/v1/items/{item_id}/similar",
        "/v1/items/similar",
        "/v1/popular",
        "/v1/items",
        "/v1/items/{item_id}",
        "/v1/categories",
        "/v1/users/{user_id}/ratings",
    }


@pytest.mark.parametrize("route", [route for route in APP.routes if isinstance(route, APIRoute)], ids=lambda r: r.path)
def test_the_key_is_checked_before_the_body_is_read(route: APIRoute) -> None:
    """FastAPI resolves dependencies in their order, and reads a body of its own before them."""
    if isinstance(route, FastRoute) or not scope_of(route):
        return
    assert isinstance(route.dependant.dependencies[0].call, RequireScope)
    assert route.body_field is None


def test_the_document_says_that_keys_may_be_needed() -> None:
    document = APP.openapi()
    assert document["components"]["securitySchemes"]["key"]["scheme"] == "bearer"
    for method, path in PATHS:
        operation = document["paths"][path][method.lower()]
        assert operation["security"] == [{"key": []}, {}]
        assert operation["x-key-scope"] == ROUTES[method, path]
        assert {"401", "403"} <= set(operation["responses"])


@pytest.mark.parametrize(("method", "path"), PATHS)
class TestEveryEndpoint:
    def url(self, path: str) -> str:
        return path.format(user_id="x%2Fy", item_id="z", number=99)

    def test_has_the_scope_it_should_have(self, method: str, path: str) -> None:
        expected = next((scope for scope, those in EXPECTED.items() if (method, path) in those), "lists:read")
        assert ROUTES[method, path] == expected

    def test_needs_a_key(self, keyed: Keyed, method: str, path: str) -> None:
        read = keyed.keys["read"]
        refused: list[dict[str, str]] = [
            {},
            {"authorization": "Bearer"},
            {"authorization": ""},
            bearer("recsys_nothing"),
            bearer(read[:-1]),
            bearer(read.upper()),
            bearer(f"{read} {read}"),
            bearer(keyed.revoked),
            bearer(keyed.expired),
            bearer(keyed.token("admin", "x/y", -1)),
            bearer(keyed.token("admin", "x/y", MAX_SECONDS + 100)),
            bearer(keyed.token("admin", "x/y", key=keyed.keys["read"])),
            bearer(keyed.token("admin", "", 60)),
            bearer(keyed.token("admin", "x/y") + "A"),
            bearer(keyed.token("admin", "x/y").partition(".")[2] + ".a"),
            bearer(sign(len(SCOPES) + 1, hash_of(keyed.revoked), "x/y", 60)),
            bearer(sign(len(SCOPES) + 2, hash_of(keyed.expired), "x/y", 60)),
            bearer(unsigned(keyed.token("admin", "x/y"))),
            {"authorization": read},
            {"authorization": f"Basic {read}"},
        ]
        for headers in refused:
            answer = keyed.client.request(method, self.url(path), headers=headers)
            check_problem(answer, 401, "token" if headers.get("authorization", "").count(".") == 2 else "key")
            assert answer.headers["www-authenticate"].startswith("Bearer")

    def test_needs_the_scope(self, keyed: Keyed, method: str, path: str) -> None:
        needed = ROUTES[method, path]
        for scope, key in keyed.keys.items():
            answer = keyed.client.request(method, self.url(path), headers=bearer(key))
            if scope in (needed, "admin") or needed in PARTS.get(scope, ()):  # type: ignore[call-overload]
                assert answer.status_code in (200, 404, 415, 422), answer.text
            else:
                check_problem(answer, 403, f"needs {needed}")
                assert scope in answer.json()["detail"]

    def test_a_token_is_for_paths_of_its_user(self, keyed: Keyed, method: str, path: str) -> None:
        needed = ROUTES[method, path]
        for scope in keyed.keys:
            may = scope in (needed, "admin") or needed in PARTS.get(scope, ())  # type: ignore[call-overload]
            answer = keyed.client.request(method, self.url(path), headers=bearer(keyed.token(scope, "x/y")))
            if may and (method, path) in OWN:
                assert answer.status_code in (200, 404, 415, 422), answer.text
            else:
                check_problem(answer, 403, "token")
        for other in ("x", "x%2Fy", "X/Y", "x/y "):
            answer = keyed.client.request(method, self.url(path), headers=bearer(keyed.token("admin", other)))
            if (method, path) != ("POST", "/v1/ratings"):  # whose rows have the users
                check_problem(answer, 403, "token")

    def test_is_open_where_no_key_was_ever_made(self, reader: httpx.Client, method: str, path: str) -> None:
        assert reader.request(method, self.url(path)).status_code in (200, 404, 415, 422)


def test_health_is_open_and_metrics_are_not(keyed: Keyed) -> None:
    for url in ("/health/live", "/health/ready", "/openapi.json", "/docs"):
        assert keyed.client.get(url).status_code == 200
    check_problem(keyed.client.get("/metrics"), 401, "key")
    check_problem(keyed.client.get("/metrics", headers=bearer(keyed.keys["write"])), 403, "needs models:read")
    assert keyed.client.get("/metrics", headers=bearer(keyed.keys["read"])).status_code == 200


def test_a_token_writes_its_users_rows_alone(keyed: Keyed) -> None:
    token = bearer(keyed.token("write", "own"))
    own, other = ({"user_id": user_id, "item_id": "a", "rating": 4} for user_id in ("own", "other"))
    for rows in ([own, other], [other], [own, {"user_id": "other"}, other]):
        check_problem(keyed.client.post("/v1/ratings", json={"ratings": rows}, headers=token), 403, "one user")
    assert keyed.client.post("/v1/ratings", json={"ratings": [own]}, headers=token).status_code == 200
    read = bearer(keyed.token("read", "own"))
    assert [row["item_id"] for row in keyed.client.get("/v1/users/own/ratings", headers=read).json()["ratings"]] == [
        "a"
    ]
    key = bearer(keyed.keys["read"])
    assert keyed.client.get("/v1/users/other/ratings", headers=key).json()["ratings"] == []


def test_a_token_begins_at_its_nbf(keyed: Keyed) -> None:
    def asked(**claims: object) -> httpx.Response:
        header, claim, _ = keyed.token("read", "u1").split(".")
        content = json.loads(urlsafe_b64decode(claim + "=" * (-len(claim) % 4))) | claims
        text = f"{header}.{encoded(json.dumps(content).encode())}"
        signature = hmac.digest(hash_of(keyed.keys["read"]).encode(), text.encode(), "sha256")
        return keyed.client.get("/v1/users/u1/recommendations", headers=bearer(f"{text}.{encoded(signature)}"))

    now = now_ms() // 1000
    for begins in (0, now, now + LEEWAY_SECONDS - 5, float(now)):
        assert asked(nbf=begins).status_code == 200
    for begins in (now + LEEWAY_SECONDS + 60, "x", None, True, [], float("nan"), float("inf")):
        check_problem(asked(nbf=begins), 401, "nbf")


def test_the_last_use_of_a_key_is_written_beside_the_requests(
    known_engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("api.access.USE_SECONDS", 0.1)
    _, key = create_key(known_engine, "shop", ["read"], actor="test")
    create_key(known_engine, "unused", ["read"], actor="test")

    def last_uses() -> list[int | None]:
        with reading(known_engine) as connection:
            return [each.last_used_at for each in list_keys(connection)]

    before = now_ms()
    with serving(url_of(known_engine)) as client:
        assert client.get("/v1/popular", headers=bearer(key)).status_code == 200
        eventually(lambda: last_uses()[1] is not None)
    unused, used = last_uses()
    assert unused is None
    assert used is not None
    assert before <= used <= now_ms()


def test_the_scheme_is_read_in_any_case(keyed: Keyed) -> None:
    for scheme in ("bearer", "BEARER", "Bearer "):
        headers = {"authorization": f"{scheme} {keyed.keys['read']}"}
        assert keyed.client.get("/v1/popular", headers=headers).status_code == 200


def test_unknown_paths_say_nothing_of_keys(keyed: Keyed) -> None:
    check_problem(keyed.client.get("/v1/nothing"), 404, "/v1/nothing")


def test_a_key_opens_and_a_revoked_one_closes_within_a_second(known_engine: Engine) -> None:
    """With the refresh that servers have by default."""
    with serving(url_of(known_engine), refresh_seconds=0.5) as client:
        assert client.get("/v1/popular").status_code == 200
        _, key = create_key(known_engine, "shop", ["read"], actor="test")
        eventually(lambda: client.get("/v1/popular").status_code == 401, 1.5)
        assert client.get("/v1/popular", headers=bearer(key)).status_code == 200
        revoke_key(known_engine, "shop", actor="test")
        eventually(lambda: client.get("/v1/popular", headers=bearer(key)).status_code == 401, 1.5)
        check_problem(client.get("/v1/popular"), 401, "key")  # revoking all does not open it again


@pytest.mark.parametrize("engine", ["sqlite"], indirect=True)
def test_a_key_can_be_required_before_one_was_made(known_engine: Engine) -> None:
    with serving(url_of(known_engine), key_required=True) as client:
        check_problem(client.get("/v1/popular"), 401, "recsys keys create")
        assert client.get("/health/ready").status_code == 200
        _, key = create_key(known_engine, "shop", ["read"], actor="test")
        eventually(lambda: client.get("/v1/popular", headers=bearer(key)).status_code == 200)
        assert ids(client.get("/v1/users/u1/recommendations", headers=bearer(key)))[0] == "b"


def test_the_audit_log_names_the_key(known_engine: Engine) -> None:
    keys = {name: create_key(known_engine, name, ["admin"], actor="test")[1] for name in ("shop", "ops")}
    with serving(url_of(known_engine)) as client:
        assert client.put("/v1/items/a", json={"title": "A"}, headers=bearer(keys["shop"])).status_code == 200
        assert client.delete("/v1/users/u2", headers=bearer(keys["ops"])).status_code == 200
    with reading(known_engine) as connection:
        log = connection.execute(select(schema.audit_log).order_by(schema.audit_log.c.entry_key)).all()
    assert [(entry.actor, entry.action) for entry in log][-2:] == [("shop", "put item"), ("ops", "erase user")]
    assert not any(key in str(entry) for entry in log for key in keys.values())
    assert "u2" not in str(log[-1].detail)
