"""API keys: create, revoke, check.

A key is a text that a client sends with every request. The database stores its hash, its name and its scopes; a server
holds all active keys in memory, as a `KeyRing`.
"""

import hashlib
import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal, cast, get_args

from sqlalchemy import Connection, Engine, Row, insert, select, update

from recsys.data.messages import quote_value
from recsys.database import schema
from recsys.database.audit import record
from recsys.database.clock import now_ms
from recsys.database.engine import writing
from recsys.errors import InputError, NotFoundError

Scope = Literal["read", "write", "admin"]
SCOPES: tuple[Scope, ...] = get_args(Scope)
MAX_NAME_LENGTH = 80


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key as the database has it, without its text.

    Attributes:
        scopes: what it may do, in the order of `SCOPES`.
        created_at, revoked_at, expires_at: Unix milliseconds; `None` where it was not revoked, or never expires.
    """

    number: int
    name: str
    scopes: tuple[Scope, ...]
    created_at: int
    revoked_at: int | None
    expires_at: int | None = None


@dataclass(frozen=True, slots=True)
class KeyRing:
    """All keys as a server holds them in memory; immutable.

    Attributes:
        by_hash: SHA-256 of a key's text, in hex → the key; revoked keys are left out.
        any_ever: whether a key was ever created: without one a service is open, unless its settings require a key.
            Revoking all keys does not open it again.
    """

    by_hash: Mapping[str, ApiKey]
    any_ever: bool

    def find(self, text: str, at: int | None = None) -> ApiKey | None:
        """Return the active key of a text; `None` if there is none, or it has expired.

        Args:
            at: the time, in Unix milliseconds; by default now. So a key expires on time even on a server whose
                database is away.
        """
        key = self.by_hash.get(hash_of(text))
        if key is None or key.expires_at is None:
            return key
        return key if key.expires_at > (now_ms() if at is None else at) else None


def create_key(engine: Engine, name: str, scopes: Sequence[Scope], *, actor: str) -> tuple[ApiKey, str]:
    """Create a key. Returns it with its text, which is not stored and cannot be read again.

    Only the SHA-256 of the text is stored. A slow hash protects passwords, which can be guessed; a key is 256 random
    bits, which cannot, and is looked up with every request.

    Args:
        name: 1 to 80 printable characters, not blank, not all digits. Several keys may share one.
        scopes: one or more of `SCOPES`, each once.
        actor: the person or program that creates it, for the audit log.

    Raises:
        InputError: the key's name is not valid, or a scope is unknown, missing or repeated.
    """
    _check_name(name)
    _check_scopes(scopes)
    key = "recsys_" + secrets.token_urlsafe(32)
    ordered = [scope for scope in SCOPES if scope in scopes]
    row = {"name": name, "hash": hash_of(key), "scopes": ordered, "created_at": now_ms()}
    with writing(engine) as connection:
        made = _as_key(connection.execute(insert(schema.api_keys).values(row).returning(*_KNOWN)).one())
        record(connection, actor, "create key", {"number": made.number, "name": name, "scopes": ordered})
    return made, key


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


def list_keys(connection: Connection) -> list[ApiKey]:
    """Return all keys, the newest first, with those that were revoked."""
    return [_as_key(row) for row in connection.execute(select(*_KNOWN).order_by(schema.api_keys.c.key_number.desc()))]


def read_keyring(connection: Connection) -> KeyRing:
    """Return the keys as they are now."""
    rows = connection.execute(select(schema.api_keys.c.hash, *_KNOWN)).all()
    by_hash = {row.hash: _as_key(row) for row in rows if row.revoked_at is None}
    return KeyRing(MappingProxyType(by_hash), any_ever=bool(rows))  # no row is ever deleted


def allows(key: ApiKey, scope: Scope) -> bool:
    """Return whether a key has a scope. `admin` includes all scopes; `write` does not include `read`."""
    return scope in key.scopes or "admin" in key.scopes


_KNOWN = [column for column in schema.api_keys.columns if column.name != "hash"]


def _as_key(row: Row[Any]) -> ApiKey:
    scopes = cast(tuple[Scope, ...], tuple(row.scopes))
    expires_at = getattr(row, "expires_at", None)  # a database of an earlier schema has no such column
    return ApiKey(row.key_number, row.name, scopes, row.created_at, row.revoked_at, expires_at)


def hash_of(text: str) -> str:
    """Return the hash of a key's text, which the database stores."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _chosen(keys: Sequence[ApiKey], number_or_name: str) -> ApiKey:
    """Return the key of a number; else the active key of a name; else the latest key of that name."""
    named = [key for key in keys if number_or_name in (str(key.number), key.name)]
    in_force = [key for key in named if key.revoked_at is None]
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
