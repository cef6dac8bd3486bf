"""Lists from the shell: what HTTP can filter the shell can, and every failure is one line."""

import csv
import json
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer.main
from sqlalchemy import Engine
from typer.testing import CliRunner

from jobs.cli.main import app
from tests import forked
from tests.api.conftest import url_of
from tests.jobs.cli.test_main import Recsys


@pytest.fixture
def known(known_engine: Engine, tmp_path: Path) -> Recsys:
    return Recsys(tmp_path, url_of(known_engine))


def ids(answer: dict[str, Any]) -> list[str]:
    return [item["item_id"] for item in answer["items"]]


def run(known: Recsys, *arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    return forked.run(["-m", "jobs.cli.main", *arguments], cwd=known.folder, env=known.environment, **options)


def test_the_shell_filters_as_http_does(known: Recsys) -> None:
    recommend, popular, similar = ("recommend", "u1"), ("popular", "--by", "count"), ("similar", "a")
    on_sqlite = known.environment["RECSYS_DATABASE_URL"].startswith("sqlite")
    cases = [
        ((*recommend, "--category", "Sci-Fi", "--category", "Drama"), ["b", "c"]),
        ((*recommend, "--not-category", "Sci-Fi"), ["c", "e", "d/ä"]),
        ((*recommend, "--year-from", "1980", "--year-to", "1990"), ["b"]),
        ((*recommend, "--attribute", "year>=1991"), ["d/ä"]),
        ((*recommend, "--min-ratings", "2"), ["c"]),
        ((*recommend, "--exclude", "b", "--include-seen", "--n", "2"), ["a", "c"]),
        ((*recommend, "--candidate", "e", "--candidate", "d/ä", "--model", "rating"), ["e", "d/ä"]),
        ((*popular, "--category", "Sci-Fi"), ["a", "b", "new"]),
        ((*popular, "--not-category", "Sci-Fi", "--n", "1"), ["c"]),
        (("popular", "--by", "trending", "--n", "2"), ["a", "c"]),
        ((*similar, "--exclude-seen-by", "u2"), ["b", "e", "d/ä"]),
        ((*similar, "c", "--year-from", "1900"), ["b", "d/ä"]),
        (("items", "alien", "1979"), ["a"]),
    ]
    # In this process a command leaves its connections open, of which psycopg warns.
    for arguments, expected in cases if on_sqlite else cases[-4:]:
        answer: dict[str, Any] = quickly(known, *arguments) if on_sqlite else known.json(*arguments)
        assert ids(answer) == expected, arguments


def quickly(known: Recsys, *arguments: str) -> dict[str, Any]:
    """The JSON of a command that runs in this process."""
    done = CliRunner().invoke(app, [*arguments, "--json"], env=known.environment)
    assert done.exit_code == 0, done.output
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


@pytest.mark.parametrize("engine", ["sqlite"], indirect=True)
class TestOnOneDatabase:
    def test_pages_and_fields(self, known: Recsys) -> None:
        first = quickly(known, "recommend", "u1", "--n", "3", "--field", "year", "--field", "prediction")
        assert [item.get("year") for item in first["items"]] == [1985, 1942, None]
        assert all(0.5 < item["prediction"] < 5.5 for item in first["items"])
        second = quickly(known, "recommend", "u1", "--cursor", str(first["next_cursor"]))
        assert ids(first) + ids(second) == ["b", "c", "e", "d/ä"]
        table = known("recommend", "u1", "--field", "year", "--category", "Sci-Fi", "--category", "Dramma")
        assert "1985" in table
        assert "ignored: category Dramma: no item is in this category" in table

    def test_items_by_title(self, known: Recsys) -> None:
        table = known("items", "casablanca")
        assert "Drama" in table
        assert "1942" in table
        page = quickly(known, "items", "--n", "4")
        assert ids(page) + ids(quickly(known, "items", "--cursor", str(page["next_cursor"]))) == [
            "e", "a", "b", "c", "d/ä", "new"
        ]  # fmt: skip

    def test_the_lists_of_all_users_as_csv(self, known: Recsys) -> None:
        report = known.json("recommend", "--all", "--out", "lists.csv", "--not-category", "Drama", "--n", "2")
        with (known.folder / "lists.csv").open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        assert report["rows"] == len(rows)
        mine = [(row["rank"], row["item_id"], float(row["score"])) for row in rows if row["user_id"] == "u1"]
        assert mine == [("1", "b", 2.0), ("2", "e", 0.5)]
        assert {row["user_id"] for row in rows} == {"u1", "u2", "u3", "s/1 ü"}

    def test_an_id_that_begins_with_a_dash(self, known: Recsys) -> None:
        assert "source: popularity" in known("recommend", "--", "-7")
        for command in ("recommend", "similar"):
            said = " ".join(known(command, "-7", code=2).replace("│", " ").split())
            assert "goes after two dashes: -- ID" in said

    @pytest.mark.parametrize(
        ("arguments", "said"),
        [
            (("recommend", "u1", "--attribute", "red"), "expected NAME=VALUE"),
            (("recommend", "u1", "--field", "colour"), "expected one of year"),
            (("recommend", "--all", "--out", "lists.xlsx"), ".parquet or .csv"),
            (("recommend", "--all", "--explain"), "not for --all"),
            (("models", "publish", "1", "--force"), "--force needs a reason"),
        ],
    )
    def test_usage_errors_end_with_2(self, known: Recsys, arguments: tuple[str, ...], said: str) -> None:
        assert said in " ".join(known(*arguments, code=2).replace("│", " ").split())

    def test_every_command_names_its_database(self, known: Recsys) -> None:
        name = known.environment["RECSYS_DATABASE_URL"]
        done = run(known, "popular", "--by", "count", "--json")
        assert json.loads(done.stdout)["score_kind"] == "count"
        assert done.stderr == f"database: {name}\n"
        failed = run(known, "similar", "zzz")
        assert failed.stderr.count("\n") == 1
        assert name in failed.stderr
        assert name in run(known, "init").stdout

    def test_a_full_output_device_is_one_line(self, known: Recsys) -> None:
        command = [sys.executable, "-m", "jobs.cli.main", "models", "list"]
        with Path("/dev/full").open("w") as full:
            done = subprocess.run(
                command,
                cwd=known.folder,
                env=known.environment,
                stdout=full,
                stderr=subprocess.PIPE,
                text=True,
                check=False,
            )
        assert done.returncode == 1
        assert done.stderr.splitlines() == ["recsys: standard output cannot be written (No space left on device)"]

    def test_a_version_for_people(self, known: Recsys) -> None:
        shown = known("models", "show", "1")
        assert "version 1: ranking, dot, live" in shown
        assert "n_factors" in shown
        assert "training curve" in shown
        assert "{" not in shown


@pytest.mark.parametrize("engine", ["sqlite"], indirect=True)
def test_a_newer_schema_is_named(known: Recsys) -> None:
    path = known.environment["RECSYS_DATABASE_URL"].removeprefix("sqlite:///")
    connection = sqlite3.connect(path)
    connection.execute("UPDATE alembic_version SET version_num = '9999'")
    connection.commit()
    connection.close()
    for command in ("init", "models"):
        arguments = (command, "list") if command == "models" else (command,)
        said = known(*arguments, code=1)
        assert said.count("\n") == 1
        assert "a newer version of recsys made it" in said


def test_misspelt_settings_are_named(tmp_path: Path) -> None:
    command = Recsys(tmp_path, f"sqlite:///{tmp_path / 'recsys.db'}")
    (tmp_path / ".env").write_text("RECSYS_DATABSE_URL=sqlite:///other.db\nOTHER=1\n")
    said = command("init", code=1)
    assert ".env sets RECSYS_DATABSE_URL, which is no setting: did you mean RECSYS_DATABASE_URL?" in said
    (tmp_path / ".env").unlink()
    command.environment["RECSYS_SERVICE_HOST"] = "10.0.0.1"  # Kubernetes sets such names
    assert "is ready" in command("init")
    command.environment["RECSYS_RATING_MN"] = "1"
    assert "did you mean RECSYS_RATING_MIN?" in command("init", code=1)


def test_a_dry_run_leaves_the_rejected_rows_of_an_earlier_load_alone(tmp_path: Path) -> None:
    command = Recsys(tmp_path, f"sqlite:///{tmp_path / 'recsys.db'}")
    (tmp_path / "some.csv").write_text("user_id,item_id,rating\nu,a,5\nu,b,five\nv,a,3\n")
    before = sorted(path.name for path in tmp_path.iterdir())
    report = command.json("load", "some.csv", "--dry-run")
    assert (report["rejected"], report["rejects_file"]) == (1, None)
    assert sorted(path.name for path in tmp_path.iterdir()) == before
    assert command.json("load", "some.csv", "--dry-run", "--rejects", "bad.txt")["rejects_file"] == "bad.txt"


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    command = Recsys(tmp_path, "sqlite:////proc/recsys.db")
    said = command("init", code=1)
    assert said.count("\n") == 1
    assert "/proc/recsys.db" in said


def test_ctrl_c_in_the_first_second_is_one_line(tmp_path: Path) -> None:
    """While the modules of the command are being imported."""
    code = (
        "import builtins, os, signal, jobs.cli.start\n"
        "plain = builtins.__import__\n"
        "def interrupted(name, *arguments, **options):\n"
        "    if name == 'typer': os.kill(os.getpid(), signal.SIGINT)\n"
        "    return plain(name, *arguments, **options)\n"
        "builtins.__import__ = interrupted\n"
        "jobs.cli.start.main()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (130, "recsys: interrupted\n")


@pytest.mark.parametrize("width", [80, 120])
def test_help_reads_well_on_narrow_and_wide_terminals(monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    """No name of an option is cut, and no line is wider than the terminal."""
    monkeypatch.setattr("typer.rich_utils.MAX_WIDTH", width)
    group = typer.main.get_command(app)
    for name, command in group.commands.items():  # type: ignore[attr-defined]
        shown = CliRunner().invoke(app, [name, "--help"])
        assert shown.exit_code == 0
        assert max(map(len, shown.output.splitlines())) <= width
        if not hasattr(command, "commands"):
            options = [option for each in command.params for option in each.opts if option.startswith("--")]
            assert [option for option in options if option not in shown.output] == [], name
