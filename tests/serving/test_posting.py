"""Posts that wait together: one transaction, each its own report, and none waits for another one's locked row."""

import asyncio
import random
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext

import pytest
from sqlalchemy import Engine, select

from recsys.database import schema
from recsys.database.engine import reading, writing
from recsys.database.feedback import NewRating
from recsys.database.ids import keys_of
from recsys.database.posts import Post, check_post, rate
from recsys.errors import OverloadedError
from recsys.results import RateReport
from recsys.serving import batching
from recsys.serving.batching import LOCK_SECONDS, PostWriter
from tests.database.test_feedback import watched

ITEMS = ["a", "b", "c", "d"]


@pytest.fixture
def pools() -> Iterator[list[ThreadPoolExecutor]]:
    made = [ThreadPoolExecutor(1), ThreadPoolExecutor(8)]
    yield made
    for pool in made:
        pool.shutdown()


def writer(
    engine: Engine, pools: list[ThreadPoolExecutor], slots: AbstractContextManager[None] | None = None
) -> PostWriter:
    return PostWriter(engine, *pools, slots or nullcontext(), lambda _users, _seq: None)


def post_together(made: PostWriter, posts: Sequence[Post], pool: ThreadPoolExecutor) -> list[RateReport]:
    """Let all posts but the first wait for each other: the thread that writes is kept busy until all are there."""
    may_go_on = threading.Event()

    async def ask() -> list[RateReport]:
        pool.submit(may_go_on.wait, 10)
        asked = [asyncio.create_task(made.write(post)) for post in posts]
        await asyncio.sleep(0.05)
        may_go_on.set()
        return await asyncio.gather(*asked)

    return asyncio.run(ask())


def random_posts(prefix: str, seed: int) -> list[list[NewRating]]:
    """40 posts of 1 to 4 rows, of few pairs: ratings and events, with and without times, unknown items, bad values."""
    draw = random.Random(seed)

    def row() -> NewRating:
        user, item = f"{prefix}{draw.randrange(4)}", draw.choice([*ITEMS, "unknown"])
        at = draw.choice([None, *range(1, 4)])
        if draw.random() < 0.3:
            return NewRating(user, item, None, 10**12 + (at or 0), 1.0)
        return NewRating(user, item, float(draw.choice([1, 2, 3, 4, 5, 9])), None if at is None else 10**12 + at)

    return [[row() for _ in range(draw.randint(1, 4))] for _ in range(40)]


def stored(engine: Engine, prefix: str) -> list[tuple[object, ...]]:
    """What is stored of the users of a prefix; times of the receipt are left out, for they differ."""
    rated, users, items = schema.ratings.c, schema.users.c, schema.items.c
    with reading(engine) as connection:
        rows = connection.execute(
            select(users.user_id, items.item_id, rated.kind, rated.rating, rated.rated_at)
            .join(schema.users, users.user_key == rated.user_key)
            .join(schema.items, items.item_key == rated.item_key)
            .where(users.user_id.startswith(prefix))
        ).all()
    return sorted(
        (user[1:], item, kind, value, at if at < 10**12 + 9 else None) for user, item, kind, value, at in rows
    )


@pytest.mark.parametrize("seed", range(3))
def test_posts_written_together_do_what_they_do_one_after_the_other(
    engine: Engine, pools: list[ThreadPoolExecutor], seed: int
) -> None:
    keys_of(engine, schema.items, ITEMS)
    alone = [rate(engine, rows, (1, 5), lambda _users, _seq: None) for rows in random_posts("s", seed)]
    posts = [check_post(rows, (1, 5)) for rows in random_posts("t", seed)]
    with watched(engine) as (_, transactions):
        together = post_together(writer(engine, pools), posts, pools[0])
    assert [report.model_dump() for report in together] == [report.model_dump() for report in alone]
    assert stored(engine, "t") == stored(engine, "s")
    assert transactions.count("commit") < len(posts) / 2
    with reading(engine) as connection:
        counted = schema.item_counts.c
        total = sum(connection.scalars(select(counted.n_ratings)))
        assert total == len(connection.execute(select(schema.ratings.c.user_key)).all())


