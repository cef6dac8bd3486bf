"""The night: objectives that do not depend on each other, one status for the whole, and its exit code."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, select
from typer.testing import CliRunner

from jobs import nightly as night
from jobs.cli.main import app
from jobs.nightly import night_status, nightly
from jobs.pipeline import Pipeline
from recsys.data import sample
from recsys.data.encoding import collect
from recsys.database import schema
from recsys.database.engine import reading
from recsys.database.ratings import upsert_ratings
from recsys.errors import LockedError, TrainingError
from recsys.results import NightlyReport, Objective, TrainReport
from recsys.settings import Settings

Outcome = bool | Exception
"""Whether a training is published, or the error that it raises."""


def last_run(engine: Engine) -> tuple[str, str, dict[str, Any]]:
    runs = schema.job_runs.c
    with reading(engine) as connection:
        row = connection.execute(
            select(runs.status, runs.reason, runs.detail).order_by(runs.run_key.desc()).limit(1)
        ).one()
        return row.status, row.reason, row.detail


@pytest.fixture
def outcomes(monkeypatch: pytest.MonkeyPatch) -> Callable[[Outcome, Outcome], None]:
    """Decides how the trainings of rating and ranking end."""

    def set_outcomes(rating: Outcome, ranking: Outcome) -> None:
        class Decided:
            def __init__(self, *arguments: Any) -> None:
                self.objective: Objective = arguments[-1].objective

            def train(self) -> TrainReport:
                outcome = rating if self.objective == "rating" else ranking
                if isinstance(outcome, Exception):
                    raise outcome
                return TrainReport(
                    model_version=1 if self.objective == "rating" else 2,
                    objective=self.objective,
                    architecture="dot",
                    metrics={},
                    baselines={},
                    published=outcome,
                    reason="better" if outcome else "worse than popularity",
                    seconds=0.1,
                )

        monkeypatch.setattr(night, "Pipeline", Decided)
        monkeypatch.setattr(night.TrainingInput, "read", lambda *_: None)

    return set_outcomes


def test_a_rating_training_that_fails_does_not_keep_ranking_from_being_trained_and_reported(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    upsert_ratings(engine, collect([sample.generate(n_users=80, n_items=40, n_ratings=1500, seed=1).ratings]))
    train = Pipeline.train

    def failing(pipeline: Pipeline) -> TrainReport:
        if pipeline.job.objective == "rating":
            raise TrainingError("training diverged")
        return train(pipeline)

    monkeypatch.setattr(Pipeline, "train", failing)
    report = nightly(engine, Settings(report_dir=tmp_path / "report"), device="cpu")
    rating, ranking = report.objectives
    assert report.status == "failed"
    assert (rating.status, rating.model_version, rating.reason) == ("failed", None, "training diverged")
    assert (ranking.objective, ranking.model_version) == ("ranking", 1)
    assert ranking.status in ("published", "not_better")
    assert (tmp_path / "report" / "report.html").exists() == (ranking.status == "published")
    assert [training.objective for training in report.trainings] == ["ranking"]
    status, reason, detail = last_run(engine)
    assert status == "failed"
    assert reason.startswith("rating failed: training diverged; ranking version 1 ")
    assert [each["status"] for each in detail["objectives"]] == ["failed", ranking.status]


def test_an_error_that_nothing_foresaw_is_the_failure_of_one_objective(
    sqlite_engine: Engine, outcomes: Callable[[Outcome, Outcome], None]
) -> None:
    outcomes(ValueError("shapes (3,) and (4,)"), True)
    report = nightly(sqlite_engine, Settings())
    assert [each.status for each in report.objectives] == ["failed", "published"]
    assert report.objectives[0].reason == "ValueError: shapes (3,) and (4,)"


def test_a_night_that_loses_its_lease_stops(
    sqlite_engine: Engine, outcomes: Callable[[Outcome, Outcome], None]
) -> None:
    outcomes(LockedError("training: another run took over"), True)
    with pytest.raises(LockedError):
        nightly(sqlite_engine, Settings())
    assert last_run(sqlite_engine)[:2] == ("failed", "training: another run took over")


@pytest.mark.parametrize(
    ("rating", "ranking", "status", "code", "detailed_code"),
    [
        (True, True, "published", 0, 0),
        (True, False, "some_refused", 0, 12),
        (False, True, "some_refused", 0, 12),
        (False, False, "not_better", 0, 10),
        (TrainingError("diverged"), True, "failed", 1, 1),
        (True, TrainingError("diverged"), "failed", 1, 1),
    ],
)
def test_status_and_exit_code_tell_what_became_of_each_objective(
    sqlite_engine: Engine,
    monkeypatch: pytest.MonkeyPatch,
    outcomes: Callable[[Outcome, Outcome], None],
    rating: Outcome,
    ranking: Outcome,
    status: str,
    code: int,
    detailed_code: int,
) -> None:
    monkeypatch.setenv("RECSYS_DATABASE_URL", sqlite_engine.url.render_as_string())
    monkeypatch.setenv("COLUMNS", "200")
    outcomes(rating, ranking)
    shown = CliRunner().invoke(app, ["nightly"])
    assert shown.exit_code == code, shown.output
    as_json = CliRunner().invoke(app, ["nightly", "--json", "--detailed-exit-code"])
    assert as_json.exit_code == detailed_code
    report = NightlyReport(**json.loads(as_json.stdout))
    assert report.status == status
    assert [each.objective for each in report.objectives] == ["rating", "ranking"]
    for each in report.objectives:
        assert each.line() in shown.stdout.splitlines()
        assert (f"recsys: {each.objective}: diverged" in shown.stderr) == (each.status == "failed")
    assert last_run(sqlite_engine)[0] == ("failed" if code else "done")


@pytest.mark.parametrize(
    ("statuses", "expected"),
    [
        (["nothing_new", "nothing_new"], "nothing_new"),
        (["nothing_new", "published"], "published"),
        (["nothing_new", "not_better"], "not_better"),
        (["nothing_new", "failed"], "failed"),
    ],
)
def test_an_objective_without_news_does_not_change_the_status(statuses: Any, expected: str) -> None:
    assert night_status(statuses) == expected
