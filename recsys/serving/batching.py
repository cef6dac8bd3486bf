"""Requests that wait at the same time share one query for their users, one matrix product for their lists, and one
transaction for their ratings."""

import asyncio
import logging
import time
from collections.abc import Sequence
from concurrent.futures import Executor
from contextlib import AbstractContextManager, suppress
from itertools import groupby
from typing import NamedTuple, TypeVar

from sqlalchemy import Engine

from recsys.database.driver_errors import ConflictError, LockUnavailableError
from recsys.database.engine import read_latest
from recsys.database.feedback import Pair
from recsys.database.posts import OnChange, Post, write_posts
from recsys.errors import DatabaseError, RecsysError
from recsys.results import RateReport
from recsys.scoring.search import TopN
from recsys.serving.catalogue import Catalogue
from recsys.serving.live_model import LiveModel
from recsys.serving.searches import Search, run_searches
from recsys.serving.user_cache import UserCache
from recsys.serving.users import UNREAD_USER, UserState, read_states

MAX_USERS = 64
"""Most users that one query reads."""

MAX_INLINE_WORK = 70_000_000
"""Most multiplications of a matrix product that the event loop computes itself, in some milliseconds: 16 lists among
62,000 items of 64 factors. Larger products go to a thread."""

MAX_WAITING = 32
"""Number of searches that start at once, without waiting for more to join."""

MAX_ROWS = 1000
"""Most rows of posts that are written in one transaction, unless one post alone has more."""

LOCK_SECONDS = 0.25
"""Longest time that posts which are written together wait for a row that another transaction holds."""

GATHER_SHARE, MAX_GATHER_SECONDS = 0.5, 0.02
"""Longest wait for as many posts as were written last, as a share of the time that took, and in all: the clients that
were answered at the same time are about to send the next ones, and a commit costs the same for one and for many."""

OF_A_ROW = (LockUnavailableError, ConflictError)
"""Errors of a transaction that may be about the rows of one post, and not about the database."""

_T = TypeVar("_T")
_log = logging.getLogger(__name__)


class _StateRequest(NamedTuple):
    user_id: str
    catalogue: Catalogue
    model: LiveModel | None
    answer: "asyncio.Future[UserState]"


class StateReader:
    """Reads user states off the event loop; requests that arrive while a query runs share the next query.

    So a state never comes from a query that began before it was requested, and everything a client did before its
    request counts.
    """

    def __init__(self, engine: Engine, cache: UserCache, executor: Executor) -> None:
        self._engine, self._cache, self._executor = engine, cache, executor
        self._waiting: list[_StateRequest] = []
        self._reading: asyncio.Task[None] | None = None

    async def state(self, user_id: str, catalogue: Catalogue, model: LiveModel | None) -> UserState:
        """Return the state of a user for a version; `UNREAD_USER` if the database cannot be reached."""
        if model is not None:
            cached = self._cache.get(model.number, user_id)
            if cached is not None:
                return cached
        answer: asyncio.Future[UserState] = asyncio.get_running_loop().create_future()
        self._waiting.append(_StateRequest(user_id, catalogue, model, answer))
        if self._reading is None:
            self._reading = asyncio.create_task(self._read())
        return await answer

    async def _read(self) -> None:
        try:
            while self._waiting:
                batch, self._waiting = self._waiting[:MAX_USERS], self._waiting[MAX_USERS:]
                for _, same in groupby(batch, lambda request: (id(request.catalogue), id(request.model))):
                    await self._read_group(list(same))
        finally:
            self._reading = None

    async def _read_group(self, group: Sequence[_StateRequest]) -> None:
        user_ids = [request.user_id for request in group]
        catalogue, model = group[0].catalogue, group[0].model
        answers = [request.answer for request in group]
        try:
            # The executor refuses work once it is shut down: then these requests fail, and do not wait for ever.
            states = await asyncio.get_running_loop().run_in_executor(
                self._executor, read_users, self._engine, self._cache, user_ids, catalogue, model
            )
        except Exception as error:
            _fail(answers, error)
        else:
            _settle(answers, [states[user_id] for user_id in user_ids])


def read_users(
    engine: Engine, cache: UserCache, user_ids: list[str], catalogue: Catalogue, model: LiveModel | None
) -> dict[str, UserState]:
    """Read user states and cache them; return `UNREAD_USER` for all if the database cannot be reached."""
    try:
        with read_latest(engine) as connection:
            states = read_states(connection, user_ids, catalogue, model)
    except DatabaseError as error:
        # The snapshot can still answer with popular items.
        _log.debug("answered without the database", extra={"reason": str(error)})
        return dict.fromkeys(user_ids, UNREAD_USER)
    if model is not None:
        for user_id, state in states.items():
            cache.put(model.number, user_id, state)
    return states


