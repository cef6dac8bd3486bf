"""Scenarios: the requests that a server gets, and the figures that result.

Users and items are drawn at random from all in the database. Scenarios for "users seen before" use a working set of
users, each of whom gets one list before the timed run starts.
"""

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import repeat
from urllib.parse import quote
from urllib.request import urlopen

import numpy as np

from benchmarks.load import Load, drive, get, post, put
from benchmarks.served import Memory, Server
from benchmarks.serving_data import RequestPool

WORKING_SET = 10_000
BATCH = 1000
N_BATCHES = 5
FOLD_IN_RATINGS = 50
N_PAGES = 500


@dataclass(frozen=True, slots=True)
class ScenarioResult:
    """Result of a scenario.

    Attributes:
        load: the timed run; None in a scenario without one.
        figures: further figures by name.
    """

    load: Load | None = None
    figures: dict[str, float | None] = field(default_factory=dict)


@dataclass(slots=True)
class Session:
    """A server that was just started, and the requests that it gets.

    Attributes:
        server: under load.
        pool: users and items of the requests.
        seconds: length of a timed run.
        n_connections: connections of a timed run.
        seed: of the random draws.
        order: (n_users,) all users in random order.
        at_start: memory of the worker before the first request.
    """

    server: Server
    pool: RequestPool
    seconds: float
    n_connections: int
    seed: int = 0
    order: list[int] = field(init=False)
    at_start: Memory = field(init=False)
    _warm: bool = False

    def __post_init__(self) -> None:
        self.order = np.random.default_rng(self.seed).permutation(len(self.pool.user_ids)).tolist()
        self.at_start = self.server.memory()

    @property
    def working_set(self) -> list[int]:
        """The users of the scenarios for users seen before."""
        return self.order[:WORKING_SET]

    def warm_up(self) -> None:
        """Request one list for each user of the working set, once per session."""
        if not self._warm:
            drive(self.server.port, (get(recommendations(self, user)) for user in self.working_set))
            self._warm = True

    def drive(self, requests: Iterator[bytes], n_connections: int | None = None) -> Load:
        """Send requests for the length of a timed run."""
        return self.server.drive(requests, n_connections or self.n_connections, self.seconds)


def recommendations(session: Session, user: int) -> str:
    """Return the path of a user's list."""
    return f"/v1/users/{quote(session.pool.user_ids[user], safe='')}/recommendations"


def top10(session: Session) -> ScenarioResult:
    """Lists for users seen before."""
    session.warm_up()
    return ScenarioResult(session.drive(get(recommendations(session, user)) for user in users_seen_before(session)))


def scored(session: Session) -> ScenarioResult:
    """Lists for users seen before, searched each time: of lists with the items that users rated, nothing is kept."""
    session.warm_up()
    users = users_seen_before(session)
    return ScenarioResult(session.drive(get(f"{recommendations(session, user)}?exclude_seen=false") for user in users))


def varied(session: Session) -> ScenarioResult:
    """Lists with a parameter for users seen before: they are made each time, of the best items kept with the user."""
    session.warm_up()
    users = users_seen_before(session)
    return ScenarioResult(session.drive(get(f"{recommendations(session, user)}?min_ratings=0") for user in users))


def first(session: Session) -> ScenarioResult:
    """Lists for users whose list was never requested since the server started, one for each."""
    return ScenarioResult(session.drive(get(recommendations(session, user)) for user in session.order))


def similar(session: Session) -> ScenarioResult:
    """Similar items of random items."""
    return ScenarioResult(session.drive(get(f"/v1/items/{item}/similar") for item in random_item_ids(session)))


def popular(session: Session) -> ScenarioResult:
    """Popular items, the same request each time."""
    return ScenarioResult(session.drive(repeat(get("/v1/popular"))))


def item(session: Session) -> ScenarioResult:
    """Single random items."""
    return ScenarioResult(session.drive(get(f"/v1/items/{item}") for item in random_item_ids(session)))


def items_search(session: Session) -> ScenarioResult:
    """Items found by the longest word of a random item's title."""
    words = session.pool.title_words
    return ScenarioResult(
        session.drive(get(f"/v1/items?title={quote(words[idx])}") for idx in random_indices(session, len(words)))
    )


def predictions(session: Session) -> ScenarioResult:
    """Ten predictions for a user seen before."""
    session.warm_up()
    items = random_item_ids(session)
    queries = ("&".join(f"item_id={next(items)}" for _ in range(10)) for _ in iter(int, 1))
    users = users_seen_before(session)
    paths = (recommendations(session, user).replace("/recommendations", "/predictions") for user in users)
    return ScenarioResult(session.drive(get(f"{path}?{query}") for path, query in zip(paths, queries, strict=True)))


def filtered(session: Session) -> ScenarioResult:
    """Lists of one category, for users seen before."""
    session.warm_up()
    names = [quote(name, safe="") for name in session.pool.categories]
    categories = (names[idx] for idx in random_indices(session, len(names), stream=1))
    users = users_seen_before(session)
    paths = (recommendations(session, user) for user in users)
    return ScenarioResult(
        session.drive(get(f"{path}?category={name}") for path, name in zip(paths, categories, strict=True))
    )


