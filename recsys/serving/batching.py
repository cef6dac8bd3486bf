"""Requests that wait together are answered together: users read in one query, lists found in one matrix product."""

import asyncio
import logging
from concurrent.futures import Executor
from itertools import groupby
from typing import NamedTuple

from sqlalchemy import Engine

from recsys.database.engine import glancing
from recsys.errors import DatabaseError
from recsys.scoring.search import TopN
from recsys.serving.catalogue import Catalogue
from recsys.serving.live_model import LiveModel
from recsys.serving.recommender import Search, find
from recsys.serving.users import UNREAD, UserCache, UserState, read_states

MOST_USERS = 64
"""Users that are read in one query."""

MOST_WORK = 70_000_000
"""Multiplications of one matrix product that the event loop does by itself, in some milliseconds: 16 lists among 62,000
items of 64 factors. More go to a thread."""

MOST_WAITING = 32
"""Searches that wait for no more to join them."""

_log = logging.getLogger(__name__)


class _Asked(NamedTuple):
    user_id: str
    catalogue: Catalogue
    model: LiveModel | None
    answer: "asyncio.Future[UserState]"


class StateReader:
    """Reads states of users off the event loop; those asked for while a query runs share the next one.

    So a state never comes from a query that began before it was asked for: what a client did before it asks counts.
    """

    def __init__(self, engine: Engine, cache: UserCache, executor: Executor) -> None:
        self._engine, self._cache, self._executor = engine, cache, executor
        self._waiting: list[_Asked] = []
        self._reading: asyncio.Task[None] | None = None

    async def state(self, user_id: str, catalogue: Catalogue, model: LiveModel | None) -> UserState:
        """The state of a user for a version; one that says so where the database cannot be reached."""
        if model is not None:
            kept = self._cache.get(model.number, user_id)
            if kept is not None:
                return kept
        answer: asyncio.Future[UserState] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Asked(user_id, catalogue, model, answer))
        if self._reading is None:
            self._reading = asyncio.create_task(self._read())
        return await answer

    async def _read(self) -> None:
        loop = asyncio.get_running_loop()
        while self._waiting:
            batch, self._waiting = self._waiting[:MOST_USERS], self._waiting[MOST_USERS:]
            for _, same in groupby(batch, lambda asked: (id(asked.catalogue), id(asked.model))):
                group = list(same)
                user_ids = [asked.user_id for asked in group]
                reading = loop.run_in_executor(
                    self._executor, read_users, self._engine, self._cache, user_ids, group[0].catalogue, group[0].model
                )
                try:
                    states = await reading
                except Exception as error:
                    _fail([asked.answer for asked in group], error)
                else:
                    for asked in group:
                        if not asked.answer.done():  # its client may have gone
                            asked.answer.set_result(states[asked.user_id])
        self._reading = None


def read_users(
    engine: Engine, cache: UserCache, user_ids: list[str], catalogue: Catalogue, model: LiveModel | None
) -> dict[str, UserState]:
    """Read states of users and keep them; `UNREAD` where the database cannot be reached."""
    try:
        with glancing(engine) as connection:
            states = read_states(connection, user_ids, catalogue, model)
    except DatabaseError as error:
        # The snapshot still answers, but not for these users: better the popular items than none.
        _log.warning("answered without the database", extra={"reason": str(error)})
        return dict.fromkeys(user_ids, UNREAD)
    if model is not None:
        for user_id, state in states.items():
            cache.put(model.number, user_id, state)
    return states


class Searcher:
    """Finds lists; those asked for in one turn of the event loop, or while others are found, share a matrix product."""

    def __init__(self, executor: Executor) -> None:
        self._executor = executor
        self._waiting: list[tuple[Search, asyncio.Future[TopN]]] = []
        self._busy = False
        self._finding: asyncio.Task[None] | None = None

    async def find(self, search: Search) -> TopN:
        """The list of one search."""
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[TopN] = loop.create_future()
        self._waiting.append((search, answer))
        if not self._busy:
            self._busy = True
            loop.call_soon(self._look_again, 0)
        return await answer

    def _look_again(self, n_before: int) -> None:
        """Wait for as long as every turn of the event loop brings more: what arrives together is found together."""
        n_waiting = len(self._waiting)
        if n_before < n_waiting < MOST_WAITING:
            asyncio.get_running_loop().call_soon(self._look_again, n_waiting)
        else:
            self._find_all()

    def _find_all(self) -> None:
        waiting, self._waiting = self._waiting, []
        searches, answers = [search for search, _ in waiting], [answer for _, answer in waiting]
        if _is_quick(searches):
            self._busy = False
            try:
                found = find(searches)
            except Exception as error:
                _fail(answers, error)
            else:
                _settle(answers, found)
            return
        self._finding = asyncio.create_task(self._find_aside(searches, answers))

    async def _find_aside(self, searches: list[Search], answers: "list[asyncio.Future[TopN]]") -> None:
        loop = asyncio.get_running_loop()
        try:
            found = await loop.run_in_executor(self._executor, find, searches)
        except Exception as error:
            _fail(answers, error)
        else:
            _settle(answers, found)
        if self._waiting:
            loop.call_soon(self._find_all)
        else:
            self._busy = False


def _is_quick(searches: list[Search]) -> bool:
    """Whether the event loop may find these by itself."""
    no_layers = all(search.among.head is None for search in searches)
    return no_layers and sum(search.among.items.size for search in searches) <= MOST_WORK


def _settle(answers: "list[asyncio.Future[TopN]]", found: list[TopN]) -> None:
    for answer, best in zip(answers, found, strict=True):
        if not answer.done():  # its client may have gone
            answer.set_result(best)


def _fail(answers: "list[asyncio.Future[TopN]] | list[asyncio.Future[UserState]]", error: Exception) -> None:
    for answer in answers:
        if not answer.done():
            answer.set_exception(error)
