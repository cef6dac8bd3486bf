"""Ratings that were taken back and users that were erased, remembered so that no file brings them back.

What is remembered is a hash of the external id, keyed with a secret of the database: a copy of the table alone does
not say who was erased.
"""

import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b

import numpy as np
from sqlalchemy import Connection, delete, func, select

from recsys.data.encoding import RatingColumns
from recsys.data.rows import UserRow
from recsys.database import schema
from recsys.database.clock import now_ms
from recsys.database.statements import upsert

WHOLE_USER = ""
"""`pair_hash` of an erased user."""
_HASH_BYTES = 16
SECRET = "tombstones"


@dataclass(frozen=True, slots=True)
class Hasher:
    """Hashes external ids with the secret of one database."""

    key: bytes

    def user(self, user_id: str) -> str:
        """Return the hash of a user."""
        return blake2b(user_id.encode(), key=self.key, digest_size=_HASH_BYTES).hexdigest()

    def pair(self, user_id: str, item_id: str) -> str:
        """Return the hash of a user and an item. No id holds a NUL."""
        return blake2b(f"{user_id}\0{item_id}".encode(), key=self.key, digest_size=_HASH_BYTES).hexdigest()


def hasher_of(connection: Connection) -> Hasher | None:
    """Return the hasher of the database; `None` if nothing was ever withdrawn."""
    stored = schema.secrets.c
    key = connection.scalar(select(stored.value).where(stored.name == SECRET))
    return None if key is None else Hasher(key)


def make_hasher(connection: Connection) -> Hasher:
    """Return the hasher of the database, and make its secret if need be. Call it in a transaction that writes."""
    found = hasher_of(connection)
    if found is None:
        upsert(connection, schema.secrets, [{"name": SECRET, "value": secrets.token_bytes(32)}], key=["name"])
        found = hasher_of(connection)
        assert found is not None
    return found


def bury_pair(connection: Connection, user_id: str, item_id: str) -> None:
    """Remember that a rating was taken back now."""
    hasher = make_hasher(connection)
    bury(connection, hasher.user(user_id), hasher.pair(user_id, item_id))


def bury_user(connection: Connection, user_id: str) -> tuple[str, int, int]:
    """Remember that a user was erased now, in place of what they took back before.

    Returns:
        The hash of the user, when they were erased, in Unix milliseconds, and how many tombstones of pairs went.
    """
    user_hash, at = make_hasher(connection).user(user_id), now_ms()
    buried = schema.tombstones.c
    connection.execute(delete(schema.tombstones).where(buried.user_hash == user_hash, buried.pair_hash == WHOLE_USER))
    n_pairs = connection.execute(delete(schema.tombstones).where(buried.user_hash == user_hash)).rowcount
    bury(connection, user_hash, WHOLE_USER, at)
    return user_hash, at, n_pairs


def erased_at(connection: Connection, user_id: str) -> tuple[str, int] | None:
    """Return the hash of a user who was erased, and when, in Unix milliseconds; `None` if they were not."""
    hasher = hasher_of(connection)
    if hasher is None:
        return None
    buried = schema.tombstones.c
    user_hash = hasher.user(user_id)
    at = connection.scalar(select(buried.at).where(buried.user_hash == user_hash, buried.pair_hash == WHOLE_USER))
    return None if at is None else (user_hash, at)


def bury(connection: Connection, user_hash: str, pair_hash: str, at: int | None = None) -> None:
    """Write one tombstone.

    Args:
        at: Unix milliseconds; by default now.
    """
    row = {"user_hash": user_hash, "pair_hash": pair_hash, "at": now_ms() if at is None else at}
    upsert(connection, schema.tombstones, [row], key=["user_hash", "pair_hash"], set_=["at"])


@dataclass(frozen=True, slots=True)
class Buried:
    """All tombstones: hash of the user → hash of the pair → when."""

    hasher: Hasher
    by_user: dict[str, dict[str, int]]

    def of(self, user_id: str) -> dict[str, int]:
        """Return the tombstones of a user by hash of the pair."""
        return self.by_user.get(self.hasher.user(user_id), {})


def read_buried(connection: Connection) -> Buried | None:
    """Return all tombstones; `None` if there are none."""
    if not connection.scalar(select(func.count()).select_from(schema.tombstones)):
        return None
    hasher = hasher_of(connection)
    if hasher is None:
        return None
    by_user: dict[str, dict[str, int]] = {}
    buried = schema.tombstones.c
    for user_hash, pair_hash, at in connection.execute(select(buried.user_hash, buried.pair_hash, buried.at)):
        by_user.setdefault(user_hash, {})[pair_hash] = at
    return Buried(hasher, by_user)


def without_buried(
    columns: RatingColumns, buried: Buried | None, *, allow_erased: bool = False
) -> tuple[RatingColumns, int]:
    """Return the rows of a file without those of erased users, and those that are not newer than a withdrawal.

    Args:
        allow_erased: whether rows of erased users are kept.

    Returns:
        The rows, and how many were left out. Users without rows are no longer among `user_ids`.
    """
    if buried is None:
        return columns, 0
    is_erased, has_withdrawn = (np.zeros(len(columns.user_ids), bool) for _ in range(2))
    stones_of: dict[int, dict[str, int]] = {}
    for code, user_id in enumerate(columns.user_ids):
        stones = buried.of(user_id)
        if WHOLE_USER in stones and not allow_erased:
            is_erased[code] = True
        elif stones:
            has_withdrawn[code], stones_of[code] = True, stones
    dropped = is_erased[columns.user_code]
    for row in np.flatnonzero(has_withdrawn[columns.user_code]).tolist():
        code = int(columns.user_code[row])
        pair = buried.hasher.pair(columns.user_ids[code], columns.item_ids[columns.item_code[row]])
        at = stones_of[code].get(pair)
        dropped[row] = at is not None and columns.rated_at[row] <= at  # no time is the smallest number
    if not dropped.any():
        return columns, 0
    kept = ~dropped
    users, user_code = np.unique(columns.user_code[kept], return_inverse=True)
    return (
        replace(
            columns,
            user_ids=[columns.user_ids[code] for code in users.tolist()],
            user_code=user_code.astype(np.int32),
            item_code=columns.item_code[kept],
            rating=columns.rating[kept],
            rated_at=columns.rated_at[kept],
        ),
        int(dropped.sum()),
    )


def without_erased(rows: Sequence[UserRow], buried: Buried | None) -> list[UserRow]:
    """Return the rows of a file of users without those of erased users."""
    return [row for row in rows if buried is None or WHOLE_USER not in buried.of(row.user_id)]


def raise_users(connection: Connection, user_ids: Iterable[str]) -> None:
    """Forget that users were erased, because a load said so."""
    hasher = hasher_of(connection)
    buried = schema.tombstones.c
    erased = set(connection.scalars(select(buried.user_hash).where(buried.pair_hash == WHOLE_USER)))
    if hasher is None or not erased:
        return
    for user_hash in erased & {hasher.user(user_id) for user_id in user_ids}:
        connection.execute(
            delete(schema.tombstones).where(buried.user_hash == user_hash, buried.pair_hash == WHOLE_USER)
        )
