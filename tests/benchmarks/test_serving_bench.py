"""The serving benchmark: its client against servers with known answers, and its databases at a small size."""

import asyncio
import json
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count, repeat
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import func, select

from benchmarks import load, serving_data, swaps
from benchmarks.load import NO_ANSWER, Load, drive, get, post
from benchmarks.scenarios import ScenarioResult
from benchmarks.served import Server, free_port
from benchmarks.serving import Task, TaskResult, default_tasks, postgres_ratios, select_tasks
from benchmarks.serving_data import HUGE, LARGE, SMALL, Size
from recsys.database import schema
from recsys.database.engine import connect, reading
from recsys.database.models import live_numbers, load_factors

Answer = Callable[[bytes], list[bytes]]
"""Function from a request to the parts of the answer; without a part the connection is closed."""

TINY = Size("tiny", n_users=30, n_items=40, n_ratings=200)


@contextmanager
def answering(answer: Answer) -> Iterator[int]:
    """Run a server that answers every request with `answer`, with a pause between the parts; return its port."""
    loop = asyncio.new_event_loop()
    port = free_port()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0] or 0)
                pieces = answer(head + await reader.readexactly(length))
                for piece in pieces:
                    writer.write(piece)
                    await writer.drain()
                    await asyncio.sleep(0.001 if len(pieces) > 1 else 0)
                if not pieces:
                    break
        except asyncio.IncompleteReadError:
            pass
        finally:
            writer.close()

    server = loop.run_until_complete(asyncio.start_server(talk, "127.0.0.1", port))
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield port
    finally:

        async def end() -> None:
            await asyncio.sleep(0.02)  # so that a connection accepted just now has its task
            server.close()
            others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
            await asyncio.wait(others, timeout=2) if others else None

        asyncio.run_coroutine_threadsafe(end(), loop).result(5)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def response(body: bytes, status: int = 200, head: bytes = b"content-length") -> bytes:
    return b"HTTP/1.1 %d Said\r\nserver: x\r\n%s: %d\r\n\r\n%s" % (status, head, len(body), body)


def test_every_request_is_sent_once_and_every_answer_is_complete() -> None:
    answers: list[tuple[bytes, int, bytes]] = []
    with answering(lambda request: [response(b"echo " + request.split(b" ")[1])]) as port:
        run = drive(port, (get(f"/{i}") for i in range(50)), n_connections=4, on_answer=lambda *a: answers.append(a))
    assert (run.answered, run.errors, len(run.latencies_ms)) == (50, 0, 50)
    assert sorted(answers) == sorted((get(f"/{i}"), 200, b"echo /%d" % i) for i in range(50))


@pytest.mark.parametrize("cut", [1, 9, 20, 40, 60, 700])
def test_answers_in_parts(cut: int) -> None:
    body = bytes(range(256)) * 4
    whole = response(body, head=b"Content-Length")
    bodies: list[bytes] = []
    with answering(lambda _: [whole[:cut], whole[cut : cut + 3], whole[cut + 3 :]]) as port:
        run = drive(port, repeat(get("/"), 6), n_connections=2, on_answer=lambda *a: bodies.append(a[2]))
    assert run.answered == 6
    assert bodies == [body] * 6


def test_everything_but_200_is_an_error() -> None:
    number = count()

    def answer(_: bytes) -> list[bytes]:
        return [response(b"no luck", 500) if next(number) % 4 == 0 else response(b"")]

    with answering(answer) as port:
        run = drive(port, repeat(get("/"), 20), n_connections=1)
    assert (run.statuses, run.errors) == ({200: 15, 500: 5}, 5)
    assert len(run.latencies_ms) == 15
    assert run.first_error == "500: no luck"


def test_a_lost_connection_is_an_error_and_is_opened_again() -> None:
    number = count()
    with answering(lambda _: [] if next(number) == 2 else [response(b"x")]) as port:
        run = drive(port, repeat(get("/"), 10), n_connections=1)
    assert run.statuses == {200: 9, NO_ANSWER: 1}


def test_an_answer_without_a_length_is_an_error() -> None:
    with answering(lambda _: [b"HTTP/1.1 200 OK\r\n\r\nx"]) as port:
        assert drive(port, repeat(get("/"), 3), n_connections=1).statuses == {NO_ANSWER: 3}


def test_a_port_without_a_server_is_an_error() -> None:
    run = drive(free_port(), repeat(get("/")), n_connections=2, seconds=5)
    assert run.statuses == {NO_ANSWER: 2}


def test_no_answer_in_time_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load, "ANSWER_TIMEOUT_SECONDS", 0.5)
    with answering(lambda _: [b"HTTP/1.1 "]) as port:
        assert drive(port, repeat(get("/"), 1), n_connections=1).statuses == {NO_ANSWER: 1}


def test_a_timed_run_ends_in_time() -> None:
    with answering(lambda _: [response(b"x")]) as port:
        run = drive(port, repeat(get("/")), seconds=0.3)
    assert 0.2 < run.seconds < 2
    assert run.answered > 10
    assert run.per_second == pytest.approx(run.answered / run.seconds)