class Searcher:
    """Runs searches; those that arrive in one pass of the event loop, or while others run, share a matrix product.

    Args:
        executor: of one thread, for searches that take too long for the event loop.
        helper: a thread that takes a share of each search; `None`: there is no processor to spare.
    """

    def __init__(self, executor: Executor, helper: Executor | None = None) -> None:
        self._executor, self._helper = executor, helper
        self._waiting: list[tuple[Search, asyncio.Future[TopN]]] = []
        self._busy = False
        self._running: asyncio.Task[None] | None = None

    async def find(self, search: Search) -> TopN:
        """Return the result of one search."""
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[TopN] = loop.create_future()
        self._waiting.append((search, answer))
        if not self._busy:
            self._busy = True
            loop.call_soon(self._gather, 0)
        return await answer

    def _gather(self, n_before: int) -> None:
        """Wait as long as each pass of the event loop brings more searches, then run them."""
        n_waiting = len(self._waiting)
        if n_before < n_waiting < MAX_WAITING:
            asyncio.get_running_loop().call_soon(self._gather, n_waiting)
        else:
            self._run_waiting()

    def _run_waiting(self) -> None:
        waiting, self._waiting = self._waiting, []
        searches, answers = [search for search, _ in waiting], [answer for _, answer in waiting]
        work = sum(search.index.work for search in searches)
        if work <= MAX_INLINE_WORK and all(search.index.head is None for search in searches):
            self._busy = False
            try:
                found = run_searches(searches, self._helper)
            except Exception as error:
                _fail(answers, error)
            else:
                _settle(answers, found)
            return
        self._running = asyncio.create_task(self._run_in_thread(searches, answers))

    async def _run_in_thread(self, searches: list[Search], answers: "list[asyncio.Future[TopN]]") -> None:
        loop = asyncio.get_running_loop()
        try:
            found = await loop.run_in_executor(self._executor, run_searches, searches, self._helper)
        except Exception as error:
            _fail(answers, error)
        else:
            _settle(answers, found)
        if self._waiting:
            loop.call_soon(self._run_waiting)
        else:
            self._busy = False


_WaitingPost = tuple[Post, "asyncio.Future[RateReport]"]


class PostWriter:
    """Writes posted ratings; those that wait at the same time are written in one transaction, in order.

    A transaction on PostgreSQL may have to wait for a bulk load that holds one of its rows. The other posts do not wait
    with it: after `LOCK_SECONDS`, or if their transaction fails, each post is written by itself.

    Args:
        executor: of one thread, that writes posts together.
        single: threads that write posts by themselves.
        slots: entered by each transaction; limits how many there are at once.
        on_change: called after each commit; see `write_posts`.
    """

    def __init__(
        self,
        engine: Engine,
        executor: Executor,
        single: Executor,
        slots: AbstractContextManager[None],
        on_change: OnChange,
    ) -> None:
        self._engine, self._executor, self._single = engine, executor, single
        self._slots, self._on_change = slots, on_change
        self._waiting: list[_WaitingPost] = []
        self._writing: asyncio.Task[None] | None = None
        self._alone: set[asyncio.Task[None]] = set()
        self._n_last, self._last_seconds = 1, 0.0
        self._enough: asyncio.Event | None = None

    async def write(self, post: Post) -> RateReport:
        """Return the report of a post once its rows are committed.

        Raises:
            RecsysError: as `slots` and `write_posts`; nothing of the post is stored.
        """
        answer: asyncio.Future[RateReport] = asyncio.get_running_loop().create_future()
        self._waiting.append((post, answer))
        if self._writing is None:
            self._writing = asyncio.create_task(self._write_waiting())
        elif self._enough is not None and len(self._waiting) >= self._n_last:
            self._enough.set()
        return await answer

    async def _gather(self) -> None:
        """Wait a moment for as many posts as were written last. A client that posts alone does not wait."""
        if len(self._waiting) < self._n_last:
            self._enough = asyncio.Event()
            seconds = min(GATHER_SHARE * self._last_seconds, MAX_GATHER_SECONDS)
            with suppress(TimeoutError):
                await asyncio.wait_for(self._enough.wait(), seconds)
            self._enough = None

    def _take(self) -> list["_WaitingPost"]:
        """Take the posts that can be written together: a later post of a pair waits for the earlier one."""
        taken: list[_WaitingPost] = []
        left: list[_WaitingPost] = []
        pairs: set[Pair] = set()
        n_rows = 0
        for post, answer in self._waiting:
            fits, mine = not taken or n_rows + len(post.rows) <= MAX_ROWS, post.pairs
            (taken if fits and pairs.isdisjoint(mine) else left).append((post, answer))
            pairs |= mine
            n_rows += len(post.rows)
        self._waiting = left
        return taken

    async def _write_waiting(self) -> None:
        try:
            while self._waiting:
                await self._gather()
                group = self._take()
                started = time.monotonic()
                try:
                    reports = await self._run(self._executor, [post for post, _ in group], LOCK_SECONDS)
                except Exception as error:
                    if isinstance(error, RecsysError) and not isinstance(error, OF_A_ROW):
                        # Those that wait would fail too, each group of them after as long a wait.
                        group, self._waiting = group + self._waiting, []
                        _fail([answer for _, answer in group], error)
                        continue
                    for post, answer in group:
                        task = asyncio.create_task(self._write_alone(post, answer))
                        self._alone.add(task)
                        task.add_done_callback(self._alone.discard)
                else:
                    _settle([answer for _, answer in group], reports)
                self._n_last, self._last_seconds = len(group), time.monotonic() - started
        finally:
            self._writing = None

    async def _write_alone(self, post: Post, answer: "asyncio.Future[RateReport]") -> None:
        try:
            reports = await self._run(self._single, [post], None)
        except Exception as error:
            _fail([answer], error)
        else:
            _settle([answer], reports)

    async def _run(self, executor: Executor, posts: list[Post], lock_seconds: float | None) -> list[RateReport]:
        def write() -> list[RateReport]:
            with self._slots:
                return write_posts(self._engine, posts, self._on_change, lock_seconds)

        return await asyncio.get_running_loop().run_in_executor(executor, write)


def _settle(answers: "Sequence[asyncio.Future[_T]]", results: Sequence[_T]) -> None:
    for answer, result in zip(answers, results, strict=True):
        if not answer.done():  # the client may have disconnected
            answer.set_result(result)


def _fail(answers: "Sequence[asyncio.Future[_T]]", error: Exception) -> None:
    for answer in answers:
        if not answer.done():
            answer.set_exception(error)
