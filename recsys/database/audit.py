"""The audit log: who changed what, written in the transaction that changes it."""

from collections.abc import Mapping
from dataclasses import dataclass

from sqlalchemy import Connection, insert, select

from recsys.database import schema
from recsys.database.clock import now_ms


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """One line of the log.

    Attributes:
        number: grows with every entry.
        at: Unix milliseconds.
        actor: name of a key, or of a person on the command line.
        action: what was done, in a word or two: `create key`.
        detail: what it was done to.
    """

    number: int
    at: int
    actor: str
    action: str
    detail: Mapping[str, object]


def record(connection: Connection, actor: str, action: str, detail: Mapping[str, object]) -> None:
    """Add an entry inside the caller's transaction, so that it is there if and only if the change is.

    Args:
        action: at most 32 characters.
        detail: what JSON can hold; never a key, its hash, or the id of a user who was erased.
    """
    row = {"at": now_ms(), "actor": actor, "action": action, "detail": dict(detail)}
    connection.execute(insert(schema.audit_log).values(row))


def entries(connection: Connection, limit: int = 100) -> list[AuditEntry]:
    """Return the last `limit` (1 or more) entries, the newest first."""
    rows = connection.execute(select(schema.audit_log).order_by(schema.audit_log.c.entry_key.desc()).limit(limit))
    return [AuditEntry(row.entry_key, row.at, row.actor, row.action, row.detail) for row in rows]