def test_a_posted_body_arrives() -> None:
    seen: list[bytes] = []

    def answer(request: bytes) -> list[bytes]:
        seen.append(request)
        return [response(b"")]

    with answering(answer) as port:
        drive(port, [post("/v1/ratings", {"n": 1})], n_connections=1)
    assert json.loads(seen[0].split(b"\r\n\r\n")[1]) == {"n": 1}


def test_percentiles_by_hand() -> None:
    run = Load()
    run.latencies_ms.extend(range(101))
    assert [run.percentile(percent) for percent in (50, 95, 99)] == [50, 95, 99]
    assert np.isnan(Load().percentile(50))
    assert Load().figures()["p99_to_p50"] is None


def test_the_processor_time_of_a_server_is_counted() -> None:
    """The server of these tests is a thread of this process, which sends the requests too."""
    with answering(lambda _: [response(b"")]) as port:
        run = Server(port, os.getpid(), 0.0).drive(repeat(get("/")), 2, seconds=0.5)
    assert 0.02 < run.processor_seconds < 3
    assert run.figures()["processor_us"] == pytest.approx(1e6 * run.processor_seconds / run.answered, abs=0.1)
    assert Load().figures()["processor_us"] is None


def test_a_database_is_built_once(tmp_path: Path) -> None:
    url = serving_data.sqlite_database(TINY, tmp_path)
    engine = connect(url)
    with reading(engine) as connection:
        n_ratings = connection.scalar(select(func.count()).select_from(schema.ratings))
        live = live_numbers(connection)
        factors = load_factors(connection, live["ranking"])
    engine.dispose()
    assert 150 < n_ratings <= 220
    assert set(live) == {"ranking", "rating"}
    assert (factors.n_users, factors.n_items, factors.n_factors) == (30, 40, 64)
    assert factors.items.implicit is not None

    pool = serving_data.read_request_pool(url)
    assert (len(set(pool.user_ids)), len(set(pool.item_ids)), len(pool.title_words)) == (30, 40, 40)
    assert 10 < len(pool.categories) <= 20

    written = (tmp_path / "tiny.db").stat().st_ino
    serving_data.sqlite_database(TINY, tmp_path)
    assert (tmp_path / "tiny.db").stat().st_ino == written
    serving_data.sqlite_database(Size("tiny", 31, 40, 200), tmp_path)
    assert len(serving_data.read_request_pool(url).user_ids) == 31


def test_a_copy_is_removed_afterwards(tmp_path: Path) -> None:
    url = serving_data.sqlite_database(TINY, tmp_path)
    before = sorted(tmp_path.iterdir())
    with serving_data.copied(url, tmp_path) as copy:
        assert serving_data.read_request_pool(copy) == serving_data.read_request_pool(url)
    assert sorted(tmp_path.iterdir()) == before


def test_popularity_is_skewed() -> None:
    ratings = serving_data.random_ratings(Size("some", 500, 300, 10_000), np.random.default_rng(0))
    counts = np.sort(np.bincount(ratings.item_code))[::-1]
    assert counts[:30].sum() > counts[150:].sum()
    pairs = ratings.user_code.astype(np.int64) * 300 + ratings.item_code
    assert len(np.unique(pairs)) == len(pairs)


def test_scenarios_by_name() -> None:
    assert select_tasks("top10-small,similar", huge=False) == [
        Task("top10", SMALL),
        Task("similar", SMALL),
        Task("similar", LARGE),
    ]
    assert select_tasks("swap-large", huge=False) == [Task("swap", LARGE)]
    assert Task("memory", HUGE) in default_tasks(huge=True)
    assert all(task.size != HUGE for task in default_tasks(huge=False))
    with pytest.raises(ValueError, match="no scenario 'top11'"):
        select_tasks("top11", huge=False)


@pytest.mark.parametrize(
    ("version", "listed", "whole"),
    [(1, ["a", "b"], True), (2, ["b", "c"], True), (2, ["a", "b"], False), (1, ["b", "a"], False), (3, ["a"], False)],
)
def test_an_answer_that_mixes_versions_is_detected(version: int, listed: list[str], whole: bool) -> None:
    expected = {1: {"/u/recommendations": ["a", "b"]}, 2: {"/u/recommendations": ["b", "c"]}}
    body = json.dumps({"model_version": version, "items": [{"item_id": item_id} for item_id in listed]}).encode()
    assert swaps.is_whole(expected, get("/u/recommendations"), body) is whole


def test_ratio_of_postgresql_to_sqlite() -> None:
    def result(database: str, answered: int) -> TaskResult:
        run = Load(seconds=2.0)
        run.statuses[200] = answered
        return TaskResult(Task("first", SMALL), database, 1, 1, ScenarioResult(run))

    assert postgres_ratios([result("SQLite", 100), result("PostgreSQL", 50)]) == {"first-small": 0.5}
