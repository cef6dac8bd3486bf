"""Check the API key of a request, from its Authorization header."""

import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated
from urllib.parse import unquote

from fastapi import Depends, Request

from api.state import AppState, state_of
from recsys.database.keys import ApiKey, KeyRing, Scope, allows
from recsys.database.tokens import check, is_token
from recsys.errors import ForbiddenError, UnauthorizedError

ANONYMOUS = "anonymous"
"""The actor of a request without a key, on a service that needs none."""
OTHER_USER = "the token is for one user, and this request is not about that user alone: send a key"


@dataclass(frozen=True, slots=True)
class RequireScope:
    """A dependency that refuses a request without a key of this scope, and returns the actor for the audit log."""

    scope: Scope

    async def __call__(self, request: Request) -> str:
        return check_key(request, state_of(request), self.scope)


def require(scope: Scope) -> RequireScope:
    """Return the dependency that checks for a key with `scope`; see `check_key`."""
    return RequireScope(scope)


ModelReader = Annotated[str, Depends(require("models:read"))]
ItemWriter = Annotated[str, Depends(require("items:write"))]
RatingWriter = Annotated[str, Depends(require("ratings:write"))]
Publisher = Annotated[str, Depends(require("models:publish"))]
Eraser = Annotated[str, Depends(require("users:erase"))]
"""Types of an endpoint's parameter that receives the actor, and so declares the scope that the endpoint needs."""


def check_key(request: Request, state: AppState, scope: Scope, *, checks_rows: bool = False) -> str:
    """Check the key or the user's token of a request, and return the name of the actor.

    A service without keys is open, unless its settings require a key. A token is for paths of its user alone.

    Args:
        checks_rows: whether the endpoint itself checks whose rows a token may write; see `check_rows`.

    Raises:
        DatabaseError: the keys cannot be checked now.
        UnauthorizedError: a key is needed, and the request has none or one that is not active.
        ForbiddenError: the key does not have the scope, or the token is for another user.
    """
    keys = state.database.keys(scope)
    if not keys.any_ever and not state.settings.key_required:
        count(request, state, None)
        return ANONYMOUS
    kind, _, key = request.headers.get("authorization", "").partition(" ")
    if state.rates is not None:
        try:
            return checked(request, state, keys, kind, key, scope, checks_rows)
        except UnauthorizedError:
            count(request, state, None)
            raise
    return checked(request, state, keys, kind, key, scope, checks_rows)


def checked(
    request: Request, state: AppState, keys: KeyRing, kind: str, key: str, scope: Scope, checks_rows: bool
) -> str:
    """Check the Authorization header of a request; see `check_key`."""
    if kind.lower() != "bearer":
        raise UnauthorizedError(
            "send a key: Authorization: Bearer recsys_…; create one with `recsys keys create NAME --scope read`"
        )
    key = key.strip()
    if is_token(key):
        token = check(key, keys)
        segment = request.path_params.get("user_id")
        count(request, state, f"token {token.key.number} {token.user_id}")
        if not token.allows(scope):
            raise ForbiddenError(f"a token of a user has no {scope}: send a key with it")
        if not (checks_rows if segment is None else unquote(segment, errors="replace") == token.user_id):
            raise ForbiddenError(OTHER_USER)
        request.scope["token_user"] = token.user_id
        return note_use(request, state, token.key)
    found = keys.find(key)
    if found is None:
        raise UnauthorizedError("the key is unknown, revoked or expired: see `recsys keys list`")
    count(request, state, f"key {found.number}")
    if not allows(found, scope):
        raise ForbiddenError(
            f"the key {found.name!r} has the scope {', '.join(found.scopes)}, and this request needs {scope}: "
            f"create a key with `recsys keys create NAME --scope {scope}`"
        )
    return note_use(request, state, found)


def count(request: Request, state: AppState, who: str | None) -> None:
    """Count a request against its limit, where there is one.

    Args:
        who: the key or the user; `None`: the address.

    Raises:
        TooManyError: there were too many.
    """
    if state.rates is not None:
        client = request.client
        request.scope["rate"] = state.rates.count(who or f"address {client.host if client else ''}")


def note_use(request: Request, state: AppState, key: ApiKey) -> str:
    """Note which key a request has, and return its name."""
    request.scope["actor"], request.scope["key"] = key.name, key.number
    state.database.used[key.number] = time.time()
    return key.name


def check_rows(request: Request, user_ids: Iterable[str]) -> None:
    """Check that the rows of a request are of the user of its token; a request with a key may write all users'.

    Raises:
        ForbiddenError: a row is of another user.
    """
    user_id = request.scope.get("token_user")
    if user_id is not None and any(each != user_id for each in user_ids):
        raise ForbiddenError(OTHER_USER)
