"""Random lists from two servers while other requests write: nothing seen, hidden, excluded or repeated, none short."""

import math
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple
from urllib.parse import quote

import httpx
import numpy as np
import pytest
from sqlalchemy import Engine

from recsys.database.engine import reading
from recsys.database.models import live_numbers, publish
from tests.api.conftest import Many, add_many, serving, url_of

OTHER_SERVER_SECONDS = 3.0
"""A change is respected by the other server within a second; the rest is for a machine that has other things to do."""
N_READERS = 3


class Event(NamedTuple):
    """A write: when its request started, when it was acknowledged, and which server took it."""

    started: float
    acknowledged: float
    server: int


class Log:
    """What was written, as far as readers must respect it."""

    def __init__(self, data: Many) -> None:
        self.rated: dict[str, dict[int, Event]] = defaultdict(dict)
        self.hidden: dict[int, list[tuple[Event, Event | None]]] = defaultdict(list)
        long_ago = Event(0, 0, 0)
        for user_id, places in zip(data.user_ids, data.rated, strict=True):
            self.rated[user_id] = dict.fromkeys(places, long_ago)
        for place in np.flatnonzero(data.hidden).tolist():
            self.hidden[place].append((long_ago, None))

    def must_be_hidden(self, place: int, server: int, started: float, ended: float) -> bool:
        return any(
            respected(hide, server, started) and (show is None or show.started > ended)
            for hide, show in list(self.hidden[place])
        )

    def may_be_hidden(self, place: int, since: float, ended: float) -> bool:
        return any(
            hide.started < ended and (show is None or show.acknowledged + OTHER_SERVER_SECONDS > since)
            for hide, show in list(self.hidden[place])
        )


def respected(event: Event, server: int, started: float) -> bool:
    """Whether a request to a server that started at a time must respect a write."""
    return event.acknowledged + (0 if event.server == server else OTHER_SERVER_SECONDS) < started


def write(
    clients: list[httpx.Client], data: Many, log: Log, enough: threading.Event, stop: threading.Event, engine: Engine
) -> None:
    """Rate, hide, show and publish until told to stop, and say when there were enough writes for a test."""
    try:
        write_until(clients, data, log, enough, stop, engine)
    finally:
        enough.set()


def write_until(
    clients: list[httpx.Client], data: Many, log: Log, enough: threading.Event, stop: threading.Event, engine: Engine
) -> None:
    random = np.random.default_rng(7)
    with reading(engine) as connection:
        ranking = live_numbers(connection)["ranking"]
    n_writes = 0
    while not stop.is_set():
        server, place = int(random.integers(2)), int(random.integers(len(data.item_ids)))
        kind = random.random()
        # Known to the readers before it is sent: a server may respect it before this thread hears of it.
        sent = Event(time.monotonic(), math.inf, server)
        if kind < 0.6:
            user_id = str(random.choice(data.user_ids)) if kind < 0.5 else f"new {random.integers(20)}"
            rating = {"user_id": user_id, "item_id": data.item_ids[place], "rating": int(random.integers(1, 6))}
            is_new = log.rated[user_id].setdefault(place, sent) is sent
            assert clients[server].post("/v1/ratings", json={"ratings": [rating]}).status_code == 200
            if is_new:
                log.rated[user_id][place] = sent._replace(acknowledged=time.monotonic())
        elif kind < 0.98:
            hide = not log.hidden[place] or log.hidden[place][-1][1] is not None
            if hide:
                log.hidden[place].append((sent, None))
            before = log.hidden[place][-1][0]
            log.hidden[place][-1] = (sent, None) if hide else (before, sent)
            answer = clients[server].put(f"/v1/items/{quote(data.item_ids[place], '')}", json={"hidden": hide})
            assert answer.status_code == 200
            done = sent._replace(acknowledged=time.monotonic())
            log.hidden[place][-1] = (done, None) if hide else (before, done)
        else:
            publish(engine, ranking, "again")  # every server loads the version anew
        n_writes += 1
        if n_writes > 20:
            enough.set()
        stop.wait(0.01)


