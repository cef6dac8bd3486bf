"""Who may ask: keys in the Authorization header."""

from fastapi import Request

from api.state import State
from recsys.database.keys import Scope, allows
from recsys.errors import ForbiddenError, UnauthorizedError

NOBODY = "anybody"
"""The actor where no key is needed."""


def check_key(request: Request, state: State, scope: Scope) -> None:
    """Let a request pass, and note whose key it came with (`actor`).

    Where no key was ever made the service is open, unless it was told that it must not be.

    Raises:
        UnauthorizedError: a key is needed, and there is none in force.
        ForbiddenError: the key has not the scope.
    """
    keys = state.live.keys
    if not keys.any_ever and not state.settings.key_required:
        return
    kind, _, key = request.headers.get("authorization", "").partition(" ")
    if kind.lower() != "bearer":
        raise UnauthorizedError(
            "send a key: Authorization: Bearer recsys_…; `recsys keys create NAME --scope read` makes one"
        )
    found = keys.find(key.strip())
    if found is None:
        raise UnauthorizedError("the key is not one that is in force: see `recsys keys list`")
    if not allows(found, scope):
        raise ForbiddenError(
            f"the key {found.name!r} has the scope {', '.join(found.scopes)}, and this needs {scope}: "
            f"`recsys keys create NAME --scope {scope}` makes one that may"
        )
    request.scope["actor"] = found.name


def actor_of(request: Request) -> str:
    """Whose key a request came with, for the audit log."""
    actor: str = request.scope.get("actor", NOBODY)
    return actor