def second_page(session: Session) -> ScenarioResult:
    """Second pages of filtered lists with metadata, for users seen before; beside plain lists that are searched too."""
    session.warm_up()
    names = [quote(name, safe="") for name in session.pool.categories]
    paths: list[str] = []
    for user, name, other in zip(
        session.working_set[:N_PAGES],
        random_indices(session, len(names), stream=1),
        random_indices(session, len(names), stream=2),
        strict=False,
    ):
        path = f"{recommendations(session, user)}?category={names[name]}&not_category={names[other]}"
        path += "&fields=year&fields=categories&year_from=1900"
        with urlopen(f"http://127.0.0.1:{session.server.port}{path}", timeout=30) as answer:
            cursor = json.load(answer)["next_cursor"]
        if cursor is not None:
            paths.append(f"{path}&cursor={cursor}")
    plain = scored(session).load
    load = session.drive(get(paths[idx]) for idx in random_indices(session, len(paths)))
    assert plain is not None
    figures: dict[str, float | None] = {
        "plain lists/s": plain.per_second,
        "of the plain lists": load.per_second / plain.per_second,
    }
    return ScenarioResult(load, figures)


def excluded(session: Session) -> ScenarioResult:
    """Lists that exclude 200 items by id, for users seen before."""
    session.warm_up()
    items = random_item_ids(session)
    users = users_seen_before(session)
    return ScenarioResult(
        session.drive(
            get(f"{recommendations(session, user)}?" + "&".join(f"exclude={next(items)}" for _ in range(200)))
            for user in users
        )
    )


def rate(session: Session) -> ScenarioResult:
    """Posts of one rating by a random user of a random item."""
    pool = session.pool
    stars = np.random.default_rng(session.seed)

    def rows() -> Iterator[bytes]:
        users, items = (
            random_indices(session, len(pool.user_ids)),
            random_indices(session, len(pool.item_ids), stream=1),
        )
        for user, item in zip(users, items, strict=True):
            row = {"user_id": pool.user_ids[user], "item_id": pool.item_ids[item]}
            yield post("/v1/ratings", {"ratings": [{**row, "rating": int(stars.integers(1, 6))}]})

    return ScenarioResult(session.drive(rows()))


def put_items(session: Session) -> ScenarioResult:
    """New items with a title and a category of others, one request after the other."""

    def rows() -> Iterator[bytes]:
        categories = session.pool.categories
        for at, category in enumerate(random_indices(session, len(categories))):
            item = {"title": f"New item {at}", "categories": [categories[category]]}
            yield put(f"/v1/items/new-{at}", item)

    return ScenarioResult(session.drive(rows(), n_connections=1))


def fold_in(session: Session) -> ScenarioResult:
    """Lists for visitors with 50 ratings each, one request after the other."""
    item_ids = session.pool.item_ids
    random = np.random.default_rng(session.seed)

    def visitors() -> Iterator[bytes]:
        while True:
            items = random.choice(len(item_ids), FOLD_IN_RATINGS, replace=False).tolist()
            stars = random.integers(1, 6, FOLD_IN_RATINGS).tolist()
            rated = [{"item_id": item_ids[item], "rating": r} for item, r in zip(items, stars, strict=True)]
            yield post("/v1/recommendations", {"users": [{"ratings": rated}], "n": 10})

    return ScenarioResult(session.drive(visitors(), n_connections=1))


def batch(session: Session) -> ScenarioResult:
    """Lists for a thousand users in one request, the first time and a second time."""
    # The last of the order, whose lists no other scenario has requested yet.
    users = session.order[::-1][: BATCH * N_BATCHES]
    requests = []
    for start in range(0, len(users), BATCH):
        batch_users = [{"user_id": session.pool.user_ids[user]} for user in users[start : start + BATCH]]
        requests.append(post("/v1/recommendations", {"users": batch_users, "n": 10}))
    loads = [drive(session.server.port, requests, n_connections=1) for _ in range(2)]
    per_second = [load.per_second * min(BATCH, len(users)) or None for load in loads]
    figures = {"users/s, first time": per_second[0], "users/s, seen before": per_second[1]}
    return ScenarioResult(loads[0], figures)


def start(session: Session) -> ScenarioResult:
    """Time from the start of the process to the first 200 of /health/ready."""
    return ScenarioResult(figures={"start, s": session.server.start_seconds})


def memory(session: Session) -> ScenarioResult:
    """Memory of the worker at its start, and after lists for new users and all other scenarios of this server."""
    new = session.order[len(session.order) // 2 :]
    load = session.drive(get(recommendations(session, user)) for user in new)
    time.sleep(1)
    after = session.server.memory()
    figures = {
        "RSS at start, MiB": session.at_start.rss,
        "RSS, MiB": after.rss,
        "PSS, MiB": after.pss,
        "users listed": float(load.answered),
    }
    return ScenarioResult(load, figures)


Scenario = Callable[[Session], ScenarioResult]

READING: dict[str, Scenario] = {
    "start": start,
    "first": first,
    "batch": batch,
    "top10": top10,
    "scored": scored,
    "varied": varied,
    "similar": similar,
    "popular": popular,
    "item": item,
    "items-search": items_search,
    "predictions": predictions,
    "filtered": filtered,
    "second-page": second_page,
    "excluded": excluded,
    "fold-in": fold_in,
    "memory": memory,
}
"""Scenarios that do not change the database, in the order in which one server runs them."""


def users_seen_before(session: Session) -> Iterator[int]:
    """Return random users of the working set, without end."""
    known = session.working_set
    return (known[idx] for idx in random_indices(session, len(known)))


def random_indices(session: Session, n: int, stream: int = 0) -> Iterator[int]:
    """Return random numbers below n, without end; each stream is another sequence."""
    random = np.random.default_rng([session.seed, stream])
    while True:
        yield from random.integers(n, size=4096).tolist()


def random_item_ids(session: Session) -> Iterator[str]:
    """Return percent-encoded ids of random items, without end."""
    ids = [quote(item_id, safe="") for item_id in session.pool.item_ids]
    return (ids[idx] for idx in random_indices(session, len(ids), stream=2))
