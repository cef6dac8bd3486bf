"""Five snapshots of MovieTweetings, one night after the other: published, skipped, rolled back, on both databases."""

from pathlib import Path
from unittest.mock import patch

import pytest
from sqlalchemy import Engine

from jobs.nightly import nightly
from recsys.database.engine import reading
from recsys.database.models import live_numbers, roll_back, version, versions
from recsys.results import Objective
from recsys.settings import Settings

SMALL: dict[Objective, dict[str, int]] = {
    "rating": {"n_factors": 8, "n_epochs": 5},
    "ranking": {"n_factors": 32, "n_epochs": 15},
}
"""Trainings that take seconds, and are better than their baselines."""


@pytest.mark.long
@pytest.mark.shared_data
@pytest.mark.timeout(1200)
def test_five_snapshots_in_order(
    engine: Engine, shared_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jobs.nightly.has_extra", lambda _: False)  # maps take most of the time of such a night
    settings = Settings(checkpoints=tmp_path / "checkpoints")
    n_ratings = []
    for size in ("10K", "20K", "30K", "40K", "50K"):
        source = shared_data / f"movietweetings-snapshots.zip/movietweetings/{size}"
        report = nightly(engine, settings, [source], device="cpu", overrides=SMALL)
        assert report.status in ("published", "some_refused", "not_better"), report
        print(size, report.seconds, [each.line() for each in report.objectives])  # noqa: T201 - shown if it fails
        again = nightly(engine, settings, [source], device="cpu", overrides=SMALL)
        assert again.status == "nothing_new"
        assert again.loads[0].inserted == again.loads[0].updated == 0
        with reading(engine) as connection:
            for objective, number in live_numbers(connection).items():
                training = version(connection, number).training
                assert training.gate_passed
                assert training.refit is not None or "without the held-out ratings" in training.gate_reason
                newest = next(each for each in report.objectives if each.objective == objective)
                if newest.status == "published":
                    assert newest.model_version == number
                    n_ratings.append(training.n_ratings)
            by_objective = [stored.objective for stored in versions(connection)]
        assert max(map(by_objective.count, by_objective)) <= 3
    assert len(n_ratings) >= 4  # of ten: the gate refuses what is not shown to be as good
    with reading(engine) as connection:
        live = live_numbers(connection)
    for objective in live:
        before = roll_back(engine, objective, "test").number
        assert before < live[objective]
    # The ratings are still those of the last training, so nothing is trained, and the rolled back version stays.
    with patch("jobs.notify.notify") as sent:
        assert nightly(engine, settings, device="cpu", overrides=SMALL).status == "nothing_new"
    assert not sent.called
