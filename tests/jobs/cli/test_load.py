"""`recsys load` as a person runs it, with files as people have them: good, odd, broken and bad."""

import contextlib
import io
import json
import random
import shutil
import signal
import sqlite3
import subprocess
import time
import zipfile
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import pytest

from jobs.rejects import HEADER as REJECTS_HEADER
from recsys.database.engine import PIECE_ROWS, connect
from tests.conftest import expire_leases, wait_until
from tests.jobs.cli.test_main import Recsys

HEADER = "user_id,item_id,rating,rated_at\n"
EARLIER = HEADER + "ann,heat,5,881250949\nann,ran,4,881250950\nbob,heat,3,881250951\n"

PIECE = PIECE_ROWS["sqlite"]

SEQUENCE_OF_RUNS = ("sqlite_sequence", "job_runs")
"""Table and first column of the row where SQLite counts the runs."""

Rows = dict[str, list[tuple[object, ...]]]


@pytest.fixture(scope="module")
def earlier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with three ratings, loaded as a person loads them."""
    folder = tmp_path_factory.mktemp("earlier")
    (folder / "ratings.csv").write_text(EARLIER)
    (folder / "items.csv").write_text("item_id,title,genres\nheat,Heat (1995),Crime\n")
    loaded = Recsys(folder, f"sqlite:///{folder / 'recsys.db'}").json("load", ".")
    assert (loaded["inserted"], loaded["items"], loaded["items_rejected"]) == (3, 2, 0)
    assert not (folder / "recsys.db-wal").exists()
    return folder / "recsys.db"


@pytest.fixture
def recsys(tmp_path: Path, earlier: Path) -> Recsys:
    """The command, in an empty folder, against a database that holds earlier ratings."""
    shutil.copy(earlier, tmp_path / "recsys.db")
    return Recsys(tmp_path, f"sqlite:///{tmp_path / 'recsys.db'}")


def connected(recsys: Recsys) -> "closing[sqlite3.Connection]":
    return closing(sqlite3.connect(recsys.folder / "recsys.db"))


def all_rows(recsys: Recsys) -> Rows:
    """Return every row of every table, except those that each run changes: leases, runs, and files it wrote."""
    with connected(recsys) as connection:
        names = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        assert {"users", "items", "ratings", "changes"} <= set(names)
        return {
            name: sorted(
                (row for row in connection.execute(f"SELECT * FROM {name}") if (name, row[0]) != SEQUENCE_OF_RUNS),
                key=repr,
            )
            for name in names
            if name not in ("job_leases", "job_runs", "made_files")
        }


def ratings_in(recsys: Recsys) -> list[tuple[str, str, float, int | None]]:
    """(user, item, rating, rated_at) of all ratings but the earlier ones."""
    with connected(recsys) as connection:
        return connection.execute(
            "SELECT user_id, item_id, rating, rated_at FROM ratings JOIN users USING (user_key) "
            "JOIN items USING (item_key) WHERE user_id NOT IN ('ann', 'bob') ORDER BY 1, 2"
        ).fetchall()


def cut_zip() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("ratings.csv", EARLIER * 50)
    return buffer.getvalue()[:2000]


REFUSED: dict[str, tuple[str, bytes | None, tuple[str, ...]]] = {
    # kind: (file, what is in it, what must be said: where, what was found, what was expected, the fix)
    "unknown file type": ("r.xlsx", b"PK-no-zip\0\1\2\3" * 99, ("r.xlsx is not text", "CSV, TSV", "convert it")),
    "missing column": (
        "r.csv",
        b"user_id,item_id,grade\nu,i,4\n",
        ("r.csv:1: no column for rating among user_id, item_id, grade", "name it with --map rating=COLUMN"),
    ),
    "empty file": ("r.csv", b"", ("r.csv is empty", "write or copy the file again")),
    "header only": ("r.csv", HEADER.encode(), ("r.csv:1: a header and no rows", "write the file again")),
    "truncated zip": ("r.zip", cut_zip(), ("r.zip is cut short or damaged", "a whole zip", "copy it again")),
    "missing file": ("r.csv", None, ("r.csv does not exist", "a file or folder of ratings", "check the path")),
    "mostly bad file": (
        "r.csv",
        HEADER.encode() + b"x,a,5,\nx,b,1e300,\n,c,4,\n",
        (
            "r.csv: 2 of 3 rows were rejected, so nothing was loaded; the first: r.csv:3: rating '1e300' is too large",
            "-1,000,000 to 1,000,000",
            "See r.csv.rejects.txt",
            "--map",
        ),
    ),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_a_bad_file_is_refused_with_one_line_and_nothing_is_lost_or_half_loaded(recsys: Recsys, kind: str) -> None:
    name, content, said = REFUSED[kind]
    if content is not None:
        (recsys.folder / name).write_bytes(content)
    before = all_rows(recsys)
    line = recsys("load", name, code=1)
    assert line.startswith(f"recsys: {name}")
    assert line.count("\n") == 1
    for part in ("expected", *said):
        assert part in line
    assert all_rows(recsys) == before


def test_a_file_of_items_that_is_mostly_bad_refuses_the_load_though_the_ratings_are_good(recsys: Recsys) -> None:
    (recsys.folder / "ratings.csv").write_text(HEADER + "new,heat,5,\n")
    (recsys.folder / "films.csv").write_text("item_id,title\nheat,Heat II\n,Ran\nalien\nbrazil,Bra\0zil\n")
    before = all_rows(recsys)
    line = recsys("load", "ratings.csv", "--items", "films.csv", code=1)
    assert line.startswith(
        "recsys: films.csv: 3 of 4 rows of items were rejected, so nothing was loaded; "
        "the first: films.csv:3: item_id is empty: expected an id such as 196; correct or delete the line"
    )
    assert "name another file with --items" in line
    assert line.count("\n") == 1
    assert [row[:12] for row in reasons(recsys, "ratings.csv.rejects.txt")] == [f"films.csv:{i}:" for i in (3, 4, 5)]
    assert all_rows(recsys) == before


def reasons(recsys: Recsys, name: object) -> list[str]:
    header, *rows = (recsys.folder / str(name)).read_text(encoding="utf-8").splitlines()
    assert header == REJECTS_HEADER
    return rows


FIX_LINE = "correct or delete the line"
BAD_ROWS = [
    ("x,a,five,", f"rating 'five' is not a number: expected a number such as 4 or 3.5; {FIX_LINE}"),
    ("x,b,NaN,", f"rating 'NaN' is not a finite number: expected a number such as 4 or 3.5; {FIX_LINE}"),
    ("x,c,-inf,", f"rating '-inf' is not a finite number: expected a number such as 4 or 3.5; {FIX_LINE}"),
    ("x,d,1e300,", f"rating '1e300' is too large: expected -1,000,000 to 1,000,000; {FIX_LINE}"),
    (",e,4,", f"user_id is empty: expected an id such as 196; {FIX_LINE}"),
    ("x,,4,", f"item_id is empty: expected an id such as 196; {FIX_LINE}"),
]


def test_promise_4_bad_rows_are_set_aside_and_the_good_ones_of_the_same_file_are_kept(recsys: Recsys) -> None:
    good = [(f"u{i}", f"i{i}", float(i), None) for i in range(len(BAD_ROWS))]
    lines = [line for i, (row, _) in enumerate(BAD_ROWS) for line in (f"u{i},i{i},{i},", row)]
    (recsys.folder / "some.csv").write_text(HEADER + "\n".join(lines) + "\n")
    (recsys.folder / "films.csv").write_text(
        "item_id,title,genres\ni0,Good,\ni1,B\0d,\ni2,Good,Dr\0ma\ni3,Good,Drama\n"
    )
    before = all_rows(recsys)
    said = recsys("load", "some.csv", "--items", "films.csv", "--rejects", "aside.txt")
    assert said.startswith("12 rows read: 6 inserted, 0 updated, 0 unchanged, 6 rejected; 6 users, 6 items; ")
    assert "\n2 rows of items rejected\n" in said
    assert said.endswith("rejected rows, with line and reason: aside.txt\n")
    assert reasons(recsys, "aside.txt") == [
        *(f"some.csv:{3 + 2 * i}: {reason}" for i, (_, reason) in enumerate(BAD_ROWS)),
        rf"films.csv:3: title 'B\x00d' holds a NUL character: expected text without one; {FIX_LINE}",
        rf"films.csv:4: category 'Dr\x00ma' holds a NUL character: expected text without one; {FIX_LINE}",
    ]
    assert ratings_in(recsys) == good
    after = all_rows(recsys)
    for table in ("users", "items", "ratings"):
        assert set(before[table]) <= set(after[table])
    titles = {item_id: title for _, item_id, title, *_ in after["items"]}
    assert [titles[f"i{i}"] for i in range(4)] == ["Good", None, None, "Good"]


def test_columns_by_name_and_times_however_they_are_written(recsys: Recsys) -> None:
    times = ("881250949", "881250949000", "1997-12-04T15:55:49Z", "1997-12-04 16:55:49+01:00", "")
    rows = "".join(f"{time},u{i},4,film\n" for i, time in enumerate(times))
    (recsys.folder / "export.csv").write_text("when,customer,stars,sku\n" + rows)
    map_by_name = ("--map", "user_id=customer,item_id=sku,rating=stars", "--map", "rated_at=when")
    loaded = recsys.json("load", "export.csv", *map_by_name)
    assert (loaded["inserted"], loaded["rejected"], loaded["rejects_file"]) == (5, 0, None)
    assert not list(recsys.folder.glob("*.rejects.txt"))
    at = round(datetime(1997, 12, 4, 15, 55, 49, tzinfo=UTC).timestamp() * 1000)
    assert ratings_in(recsys) == [*((f"u{i}", "film", 4.0, at) for i in range(4)), ("u4", "film", 4.0, None)]


def test_a_night_reads_its_source_with_the_options_of_a_load(recsys: Recsys) -> None:
    (recsys.folder / "export.csv").write_text("customer,sku,stars,day\nann,ran,0,01.02.03\ncid,ran,2,03.02.01\n")
    options = ["--map", "user_id=customer,item_id=sku,rating=stars,rated_at=day", "--unrated", "0"]
    options += ["--time-format", "%d.%m.%y", "--source", "export.csv", "--json"]
    steps = json.loads(recsys("nightly", *options, "--dry-run"))["steps"]
    assert next(step["would"] for step in steps if step["step"] == "load").startswith("insert 1 ratings")
    assert [load["inserted"] for load in json.loads(recsys("nightly", *options))["loads"]] == [1]
    assert ("cid", "ran", 2.0, 981_158_400_000) in ratings_in(recsys)


def test_columns_by_number_and_two_ratings_of_one_item(recsys: Recsys) -> None:
    """The later one stands, wherever it is in the file; of two at one time the last line."""
    (recsys.folder / "bare.tsv").write_text(
        "2\tv\ttie\t881250949\n"
        "5\tu\tlater-first\t881250950\n1\tu\tlater-first\t881250949\n"
        "1\tu\tlater-last\t881250949\n4\tu\tlater-last\t881250950\n"
        "1\tu\ttie\t881250949\n5\tu\ttie\t881250949\n3\tu\ttie\t881250949\n"
    )
    loaded = recsys.json("load", "bare.tsv", "--map", "user_id=2,item_id=3,rating=1,rated_at=4")
    assert [loaded[count] for count in ("rows_read", "inserted", "updated", "unchanged")] == [8, 4, 0, 4]
    assert [row[:3] for row in ratings_in(recsys)] == [
        ("u", "later-first", 5.0),
        ("u", "later-last", 4.0),
        ("u", "tie", 3.0),
        ("v", "tie", 2.0),
    ]


def test_a_folder_brings_its_items_and_a_path_may_go_on_inside_a_zip(recsys: Recsys) -> None:
    folder = recsys.folder / "ml"
    folder.mkdir()
    (folder / "ratings.csv").write_text("userId,movieId,rating,timestamp\n007,0104257,4.5,881250949\n")
    (folder / "movies.csv").write_text("movieId,title,genres\n0104257,A Few Good Men (1992),Drama|Thriller\n")
    assert recsys.json("load", "ml")["inserted"] == 1
    with connected(recsys) as connection:
        found = connection.execute("SELECT title, categories, attributes FROM items WHERE item_id = '0104257'")
        assert found.fetchall() == [("A Few Good Men (1992)", '["Drama", "Thriller"]', '{"year": 1992}')]

    with zipfile.ZipFile(recsys.folder / "snapshots.zip", "w") as archive:
        for size in ("10K", "20K"):
            archive.writestr(f"m/{size}/r.txt", f"8::{size}::9::881250949\n")
    loaded = recsys.json("load", "snapshots.zip/m/20K/r.txt", "--format", "dat")
    assert loaded["inserted"] == 1
    assert [row[:3] for row in ratings_in(recsys)] == [("007", "0104257", 4.5), ("8", "20K", 9.0)]


def test_users_are_loaded_and_a_second_load_changes_nothing(recsys: Recsys) -> None:
    (recsys.folder / "ratings.csv").write_text(HEADER + "ann,heat,5,881250949\n")
    (recsys.folder / "people.csv").write_text("id,age,segments\nann,24,a|b\nnew,,c\n,30,\n")
    load = ("load", "ratings.csv", "--users", "people.csv")
    tried = recsys.json(*load, "--dry-run")
    assert (tried["users"], tried["users_rejected"]) == (2, 1)
    with connected(recsys) as connection:
        described = "SELECT user_id, categories, attributes FROM users WHERE categories != '[]' ORDER BY 1"
        assert connection.execute(described).fetchall() == []
        loaded = recsys.json(*load)
        assert (loaded["rejected"], loaded["items_rejected"], loaded["users_rejected"]) == (0, 0, 1)
        assert connection.execute(described).fetchall() == [
            ("ann", '["a", "b"]', '{"age": 24}'),
            ("new", '["c"]', "{}"),
        ]
    reason = "people.csv:4: user_id is empty: expected an id such as 196; correct or delete the line"
    assert reasons(recsys, loaded["rejects_file"]) == [reason]
    before = all_rows(recsys)
    assert "\n1 rows of users rejected\n" in recsys(*load)
    assert all_rows(recsys) == before


def test_a_file_of_users_that_is_mostly_bad_refuses_the_load(recsys: Recsys) -> None:
    (recsys.folder / "ratings.csv").write_text(HEADER + "new,heat,5,\n")
    (recsys.folder / "people.csv").write_text("user_id,age\nnew,24\n,25\n,26\n")
    before = all_rows(recsys)
    line = recsys("load", "ratings.csv", "--users", "people.csv", code=1)
    assert line.startswith("recsys: people.csv: 2 of 3 rows of users were rejected, so nothing was loaded")
    assert "All of them: ratings.csv.rejects.txt" in line
    assert all_rows(recsys) == before


N_ROWS = 4 * PIECE


def write_many(path: Path) -> list[tuple[str, str, float, int]]:
    """A file of different ratings; what is in it, by user and item."""
    rows = [(f"u{i % 1000:03}", f"i{i // 1000:03}", 1 + i % 9 / 2, 881250949000 + i * 1000) for i in range(N_ROWS)]
    random.Random(1).shuffle(rows)
    with path.open("w") as file:
        file.write(HEADER)
        file.writelines(f"{user},{item},{rating},{at // 1000}\n" for user, item, rating, at in rows)
    return sorted(rows)


def test_promise_2_what_was_loaded_survives_a_load_that_is_killed_and_the_next_one_completes_it(recsys: Recsys) -> None:
    rows = write_many(recsys.folder / "many.csv")
    before = all_rows(recsys)
    chance = random.SystemRandom()
    n_first, seconds = chance.randrange(-PIECE, N_ROWS - 3 * PIECE), chance.uniform(0, 0.1)
    with (
        connected(recsys) as connection,
        subprocess.Popen(
            recsys.command("load", "many.csv"),
            cwd=recsys.folder,
            env=recsys.environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        ) as process,
    ):

        def writes() -> bool:
            assert process.poll() is None, process.communicate()
            with contextlib.suppress(sqlite3.OperationalError):  # busy
                [n_users] = connection.execute("SELECT COUNT(*) FROM users").fetchone()
                [n_ratings] = connection.execute("SELECT COUNT(*) FROM ratings").fetchone()
                return n_users > len(before["users"]) and n_ratings - len(before["ratings"]) >= n_first
            return False

        wait_until(writes)
        time.sleep(seconds)
        process.kill()
        assert process.wait() == -signal.SIGKILL, (n_first, seconds)
    assert integrity(recsys) == "ok"
    there = ratings_in(recsys)
    assert set(there) <= set(rows)
    assert len(there) % PIECE == 0
    assert len(there) < N_ROWS
    assert earlier_ratings(recsys) == before["ratings"]

    expire_leases(connect(recsys.environment["RECSYS_DATABASE_URL"]))
    loaded = recsys.json("load", "many.csv")
    assert (loaded["rows_read"], loaded["inserted"]) == (N_ROWS, N_ROWS - len(there))
    assert (loaded["updated"], loaded["unchanged"], loaded["rejected"]) == (0, len(there), 0)
    assert ratings_in(recsys) == rows
    assert earlier_ratings(recsys) == before["ratings"]
    assert integrity(recsys) == "ok"


def earlier_ratings(recsys: Recsys) -> list[tuple[object, ...]]:
    with connected(recsys) as connection:
        users = "SELECT user_key FROM users WHERE user_id IN ('ann', 'bob')"
        found = connection.execute(f"SELECT * FROM ratings WHERE user_key IN ({users})")
        return sorted(found.fetchall(), key=repr)


def integrity(recsys: Recsys) -> str:
    with connected(recsys) as connection:
        [answer] = connection.execute("PRAGMA integrity_check").fetchone()
        return str(answer)


class TestRejectsFile:
    """The file of rejected rows replaces its own kind alone."""

    BAD = "user_id,item_id,rating\nu,a,5\nu,b,five\nu,d,4\n"

    @pytest.fixture
    def on_sqlite(self, tmp_path: Path) -> Recsys:
        (tmp_path / "r.csv").write_text(self.BAD)
        return Recsys(tmp_path, f"sqlite:///{tmp_path / 'recsys.db'}")

    def test_a_file_of_an_earlier_load_is_replaced(self, on_sqlite: Recsys) -> None:
        for _ in range(2):
            assert on_sqlite.json("load", "r.csv")["rejected"] == 1
            assert len(reasons(on_sqlite, "r.csv.rejects.txt")) == 1
        assert (on_sqlite.folder / "r.csv.rejects.txt").stat().st_mode & 0o777 == 0o600

    def test_another_file_is_left_alone(self, on_sqlite: Recsys) -> None:
        notes = on_sqlite.folder / "notes.txt"
        notes.write_text("precious")
        assert "it is not overwritten" in on_sqlite("load", "r.csv", "--rejects", "notes.txt", code=1)
        assert notes.read_text() == "precious"

    @pytest.mark.parametrize("target", ["precious.txt", "missing.txt"])
    def test_a_link_is_not_followed(self, on_sqlite: Recsys, target: str) -> None:
        precious = on_sqlite.folder / "precious.txt"
        precious.write_text(REJECTS_HEADER)
        (on_sqlite.folder / "r.csv.rejects.txt").symlink_to(on_sqlite.folder / target)
        assert "it is not overwritten" in on_sqlite("load", "r.csv", code=1)
        assert precious.read_text() == REJECTS_HEADER
        assert not (on_sqlite.folder / "missing.txt").exists()
