"""The `recsys` command as a person runs it: a process, its output and its exit code."""

import json
import os
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import httpx
import pytest

from recsys.data import sample
from recsys.database import migration
from recsys.database.engine import connect
from tests import forked


class Recsys:
    """Runs the command in a folder, against one database."""

    def __init__(self, folder: Path, database_url: str) -> None:
        self.folder = folder
        # One thread each: training here is tiny, and threads of several processes get in each other's way.
        self.environment = {**os.environ, "RECSYS_DATABASE_URL": database_url, "COLUMNS": "200", "OMP_NUM_THREADS": "1"}

    def __call__(self, *arguments: str, code: int = 0) -> str:
        """Standard output; or, where it fails, standard error."""
        done = forked.run(["-m", "jobs.cli.main", *arguments], cwd=self.folder, env=self.environment)
        assert done.returncode == code, done.stdout + done.stderr
        return done.stderr if code and code < 10 else done.stdout

    def json(self, *arguments: str, code: int = 0) -> dict[str, object]:
        answer: dict[str, object] = json.loads(self(*arguments, "--json", code=code))
        return answer

    @staticmethod
    def command(*arguments: str) -> list[str]:
        return [sys.executable, "-m", "jobs.cli.main", *arguments]


QUICK = "[train]\nn_epochs = 4\nn_factors = 8\n"