def test_posts_that_wait_are_one_transaction(engine: Engine, pools: list[ThreadPoolExecutor]) -> None:
    keys_of(engine, schema.items, ITEMS)
    posts = [
        check_post([NewRating(f"u{at}", "a", 4.0, None), NewRating("x", "y", 9.0, None)], (1, 5)) for at in range(9)
    ]
    posts += [check_post([NewRating("u", "a", 9.0, None)], (1, 5))]  # nothing to store
    with watched(engine) as (_, transactions):
        reports = post_together(writer(engine, pools), posts, pools[0])
    assert transactions == ["begin", "commit"]
    assert [(report.inserted, report.rejected) for report in reports] == [(1, 1)] * 9 + [(0, 1)]


@pytest.mark.parametrize("engine", ["sqlite"], indirect=True)
def test_clients_that_were_answered_together_are_awaited(
    engine: Engine, pools: list[ThreadPoolExecutor], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their next posts arrive one by one, and become one transaction; a client alone never waits."""
    monkeypatch.setattr(batching, "GATHER_SHARE", 1e6)
    monkeypatch.setattr(batching, "MAX_GATHER_SECONDS", 5.0)
    keys_of(engine, schema.items, ITEMS)
    made = writer(engine, pools)

    async def post(at: int, item: str) -> RateReport:
        await asyncio.sleep(0.005 * at)
        return await made.write(check_post([NewRating(f"u{at}", item, 4.0, None)], None))

    async def ask() -> list[RateReport]:
        return await asyncio.gather(*[post(at, "b") for at in range(5)])

    made._n_last, made._last_seconds = 5, 1.0
    with watched(engine) as (_, transactions):
        reports = asyncio.run(ask())
    assert transactions == ["begin", "commit"]
    assert [report.inserted for report in reports] == [1] * 5
    made._n_last = 1
    started = time.monotonic()
    asyncio.run(post(0, "c"))
    assert time.monotonic() - started < 2


@pytest.mark.postgres
def test_a_row_that_another_transaction_holds_keeps_only_its_own_post_waiting(
    postgres_engine: Engine, pools: list[ThreadPoolExecutor]
) -> None:
    engine = postgres_engine
    keys_of(engine, schema.items, ITEMS)
    rate(engine, [NewRating("u0", "a", 4.0, None)], None, lambda _users, _seq: None)
    made = writer(engine, pools)
    rated = schema.ratings

    async def ask() -> list[RateReport]:
        with writing(engine) as connection:
            connection.execute(select(rated).with_for_update()).all()
            posts = [check_post([NewRating(f"u{at}", "a", 2.0, None)], None) for at in range(4)]
            held, *others = [asyncio.create_task(made.write(post)) for post in posts]
            await asyncio.wait_for(asyncio.gather(*others), LOCK_SECONDS + 5)
            assert not held.done()
        return await asyncio.gather(held, *others)

    held, *others = asyncio.run(ask())
    assert (held.updated, [report.inserted for report in others]) == (1, [1, 1, 1])


@pytest.mark.parametrize("engine", ["sqlite"], indirect=True)
def test_no_slot_refuses_all_that_wait(engine: Engine, pools: list[ThreadPoolExecutor]) -> None:
    class Full(nullcontext[None]):
        def __enter__(self) -> None:
            raise OverloadedError("full")

    made = writer(engine, pools, Full())

    async def ask() -> list[object]:
        posts = [check_post([NewRating("u", "a", 2.0, None)], None) for _ in range(3)]
        return await asyncio.gather(*[made.write(post) for post in posts], return_exceptions=True)

    assert all(isinstance(answer, OverloadedError) for answer in asyncio.run(ask()))
