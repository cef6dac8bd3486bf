"""The service on real uvicorn, over a real socket: one for all tests that only read, one for each that writes."""

import asyncio
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import numpy as np
import pyarrow as pa
import pytest
import uvicorn
import uvicorn.server
from numpy.typing import NDArray
from sqlalchemy import Engine, select, text, update

from api.app import create_app
from api.door import DoorProtocol
from recsys.data.encoding import collect
from recsys.data.rows import ItemRow, RatingBatch
from recsys.database import schema
from recsys.database.changes import current_seq
from recsys.database.engine import connect, reading, writing
from recsys.database.items import upsert_items
from recsys.database.models import Training, publish, store
from recsys.database.ratings import upsert_ratings
from recsys.factors import Factors, Side
from recsys.results import Objective
from recsys.settings import Settings
from tests.conftest import add_known_versions, postgres_database

# uvicorn asks every 100 ms whether it is to end, and these tests end a thousand servers.
uvicorn.server.asyncio = SimpleNamespace(  # type: ignore[attr-defined]
    **{**vars(asyncio), "sleep": lambda seconds: asyncio.sleep(min(seconds, 0.01))}
)

BOTH = ["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)]


def url_of(engine: Engine) -> str:
    return engine.url.render_as_string(hide_password=False)


@contextmanager
def serving(database_url: str, **settings: Any) -> Iterator[httpx.Client]:
    """A server on a free port for a database, and a client for it."""
    given = Settings(database_url=database_url, **{"refresh_seconds": 0.05, **settings})
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(create_app(given), http=DoorProtocol, log_config=None, lifespan="on"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        while not server.started:
            time.sleep(0.01)
        port = listener.getsockname()[1]
        # Without TLS: reading its certificates takes 60 ms for each client.
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=10, verify=False) as client:
            yield client
    finally:
        server.should_exit = True
        thread.join()


@contextmanager
def migrated(request: pytest.FixtureRequest, folder: Any) -> Iterator[Engine]:
    """A database of a fixture of wide scope, with all tables and no rows."""
    if request.param == "sqlite":
        path = folder.mktemp("shared") / "shared.db"
        shutil.copy(request.getfixturevalue("migrated_sqlite"), path)
        engine = connect(f"sqlite:///{path}")
        yield engine
        engine.dispose()
        return
    template = request.getfixturevalue("migrated_postgres")
    with postgres_database(request.getfixturevalue("postgres_url"), template) as url:
        engine = connect(url)
        yield engine
        engine.dispose()


@pytest.fixture(scope="session", params=BOTH)
def reader(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """A client of a service over the known rows and models, for tests that write nothing."""
    with migrated(request, tmp_path_factory) as engine:
        add_known_versions(url_of(engine))
        with serving(url_of(engine)) as client:
            yield client


@pytest.fixture
def client(known_engine: Engine) -> Iterator[httpx.Client]:
    """A client of a service over known rows and models of its own."""
    with serving(url_of(known_engine)) as made:
        yield made


@dataclass(frozen=True)
class Many:
    """A service over some hundred items, and what it was made of. All arrays go by item, in the order of keys."""

    client: httpx.Client
    item_ids: list[str]
    categories: list[set[str]]
    hidden: NDArray[np.bool_]
    counts: NDArray[np.int64]
    user_ids: list[str]
    rated: list[set[int]]
    rows: dict[Objective, tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]]

    def expected(
        self,
        user: int,
        keep: Callable[[int], bool] = lambda place: True,
        n: int = 10,
        *,
        exclude_seen: bool = True,
        objective: Objective = "ranking",
    ) -> list[tuple[str, float]]:
        """The list of a user by brute force."""
        p, q, bias = self.rows[objective]
        scores = np.round(q.astype(float) @ p[user].astype(float) + bias, 6)
        places = [
            place
            for place in range(len(self.item_ids))
            if not self.hidden[place] and not (exclude_seen and place in self.rated[user]) and keep(place)
        ]
        places.sort(key=lambda place: (-scores[place], place))
        return [(self.item_ids[place], scores[place]) for place in places[:n]]


@pytest.fixture(scope="session", params=BOTH)
def many(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Many]:
    """Scores are multiples of a quarter, so that ties are everywhere."""
    with migrated(request, tmp_path_factory) as engine:
        made = add_many(engine)
        with serving(url_of(engine)) as client:
            yield replace(made, client=client)


def add_many(engine: Engine) -> Many:
    """Add some hundred items and a live version of each objective; the result has no client yet."""
    random = np.random.default_rng(0)
    n_users, n_items = 50, 400
    names = np.array(["Action", "Comedy", "Drama", "Film noir", "Sci-Fi/Fantasy"])
    described = [
        ItemRow(f"item {i}/é", f"Title {i}", tuple(names[random.random(5) < 0.15].tolist()), None)
        for i in range(n_items)
    ]
    user_idx, item_idx = np.nonzero(random.random((n_users, n_items)) < np.linspace(0.3, 0.0, n_items))
    upsert_items(engine, described)
    n = len(user_idx)
    batch = RatingBatch(
        user_ids=pa.array([f"user {u}" for u in user_idx], pa.string()),
        item_ids=pa.array([described[i].item_id for i in item_idx], pa.string()),
        rating=random.integers(1, 6, n).astype(float),
        rated_at=np.arange(n) + 1,
        line=np.arange(n) + 1,
    )
    upsert_ratings(engine, collect([batch]))
    with writing(engine) as connection:
        some = [described[i].item_id for i in range(0, n_items, 9)]
        connection.execute(update(schema.items).where(schema.items.c.item_id.in_(some)).values(hidden=True))
    with reading(engine) as connection:
        items = connection.execute(select(schema.items).order_by(schema.items.c.item_key)).all()
        users = connection.execute(select(schema.users).order_by(schema.users.c.user_key)).all()
        rated = connection.execute(select(schema.ratings.c.user_key, schema.ratings.c.item_key)).all()
        seq = current_seq(connection)
    place = {row.item_key: at for at, row in enumerate(items)}
    rows = {}
    for objective in ("ranking", "rating"):
        p = random.integers(-2, 3, (len(users), 4)).astype(np.float32) / 2
        q = random.integers(-2, 3, (n_items, 4)).astype(np.float32) / 2
        bias = random.integers(-1, 2, n_items).astype(np.float32) / 4
        factors = Factors(
            objective=objective,  # type: ignore[arg-type]
            users=Side(np.array([row.user_key for row in users]), p, np.zeros(len(users), np.float32)),
            items=Side(np.array([row.item_key for row in items]), q, bias),
            rating_range=(0.5, 5.5) if objective == "rating" else None,
        )
        training = Training(
            "dot", {"n_factors": 4}, {}, {}, [], "many", seq, n, (1.0, 5.0), 0.1, gate_passed=True, gate_reason="-"
        )
        publish(engine, store(engine, factors, training), "many")
        rows[objective] = (p, q, bias)
    of_user = {row.user_key: {place[key] for user, key in rated if user == row.user_key} for row in users}
    return Many(
        client=None,  # type: ignore[arg-type]
        item_ids=[row.item_id for row in items],
        categories=[set(row.categories) for row in items],
        hidden=np.array([row.hidden for row in items]),
        counts=np.bincount([place[key] for _, key in rated], minlength=n_items),
        user_ids=[row.user_id for row in users],
        rated=[of_user[row.user_key] for row in users],
        rows=rows,  # type: ignore[arg-type]
    )


class Switch:
    """Takes the database away, and gives it back."""

    def __init__(self, engine: Engine, postgres_url: str | None) -> None:
        self.engine, self._postgres_url = engine, postgres_url
        self._path = Path(engine.url.database or "")

    def off(self) -> None:
        if self._postgres_url is None:
            self.engine.dispose()
            for path in self._path.parent.glob(f"{self._path.name}*"):
                path.rename(path.with_name(f"away-{path.name}"))
        else:
            self._allow(False)

    def on(self) -> None:
        if self._postgres_url is None:
            for path in self._path.parent.glob("away-*"):
                path.rename(path.with_name(path.name.removeprefix("away-")))
        else:
            self._allow(True)

    def _allow(self, allowed: bool) -> None:
        assert self._postgres_url is not None
        name = self.engine.url.database
        self.engine.dispose()
        admin = connect(self._postgres_url).execution_options(isolation_level="AUTOCOMMIT")
        with admin.connect() as connection:
            connection.execute(text(f"ALTER DATABASE {name} WITH ALLOW_CONNECTIONS {allowed}"))
            ended = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = :name"
            connection.execute(text(ended), {"name": name})
        admin.dispose()


@pytest.fixture
def switch(known_engine: Engine, request: pytest.FixtureRequest) -> Iterator[Switch]:
    is_file = known_engine.dialect.name == "sqlite"
    made = Switch(known_engine, None if is_file else request.getfixturevalue("postgres_url"))
    yield made
    made.on()
