"""Hot swaps under load: two versions go live in turn while clients send requests; no answer may mix them."""

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
from benchmarks.scenarios import ScenarioResult
from benchmarks.served import Server
from benchmarks.serving_data import RequestPool, store_version
from recsys.database.engine import connect, reading
from recsys.database.models import live_numbers, publish

N_USERS = 50
N_CONNECTIONS = 8
REFRESH_SECONDS = 0.1
"""Interval at which the server looks for a new version; with the default the scenario would take ten times as long."""

SWAP_TIMEOUT_SECONDS = 30

Lists = dict[int, dict[str, list[str]]]
"""Version → path → ids of the items in its list."""


class SwapFailedError(Exception):
    """The scenario could not be run."""


def second_version(url: str) -> tuple[int, int]:
    """Store another ranking version with new random factors; return the numbers of the live one and of this one."""
    engine = connect(url)
    with reading(engine) as connection:
        live = live_numbers(connection)["ranking"]
    other = store_version(engine, "ranking", seed=1000)
    engine.dispose()
    return live, other


def swap(server: Server, url: str, pool: RequestPool, versions: tuple[int, int], n_swaps: int) -> ScenarioResult:
    """Publish two versions in turn under load, and check every answer.

    Args:
        server: that is under load.
        url: of its database.
        pool: users for the requests.
        versions: numbers of the live version and of the other one.
        n_swaps: number of publications.

    Raises:
        SwapFailedError: the server does not serve a published version, or both versions have the same lists.
    """
    engine = connect(url)
    random = np.random.default_rng(0)
    users = [pool.user_ids[user] for user in random.choice(len(pool.user_ids), N_USERS, replace=False)]
    paths = [f"/v1/users/{quote(user, safe='')}/recommendations" for user in users]
    expected: Lists = {}
    for version in (*reversed(versions), versions[0]):
        publish_and_wait(engine, server, paths[0], version)
        expected[version] = {path: read_list(server, path)[1] for path in paths}
    n_equal = sum(expected[versions[0]][path] == expected[versions[1]][path] for path in paths)
    if n_equal:
        raise SwapFailedError(f"both versions have the same list for {n_equal} of {N_USERS} users")

    swapper = Swapper(engine, server, paths[0], versions, n_swaps)
    counts: Counter[str] = Counter()

    def check(request: bytes, status: int, body: bytes) -> None:
        if status == 200:
            counts["whole" if is_whole(expected, request, body) else "mixed"] += 1

    def requests() -> Iterator[bytes]:
        while not swapper.done.is_set():
            yield from (get(paths[idx]) for idx in random.integers(N_USERS, size=16).tolist())

    before = server.memory().rss
    swapper.start()
    load = drive(server.port, requests(), n_connections=N_CONNECTIONS, on_answer=check)
    swapper.join()
    engine.dispose()
    if swapper.problem:
        raise SwapFailedError(swapper.problem)
    return ScenarioResult(
        load,
        {
            "swaps": float(n_swaps),
            "failed": float(load.errors),
            "whole": float(counts["whole"]),
            "mixed": float(counts["mixed"]),
            "swap p50, s": float(np.median(swapper.seconds)),
            "swap longest, s": max(swapper.seconds),
            "RSS before, MiB": before,
            "RSS half way, MiB": swapper.half_way_mib,
            "RSS after, MiB": server.memory().rss,
        },
    )


def is_whole(expected: Lists, request: bytes, body: bytes) -> bool:
    """Return whether an answer names a version and contains exactly the list of that version for the user."""
    path = request.split(b" ", 2)[1].decode()
    version, item_ids = parse_list(body)
    return expected.get(version, {}).get(path) == item_ids


class Swapper(threading.Thread):
    """Thread that publishes two versions in turn, each time after the server has served the version before."""

    def __init__(self, engine: Engine, server: Server, path: str, versions: tuple[int, int], n_swaps: int) -> None:
        super().__init__(daemon=True)
        self.done = threading.Event()
        self.seconds: list[float] = []
        self.half_way_mib = float("nan")
        self.problem = ""
        self._engine, self._server, self._path = engine, server, path
        self._versions, self._n_swaps = versions, n_swaps

    def run(self) -> None:
        try:
            for n_done in range(self._n_swaps):
                if n_done == self._n_swaps // 2:
                    self.half_way_mib = self._server.memory().rss
                version = self._versions[(n_done + 1) % 2]
                self.seconds.append(publish_and_wait(self._engine, self._server, self._path, version))
        except Exception as error:  # the caller raises it: in this thread it would be lost
            self.problem = f"{type(error).__name__}: {error}"
        finally:
            self.done.set()


def publish_and_wait(engine: Engine, server: Server, path: str, version: int) -> float:
    """Publish a version, wait until the server serves it, and return the seconds from one to the other."""
    started = time.perf_counter()
    publish(engine, version, "benchmark")
    while read_list(server, path)[0] != version:
        if time.perf_counter() - started > SWAP_TIMEOUT_SECONDS:
            raise SwapFailedError(f"the server did not serve version {version} within {SWAP_TIMEOUT_SECONDS} s")
        time.sleep(0.01)
    return time.perf_counter() - started


def read_list(server: Server, path: str) -> tuple[int, list[str]]:
    """Request a list; return its version and its item ids."""
    connection = HTTPConnection("127.0.0.1", server.port, timeout=SWAP_TIMEOUT_SECONDS)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        body = response.read()
    finally:
        connection.close()
    if response.status != 200:
        raise SwapFailedError(f"GET {path}: {response.status} {body[:200].decode(errors='replace')}")
    return parse_list(body)


def parse_list(body: bytes) -> tuple[int, list[str]]:
    """Return the version and the item ids of a list."""
    answer = json.loads(body)
    return answer["model_version"], [item["item_id"] for item in answer["items"]]
