"""API keys: create, rotate, revoke, check.

A key is a text that a client sends with every request. The database stores its hash, its name and its scopes; a server
holds all active keys in memory, as a `KeyRing`.
"""

import hashlib
import json
import re
import secrets
from base64 import urlsafe_b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType
from typing import Any, Literal, cast, get_args
from zlib import crc32

from sqlalchemy import Connection, Engine, Row, Text, insert, select, update
from sqlalchemy import cast as cast_to

from recsys.data.messages import quote_value
from recsys.database import schema
from recsys.database.audit import record
from recsys.database.clock import now_ms
from recsys.database.engine import writing
from recsys.errors import InputError, NotFoundError

Scope = Literal[
    "read",
    "write",
    "admin",
    "lists:read",
    "items:read",
    "ratings:read",
    "models:read",
    "ratings:write",
    "items:write",
    "models:publish",
    "users:erase",
]
SCOPES: tuple[Scope, ...] = get_args(Scope)
PARTS: Mapping[Scope, tuple[Scope, ...]] = {
    "read": ("lists:read", "items:read", "ratings:read", "models:read"),
    "write": ("ratings:write", "items:write"),
}
"""Scopes that others include. `admin` includes all; `write` does not include `read`."""
MAX_NAME_LENGTH = 80
MAX_SECONDS = 100 * 365 * 86_400.0
PREFIX = "recsys_"
HASH_LENGTH = 64


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key as the database has it, without its text.

    Attributes:
        scopes: what it may do, in the order of `SCOPES`.
        created_at, revoked_at, expires_at, last_used_at: Unix milliseconds; `None` where it was not revoked, never
            expires, or was not used. The last use is written once a minute.
    """

    number: int
    name: str
    scopes: tuple[Scope, ...]
    created_at: int
    revoked_at: int | None
    expires_at: int | None = None
    last_used_at: int | None = None

    def is_active(self, at: int) -> bool:
        """Return whether it is in force at a time in Unix milliseconds."""
        return self.revoked_at is None and (self.expires_at is None or self.expires_at > at)


@dataclass(frozen=True)
class KeyRing:
    """All keys as a server holds them in memory; immutable.

    Attributes:
        by_hash: SHA-256 of a key's text, in hex → the key; revoked keys are left out.
        any_ever: whether a key was ever created: without one a service is open, unless its settings require a key.
            Revoking all keys does not open it again.
        damaged: numbers of keys whose rows hold what no key has; they open nothing.
    """

    by_hash: Mapping[str, ApiKey]
    any_ever: bool
    damaged: tuple[int, ...] = ()

    @cached_property
    def hash_of_number(self) -> Mapping[int, str]:
        """Number of a key → its hash, of those that were not revoked."""
        return {key.number: hashed for hashed, key in self.by_hash.items()}

    def find(self, text: str, at: int | None = None) -> ApiKey | None:
        """Return the active key of a text; `None` if there is none, or it has expired.

        Args:
            at: the time, in Unix milliseconds; by default now. So a key expires on time even on a server whose
                database is away.
        """
        key = self.by_hash.get(hash_of(text))
        if key is None or key.expires_at is None:
            return key
        return key if key.is_active(now_ms() if at is None else at) else None


def create_key(
    engine: Engine, name: str, scopes: Sequence[Scope], *, actor: str, seconds: float | None = None
) -> tuple[ApiKey, str]:
    """Create a key. Returns it with its text, which is not stored and cannot be read again.

    Only the SHA-256 of the text is stored. A slow hash protects passwords, which can be guessed; a key is 256 random
    bits, which cannot, and is looked up with every request.

    Args:
        name: 1 to 80 printable characters, not blank, not all digits. Several keys may share one.
        scopes: one or more of `SCOPES`, each once.
        actor: the person or program that creates it, for the audit log.
        seconds: until it expires; `None`: it does not.

    Raises:
        InputError: the key's name is not valid, a scope is unknown, missing or repeated, or `seconds` is not positive.
    """
    _check_name(name)
    _check_scopes(scopes)
    if seconds is not None and not 0 < seconds < MAX_SECONDS:
        raise InputError(f"a key cannot expire after {seconds:g} seconds: give a time between now and a century")
    with writing(engine) as connection:
        return _insert_key(connection, name, scopes, actor, None if seconds is None else round(seconds * 1000))


def rotate_key(engine: Engine, number_or_name: str, *, actor: str, seconds: float) -> tuple[ApiKey, str]:
    """Create a key with the name and scopes of another one, which expires after `seconds`. Returns it with its text.

    So a client can change to the new key while the old one still works. If the old one expires by itself, the new one
    lasts as long as the old one did.

    Args:
        number_or_name: of an active key.
        actor: the person or program that rotates it, for the audit log.
        seconds: how long the old key still works; 0: it is refused at once.

    Raises:
        NotFoundError: there is no such key.
        InputError: it is not active, several active keys have the name, or `seconds` is negative.
    """
    if not 0 <= seconds < MAX_SECONDS:
        raise InputError(f"a key cannot be valid for {seconds:g} seconds more: give 0 or more")
    now = now_ms()
    with writing(engine) as connection:
        old = _chosen(list_keys(connection), number_or_name)
        if not old.is_active(now):
            raise InputError(f"key {old.number} is revoked or has expired: create one with `recsys keys create`")
        ends = now + round(seconds * 1000)
        ends = ends if old.expires_at is None else min(ends, old.expires_at)
        keys = schema.api_keys.c
        connection.execute(update(schema.api_keys).where(keys.key_number == old.number).values(expires_at=ends))
        lifetime = None if old.expires_at is None else old.expires_at - old.created_at
        made, key = _insert_key(connection, old.name, old.scopes, actor, lifetime)
        record(connection, actor, "rotate key", {"number": old.number, "name": old.name, "new": made.number})
    return made, key


def _insert_key(
    connection: Connection, name: str, scopes: Sequence[Scope], actor: str, lifetime_ms: int | None
) -> tuple[ApiKey, str]:
    key = new_text()
    ordered = [scope for scope in SCOPES if scope in scopes]
    now = now_ms()
    expires_at = None if lifetime_ms is None else now + lifetime_ms
    row = {"name": name, "hash": hash_of(key), "scopes": ordered, "created_at": now, "expires_at": expires_at}
    made = _as_key(connection.execute(insert(schema.api_keys).values(row).returning(*_KNOWN)).one())
    detail = {"number": made.number, "name": name, "scopes": ordered}
    record(connection, actor, "create key", detail if expires_at is None else {**detail, "expires_at": expires_at})
    return made, key


def new_text() -> str:
    """Return the text of a new key: a prefix, 256 random bits and a checksum, by which scanners tell it from others."""
    random = secrets.token_urlsafe(32)
    return f"{PREFIX}{random}{checksum(random)}"


def checksum(text: str) -> str:
    """Return the CRC-32 of a text in base64, six characters: the last ones of a key, of what stands before them."""
    return urlsafe_b64encode(crc32(text.encode()).to_bytes(4, "big")).decode().rstrip("=")


def revoke_key(engine: Engine, number_or_name: str, *, actor: str) -> ApiKey:
    """Revoke a key, for good. Revoking it again changes nothing.

    Args:
        number_or_name: a name means the active key of that name.
        actor: the person or program that revokes it, for the audit log.

    Raises:
        NotFoundError: there is no such key.
        InputError: several active keys have the name; the message has their numbers.
    """
    keys = schema.api_keys.c
    with writing(engine) as connection:
        number = _chosen(list_keys(connection), number_or_name).number
        this = keys.key_number == number
        revoked = connection.execute(
            update(schema.api_keys).where(this, keys.revoked_at.is_(None)).values(revoked_at=now_ms())
        )
        key = _as_key(connection.execute(select(*_KNOWN).where(this)).one())
        if revoked.rowcount:
            record(connection, actor, "revoke key", {"number": key.number, "name": key.name})
    return key


def chosen_key(connection: Connection, number_or_name: str) -> ApiKey:
    """Return the key of a number; else the active key of a name; else the latest key of that name.

    Raises:
        NotFoundError: there is no such key.
        InputError: several active keys have the name.
    """
    return _chosen(list_keys(connection), number_or_name)


def list_keys(connection: Connection) -> list[ApiKey]:
    """Return all keys, the newest first, with those that were revoked."""
    return [_as_key(row) for row in connection.execute(select(*_KNOWN).order_by(schema.api_keys.c.key_number.desc()))]


def read_keyring(connection: Connection) -> KeyRing:
    """Return the keys as they are now."""
    # The scopes as text, so that one row that is no JSON does not hide all keys.
    columns = [
        cast_to(each, Text).label("scopes") if each.name == "scopes" else each for each in schema.api_keys.columns
    ]
    rows = connection.execute(select(*columns)).all()
    by_hash: dict[str, ApiKey] = {}
    damaged = []
    for row in rows:
        if row.revoked_at is None:
            try:
                by_hash[_checked_hash(row.hash)] = _checked_key(row)
            except (ValueError, TypeError, RecursionError):
                damaged.append(row.key_number)
    return KeyRing(MappingProxyType(by_hash), any_ever=bool(rows), damaged=tuple(damaged))  # no row is ever deleted


def allows(key: ApiKey, scope: Scope) -> bool:
    """Return whether a key has a scope, or one that includes it."""
    scopes = key.scopes
    return scope in scopes or "admin" in scopes or any(scope in PARTS.get(held, ()) for held in scopes)


def note_uses(engine: Engine, used: Mapping[int, int]) -> None:
    """Write when keys were used last.

    Args:
        used: number of a key → Unix milliseconds.
    """
    keys = schema.api_keys.c
    with writing(engine) as connection:
        for number, at in sorted(used.items()):
            is_later = keys.last_used_at.is_(None) | (keys.last_used_at < at)
            connection.execute(
                update(schema.api_keys).where(keys.key_number == number, is_later).values(last_used_at=at)
            )


_KNOWN = [column for column in schema.api_keys.columns if column.name != "hash"]


def _as_key(row: Row[Any]) -> ApiKey:
    scopes = cast(tuple[Scope, ...], tuple(row.scopes))
    return ApiKey(row.key_number, row.name, scopes, row.created_at, row.revoked_at, row.expires_at, row.last_used_at)


def _checked_key(row: Row[Any]) -> ApiKey:
    """Return the key of a row, whose scopes are text.

    Raises:
        ValueError, TypeError: the row was damaged; SQLite takes values of any type.
    """
    scopes = json.loads(row.scopes)
    times = (row.created_at, *(each for each in (row.expires_at, row.last_used_at) if each is not None))
    are_times = all(type(each) is int for each in times)
    if not (are_times and isinstance(row.name, str) and isinstance(scopes, list)):
        raise ValueError(f"the row of key {row.key_number} is damaged")
    known = tuple(scope for scope in SCOPES if scope in scopes)  # a later version may have more
    return ApiKey(row.key_number, row.name, known, row.created_at, None, row.expires_at, row.last_used_at)


def _checked_hash(value: object) -> str:
    if not isinstance(value, str) or len(value) != HASH_LENGTH:
        raise ValueError("it is no SHA-256 in hex")
    return value


def hash_of(text: str) -> str:
    """Return the hash of a key's text, which the database stores."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _chosen(keys: Sequence[ApiKey], number_or_name: str) -> ApiKey:
    """Return the key of a number; else the active key of a name; else the latest key of that name."""
    named = [key for key in keys if number_or_name in (str(key.number), key.name)]
    now = now_ms()
    in_force = [key for key in named if key.is_active(now)]
    if len(in_force) > 1:
        numbers = ", ".join(str(key.number) for key in reversed(in_force))
        raise InputError(f"keys {numbers} have the name {quote_value(number_or_name)}: revoke each by its number")
    if not named:
        raise NotFoundError(f"there is no key {quote_value(number_or_name)}: see `recsys keys list`")
    return (in_force or named)[0]


def _check_name(name: str) -> None:
    if not name.strip():
        raise InputError("the name of a key is blank: give the name of its user, such as 'web shop'")
    if len(name) > MAX_NAME_LENGTH:
        raise InputError(
            f"the name of a key has {len(name):,} characters: expected at most {MAX_NAME_LENGTH}; shorten it"
        )
    if not name.isprintable():
        raise InputError(f"the name {quote_value(name)} has characters that cannot be printed: remove them")
    if re.fullmatch("[0-9]+", name):
        raise InputError(f"the name {quote_value(name)} looks like the number of a key: add a letter")


def _check_scopes(scopes: Sequence[str]) -> None:
    choices = ", ".join(SCOPES)
    if not scopes:
        raise InputError(f"a key needs a scope: give at least one of {choices}")
    for scope in scopes:
        if scope not in SCOPES:
            raise InputError(f"there is no scope {quote_value(scope)}: expected one of {choices}")
    if len(set(scopes)) < len(scopes):
        raise InputError(f"a scope is repeated in {', '.join(scopes)}: give each once")
