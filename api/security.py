"""Check the API key of a request, from its Authorization header."""

from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request

from api.state import AppState, state_of
from recsys.database.keys import Scope, allows
from recsys.errors import ForbiddenError, UnauthorizedError

ANONYMOUS = "anonymous"
"""The actor of a request without a key, on a service that needs none."""


@dataclass(frozen=True, slots=True)
class RequireScope:
    """A dependency that refuses a request without a key of this scope, and returns the actor for the audit log."""

    scope: Scope

    async def __call__(self, request: Request) -> str:
        return check_key(request, state_of(request), self.scope)


def require(scope: Scope) -> RequireScope:
    """Return the dependency that checks for a key with `scope`; see `check_key`."""
    return RequireScope(scope)


Reader = Annotated[str, Depends(require("read"))]
Writer = Annotated[str, Depends(require("write"))]
Admin = Annotated[str, Depends(require("admin"))]
"""Types of an endpoint's parameter that receives the actor, and so declares the scope that the endpoint needs."""


def check_key(request: Request, state: AppState, scope: Scope) -> str:
    """Check the key of a request, and return the name of the actor.

    A service without keys is open, unless its settings require a key.

    Raises:
        DatabaseError: the keys cannot be checked now.
        UnauthorizedError: a key is needed, and the request has none or one that is not active.
        ForbiddenError: the key does not have the scope.
    """
    keys = state.database.keys(scope)
    if not keys.any_ever and not state.settings.key_required:
        return ANONYMOUS
    kind, _, key = request.headers.get("authorization", "").partition(" ")
    if kind.lower() != "bearer":
        raise UnauthorizedError(
            "send a key: Authorization: Bearer recsys_…; create one with `recsys keys create NAME --scope read`"
        )
    found = keys.find(key.strip())
    if found is None:
        raise UnauthorizedError("the key is unknown, revoked or expired: see `recsys keys list`")
    if not allows(found, scope):
        raise ForbiddenError(
            f"the key {found.name!r} has the scope {', '.join(found.scopes)}, and this request needs {scope}: "
            f"create a key with `recsys keys create NAME --scope {scope}`"
        )
    request.scope["actor"], request.scope["key"] = found.name, found.number
    return found.name