@pytest.fixture(scope="module")
def ratings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small generated sample: ratings.csv and items.csv."""
    folder = tmp_path_factory.mktemp("ratings")
    return sample.write(folder, sample.generate(n_users=100, n_items=45, n_ratings=2000, seed=3))


@pytest.fixture
def recsys(tmp_path: Path, database_url: str) -> Recsys:
    command = Recsys(tmp_path, database_url)
    if database_url.startswith("postgresql"):
        command("init")
    return command


def test_the_main_job_from_file_to_answers(recsys: Recsys, ratings: Path) -> None:
    loaded = recsys.json("load", str(ratings))
    assert (loaded["rows_read"], loaded["inserted"], loaded["rejected"]) == (2000, 2000, 0)
    assert (loaded["users"], loaded["items"]) == (100, 45)
    assert recsys.json("load", str(ratings))["unchanged"] == 2000

    for objective, metric in (("rating", "rmse"), ("ranking", "ndcg")):
        trained = recsys.json("train", "--objective", objective)
        assert trained["published"], trained
        assert trained["metrics"].keys() >= {metric}
    listed = recsys.json("models", "list")["models"]
    assert [(model["number"], model["live"]) for model in listed] == [(2, True), (1, True)]

    answer = recsys.json("recommend", "u0001", "--n", "5")
    assert (answer["source"], len(answer["items"])) == ("model", 5)
    assert recsys.json("recommend", "nobody")["source"] == "popularity"
    item_id = answer["items"][0]["item_id"]
    assert item_id not in [item["item_id"] for item in recsys.json("similar", item_id)["items"]]
    assert len(recsys.json("popular", "--by", "bias", "--n", "3")["items"]) == 3
    assert "title" in recsys("popular", "--by", "count")

    night = recsys.json("nightly", "--source", str(ratings))
    rating, ranking = night["objectives"]
    assert (rating["status"], rating["model_version"]) == ("nothing_new", 1)
    assert ranking["status"] != "nothing_new"  # no night has tried the other architectures yet
    assert recsys.json("nightly", "--source", str(ratings))["status"] == "nothing_new"
    assert recsys("report", "--out", "out").strip() == "out/report.html"
    assert (recsys.folder / "out" / "report.html").stat().st_size > 1_000_000


def test_nightly_publishes_then_finds_nothing_new_then_trains_on_what_came(recsys: Recsys, ratings: Path) -> None:
    (recsys.folder / "recsys.toml").write_text(QUICK)
    first = recsys.json("nightly", "--source", str(ratings))
    assert first["status"] == "published"
    assert [training["objective"] for training in first["trainings"]] == ["rating", "ranking"]
    assert recsys.json("nightly", "--source", str(ratings))["status"] == "nothing_new"
    assert recsys("nightly", "--detailed-exit-code", code=11).splitlines()[-1].startswith("nothing new")
    with closing(sqlite3.connect(recsys.folder / "shop.db")) as shop:
        shop.execute("CREATE TABLE reviews (customer, sku, stars, at)")
        shop.execute("INSERT INTO reviews VALUES ('new', 'i0001', 5, '2020-01-01'), ('new', 'i0002', 5, '2020-01-01')")
        shop.commit()
    recsys.environment["RECSYS_SOURCE_URL"] = f"sqlite:///{recsys.folder / 'shop.db'}"
    query = "SELECT customer AS user_id, sku AS item_id, stars AS rating, at AS rated_at FROM reviews"
    second = recsys.json("nightly", "--from-query", query)
    assert len(second["trainings"]) == 2
    assert all("against the live version" in training["reason"] for training in second["trainings"])


def test_promise_3_a_run_at_the_same_time_is_refused(recsys: Recsys, ratings: Path) -> None:
    from recsys.database.leases import LOADING, TRAINING, lease

    recsys.json("load", str(ratings))
    engine = connect(recsys.environment["RECSYS_DATABASE_URL"])
    with lease(engine, LOADING):
        assert "loading is being run by" in recsys("load", str(ratings), code=3)
    with lease(engine, TRAINING):
        assert "is being run by" in recsys("nightly", code=3)
        assert "is being run by" in recsys("train", code=3)
    engine.dispose()


@pytest.fixture
def on_sqlite(tmp_path: Path) -> Recsys:
    return Recsys(tmp_path, f"sqlite:///{tmp_path / 'recsys.db'}")


def test_bad_rows_are_set_aside_and_a_mostly_bad_file_is_refused_whole(on_sqlite: Recsys) -> None:
    (on_sqlite.folder / "some.csv").write_text("user_id,item_id,rating\nu,a,5\nu,b,five\nu,c,nan\nu,d,4\nv,a,3\n")
    loaded = on_sqlite.json("load", "some.csv")
    assert (loaded["rows_read"], loaded["inserted"], loaded["rejected"]) == (5, 3, 2)
    _, *rejects = (on_sqlite.folder / str(loaded["rejects_file"])).read_text().splitlines()
    assert [line.split(":")[:2] for line in rejects] == [["some.csv", "3"], ["some.csv", "4"]]
    assert "'five' is not a number" in rejects[0]

    (on_sqlite.folder / "bad.csv").write_text("user_id,item_id,rating\nx,a,5\nx,b,five\nx,c,six\n")
    said = on_sqlite("load", "bad.csv", code=1)
    assert said.count("\n") == 1
    assert "2 of 3 rows were rejected, so nothing was loaded; the first: bad.csv:3: " in said
    with sqlite3.connect(on_sqlite.folder / "recsys.db") as connection:
        assert connection.execute("SELECT user_id FROM users ORDER BY 1").fetchall() == [("u",), ("v",)]
    connection.close()


def test_a_dry_run_changes_nothing(on_sqlite: Recsys, ratings: Path) -> None:
    foretold = on_sqlite.json("load", str(ratings), "--dry-run")
    assert foretold["inserted"] == 2000
    assert not (on_sqlite.folder / "recsys.db").exists()
    assert on_sqlite.json("load", str(ratings))["inserted"] == 2000
    assert on_sqlite.json("load", str(ratings), "--dry-run")["unchanged"] == 2000


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("load", "nope.csv"), 1, "recsys: nope.csv does not exist"),
        (("load", "nope.csv", "--map", "user=u"), 2, "--map user=u: expected user_id=COLUMN"),
        (("train",), 1, "run `recsys load PATH` first"),
        (("recommend", "u1"), 1, "recsys train --objective ranking"),
        (("report",), 1, "recsys nightly"),
        (("models", "show", "7"), 1, "no model version 7"),
        (("serve", "--host", "0.0.0.0"), 1, "--insecure"),
        (("popular", "--by", "taste"), 2, "taste"),
        (("train", "--device", "tpu"), 2, "tpu"),
        (("nonsense",), 2, "nonsense"),
    ],
)
def test_errors_are_one_line_with_the_fix(on_sqlite: Recsys, arguments: tuple[str, ...], code: int, said: str) -> None:
    engine = connect(on_sqlite.environment["RECSYS_DATABASE_URL"])
    migration.upgrade(engine)
    engine.dispose()
    error = on_sqlite(*arguments, code=code)
    assert said in error
    assert "Traceback" not in error
    if code == 1:
        assert error.count("\n") == 1


def test_a_wrong_setting_is_named(on_sqlite: Recsys) -> None:
    on_sqlite.environment |= {"RECSYS_RATING_MIN": "5", "RECSYS_RATING_MAX": "1"}
    assert "RECSYS_RATING_MIN (5.0) must be below RECSYS_RATING_MAX (1.0)" in on_sqlite("init", code=1)
    on_sqlite.environment |= {"RECSYS_RATING_MIN": "low"}
    assert "RECSYS_RATING_MIN" in on_sqlite("init", code=1)


def test_help_teaches(on_sqlite: Recsys) -> None:
    assert "recsys nightly" in on_sqlite("--help")
    for command in ("load", "train", "nightly"):
        assert len(on_sqlite(command, "--help").splitlines()) > 5


def test_evaluate_touches_no_database(on_sqlite: Recsys, ratings: Path) -> None:
    lines = (ratings / "ratings.csv").read_text().splitlines()
    (on_sqlite.folder / "train.csv").write_text("\n".join([lines[0], *lines[1::2]]))
    (on_sqlite.folder / "test.csv").write_text("\n".join([lines[0], *lines[2::2]]))
    files = ("--train", "train.csv", "--test", "test.csv")
    ranking = on_sqlite.json("evaluate", *files, "--objective", "ranking", "--k", "5")
    assert set(ranking["metrics"]) == {"ndcg", "recall", "hit_rate", "coverage", "novelty"}
    rating = on_sqlite.json("evaluate", *files, "--objective", "rating")
    assert set(rating["metrics"]) == {"rmse", "mae"}
    assert set(rating["baselines"]) == {"popular", "bias"}
    assert not (on_sqlite.folder / "recsys.db").exists()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


@contextmanager
def demo(recsys: Recsys, *arguments: str) -> Iterator[tuple[subprocess.Popen[str], int]]:
    port = free_port()
    with (
        (recsys.folder / "log").open("w") as log,
        subprocess.Popen(
            recsys.command("demo", "--port", str(port), *arguments),
            cwd=recsys.folder,
            env=recsys.environment,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        ) as process,
    ):
        yield process, port
        process.terminate()
        process.wait(30)


def test_demo_prints_three_requests_that_work(on_sqlite: Recsys, ratings: Path) -> None:
    (on_sqlite.folder / "recsys.toml").write_text(QUICK)
    with demo(on_sqlite, "--data", str(ratings), "--json") as (process, port):
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, (on_sqlite.folder / "log").read_text()
        ready = json.loads(line)
        assert ready["url"] == f"http://127.0.0.1:{port}"
        assert (on_sqlite.folder / ready["database"].removeprefix("sqlite:///")).is_file()
        assert [each["objective"] for each in ready["objectives"]] == ["rating", "ranking"]
        assert len(ready["requests"]) == 3
        for request in ready["requests"]:
            assert len(httpx.get(request.removeprefix("curl ").strip("'")).json()["items"]) == 10, request
        # The log is one JSON object a line where no terminal shows it.
        lines = [json.loads(line) for line in (on_sqlite.folder / "log").read_text().splitlines() if line[0] == "{"]
        assert all({"at", "level", "logger", "message"} <= line.keys() for line in lines)
        assert [line["database"] for line in lines if line["message"] == "listening"] == [ready["database"]]


@pytest.mark.long
def test_demo_generates_ratings(on_sqlite: Recsys) -> None:
    with demo(on_sqlite) as (process, _):
        assert process.stdout is not None
        curls: list[str] = []
        while len(curls) < 3:
            line = process.stdout.readline()
            assert line, (on_sqlite.folder / "log").read_text()
            if line.startswith("curl "):
                curls.append(line.removeprefix("curl ").strip().strip("'"))
        for url in curls:
            assert len(httpx.get(url).json()["items"]) == 10, url
