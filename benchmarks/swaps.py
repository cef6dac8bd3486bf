"""Hot swaps under load: two versions go live in turn while clients ask, and no answer may mix them."""

import json
import threading
import time
from collections import Counter
from collections.abc import Iterator
from http.client import HTTPConnection
from urllib.parse import quote

import numpy as np
from sqlalchemy import Engine

from benchmarks.load import drive, get
from benchmarks.scenarios import Outcome
from benchmarks.served import Served
from benchmarks.serving_data import Stock, store_version
from recsys.database.engine import connect, reading
from recsys.database.models import live_numbers, publish

N_USERS = 50
N_CONNECTIONS = 8
REFRESH_SECONDS = 0.1
"""How often the server looks for a new version, for this scenario; the default would make it ten times as long."""

_LIMIT_SECONDS = 30

Lists = dict[int, dict[str, list[str]]]
"""Version → path → ids of the items that it lists there."""


class SwapFailedError(Exception):
    """The scenario could not be carried out."""


def second_version(url: str) -> tuple[int, int]:
    """The live ranking version, and another one, drawn anew, that is not live."""
    engine = connect(url)
    with reading(engine) as connection:
        live = live_numbers(connection)["ranking"]
    other = store_version(engine, "ranking", seed=1000)
    engine.dispose()
    return live, other


def swap(server: Served, url: str, stock: Stock, versions: tuple[int, int], n_swaps: int) -> Outcome:
    """Publish the versions in turn, so many times, under load.

    Raises:
        SwapFailedError: the server does not take up a version, or both have the same lists.
    """
    engine = connect(url)
    random = np.random.default_rng(0)
    users = [stock.user_ids[user] for user in random.choice(len(stock.user_ids), N_USERS, replace=False)]
    paths = [f"/v1/users/{quote(user, safe='')}/recommendations" for user in users]
    expected: Lists = {}
    for version in (*reversed(versions), versions[0]):
        _publish(engine, server, paths[0], version)
        expected[version] = {path: _list(server, path)[1] for path in paths}
    same = sum(expected[versions[0]][path] == expected[versions[1]][path] for path in paths)
    if same:
        raise SwapFailedError(f"both versions have the same list for {same} of {N_USERS} users")

    swapper = _Swapper(engine, server, paths[0], versions, n_swaps)
    seen: Counter[str] = Counter()

    def check(request: bytes, status: int, body: bytes) -> None:
        if status == 200:
            seen["whole" if is_whole(expected, request, body) else "mixed"] += 1

    def requests() -> Iterator[bytes]:
        while not swapper.done.is_set():
            yield from (get(paths[place]) for place in random.integers(N_USERS, size=16).tolist())

    before = server.memory().rss
    swapper.start()
    load = drive(server.port, requests(), n_connections=N_CONNECTIONS, on_answer=check)
    swapper.join()
    engine.dispose()
    if swapper.problem:
        raise SwapFailedError(swapper.problem)
    return Outcome(
        load,
        {
            "swaps": float(n_swaps),
            "failed": float(load.errors),
            "whole": float(seen["whole"]),
            "mixed": float(seen["mixed"]),
            "swap p50, s": float(np.median(swapper.seconds)),
            "swap longest, s": max(swapper.seconds),
            "RSS before, MiB": before,
            "RSS half way, MiB": swapper.half_way_mib,
            "RSS after, MiB": server.memory().rss,
        },
    )


def is_whole(expected: Lists, request: bytes, body: bytes) -> bool:
    """Whether an answer is of one of the versions, and has exactly the list that this version has for the user."""
    path = request.split(b" ", 2)[1].decode()
    version, listed = _read(body)
    return expected.get(version, {}).get(path) == listed


class _Swapper(threading.Thread):
    """Publishes in turn, each time once the server answers with the version before."""

    def __init__(self, engine: Engine, server: Served, path: str, versions: tuple[int, int], n_swaps: int) -> None:
        super().__init__(daemon=True)
        self.done = threading.Event()
        self.seconds: list[float] = []
        self.half_way_mib = float("nan")
        self.problem = ""
        self._engine, self._server, self._path = engine, server, path
        self._versions, self._n_swaps = versions, n_swaps

    def run(self) -> None:
        try:
            for place in range(self._n_swaps):
                if place == self._n_swaps // 2:
                    self.half_way_mib = self._server.memory().rss
                version = self._versions[(place + 1) % 2]
                self.seconds.append(_publish(self._engine, self._server, self._path, version))
        except Exception as error:  # said by the caller: it would be lost in this thread
            self.problem = f"{type(error).__name__}: {error}"
        finally:
            self.done.set()


def _publish(engine: Engine, server: Served, path: str, version: int) -> float:
    """Publish, and wait until the server answers with it; returns the seconds that took."""
    started = time.perf_counter()
    publish(engine, version, "benchmark")
    while _list(server, path)[0] != version:
        if time.perf_counter() - started > _LIMIT_SECONDS:
            raise SwapFailedError(f"the server did not take up version {version} in {_LIMIT_SECONDS} s")
        time.sleep(0.01)
    return time.perf_counter() - started


def _list(server: Served, path: str) -> tuple[int, list[str]]:
    connection = HTTPConnection("127.0.0.1", server.port, timeout=_LIMIT_SECONDS)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        body = response.read()
    finally:
        connection.close()
    if response.status != 200:
        raise SwapFailedError(f"GET {path}: {response.status} {body[:200].decode(errors='replace')}")
    return _read(body)


def _read(body: bytes) -> tuple[int, list[str]]:
    """Version and ids of a list."""
    answer = json.loads(body)
    return answer["model_version"], [item["item_id"] for item in answer["items"]]
