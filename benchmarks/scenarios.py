"""What is asked of a server, and what comes of it.

Users and items are drawn at random from all there are in the database. Lists for "users seen before" are asked for a
working set of such users, all of whom were asked for once before the clock starts.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from urllib.parse import quote

import numpy as np

from benchmarks.load import Load, drive, get, post
from benchmarks.served import Memory, Served
from benchmarks.serving_data import Stock

WORKING_SET = 10_000
BATCH = 1000
N_BATCHES = 5
FOLD_IN_RATINGS = 50


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a scenario came to.

    Attributes:
        load: the timed run; None where there is none.
        figures: further ones, by name.
    """

    load: Load | None = None
    figures: dict[str, float | None] = field(default_factory=dict)


@dataclass(slots=True)
class Session:
    """A server that was just started, and who asks it.

    Attributes:
        seconds: length of a timed run.
        order: (n_users,) all users, in the order in which they are first asked for.
        at_start: the worker's memory before the first request.
    """

    server: Served
    stock: Stock
    seconds: float
    n_connections: int
    seed: int = 0
    order: list[int] = field(init=False)
    at_start: Memory = field(init=False)
    _warm: bool = False

    def __post_init__(self) -> None:
        self.order = np.random.default_rng(self.seed).permutation(len(self.stock.user_ids)).tolist()
        self.at_start = self.server.memory()

    @property
    def known(self) -> list[int]:
        """The users who are asked for again and again."""
        return self.order[:WORKING_SET]

    def warm_up(self) -> None:
        """Ask once for everybody who will be asked for again."""
        if not self._warm:
            drive(self.server.port, (get(recommendations(self, user)) for user in self.known))
            self._warm = True

    def drive(self, requests: Iterator[bytes], n_connections: int | None = None) -> Load:
        return drive(
            self.server.port, requests, n_connections=n_connections or self.n_connections, seconds=self.seconds
        )


def recommendations(session: Session, user: int) -> str:
    return f"/v1/users/{quote(session.stock.user_ids[user], safe='')}/recommendations"


def top10(session: Session) -> Outcome:
    """Lists for users seen before."""
    session.warm_up()
    known = session.known
    return Outcome(session.drive(get(recommendations(session, known[place])) for place in _draws(session, len(known))))


def scored(session: Session) -> Outcome:
    """Lists for users seen before that are searched for each time: one with a parameter is not kept."""
    session.warm_up()
    users = (session.known[place] for place in _draws(session, len(session.known)))
    return Outcome(session.drive(get(f"{recommendations(session, user)}?min_ratings=0") for user in users))


def first(session: Session) -> Outcome:
    """Lists for users who were never asked for since the server started, each once."""
    return Outcome(session.drive(get(recommendations(session, user)) for user in session.order))


def similar(session: Session) -> Outcome:
    return Outcome(session.drive(get(f"/v1/items/{item}/similar") for item in _items(session)))


def popular(session: Session) -> Outcome:
    return Outcome(session.drive(_again_and_again(get("/v1/popular"))))


def item(session: Session) -> Outcome:
    return Outcome(session.drive(get(f"/v1/items/{item}") for item in _items(session)))


def items_search(session: Session) -> Outcome:
    """Items by the longest word of the title of some item."""
    words = session.stock.title_words
    return Outcome(
        session.drive(get(f"/v1/items?title={quote(words[place])}") for place in _draws(session, len(words)))
    )


def predictions(session: Session) -> Outcome:
    """Ten predictions for a user seen before."""
    session.warm_up()
    items = _items(session)
    asked = ("&".join(f"item_id={next(items)}" for _ in range(10)) for _ in iter(int, 1))
    users = (session.known[place] for place in _draws(session, len(session.known)))
    paths = (recommendations(session, user).replace("/recommendations", "/predictions") for user in users)
    return Outcome(session.drive(get(f"{path}?{query}") for path, query in zip(paths, asked, strict=True)))


def filtered(session: Session) -> Outcome:
    """Lists of one category, for users seen before."""
    session.warm_up()
    names = [quote(name, safe="") for name in session.stock.categories]
    wanted = (names[place] for place in _draws(session, len(names), stream=1))
    users = (session.known[place] for place in _draws(session, len(session.known)))
    paths = (recommendations(session, user) for user in users)
    return Outcome(session.drive(get(f"{path}?category={name}") for path, name in zip(paths, wanted, strict=True)))


