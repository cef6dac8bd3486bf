"""What the jobs did: over HTTP, at the command line, and as metrics for alarms."""

import json

import httpx
import pytest
from sqlalchemy import Engine
from typer.testing import CliRunner

from jobs.cli.main import app
from recsys.database.engine import reading
from recsys.database.runs import last_ends, read_run, recorded
from recsys.errors import TrainingError
from tests.api.asking import check_problem


def record_two_nights(engine: Engine) -> None:
    """A night with a step, and one that fails."""
    with recorded(engine, "nightly") as run:
        with run.step("judge", "ranking", "f1") as step:
            step.figures = {"mean": 0.5}
        run.reason, run.detail = "published", {"status": "published"}
    with pytest.raises(TrainingError), recorded(engine, "nightly") as run, run.step("train", "rating"):
        raise TrainingError("diverged")


def test_runs_are_listed_and_shown_with_their_steps(client: httpx.Client, known_engine: Engine) -> None:
    record_two_nights(known_engine)
    client.post("/v1/models/1/publish", json={"reason": "again"})
    third, second, first = client.get("/v1/runs").json()["runs"]
    assert (third["job"], third["reason"], third["exit_code"]) == ("publish", "again", 0)
    assert (second["job"], second["status"], second["reason"], second["exit_code"]) == (
        "nightly",
        "failed",
        "diverged",
        1,
    )
    assert (first["status"], first["exit_code"]) == ("done", 0)
    assert [run["run"] for run in client.get("/v1/runs?job=nightly&n=1").json()["runs"]] == [second["run"]]
    assert [run["run"] for run in client.get(f"/v1/runs?before={second['run']}").json()["runs"]] == [first["run"]]
    shown = client.get(f"/v1/runs/{first['run']}").json()
    [step] = shown["steps"]
    assert (step["step"], step["objective"], step["status"], step["fingerprint"]) == ("judge", "ranking", "done", "f1")
    assert step["figures"] == {"mean": 0.5}
    assert shown["detail"] == {"status": "published"}
    [step] = client.get(f"/v1/runs/{second['run']}").json()["steps"]
    assert (step["status"], step["figures"]) == ("failed", {"error": "diverged"})
    check_problem(client.get("/v1/runs/99"), 404, "no run 99")
    check_problem(client.get("/v1/runs?n=0"), 422, "n")


def test_metrics_for_alarms(client: httpx.Client, known_engine: Engine) -> None:
    record_two_nights(known_engine)
    lines = dict(line.rsplit(" ", 1) for line in client.get("/metrics").text.splitlines() if not line.startswith("#"))
    assert float(lines['recsys_job_last_exit_code{job="nightly"}']) == 1
    attempt = float(lines['recsys_job_last_attempt_timestamp_seconds{job="nightly"}'])
    success = float(lines['recsys_job_last_success_timestamp_seconds{job="nightly"}'])
    assert attempt >= success - 1 > 1.7e9
    assert float(lines['recsys_gate_passed{objective="ranking"}']) == 1
    assert float(lines['recsys_model_versions{objective="rating"}']) == 1
    assert float(lines["recsys_ratings"]) == 6
    assert float(lines["recsys_database_bytes"]) > 10_000


def test_the_command_line_shows_the_same(sqlite_engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    record_two_nights(sqlite_engine)
    monkeypatch.setenv("RECSYS_DATABASE_URL", sqlite_engine.url.render_as_string())
    monkeypatch.setenv("COLUMNS", "200")
    runner = CliRunner()
    listed = json.loads(runner.invoke(app, ["runs", "list", "--json"]).stdout)["runs"]
    assert [(run["run"], run["status"]) for run in listed] == [(2, "failed"), (1, "done")]
    assert "diverged" in runner.invoke(app, ["runs", "list"]).stdout
    shown = runner.invoke(app, ["runs", "show", "1"]).stdout
    assert "run 1: nightly, " in shown
    assert "mean 0.5" in shown
    assert json.loads(runner.invoke(app, ["runs", "show", "1", "--json"]).stdout)["steps"][0]["figures"] == {
        "mean": 0.5
    }
    planned = runner.invoke(app, ["nightly", "--dry-run", "--json"])
    assert [step["step"] for step in json.loads(planned.stdout)["steps"]] == ["lease", "train", "train", "prune"]
    doctor = runner.invoke(app, ["doctor"])
    assert doctor.exit_code == 1  # the last night failed
    assert "failed  last night: run 2" in doctor.stdout
    assert "See `recsys runs show 2`" in doctor.stdout


def test_a_run_that_was_killed_ends_with_the_next_one(engine: Engine) -> None:
    class Killed(BaseException):
        pass

    killed = recorded(engine, "nightly")
    run = killed.__enter__()
    step = run.step("train", "rating")
    step.__enter__()  # as a process leaves them that is killed here
    with reading(engine) as connection:
        found = read_run(connection, run.key)
    assert found is not None
    assert (found.status, found.finished_at) == ("failed", None)  # nothing holds the lease of a night
    assert "goes on where it stopped" in found.reason
    with reading(engine) as connection:
        assert last_ends(connection)["nightly"]["exit_code"] == 137
    with recorded(engine, "nightly"):
        pass
    with reading(engine) as connection:
        found = read_run(connection, run.key)
    assert found is not None
    assert (found.status, found.reason) == ("failed", "killed")
    assert [(step.status, step.figures) for step in found.steps] == [("failed", {"error": "killed"})]
    assert found.finished_at == found.steps[0].started_at  # the last that was seen of it
