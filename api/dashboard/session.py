"""Who looks at the dashboard: sign-in with an API key, a cookie without the key, a token against forged requests.

The cookie names the key by its number, and is signed with the key's hash, which every worker reads from the database.
So all workers know it, a restart does not end it, and revoking the key does.
"""

import hashlib
import hmac
import secrets
import time
from contextvars import ContextVar
from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import Response

from api.security import ANONYMOUS
from api.state import AppState
from recsys.database.keys import ApiKey, KeyRing, allows, hash_of
from recsys.errors import ForbiddenError, UnauthorizedError

SESSION_COOKIE, CSRF_COOKIE = "recsys_session", "recsys_csrf"
SESSION_SECONDS = 12 * 3600


@dataclass(frozen=True, slots=True)
class Session:
    """The person behind a request.

    Attributes:
        actor: name of the key, or `anonymous` on a service without keys.
        may_change: whether they may publish and roll back.
        csrf: the token that every change must carry.
        signed_in: whether there is a session to end.
    """

    actor: str
    may_change: bool
    csrf: str
    signed_in: bool


CURRENT: ContextVar[Session] = ContextVar("session")
"""The session of the request that is being handled."""


def session_of(request: Request, state: AppState) -> Session:
    """Return the session of a request.

    Raises:
        DatabaseError: the keys cannot be checked now.
        UnauthorizedError: keys exist, and the request has no valid session.
        ForbiddenError: the key may not read.
    """
    ring = state.database.keys("read")
    csrf = request.cookies.get(CSRF_COOKIE, "")
    if not ring.any_ever and not state.settings.key_required:
        return Session(ANONYMOUS, True, csrf, False)
    found = _signed_by(ring, request.cookies.get(SESSION_COOKIE, ""))
    if found is None:
        raise UnauthorizedError("sign in with an API key")
    return _session(found, csrf)


def sign_in(key: str, state: AppState) -> tuple[Session, str]:
    """Return the session of a key, and the value of its cookie.

    Raises:
        UnauthorizedError: the key is unknown, revoked or expired.
        ForbiddenError: the key may not read.
    """
    ring = state.database.keys("read")
    found = ring.find(key.strip())
    if found is None:
        raise UnauthorizedError("the key is unknown, expired or revoked: see `recsys keys list`")
    session = _session(found, secrets.token_urlsafe(24))
    expires = int(time.time()) + SESSION_SECONDS
    text = f"{found.number}.{expires}"
    return session, f"{text}.{_signature(hash_of(key.strip()), text)}"


def check_csrf(request: Request, token: str) -> None:
    """Check that a change comes from a page of the dashboard: its form has the token that its cookie has.

    Raises:
        ForbiddenError: it does not.
    """
    cookie = request.cookies.get(CSRF_COOKIE, "")
    origin = request.headers.get("origin")
    same_origin = origin is None or origin.partition("://")[2] == request.headers.get("host")
    if not cookie or not hmac.compare_digest(cookie.encode(), token.encode()) or not same_origin:
        raise ForbiddenError("the request did not come from a page of this dashboard: reload the page and try again")


def set_cookie(response: Response, request: Request, name: str, value: str, path: str) -> None:
    """Set a cookie that scripts and other sites do not get."""
    is_https = request.url.scheme == "https" or request.headers.get("x-forwarded-proto") == "https"
    response.set_cookie(
        name, value, max_age=SESSION_SECONDS, path=path, httponly=True, samesite="strict", secure=is_https
    )


def _session(key: ApiKey, csrf: str) -> Session:
    if not allows(key, "read"):
        raise ForbiddenError(f"the key {key.name!r} may not read: use one with the scope read or admin")
    return Session(key.name, allows(key, "admin"), csrf, True)


def _signed_by(ring: KeyRing, cookie: str) -> ApiKey | None:
    """Return the active key that signed a cookie which has not expired."""
    text, _, signature = cookie.rpartition(".")
    number, _, expires = text.partition(".")
    if not all(len(each) < 20 and each.isascii() and each.isdigit() for each in (number, expires)):
        return None
    if int(expires) < time.time():
        return None
    for hashed, key in ring.by_hash.items():
        if key.number == int(number):
            is_active = key.expires_at is None or key.expires_at > time.time() * 1000
            signed = hmac.compare_digest(_signature(hashed, text).encode(), signature.encode())
            return key if is_active and signed else None
    return None


def _signature(hashed: str, text: str) -> str:
    return hmac.new(hashed.encode(), f"dashboard session {text}".encode(), hashlib.sha256).hexdigest()
