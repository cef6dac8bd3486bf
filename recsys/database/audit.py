"""The audit log: who changed what, written in the transaction that changes it.

Entries are a chain: each has the hash of the one before, and its own, SHA-256 of that hash and its content as canonical
JSON. The row of `audit_head` has the last hash, so that a missing last entry shows too. Someone who can write the
database could write the whole chain anew; then the last hash is no longer the one that was noted elsewhere.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256

from sqlalchemy import Connection, Row, insert, select, update

from recsys.database import schema
from recsys.database.clock import now_ms
from recsys.database.statements import upsert

START = ""
"""What stands in the place of a previous hash in the first entry."""


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """One line of the log.

    Attributes:
        number: grows with every entry.
        at: Unix milliseconds.
        actor: name of a key, or of a person on the command line.
        action: what was done, in a word or two: `create key`.
        detail: what it was done to.
        hash: of this entry and all before it; `None`: written by an earlier version.
    """

    number: int
    at: int
    actor: str
    action: str
    detail: Mapping[str, object]
    hash: str | None = None


@dataclass(frozen=True, slots=True)
class AuditCheck:
    """What the chain of the log says.

    Attributes:
        n_entries: entries in the chain.
        n_unchained: entries of an earlier version, which have no hash.
        hash: the last one; noted elsewhere, it shows later whether entries up to it were changed.
        problem: the first entry that is not as it was written, or missing; `None` if all are there.
    """

    n_entries: int
    n_unchained: int
    hash: str
    problem: str | None


def record(connection: Connection, actor: str, action: str, detail: Mapping[str, object]) -> None:
    """Add an entry inside the caller's transaction, so that it is there if and only if the change is.

    Other transactions that add one wait until this one ends: the order of the chain is that of the commits.

    Args:
        action: at most 32 characters.
        detail: what JSON can hold; never a key, its hash, or the id of a user who was erased.
    """
    head = schema.audit_head
    first = {"head_key": 1, "n_entries": 0, "hash": START}
    upsert(connection, head, [first], key=["head_key"])
    last = connection.execute(select(head.c.hash, head.c.n_entries).with_for_update()).one()
    row = {"at": now_ms(), "actor": actor, "action": action, "detail": json.loads(json.dumps(dict(detail)))}
    hashed = hash_of_entry(last.hash, **row)
    connection.execute(insert(schema.audit_log).values(**row, previous_hash=last.hash, hash=hashed))
    connection.execute(update(head).values(n_entries=last.n_entries + 1, hash=hashed))


def hash_of_entry(previous: str, at: int, actor: str, action: str, detail: Mapping[str, object]) -> str:
    """Return SHA-256 of the previous hash and the entry as JSON with sorted keys, without spaces, in ASCII."""
    content = {"at": at, "actor": actor, "action": action, "detail": detail}
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return sha256(f"{previous}\n{canonical}".encode()).hexdigest()


def entries(
    connection: Connection,
    limit: int = 100,
    *,
    actor: str | None = None,
    action: str | None = None,
    since: int | None = None,
) -> list[AuditEntry]:
    """Return the last `limit` (1 or more) entries, the newest first.

    Args:
        actor, action: only entries that have these.
        since: only entries from this time on, in Unix milliseconds.
    """
    log = schema.audit_log.c
    statement = select(schema.audit_log).order_by(log.entry_key.desc()).limit(limit)
    if actor is not None:
        statement = statement.where(log.actor == actor)
    if action is not None:
        statement = statement.where(log.action == action)
    if since is not None:
        statement = statement.where(log.at >= since)
    return [_as_entry(row) for row in connection.execute(statement)]


def _as_entry(row: Row[tuple[object, ...]]) -> AuditEntry:
    return AuditEntry(row.entry_key, row.at, row.actor, row.action, row.detail, row.hash)


def verify(connection: Connection, known: str | None = None) -> AuditCheck:
    """Check every entry against the chain.

    Args:
        known: a hash that was noted before, and must be in the chain.
    """
    n_entries, n_unchained, previous, problem = 0, 0, START, None
    is_known = known is None
    statement = select(schema.audit_log).order_by(schema.audit_log.c.entry_key)
    for row in connection.execute(statement.execution_options(yield_per=1000)):
        if row.hash is None and not n_entries:
            n_unchained += 1
            continue
        n_entries += 1
        is_known = is_known or row.hash == known
        if row.previous_hash != previous:
            problem = (
                problem or f"entry {row.entry_key} does not follow the one before it: an entry was removed or added"
            )
        elif row.hash != hash_of_entry(previous, row.at, row.actor, row.action, row.detail):
            problem = problem or f"entry {row.entry_key} is not as it was written"
        previous = row.hash or ""
    head = connection.execute(select(schema.audit_head)).one_or_none()
    n_written, last = (head.n_entries, head.hash) if head is not None else (0, START)
    if problem is None and (n_written, last) != (n_entries, previous):
        problem = f"the log has {n_entries:,} entries, and {n_written:,} were written: the last ones were removed"
    if problem is None and not is_known:
        problem = "the hash that you noted is not in the log: its entries were written anew"
    return AuditCheck(n_entries, n_unchained, previous, problem)
