"""Promise 9, as a table: every route with every credential, while the database starts, is there, hangs and is gone."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import httpx
import pytest
from fastapi.routing import APIRoute
from sqlalchemy import Engine

from api import access
from api.app import create_app
from api.openapi import scope_of
from recsys.database.engine import connect
from recsys.database.keys import PARTS, SCOPES, Scope, create_key, hash_of, revoke_key
from recsys.database.tokens import sign
from recsys.settings import Settings
from tests.api.asking import check_problem, eventually
from tests.api.conftest import Switch, serving, url_of
from tests.api.test_frozen import Freezer, freezer
from tests.api.test_keys import OWN, bearer, unsigned

__all__ = ["freezer"]  # a fixture

APP = create_app(Settings(database_url="sqlite:///none.db"))
ROUTES: list[tuple[str, str, Scope]] = [
    (method, route.path, scope)
    for route in APP.routes
    if isinstance(route, APIRoute) and (scope := scope_of(route)) is not None
    for method in sorted(route.methods or ())
]
"""Method, path and scope of every route that needs a key."""
USER = "u1"
BODIES: dict[tuple[str, str], Any] = {
    ("POST", "/v1/ratings"): {"ratings": [{"user_id": USER, "item_id": "b", "rating": 3}]},
    ("POST", "/v1/items"): {"items": [{"item_id": "a", "title": "A"}]},
    ("PUT", "/v1/items/{item_id}"): {"title": "A"},
    ("POST", "/v1/recommendations"): {"users": [{"user_id": USER}]},
    ("POST", "/v1/items/similar"): {"item_ids": ["a"]},
    ("POST", "/v1/models/{number}/publish"): {"reason": "x"},
    ("POST", "/v1/models/rollback"): {"reason": "x", "objective": "ranking"},
}
QUERIES = {"/v1/users/{user_id}/predictions": "?item_id=a"}

Outcome = Literal["passes", 401, 403]


@dataclass(frozen=True)
class Credential:
    """What a request is sent with.

    Attributes:
        outcome: of a request to a route that needs a scope, once the keys are read.
    """

    name: str
    headers: dict[str, str]
    scope: Scope | None = None
    token_user: str | None = None

    def outcome(self, method: str, path: str, needed: Scope) -> Outcome:
        if self.scope is None:
            return 401
        if not (self.scope in (needed, "admin") or needed in PARTS.get(self.scope, ())):
            return 403
        if self.token_user is None:
            return "passes"
        return "passes" if (method, path) in OWN and self.token_user == USER else 403


LIFETIME = 3600
"""Seconds of the tokens: they must outlive the longest table."""

FEW: tuple[Scope, ...] = ("read", "ratings:write", "admin")
EACH = pytest.mark.parametrize("scopes", [FEW, pytest.param(tuple(SCOPES), marks=pytest.mark.long)], ids=["few", "all"])


def add_credentials(engine: Engine, scopes: tuple[Scope, ...]) -> list[Credential]:
    """A key and two tokens for each of some scopes, and all kinds of credentials that are none."""
    found = []
    for scope in scopes:
        key, text = create_key(engine, scope, [scope], actor="test")
        found.append(Credential(f"key {scope}", bearer(text), scope))
        for user in (USER, "u2"):
            token = bearer(sign(key.number, hash_of(text), user, LIFETIME))
            found.append(Credential(f"token {scope} {user}", token, scope, user))
    admin, text = create_key(engine, "ops", ["admin"], actor="test")
    revoked, revoked_text = create_key(engine, "revoked", ["admin"], actor="test")
    revoke_key(engine, "revoked", actor="test")
    expired, expired_text = create_key(engine, "expired", ["admin"], actor="test", seconds=0.001)
    none = {
        "no credential": {},
        "wrong key": bearer("recsys_nothing"),
        "revoked key": bearer(revoked_text),
        "expired key": bearer(expired_text),
        "expired token": bearer(sign(admin.number, hash_of(text), USER, -1)),
        "forged token": bearer(sign(admin.number, hash_of("guessed"), USER, LIFETIME)),
        "unsigned token": bearer(unsigned(sign(admin.number, hash_of(text), USER, LIFETIME))),
        "token of a revoked key": bearer(sign(revoked.number, hash_of(revoked_text), USER, LIFETIME)),
        "token of an expired key": bearer(sign(expired.number, hash_of(expired_text), USER, LIFETIME)),
        "token of no key": bearer(sign(999, hash_of(text), USER, LIFETIME)),
    }
    return found + [Credential(name, headers) for name, headers in none.items()]


def faults(client: httpx.Client, credentials: list[Credential], when: str) -> list[str]:
    """Send every request with every credential, and return what was not as it must be.

    Args:
        when: `starting`: all is 503. `away`: who may read does, or gets 503; who may write gets 503; all others get
            what they always get.
    """
    found = []
    for method, path, needed in ROUTES:
        url = path.format(user_id=USER, item_id="a", number=1) + QUERIES.get(path, "")
        for credential in credentials:
            answer = client.request(method, url, json=BODIES.get((method, path)), headers=credential.headers)
            outcome = credential.outcome(method, path, needed)
            if when == "starting":
                allowed = {503}
            elif outcome == "passes":
                allowed = {200, 503} if needed.endswith("read") else {503}
            else:
                allowed = {outcome}
            if answer.status_code not in allowed:
                found.append(f"{when}: {method} {path} with {credential.name}: {answer.status_code}")
    return found


def is_degraded(client: httpx.Client) -> bool:
    return bool(client.get("/health/ready").json().get("status") == "degraded")


@EACH
def test_promise_9_while_the_database_starts_and_while_it_is_gone(
    switch: Switch, monkeypatch: pytest.MonkeyPatch, scopes: tuple[Scope, ...]
) -> None:
    credentials, url = add_credentials(switch.engine, scopes), url_of(switch.engine)
    some = credentials if scopes != FEW else credentials[-12:-9]  # where all are refused alike
    admin = next(each for each in credentials if each.name == "key admin")
    switch.off()
    with serving(url) as client:
        assert faults(client, some, "starting") == []
        switch.on()
        eventually(lambda: client.get("/v1/popular?by=count", headers=admin.headers).status_code == 200, 10)
        switch.off()
        eventually(lambda: is_degraded(client), 10)
        assert faults(client, credentials, "away") == []
        real = time.monotonic
        monkeypatch.setattr(access.time, "monotonic", lambda: real() + access.READ_SECONDS + 1)
        assert faults(client, some, "starting") == []  # the keys are too old: as if none was read


@contextmanager
def frozen_service(freezer: Freezer, scopes: tuple[Scope, ...]) -> Iterator[tuple[httpx.Client, list[Credential]]]:
    engine = connect(freezer.url)
    credentials = add_credentials(engine, scopes)
    engine.dispose()
    with serving(freezer.url, refresh_seconds=0.1) as client:
        yield client, credentials


@pytest.mark.postgres
@EACH
def test_promise_9_while_the_database_hangs(freezer: Freezer, scopes: tuple[Scope, ...]) -> None:
    with frozen_service(freezer, scopes) as (client, credentials), freezer.frozen():
        eventually(lambda: is_degraded(client), 5)
        started = time.monotonic()
        assert faults(client, credentials, "away") == []
        n = len(ROUTES) * len(credentials)
        assert (time.monotonic() - started) / n < 0.05
        check_problem(client.get("/v1/models"), 401, "key")
