"""Hostile files of moderate size: each is read within the stated memory, or refused."""

import resource
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import Engine

from jobs.load import load
from recsys import load_ratings
from recsys.database.engine import reading
from recsys.database.ratings import read_ratings
from recsys.errors import InputError
from recsys.settings import Settings

MAX_BYTES = 1 << 30

READ = """
import resource, sys
from recsys.data.encoding import collect
from recsys.errors import InputError
from recsys.files.source import open_source
try:
    source = open_source(sys.argv[1])
    print("read", len(collect(source.ratings(lambda row: None))))
except InputError as error:
    print("refused", error)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
"""


def peak(path: Path) -> tuple[str, int]:
    """Return the outcome of reading a file in a process of its own, and the peak memory in bytes."""
    done = subprocess.run(
        [sys.executable, "-c", READ, str(path)],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (8 << 30, 8 << 30)),
    )
    outcome, _, n_bytes = done.stdout.strip().rpartition("\n")
    return outcome, int(n_bytes)


HEADER = b"user,item,rating\n"


def zip_bomb(path: Path) -> None:
    """1 GiB of spaces in one line, packed into 1 MiB."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("ratings.csv", "w") as member:
        member.write(HEADER)
        for _ in range(256):
            member.write(b" " * (4 << 20))


def plain(content: bytes, n: int, head: bytes = HEADER) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        with path.open("wb") as file:
            file.write(head)
            for _ in range(n):
                file.write(content)

    return write


@pytest.mark.parametrize(
    ("name", "write"),
    [
        pytest.param("ratings.zip", zip_bomb, marks=pytest.mark.long),
        pytest.param(
            "open-quote.csv",
            plain(b"a,b,3\n" * 100_000, 100, HEADER + b'u,"open,3\n'),
            marks=pytest.mark.long,
        ),
        ("quotes.csv", plain(b'"' * (1 << 20), 60)),
        ("columns.csv", plain(b"," * (1 << 20), 30)),
        ("one-line.csv", plain(b"x" * (1 << 20), 60)),
        pytest.param("empty-lines.csv", plain(b"\n" * (1 << 20), 4), marks=pytest.mark.long),
        ("nul.csv", plain(b"\0" * (1 << 20), 60)),
    ],
)
def test_a_hostile_file_is_read_within_one_gibibyte_or_refused(
    name: str, write: Callable[[Path], None], tmp_path: Path
) -> None:
    write(tmp_path / name)
    outcome, n_bytes = peak(tmp_path / name)
    assert n_bytes < MAX_BYTES, (outcome, n_bytes)
    assert outcome.startswith("refused"), outcome
    assert name in outcome


def test_many_distinct_ids_are_read_within_one_gibibyte(tmp_path: Path) -> None:
    path = tmp_path / "ratings.csv"
    path.write_bytes(HEADER + b"".join(b"user%d,item%d,3\n" % (n, n) for n in range(600_000)))
    outcome, n_bytes = peak(path)
    assert n_bytes < MAX_BYTES, n_bytes
    assert outcome == "read 600000"


@pytest.mark.parametrize(
    ("n_rows", "n_ids", "is_read"), [(2000, 1, True), (3000, 1, False), (300, 300, True), (400, 400, False)]
)
def test_ratings_that_need_more_memory_than_a_load_may_use_are_refused(
    sqlite_engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, n_rows: int, n_ids: int, is_read: bool
) -> None:
    monkeypatch.setattr("recsys.data.budget.BASE_MEMORY_BYTES", MAX_BYTES - 115_000)
    path = tmp_path / "ratings.csv"
    path.write_bytes(HEADER + b"".join(b"u%d,i%d,%d\n" % (n % n_ids, n % n_ids, n % 5 + 1) for n in range(n_rows)))
    if is_read:
        assert load(sqlite_engine, path, Settings()).rows_read == n_rows
        assert load_ratings(path).ratings.n_ratings == n_ids
        return
    for read in (lambda: load(sqlite_engine, path, Settings()), lambda: load_ratings(path)):
        with pytest.raises(
            InputError, match=r"ratings\.csv holds more rows than a load can keep in memory.*split the file"
        ):
            read()
    with reading(sqlite_engine) as connection:
        assert read_ratings(connection).n_ratings == 0
