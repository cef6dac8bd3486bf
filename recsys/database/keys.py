"""API keys: make, revoke, check.

A key is text that a client sends with every request. The database has its hash, its name and its scopes; a server
holds all keys that are in force in memory, as a `KeyRing`.
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
    """What is known of a key; the key itself is known to nobody but its owner.

    Attributes:
        scopes: what it may do, in the order of `SCOPES`.
        created_at, revoked_at: Unix milliseconds; None where it is still in force.
    """

    number: int
    name: str
    scopes: tuple[Scope, ...]
    created_at: int
    revoked_at: int | None


@dataclass(frozen=True, slots=True)
class KeyRing:
    """All keys as a server holds them in memory; immutable.

    Attributes:
        by_hash: SHA-256 of a key, in hex → what is known of it; only those that are in force.
        any_ever: whether a key was ever made: without one the service is open where it may be. Revoking all of them
            does not open it again.
    """

    by_hash: Mapping[str, ApiKey]
    any_ever: bool

    def find(self, key: str) -> ApiKey | None:
        """What is known of a key that is in force; None for any other text, however odd."""
        return self.by_hash.get(_hash(key))


def create_key(engine: Engine, name: str, scopes: Sequence[Scope], *, actor: str) -> tuple[ApiKey, str]:
    """Make a key; the text is the key itself, which cannot be had a second time.

    Only the SHA-256 of it is stored. A slow hash protects passwords, which can be guessed; a key is 256 random bits,
    which cannot, and is looked up with every request.

    Args:
        name: 1 to 80 printable characters, not blank, not all digits. Several keys may share one.
        scopes: one or more of `SCOPES`, each once.
        actor: who makes it, for the audit log.

    Raises:
        InputError: the name or the scopes are none.
    """
    _check_name(name)
    _check_scopes(scopes)
    key = "recsys_" + secrets.token_urlsafe(32)
    ordered = [scope for scope in SCOPES if scope in scopes]
    row = {"name": name, "hash": _hash(key), "scopes": ordered, "created_at": now_ms()}
    with writing(engine) as connection:
        made = _as_key(connection.execute(insert(schema.api_keys).values(row).returning(*_KNOWN)).one())
        record(connection, actor, "create key", {"number": made.number, "name": name, "scopes": ordered})
    return made, key


def revoke_key(engine: Engine, number_or_name: str, *, actor: str) -> ApiKey:
    """Put a key out of force, for good. Revoking it again changes nothing.

    Args:
        number_or_name: a name means the key of that name that is in force.
        actor: who revokes it, for the audit log.

    Raises:
        NotFoundError: there is no such key.
        InputError: several keys in force share the name; the message has their numbers.
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
    """All keys, the newest first, revoked ones included."""
    return [_as_key(row) for row in connection.execute(select(*_KNOWN).order_by(schema.api_keys.c.key_number.desc()))]


def read_keyring(connection: Connection) -> KeyRing:
    """The keys as they are now."""
    rows = connection.execute(select(schema.api_keys.c.hash, *_KNOWN)).all()
    by_hash = {row.hash: _as_key(row) for row in rows if row.revoked_at is None}
    return KeyRing(MappingProxyType(by_hash), any_ever=bool(rows))  # no row is ever deleted


def allows(key: ApiKey, scope: Scope) -> bool:
    """Whether a key may do what needs a scope. `admin` may do everything; `write` does not imply `read`."""
    return scope in key.scopes or "admin" in key.scopes


_KNOWN = [column for column in schema.api_keys.columns if column.name != "hash"]


def _as_key(row: Row[Any]) -> ApiKey:
    scopes = cast(tuple[Scope, ...], tuple(row.scopes))
    return ApiKey(row.key_number, row.name, scopes, row.created_at, row.revoked_at)


def _hash(key: str) -> str:
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()


def _chosen(keys: Sequence[ApiKey], number_or_name: str) -> ApiKey:
    """The key that is meant: by number, else the one in force of that name, else the last one that was."""
    named = [key for key in keys if number_or_name in (str(key.number), key.name)]
    in_force = [key for key in named if key.revoked_at is None]
    if len(in_force) > 1:
        numbers = ", ".join(str(key.number) for key in reversed(in_force))
        raise InputError(f"keys {numbers} share the name {quote_value(number_or_name)}: revoke each by its number")
    if not named:
        raise NotFoundError(f"there is no key {quote_value(number_or_name)}: see `recsys keys list`")
    return (in_force or named)[0]


def _check_name(name: str) -> None:
    if not name.strip():
        raise InputError("the name of a key is blank: expected who uses it, such as 'web shop'")
    if len(name) > MAX_NAME_LENGTH:
        raise InputError(
            f"the name of a key has {len(name):,} characters: expected at most {MAX_NAME_LENGTH}; shorten it"
        )
    if not name.isprintable():
        raise InputError(f"the name {quote_value(name)} has characters that cannot be printed: leave them out")
    if re.fullmatch("[0-9]+", name):
        raise InputError(f"the name {quote_value(name)} could be the number of a key: add a letter")


def _check_scopes(scopes: Sequence[str]) -> None:
    choices = ", ".join(SCOPES)
    if not scopes:
        raise InputError(f"a key needs a scope: give at least one of {choices}")
    for scope in scopes:
        if scope not in SCOPES:
            raise InputError(f"there is no scope {quote_value(scope)}: expected some of {choices}")
    if len(set(scopes)) < len(scopes):
        raise InputError(f"a scope is given twice in {', '.join(scopes)}: give each once")