def read(clients: list[httpx.Client], data: Many, log: Log, enough: threading.Event, n_requests: int, seed: int) -> int:
    """Read random lists page by page and check each; return the number of lists that were read to their end.

    It goes on after `n_requests` until there were enough writes.
    """
    random = np.random.default_rng(seed)
    names = ["Action", "Comedy", "Drama", "Film noir", "Sci-Fi/Fantasy"]
    n_whole = 0
    while n_requests > 0 or not enough.is_set():
        user_id = str(random.choice(data.user_ids)) if random.random() < 0.8 else f"new {random.integers(20)}"
        item = int(random.integers(len(data.item_ids)))
        wanted = set(random.choice(names, 2).tolist()) if random.random() < 0.6 else set()
        unwanted = set(random.choice(names, 1).tolist()) if random.random() < 0.3 else set()
        excluded = set(random.integers(len(data.item_ids), size=5).tolist())
        url, query = random.choice(
            [  # type: ignore[arg-type]
                (f"/v1/users/{quote(user_id, '')}/recommendations", "user"),
                (f"/v1/items/{quote(data.item_ids[item], '')}/similar", "similar"),
                ("/v1/popular", "popular"),
            ],
            p=[0.7, 0.15, 0.15],
        )
        asked: dict[str, Any] = {"n": int(random.integers(1, 40)), "category": list(wanted)}
        asked["not_category"] = list(unwanted)
        if query == "user":
            asked["exclude"] = [data.item_ids[place] for place in excluded]
        else:
            excluded = {item} if query == "similar" else set()
            asked |= {"exclude_seen_by": user_id} if query == "similar" else {"by": "count"}
        place_of = {item_id: place for place, item_id in enumerate(data.item_ids)}
        listed: list[int] = []
        session_started = time.monotonic()
        for _ in range(int(random.integers(1, 12))):
            server, started = int(random.integers(2)), time.monotonic()
            answer = clients[server].get(str(url), params=asked)
            ended = time.monotonic()
            assert answer.status_code == 200, answer.text
            body, n_requests = answer.json(), n_requests - 1
            page = [place_of[each["item_id"]] for each in body["items"]]
            assert not set(page) & set(listed), "an item is repeated"
            assert len(set(page)) == len(page)
            assert not set(page) & excluded
            listed += page
            seen = dict(log.rated[user_id]) if query != "popular" else {}
            for place in page:
                assert not wanted or data.categories[place] & wanted
                assert not data.categories[place] & unwanted
                assert not log.must_be_hidden(place, server, started, ended), "a hidden item"
                assert place not in seen or not respected(seen[place], server, started), "a rated item"
            if body["next_cursor"] is not None:
                assert len(page) == asked["n"], "a short list"
                asked["cursor"] = body["next_cursor"]
                continue
            n_whole += 1
            for place in set(range(len(data.item_ids))) - set(listed) - excluded - set(seen):
                fits = (not wanted or data.categories[place] & wanted) and not data.categories[place] & unwanted
                if fits and place not in log.rated[user_id]:
                    assert log.may_be_hidden(place, session_started, ended), "an item is missing"
            break
    return n_whole


@pytest.fixture
def pair(engine: Engine) -> Iterator[tuple[Many, list[httpx.Client]]]:
    data = add_many(engine)
    with serving(url_of(engine)) as first, serving(url_of(engine)) as second:
        yield data, [first, second]


LONG = [pytest.param(20_000, part, marks=pytest.mark.long) for part in range(1, 6)]
"""100,000 requests, in parts that can run beside each other."""


@pytest.mark.timeout(3600)
@pytest.mark.parametrize(("n_requests", "part"), [(300, 0), *LONG])
def test_lists_are_right_while_others_write(
    engine: Engine, pair: tuple[Many, list[httpx.Client]], n_requests: int, part: int
) -> None:
    data, clients = pair
    log, enough, stop = Log(data), threading.Event(), threading.Event()
    with ThreadPoolExecutor(N_READERS + 1) as threads:
        writer = threads.submit(write, clients, data, log, enough, stop, engine)
        try:
            readers = [
                threads.submit(read, clients, data, log, enough, n_requests // N_READERS + 1, part * N_READERS + reader)
                for reader in range(N_READERS)
            ]
            n_whole = sum(each.result() for each in readers)
        finally:
            stop.set()
        writer.result()
    assert n_whole > n_requests // 60
