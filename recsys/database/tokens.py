"""Tokens for single users, which an application signs with its key: JSON Web Tokens (RFC 7519) with HS256.

The header has the number of the key as `kid`, the claims have the user's id as `sub` and an end as `exp`, in Unix
seconds. The secret is the SHA-256 of the key's text, in hex: the application computes it, the server has it in memory.
So no further secret exists, and a token ends with its key.
"""

import hmac
import json
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256

from recsys.database.clock import now_ms
from recsys.database.keys import ApiKey, KeyRing, Scope, allows
from recsys.errors import UnauthorizedError

MAX_SECONDS = 86_400
"""Longest time that a token may be valid for."""
MAX_BYTES = 4096
LEEWAY_SECONDS = 60
"""How far the clock of an application may be ahead."""
SCOPES: tuple[Scope, ...] = ("lists:read", "ratings:read", "ratings:write")
"""What a token can allow: these scopes of its key, for the one user."""


@dataclass(frozen=True, slots=True)
class UserToken:
    """A token that was checked.

    Attributes:
        key: that signed it.
        user_id: whom it is for.
    """

    key: ApiKey
    user_id: str

    def allows(self, scope: Scope) -> bool:
        """Return whether it allows a scope, for its user."""
        return scope in SCOPES and allows(self.key, scope)


def is_token(text: str) -> bool:
    """Return whether a text has the form of a token; no key has dots."""
    return text.count(".") == 2


def sign(number: int, key_hash: str, user_id: str, seconds: float) -> str:
    """Return a token.

    Args:
        number: of the key.
        key_hash: SHA-256 of the key's text, in hex.
        seconds: until it expires.
    """
    header = {"alg": "HS256", "typ": "JWT", "kid": str(number)}
    claims = {"sub": user_id, "exp": round(now_ms() / 1000 + seconds)}
    text = ".".join(_encode(json.dumps(part, separators=(",", ":")).encode()) for part in (header, claims))
    return f"{text}.{_encode(_signature(key_hash, text))}"


def check(text: str, ring: KeyRing) -> UserToken:
    """Return the token of a text.

    Raises:
        UnauthorizedError: it is malformed, its key is not active, its signature is wrong or its time is over.
    """
    signed, _, signature = text.rpartition(".")
    header, claims = _read(signed.partition(".")[0]), _read(signed.partition(".")[2])
    number = str(header.get("kid", ""))
    if len(text) > MAX_BYTES or header.get("alg") != "HS256" or not (number.isascii() and number.isdigit()):
        raise UnauthorizedError("the token is malformed: sign it with HS256, with the number of the key as kid")
    key_hash = ring.hash_of_number.get(int(number[:18]))
    expected = _encode(_signature(key_hash or "", signed))
    is_signed = hmac.compare_digest(expected.encode(), signature.encode())
    now = now_ms()
    if key_hash is None or not is_signed or not (key := ring.by_hash[key_hash]).is_active(now):
        raise UnauthorizedError("the token's signature is wrong, or its key is revoked or expired: sign a new one")
    user_id, ends = claims.get("sub"), claims.get("exp")
    if not isinstance(user_id, str) or not user_id or isinstance(ends, bool) or not isinstance(ends, int | float):
        raise UnauthorizedError("the token has no sub and exp: give the user's id, and when it ends")
    if not now / 1000 < ends <= now / 1000 + MAX_SECONDS + LEEWAY_SECONDS:
        raise UnauthorizedError("the token has expired, or is valid for more than a day: sign a new one")
    begins = claims.get("nbf", 0)
    if isinstance(begins, bool) or not isinstance(begins, int | float) or not begins <= now / 1000 + LEEWAY_SECONDS:
        raise UnauthorizedError("the token is not valid yet, by its nbf: sign one that is")
    return UserToken(key, user_id)


def _signature(key_hash: str, text: str) -> bytes:
    return hmac.digest(key_hash.encode(), text.encode("utf-8", "surrogatepass"), sha256)


def _encode(data: bytes) -> str:
    return urlsafe_b64encode(data).decode().rstrip("=")


def _read(part: str) -> Mapping[str, object]:
    try:
        content = json.loads(urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    except (ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}