def excluded(session: Session) -> Outcome:
    """Lists without 200 items that the client names, for users seen before."""
    session.warm_up()
    items = _items(session)
    users = (session.known[place] for place in _draws(session, len(session.known)))
    return Outcome(
        session.drive(
            get(f"{recommendations(session, user)}?" + "&".join(f"exclude={next(items)}" for _ in range(200)))
            for user in users
        )
    )


def rate(session: Session) -> Outcome:
    """One rating by a random user of a random item."""
    stock = session.stock
    stars = np.random.default_rng(session.seed)

    def rows() -> Iterator[bytes]:
        draws = zip(_draws(session, len(stock.user_ids)), _draws(session, len(stock.item_ids), stream=1), strict=True)
        for user, item in draws:
            row = {"user_id": stock.user_ids[user], "item_id": stock.item_ids[item]}
            yield post("/v1/ratings", {"ratings": [{**row, "rating": int(stars.integers(1, 6))}]})

    return Outcome(session.drive(rows()))


def fold_in(session: Session) -> Outcome:
    """A list for a visitor of whom 50 ratings are known, one after the other."""
    item_ids = session.stock.item_ids
    random = np.random.default_rng(session.seed)

    def visitors() -> Iterator[bytes]:
        while True:
            places = random.choice(len(item_ids), FOLD_IN_RATINGS, replace=False).tolist()
            stars = random.integers(1, 6, FOLD_IN_RATINGS).tolist()
            rated = [{"item_id": item_ids[place], "rating": r} for place, r in zip(places, stars, strict=True)]
            yield post("/v1/recommendations", {"users": [{"ratings": rated}], "n": 10})

    return Outcome(session.drive(visitors(), n_connections=1))


def batch(session: Session) -> Outcome:
    """Lists for a thousand users in one request, the first time and once more."""
    users = session.order[::-1][: BATCH * N_BATCHES]  # nobody asked for them yet
    requests = []
    for start in range(0, len(users), BATCH):
        wanted = [{"user_id": session.stock.user_ids[user]} for user in users[start : start + BATCH]]
        requests.append(post("/v1/recommendations", {"users": wanted, "n": 10}))
    loads = [drive(session.server.port, requests, n_connections=1) for _ in range(2)]
    per_second = [load.per_second * min(BATCH, len(users)) or None for load in loads]
    figures = {"users/s, first time": per_second[0], "users/s, seen before": per_second[1]}
    return Outcome(loads[0], figures)


def start(session: Session) -> Outcome:
    """From the start of the process to the first 200 from /health/ready."""
    return Outcome(figures={"start, s": session.server.start_seconds})


def memory(session: Session) -> Outcome:
    """The worker's memory at the start, and after lists for new users and all else that this server was asked."""
    new = session.order[len(session.order) // 2 :]  # most of them, where there was little time before
    load = session.drive(get(recommendations(session, user)) for user in new)
    time.sleep(1)
    after = session.server.memory()
    figures = {
        "RSS at start, MiB": session.at_start.rss,
        "RSS, MiB": after.rss,
        "PSS, MiB": after.pss,
        "users asked": float(load.answered),
    }
    return Outcome(load, figures)


Scenario = Callable[[Session], Outcome]

READING: dict[str, Scenario] = {
    "start": start,
    "first": first,
    "batch": batch,
    "top10": top10,
    "scored": scored,
    "similar": similar,
    "popular": popular,
    "item": item,
    "items-search": items_search,
    "predictions": predictions,
    "filtered": filtered,
    "excluded": excluded,
    "fold-in": fold_in,
    "memory": memory,
}
"""Those that leave the database as it is, in the order in which one server is asked them."""


def _draws(session: Session, n: int, stream: int = 0) -> Iterator[int]:
    """Numbers below n at random, without end."""
    random = np.random.default_rng([session.seed, stream])
    while True:
        yield from random.integers(n, size=4096).tolist()


def _items(session: Session) -> Iterator[str]:
    """Ids of items at random, as they stand in a path."""
    ids = [quote(item_id, safe="") for item_id in session.stock.item_ids]
    return (ids[place] for place in _draws(session, len(ids), stream=2))


def _again_and_again(request: bytes) -> Iterator[bytes]:
    while True:
        yield request
