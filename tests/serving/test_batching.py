"""Requests that wait together: one query, one product, and each its own answer."""

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from sqlalchemy import Engine

from recsys.database.feedback import NewRating
from recsys.database.posts import rate
from recsys.errors import DatabaseError
from recsys.factors import Head
from recsys.scoring.search import Index, TopN
from recsys.serving import batching
from recsys.serving.batching import Searcher, StateReader
from recsys.serving.searches import Search, run_searches
from recsys.serving.snapshot import Recommender
from recsys.serving.user_cache import UserCache
from recsys.serving.users import UNREAD_USER, UserState, read_states
from tests.serving.made import load

pytestmark = pytest.mark.parametrize("engine", ["sqlite"], indirect=True)


@pytest.fixture
def executor() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as made:
        yield made


class Queries:
    """Stands in for `read_states`: notes whom it is asked for, and waits where it is told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked: list[list[str]] = []
        self.begun, self.may_go_on = threading.Event(), threading.Event()
        self.may_go_on.set()
        self.fails: Exception | None = None
        monkeypatch.setattr(batching, "read_states", self._read)

    def _read(self, connection: Any, user_ids: list[str], *rest: Any) -> dict[str, UserState]:
        self.asked.append(list(user_ids))
        states = read_states(connection, user_ids, *rest)  # what the database has now, and not after the wait
        self.begun.set()
        assert self.may_go_on.wait(10)
        if self.fails is not None:
            raise self.fails
        return states


@pytest.fixture
def queries(monkeypatch: pytest.MonkeyPatch) -> Queries:
    return Queries(monkeypatch)


@pytest.fixture
def recommender(known_engine: Engine) -> Recommender:
    return load(known_engine)


class TestStateReader:
    def reader(self, engine: Engine, executor: ThreadPoolExecutor) -> StateReader:
        return StateReader(engine, UserCache(1 << 20), executor)

    def test_those_who_wait_share_a_query(
        self, known_engine: Engine, recommender: Recommender, executor: ThreadPoolExecutor, queries: Queries
    ) -> None:
        reader = self.reader(known_engine, executor)
        catalogue, model = recommender.catalogue, recommender.list_model()
        user_ids = ["u1", "u2", "u3", "nobody", "u1"]

        async def ask() -> list[UserState]:
            return await asyncio.gather(*[reader.state(user_id, catalogue, model) for user_id in user_ids])

        states = asyncio.run(ask())
        assert queries.asked == [user_ids]
        assert [state.source for state in states] == ["model", "model", "fold_in", "popularity", "model"]
        asyncio.run(ask())
        assert queries.asked == [user_ids, ["nobody"]]  # the others are in the cache

    def test_who_comes_later_waits_for_the_next_query(
        self, known_engine: Engine, recommender: Recommender, executor: ThreadPoolExecutor, queries: Queries
    ) -> None:
        """A state asked for after a write is never from a query that began before it."""
        reader = self.reader(known_engine, executor)
        catalogue, model = recommender.catalogue, recommender.list_model()
        queries.may_go_on.clear()

        async def ask() -> tuple[UserState, list[UserState]]:
            first = asyncio.create_task(reader.state("u1", catalogue, model))
            await asyncio.to_thread(queries.begun.wait, 10)
            forget = reader._cache.forget
            await asyncio.to_thread(rate, known_engine, [NewRating("u1", "b", 4.0, None)], None, forget)
            later = [asyncio.create_task(reader.state(user_id, catalogue, model)) for user_id in ("u1", "u2", "u3")]
            await asyncio.sleep(0.05)
            assert not any(task.done() for task in (first, *later))
            queries.may_go_on.set()
            return await first, await asyncio.gather(*later)

        first, later = asyncio.run(ask())
        assert queries.asked == [["u1"], ["u1", "u2", "u3"]]
        assert first.source == "model"  # it was asked before
        assert later[0].source == "fold_in"
        kept = reader._cache.get(1, "u1")
        assert kept is not None
        assert kept.source == "fold_in"  # and the older one was not kept

    def test_many_go_in_several_queries(
        self, known_engine: Engine, recommender: Recommender, executor: ThreadPoolExecutor, queries: Queries
    ) -> None:
        reader = self.reader(known_engine, executor)
        user_ids = [f"n{i}" for i in range(batching.MAX_USERS * 2 + 3)]

        async def ask() -> list[UserState]:
            asked = [reader.state(user_id, recommender.catalogue, recommender.list_model()) for user_id in user_ids]
            return await asyncio.gather(*asked)

        assert len(asyncio.run(ask())) == len(user_ids)
        assert [user_id for asked in queries.asked for user_id in asked] == user_ids
        assert [len(asked) for asked in queries.asked] == [batching.MAX_USERS] * 2 + [3]

    def test_two_versions_are_not_mixed(
        self, known_engine: Engine, recommender: Recommender, executor: ThreadPoolExecutor, queries: Queries
    ) -> None:
        reader = self.reader(known_engine, executor)
        models = [recommender.models["ranking"], recommender.models["rating"]]

        async def ask() -> None:
            asked = [
                reader.state(user_id, recommender.catalogue, model) for model in models for user_id in ("u1", "u3")
            ]
            await asyncio.gather(*asked)

        asyncio.run(ask())
        assert queries.asked == [["u1", "u3"]] * 2
        assert all(reader._cache.get(number, "u3") is not None for number in (1, 2))

    def test_without_a_database_nobody_is_known(
        self, known_engine: Engine, recommender: Recommender, executor: ThreadPoolExecutor, queries: Queries
    ) -> None:
        reader = self.reader(known_engine, executor)
        queries.fails = DatabaseError("gone")

        async def ask() -> list[UserState]:
            asked = [reader.state(user_id, recommender.catalogue, recommender.list_model()) for user_id in ("u1", "u2")]
            return await asyncio.gather(*asked)

        assert asyncio.run(ask()) == [UNREAD_USER, UNREAD_USER]
        assert len(reader._cache) == 0
        queries.fails = None
        assert [state.source for state in asyncio.run(ask())] == ["model", "model"]

    def test_any_other_error_reaches_all_and_the_next_query_works(
        self, known_engine: Engine, recommender: Recommender, executor: ThreadPoolExecutor, queries: Queries
    ) -> None:
        reader = self.reader(known_engine, executor)
        queries.fails = RuntimeError("a bug")

        async def ask() -> list[Any]:
            asked = [reader.state(user_id, recommender.catalogue, recommender.list_model()) for user_id in ("u1", "u2")]
            return await asyncio.gather(*asked, return_exceptions=True)

        assert [str(error) for error in asyncio.run(ask())] == ["a bug", "a bug"]
        queries.fails = None
        assert [state.source for state in asyncio.run(ask())] == ["model", "model"]

    def test_one_who_hangs_up_takes_nothing_from_the_others(
        self, known_engine: Engine, recommender: Recommender, executor: ThreadPoolExecutor, queries: Queries
    ) -> None:
        reader = self.reader(known_engine, executor)
        queries.may_go_on.clear()

        async def ask() -> UserState:
            catalogue, model = recommender.catalogue, recommender.list_model()
            gone, stays = (asyncio.create_task(reader.state(user_id, catalogue, model)) for user_id in ("u1", "u2"))
            await asyncio.to_thread(queries.begun.wait, 10)
            gone.cancel()
            queries.may_go_on.set()
            with pytest.raises(asyncio.CancelledError):
                await gone
            return await stays

        assert asyncio.run(ask()).source == "model"
        assert queries.asked == [["u1", "u2"]]


class TestSearcher:
    def searches(self, n_items: int, *, neural: bool = False) -> list[Search]:
        random = np.random.default_rng(n_items)

        def normal(*shape: int) -> Any:
            return random.normal(size=shape).astype(np.float32)

        head = Head(2, ((normal(1, 2), normal(1)),)) if neural else None
        among = [Index(normal(n_items, 4), normal(n_items), head) for _ in range(2)]
        return [
            Search(among[turn % 2], normal(4), turn % 7, np.arange(turn % 5), 1, "model", offset=float(turn % 3))
            for turn in range(40)
        ]

    @pytest.mark.parametrize("neural", [False, True])
    @pytest.mark.parametrize("work", [0, batching.MAX_INLINE_WORK])
    def test_lists_are_those_found_one_by_one(
        self, engine: Engine, executor: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch, neural: bool, work: int
    ) -> None:
        """On the event loop or in a thread, all at once or as they come."""
        monkeypatch.setattr(batching, "MAX_INLINE_WORK", work)
        searcher, searches = Searcher(executor), self.searches(300, neural=neural)

        async def ask() -> list[TopN]:
            at_once = await asyncio.gather(*[searcher.find(search) for search in searches])
            tasks = []
            for search in searches:
                tasks.append(asyncio.create_task(searcher.find(search)))
                await asyncio.sleep(0)
            assert [best.item_idx.tolist() for best in await asyncio.gather(*tasks)] == [
                best.item_idx.tolist() for best in at_once
            ]
            return at_once

        for best, search in zip(asyncio.run(ask()), searches, strict=True):
            (alone,) = run_searches([search])
            assert best.item_idx.tolist() == alone.item_idx.tolist()
            assert best.scores.tolist() == alone.scores.tolist()
            (plain,) = search.index.best(search.vector[None], [search.n], [search.excluded])
            np.testing.assert_allclose(best.scores, plain.scores + search.offset, atol=2e-6)

    def test_they_share_a_product(
        self, engine: Engine, executor: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        sizes: list[int] = []

        def noting(searches: list[Search], _helper: object) -> list[TopN]:
            sizes.append(len(searches))
            return run_searches(searches)

        monkeypatch.setattr(batching, "run_searches", noting)
        searcher, searches = Searcher(executor), self.searches(100)

        async def ask() -> None:
            await asyncio.gather(*[searcher.find(search) for search in searches[:20]])

        asyncio.run(ask())
        assert sizes == [20]

    @pytest.mark.parametrize("work", [0, batching.MAX_INLINE_WORK])
    def test_an_error_reaches_the_caller_and_the_next_search_works(
        self, engine: Engine, executor: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch, work: int
    ) -> None:
        monkeypatch.setattr(batching, "MAX_INLINE_WORK", work)
        searcher, (search, *_) = Searcher(executor), self.searches(50)

        def fail(searches: list[Search], _helper: object) -> list[TopN]:
            raise RuntimeError("a bug")

        async def ask() -> list[Any]:
            return await asyncio.gather(searcher.find(search), searcher.find(search), return_exceptions=True)

        with monkeypatch.context() as patched:
            patched.setattr(batching, "run_searches", fail)
            assert [str(error) for error in asyncio.run(ask())] == ["a bug", "a bug"]
        assert [best.item_idx.tolist() for best in asyncio.run(ask())] == [
            run_searches([search])[0].item_idx.tolist()
        ] * 2

    @pytest.mark.parametrize("work", [0, batching.MAX_INLINE_WORK])
    def test_one_who_hangs_up_takes_nothing_from_the_others(
        self, engine: Engine, executor: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch, work: int
    ) -> None:
        monkeypatch.setattr(batching, "MAX_INLINE_WORK", work)
        searcher, searches = Searcher(executor), self.searches(50)

        async def ask() -> list[TopN]:
            tasks = [asyncio.create_task(searcher.find(search)) for search in searches[:6]]
            await asyncio.sleep(0)
            tasks[0].cancel()
            tasks[3].cancel()
            answers = await asyncio.gather(*tasks, return_exceptions=True)
            assert [isinstance(answer, asyncio.CancelledError) for answer in answers] == [
                turn in (0, 3) for turn in range(6)
            ]
            return await asyncio.gather(*[searcher.find(search) for search in searches[:6]])

        assert [len(best.item_idx) for best in asyncio.run(ask())] == [0, 1, 2, 3, 4, 5]
