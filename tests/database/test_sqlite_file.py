"""SQLite files: not created unasked, and read where they cannot be written, under real permissions of the system."""

import os
import shutil
import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine, func, select, text

from recsys.database import schema, sqlite_file
from recsys.database.breaker import Breaker
from recsys.database.engine import connect, forget_replaced_file, reading, write_problem, writing
from recsys.database.sqlite_file import is_read_only
from recsys.errors import DatabaseError
from tests.conftest import KNOWN_TITLES, add_known_rows

NOBODY = 65534


def n_items(engine: Engine) -> int:
    with reading(engine) as connection:
        return connection.scalar(select(func.count()).select_from(schema.items)) or 0


def as_another_user(check: Callable[[], None]) -> None:
    """Run a check in a process that may not write what the test made; permissions do not bind root."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            if os.getuid() == 0:
                os.setgroups([])
                os.setgid(NOBODY)
                os.setuid(NOBODY)
            check()
            code = 0
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that other users can reach, unlike pytest's own."""
    made = Path(tempfile.mkdtemp(prefix="recsys-readonly-"))
    yield made
    made.chmod(0o755)
    shutil.rmtree(made)


@pytest.fixture
def path(folder: Path, migrated_sqlite: Path) -> Path:
    path = folder / "a #1 ü.db"
    shutil.copy(migrated_sqlite, path)
    engine = connect(f"sqlite:///{path}")
    add_known_rows(engine)
    engine.dispose()
    return path


@pytest.mark.parametrize("name", ["plain.db", "a b.db", "ü?mode=memory.db", "100%.db", "#1.db"])
def test_a_missing_file_is_created_only_where_that_is_asked_for(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    engine = connect("sqlite:///x.db", create=False)
    engine = connect(str(engine.url.set(database=str(path))), create=False)
    with pytest.raises(DatabaseError, match="unable to open"), reading(engine):
        pass
    assert list(tmp_path.iterdir()) == []
    engine = connect(str(engine.url))
    with writing(engine) as connection:
        connection.execute(text("CREATE TABLE t (n INTEGER)"))
    engine.dispose()
    assert [made.name for made in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("is_writer_there", [False, True])
@pytest.mark.parametrize("mode", [0o555, 0o755])
def test_a_read_only_file_is_read_and_refuses_writes(path: Path, is_writer_there: bool, mode: int) -> None:
    """With the log of another process beside it, and without."""
    writer = connect(f"sqlite:///{path}")
    if is_writer_there:
        assert n_items(writer) == len(KNOWN_TITLES)
    for made in path.parent.iterdir():
        made.chmod(0o444)
    path.parent.chmod(mode)

    def check() -> None:
        assert is_read_only(path)
        engine = connect(f"sqlite:///{path}", create=False)
        assert n_items(engine) == len(KNOWN_TITLES)
        assert "read-only" in str(write_problem(engine))
        with pytest.raises(DatabaseError), writing(engine) as connection:
            connection.execute(text("DELETE FROM items"))
        assert n_items(engine) == len(KNOWN_TITLES)

    as_another_user(check)
    writer.dispose()


def test_a_read_only_file_counts_as_another_one_when_it_was_changed(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A connection to a file on a read-only disk does not follow what others write."""
    monkeypatch.setattr(sqlite_file, "is_read_only", lambda _: True)
    engine = connect(f"sqlite:///{path}", create=False)
    assert not forget_replaced_file(engine)
    before = n_items(engine)
    assert not forget_replaced_file(engine)
    with sqlite3.connect(path) as other:
        other.execute("UPDATE items SET title = 'changed'")
        other.execute("DELETE FROM items WHERE item_id = 'new'")
    other.close()
    assert forget_replaced_file(engine)
    assert n_items(engine) == before - 1


def test_a_full_disk_is_a_write_problem(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = connect(f"sqlite:///{path}", create=False)
    assert write_problem(engine) is None
    monkeypatch.setattr(sqlite_file, "MIN_FREE_BYTES", 1 << 62)
    assert write_problem(engine) == "the disk of the database is full: free space on it"
    assert str(path.parent) not in str(write_problem(engine))


def test_a_connection_of_a_server_keeps_few_pages(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'a.db'}"
    sizes = []
    for breaker in (None, Breaker()):
        engine = connect(url, breaker=breaker)
        with reading(engine) as connection:
            sizes.append(connection.exec_driver_sql("PRAGMA cache_size").scalar_one())
        engine.dispose()
    assert sizes == [-(64 << 10), -(2 << 10)]
