"""One unit of work per write: what it changed is recorded when it ends, in the order in which all writers lock rows.

The order is users, items, ratings, versions' rows, counts of items, and then the change counter, once and last. A
writer locks the first of these itself; the unit of work does the rest. So writers never wait for each other in circles
at the end of a transaction, and the counter is held for as short a time as possible.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection, Engine

from recsys.database import engine as database
from recsys.database.changes import mark_users, record_change
from recsys.database.counts import add_counts
from recsys.database.driver_errors import driver_errors
from recsys.database.engine import is_sqlite, writing

Prepared = TypeVar("Prepared")
"""What is worked out of some rows before they are written."""

Guard = Callable[[Connection], None]
"""Called inside a transaction before it commits; raises if this process may no longer write."""


class Work:
    """What one transaction changed so far.

    Attributes:
        connection: the transaction.
        seq: of the change, once it is recorded; 0 if nothing changed.
        rated_users: keys of the users whose ratings changed, once it is recorded.
        only_read: whether a piece of a bulk write turned out to change nothing.
    """

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.seq = 0
        self.rated_users: list[int] = []
        self.only_read = False
        self._everything = False
        self._users: set[int] = set()
        self._items: set[int] = set()
        self._rated: list[NDArray[np.int64]] = []
        self._counts: list[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64], NDArray[np.int64]]] = []

    def change_everything(self) -> None:
        """Make caches forget everything, as after a bulk load."""
        self._everything = True

    def change(self, *, users: Sequence[int] = (), items: Sequence[int] = ()) -> None:
        """Make caches forget these users and items."""
        self._users.update(users)
        self._items.update(items)

    def mark_rated(self, user_keys: NDArray[np.int64] | Sequence[int]) -> None:
        """Note that the ratings of users changed: caches forget them, and versions trained before fold them in."""
        self._rated.append(np.asarray(user_keys, np.int64))

    def count(
        self,
        item_key: NDArray[np.int64],
        n: NDArray[np.int64] | Sequence[int],
        rating: NDArray[np.float64],
        is_explicit: NDArray[np.bool_] | bool = True,
    ) -> None:
        """Add to the counts and rating sums of items: (n_changes,) each; an item may occur several times.

        Args:
            rating: what the sum of an item gains; of events it gains nothing.
            is_explicit: whether they are ratings, and not events.
        """
        counts = np.asarray(n, np.int64)
        explicit = np.broadcast_to(is_explicit, counts.shape)
        self._counts.append((item_key, counts, np.where(explicit, rating, 0.0), np.where(explicit, counts, 0)))

    def close(self) -> None:
        """Record what changed."""
        if self._counts:
            item_key, n, rating, n_explicit = (np.concatenate(parts) for parts in zip(*self._counts, strict=True))
            add_counts(self.connection, item_key, n, rating, n_explicit)
        rated = self.rated_users = np.unique(np.concatenate(self._rated)).tolist() if self._rated else []
        if self._everything:
            self.seq = record_change(self.connection)
        elif rated or self._users or self._items:
            users = sorted(self._users.union(rated))
            self.seq = record_change(self.connection, users=users, items=sorted(self._items))
        if rated:
            mark_users(self.connection, rated, self.seq)


@contextmanager
def unit_of_work(engine: Engine, guard: Guard | None = None, *, check_keys: bool = True) -> Iterator[Work]:
    """Open a transaction that writes, and record at its end what it changed.

    Args:
        guard: called before the transaction commits.
        check_keys: as `writing`.

    Raises:
        DatabaseError: as `writing`.
        RecsysError: whatever `guard` raises; nothing is written then.
    """
    try:
        with writing(engine, check_keys=check_keys) as connection:
            work = Work(connection)
            yield work
            # Last, so that the row of the lease is locked for a moment and not for a whole bulk load: it must be
            # renewed.
            if guard is not None:
                guard(connection)
            work.close()
    except driver_errors():
        # About a row: a run that took over the lease has deleted what this one refers to. Then the guard says so.
        if guard is not None:
            with writing(engine) as connection:
                guard(connection)
        raise


def write_in_pieces(
    engine: Engine,
    n_rows: int,
    write: Callable[[Work, slice], None],
    on_piece: Callable[[int], None] | None = None,
    guard: Guard | None = None,
) -> None:
    """Call `write(work, rows)` for consecutive slices of `n_rows` rows; see `write_prepared`."""
    write_prepared(engine, n_rows, iter, write, on_piece, guard)


def write_prepared(
    engine: Engine,
    n_rows: int,
    prepare: Callable[[Iterator[slice]], Iterator[Prepared]],
    write: Callable[[Work, Prepared], None],
    on_piece: Callable[[int], None] | None = None,
    guard: Guard | None = None,
    *,
    check_keys: bool = True,
) -> None:
    """Call `write(work, prepared)` for what is prepared from consecutive slices of `n_rows` rows.

    On SQLite, where writers wait for each other, every slice is a unit of work of its own, short enough for others to
    get between. On PostgreSQL the whole is one unit of work.

    Args:
        prepare: takes the slices, and yields one thing for each; it does not use the database.
        on_piece: called with the number of rows just written.
        guard: called inside every transaction before it commits.
        check_keys: as `unit_of_work`.
    """
    size = database.PIECE_ROWS[engine.dialect.name]
    slices = [slice(start, min(start + size, n_rows)) for start in range(0, n_rows, size)]
    if not slices:
        return
    pieces = zip(slices, prepare(iter(slices)), strict=True)
    if not is_sqlite(engine):
        with unit_of_work(engine, guard, check_keys=check_keys) as work:
            for rows, prepared in pieces:
                write(work, prepared)
                if on_piece:
                    on_piece(rows.stop - rows.start)
        return
    pause = False
    for rows, prepared in pieces:
        if pause:
            time.sleep(database.BREATHER_SECONDS)
        with unit_of_work(engine, guard, check_keys=check_keys) as work:
            write(work, prepared)
        pause = not work.only_read
        if on_piece:
            on_piece(rows.stop - rows.start)
