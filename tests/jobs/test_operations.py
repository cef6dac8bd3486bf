"""What an operator meets: nights that fail or find nothing better, versions by hand, a port that is taken."""

import random
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest
from sqlalchemy import select

from jobs.serve import is_loopback
from recsys.data import sample
from recsys.database import schema
from recsys.database.engine import connect, reading
from recsys.database.models import live_numbers
from tests.conftest import expire_leases
from tests.jobs.cli.test_main import QUICK, Recsys, free_port


@pytest.fixture(scope="module")
def ratings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ratings")
    return sample.write(folder, sample.generate(n_users=100, n_items=45, n_ratings=2000, seed=3))


@pytest.fixture
def recsys(tmp_path: Path) -> Recsys:
    return Recsys(tmp_path, f"sqlite:///{tmp_path / 'recsys.db'}")


def runs(recsys: Recsys) -> list[tuple[str, str]]:
    table = schema.job_runs.c
    with reading(connect(recsys.environment["RECSYS_DATABASE_URL"])) as connection:
        return [tuple(row) for row in connection.execute(select(table.status, table.reason).order_by(table.run_key))]


def test_a_night_whose_source_is_missing_fails_and_is_recorded(recsys: Recsys) -> None:
    assert "nowhere.csv does not exist" in recsys("nightly", "--source", "nowhere.csv", code=1)
    [(status, reason)] = runs(recsys)
    assert status == "failed"
    assert "nowhere.csv does not exist" in reason


def test_promise_5_what_is_no_better_than_its_baseline_does_not_go_live(recsys: Recsys) -> None:
    # Everybody gives everything three stars: whatever order or prediction, no model can be better than none.
    rows = [f"u{user},i{item},3,{1000 + item}" for user in range(20) for item in range(10)]
    (recsys.folder / "same.csv").write_text("\n".join(["user_id,item_id,rating,rated_at", *rows]))
    said = recsys("nightly", "--source", "same.csv", "--detailed-exit-code", code=10)
    assert "not better than the baseline: NDCG@10" in said
    assert "not better" in said
    assert recsys.json("nightly")["status"] == "nothing_new"  # what was refused is not tried again
    assert [model["live"] for model in recsys.json("models", "list")["models"]] == [False]
    listed = recsys.json("recommend", "u1")
    assert (listed["model_version"], listed["source"]) == (None, "popularity")
    assert "recsys train --objective ranking" in listed["fallback"]
    first, second = runs(recsys)
    assert first[0] == "done"
    assert "ranking version 1 not published: not better than the baseline" in first[1]
    same = "nothing new: the ratings are the same as at the training of version"
    skipped = "rating skipped: all ratings are 3, so there is nothing to predict; lists come from the ranking objective"
    assert second == ("done", f"{skipped}; ranking {same} 1")


def test_a_version_that_was_not_to_be_published_does_not_stop_the_night(recsys: Recsys, ratings: Path) -> None:
    recsys("load", str(ratings))
    (recsys.folder / "recsys.toml").write_text(QUICK)
    trained = recsys.json("train", "--objective", "ranking", "--no-publish")
    assert not trained["published"]
    assert str(trained["reason"]).startswith("not published, as asked; gate: the first version")
    assert [training["objective"] for training in recsys.json("nightly")["trainings"]] == ["rating", "ranking"]


def test_versions_by_hand(recsys: Recsys, ratings: Path) -> None:
    recsys("load", str(ratings))
    for seed in ("0", "1", "2"):
        small = ("--objective", "ranking", "--n-epochs", "1", "--n-factors", "4", "--seed", seed)
        recsys("train", *small, "--force", "--reason", "test")
    assert "version 2 is the live ranking model again" in recsys("models", "rollback", "--objective", "ranking")
    assert "version 1 is the live ranking model again" in recsys("models", "rollback", "--objective", "ranking")
    assert "no earlier live version" in recsys("models", "rollback", "--objective", "ranking", code=1)
    forced = ("--force", "--reason", "it was fine")
    assert "version 3 is the live ranking model" in recsys("models", "publish", "3", *forced)
    # Version 1 stays: a rollback of 3 returns to it.
    assert recsys("models", "prune", "--keep", "1") == "deleted: 2\n"
    shown = recsys.json("models", "show", "3")
    assert (shown["live"], shown["n_factors"], len(shown["history"])) == (True, 4, 1)
    assert {"epoch", "train_loss", "ndcg", "seconds"} == shown["history"][0].keys()


def test_promise_1_a_training_that_is_killed_changes_nothing_that_is_seen(recsys: Recsys, ratings: Path) -> None:
    (recsys.folder / "recsys.toml").write_text(QUICK)
    recsys("nightly", "--source", str(ratings))
    before = recsys("recommend", "u0001", "--json")
    delay = random.SystemRandom().uniform(0.3, 3)
    process = subprocess.Popen(
        recsys.command("train", "--force", "--reason", "test", "--n-epochs", "200", "--seed", "9"),
        cwd=recsys.folder,
        env=recsys.environment,
        stderr=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )
    time.sleep(delay)
    process.send_signal(signal.SIGKILL)
    process.wait()
    engine = connect(recsys.environment["RECSYS_DATABASE_URL"])
    expire_leases(engine)
    with reading(engine) as connection:
        number = live_numbers(connection)["ranking"]
    assert number != 2 or recsys("recommend", "u0001", "--json") == before, delay


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("127.0.0.1", True),
        ("127.8.8.8", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("192.168.1.5", False),
        ("::", False),
        ("example.org", False),
    ],
)
def test_addresses_that_only_this_machine_can_reach(host: str, expected: bool) -> None:
    assert is_loopback(host) is expected


def test_a_port_that_is_taken_is_named(recsys: Recsys) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        said = recsys("serve", "--port", str(port), code=1)
    assert f"cannot listen on 127.0.0.1 port {port}" in said
    assert "--port" in said


def test_a_server_says_where_it_listens_and_ends_when_it_is_told_to(recsys: Recsys, ratings: Path) -> None:
    recsys("load", str(ratings))
    port = free_port()
    with subprocess.Popen(
        recsys.command("serve", "--port", str(port)),
        cwd=recsys.folder,
        env=recsys.environment,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr is not None
        lines = []
        while not lines or "startup complete" not in lines[-1]:
            lines.append(process.stderr.readline())
            assert lines[-1], lines
        assert f"http://127.0.0.1:{port}" in "".join(lines)
        process.send_signal(signal.SIGTERM)
        assert "shutdown complete" in process.stderr.read()
        assert process.wait(10) in (0, -signal.SIGTERM)
