"""recsys tune on small generated samples in real databases: what is kept of it, and who uses it."""

import json
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import Engine, select
from typer.testing import CliRunner

from jobs import tune as tuning
from jobs.cli.main import app
from jobs.find import find_learning_rate, sweep
from jobs.train import already_trained, train
from jobs.training_data import choose_config
from jobs.tune import reset_tuning, tune
from jobs.tune_report import Confirmation
from recsys.data import sample
from recsys.data.dataset import NO_TIME
from recsys.data.encoding import collect
from recsys.database import migration, schema
from recsys.database.engine import connect, reading, writing
from recsys.database.leases import TRAINING, TUNING, lease
from recsys.database.models import version
from recsys.database.ratings import upsert_ratings
from recsys.database.tuned import Tuned, keep_tuned, read_tuned
from recsys.errors import LockedError, TrainingError
from recsys.results import Objective
from recsys.settings import Settings
from recsys.training import tune as tunes
from recsys.training.config import Config, default_config
from tests.conftest import expire_leases
from tests.jobs.cli.test_main import Recsys

N_RATINGS = 1500
N_USERS = 60
DEFAULT = default_config("ranking", N_RATINGS, N_USERS)


def add_ratings(engine: Engine, n_ratings: int = N_RATINGS, seed: int = 1) -> None:
    made = sample.generate(n_users=N_USERS, n_items=50, n_ratings=n_ratings, seed=seed)
    upsert_ratings(engine, collect([made.ratings]))


@pytest.fixture
def loaded(tmp_path: Path) -> Iterator[Engine]:
    """A database of 1,500 generated ratings."""
    engine = connect(f"sqlite:///{tmp_path / 'test.db'}")
    migration.upgrade(engine)
    add_ratings(engine)
    yield engine
    engine.dispose()


@pytest.fixture
def better(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every trial is better than the one before it: the last is the best."""
    values: Iterator[float] = iter(range(1, 100))

    def tried(_train: object, _config: Config, parameters: tunes.Parameters, *_: object) -> tunes.Trial:
        return tunes.Trial(parameters, next(values) / 100, 0.5)

    for module in (tunes, tuning):
        monkeypatch.setattr(module, "run_trial", tried)


@pytest.fixture
def worse(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every trial but the one with the defaults diverges."""

    def tried(_train: object, _config: Config, parameters: tunes.Parameters, *_: object) -> tunes.Trial:
        return tunes.Trial(parameters, 0.5 if parameters == tunes.defaults(DEFAULT) else None, 0.5)

    for module in (tunes, tuning):
        monkeypatch.setattr(module, "run_trial", tried)


def chosen(engine: Engine, n_ratings: int = N_RATINGS) -> Config:
    with reading(engine) as connection:
        return choose_config(connection, "ranking", "dot", n_ratings, N_USERS, 50.0)


def keep_parameters(
    engine: Engine, parameters: dict[str, float], n_ratings: int = N_RATINGS, study: str = "another"
) -> None:
    with writing(engine) as connection:
        keep_tuned(connection, "ranking", "dot", Tuned(study, parameters, "ndcg", 0.4, 0.3, n_ratings))


def tuning_study(engine: Engine) -> str:
    """The study of the latest trial."""
    table = schema.tuning_trials.c
    with reading(engine) as connection:
        return connection.execute(select(table.study).order_by(table.trial_key.desc()).limit(1)).scalar_one()


def test_the_first_trial_is_the_defaults_and_the_best_is_kept(engine: Engine, tmp_path: Path) -> None:
    add_ratings(engine)
    out = tmp_path / "tuning.html"
    report = tune(engine, Settings(), "ranking", out, n_trials=3, device="cpu")
    assert report.trials[0] == report.default
    assert report.default.parameters == tunes.defaults(DEFAULT)
    assert (report.metric, report.n_ratings, report.n_earlier) == ("ndcg", N_RATINGS, 0)
    values = [trial.value for trial in report.trials if trial.value is not None]
    assert len(values) == 3
    assert report.best.value == max(values)
    with reading(engine) as connection:
        tuned = read_tuned(connection, "ranking", "dot")
        rows = connection.execute(select(schema.tuning_trials).order_by(schema.tuning_trials.c.trial_key)).all()
    assert [row.value for row in rows] == [trial.value for trial in report.trials]
    assert {row.metric for row in rows} == {"ndcg"}
    if report.in_use == "best":
        assert tuned is not None
        assert report.confirmation is not None
        assert report.confirmation.confirmed
        assert (tuned.value, tuned.default_value) == (report.best.value, report.default.value)
        assert chosen(engine) == tunes.with_parameters(DEFAULT, report.best.parameters)
    else:
        assert tuned is None
    page = out.read_text()
    assert "Config of the ranking model" in page
    assert "1 (default)" in page
    assert "<script src" not in page


def test_the_same_seed_finds_the_same_and_fresh_starts_anew(loaded: Engine) -> None:
    first = tune(loaded, Settings(), "ranking", n_trials=2, device="cpu")
    again = tune(loaded, Settings(), "ranking", n_trials=2, device="cpu", fresh=True)
    assert (first.metric, first.higher_is_better) == ("ndcg", True)
    assert again.n_earlier == 0
    for ours, theirs in zip(first.trials, again.trials, strict=True):
        assert (ours.parameters, ours.value) == (theirs.parameters, theirs.value)
    other = tune(loaded, Settings(), "ranking", n_trials=3, device="cpu", seed=1)
    assert other.n_earlier == 0
    # The second trial may be what the first call found and put to use.
    assert other.trials[2].parameters != first.trials[1].parameters


@pytest.mark.usefixtures("better")
def test_a_later_call_goes_on_and_other_ratings_are_another_study(loaded: Engine) -> None:
    tune(loaded, Settings(), "ranking", n_trials=2)
    report = tune(loaded, Settings(), "ranking", n_trials=4)
    assert (report.n_earlier, len(report.trials)) == (2, 4)
    assert report.confirmation is not None
    assert report.confirmation.confirmed
    assert report.in_use == "best"
    assert chosen(loaded) == tunes.with_parameters(DEFAULT, report.trials[3].parameters)
    nothing_to_do = tune(loaded, Settings(), "ranking", n_trials=3)
    assert (nothing_to_do.n_earlier, nothing_to_do.trials) == (4, report.trials)
    assert (nothing_to_do.confirmation, nothing_to_do.in_use) == (None, "best")
    assert tune(loaded, Settings(), "ranking", minutes=0).trials == report.trials
    assert tune(loaded, Settings(), "rating", n_trials=1).n_earlier == 0
    add_ratings(loaded, 200, seed=2)
    assert tune(loaded, Settings(), "ranking", n_trials=1).n_earlier == 0


@pytest.mark.usefixtures("better")
def test_broken_off_and_taken_up_again_it_is_the_same(loaded: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = [trial.parameters for trial in tune(loaded, Settings(), "ranking", n_trials=3).trials]
    tune(loaded, Settings(), "ranking", n_trials=1, fresh=True)

    def stopped(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(tuning, "say_trial", stopped)
        with pytest.raises(KeyboardInterrupt):
            tune(loaded, Settings(), "ranking", n_trials=3)
    report = tune(loaded, Settings(), "ranking", n_trials=3)
    assert report.n_earlier == 2
    assert [trial.parameters for trial in report.trials] == whole


def test_what_is_best_by_chance_is_not_used(loaded: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    values = iter([0.1, 0.3, 0.2, 0.2, 0.4, 0.5, 0.5])  # two trials, the two once more; a third, two once more

    def tried(_train: object, _config: Config, parameters: tunes.Parameters, *_: object) -> tunes.Trial:
        return tunes.Trial(parameters, next(values), 0.5)

    for module in (tunes, tuning):
        monkeypatch.setattr(module, "run_trial", tried)
    report = tune(loaded, Settings(), "ranking", n_trials=2)
    assert report.best.value == 0.3
    assert report.confirmation == Confirmation(default=0.2, best=0.2, confirmed=False)
    assert report.in_use == "default"
    keep_parameters(loaded, {"learning_rate": 0.02}, study=tuning_study(loaded))
    assert tune(loaded, Settings(), "ranking", n_trials=3).in_use == "earlier"
    assert chosen(loaded).learning_rate == 0.02


@pytest.mark.usefixtures("worse")
def test_a_trial_that_diverged_is_kept_as_such_and_nothing_is_applied(loaded: Engine) -> None:
    report = tune(loaded, Settings(), "ranking", n_trials=3)
    assert (report.n_diverged, report.in_use) == (2, "default")
    assert report.best == report.default
    assert [trial.value for trial in tune(loaded, Settings(), "ranking", n_trials=3).trials] == [0.5, None, None]
    assert chosen(loaded) == DEFAULT


@pytest.mark.usefixtures("worse")
def test_settings_tuned_on_other_ratings_are_tried_before_they_are_given_up(loaded: Engine) -> None:
    keep_parameters(loaded, {"learning_rate": 0.02})
    report = tune(loaded, Settings(), "ranking", n_trials=1)
    assert report.in_use == "earlier"
    assert chosen(loaded).learning_rate == 0.02
    report = tune(loaded, Settings(), "ranking", n_trials=2)
    assert report.trials[1].parameters == {**tunes.defaults(DEFAULT), "learning_rate": 0.02}
    assert report.in_use == "default"
    assert chosen(loaded) == DEFAULT


def test_training_uses_what_was_tuned_and_given_settings_override_it(loaded: Engine) -> None:
    keep_parameters(loaded, {"learning_rate": 0.02, "n_factors": 16, "n_epochs": 2, "of_another_version": 1})
    with lease(loaded, TRAINING) as held:
        tuned = train(loaded, Settings(), held, "ranking", device="cpu", force_reason="test")
        given = train(
            loaded, Settings(), held, "ranking", overrides={"n_factors": 4}, device="cpu", force_reason="test"
        )
    with reading(loaded) as connection:
        first = dict(version(connection, tuned.model_version).training.configuration)
        second = dict(version(connection, given.model_version).training.configuration)
        assert already_trained(connection, "ranking", {}, 0) == version(connection, tuned.model_version)
    expected = json.loads(json.dumps(asdict(DEFAULT)))
    expected |= {"learning_rate": 0.02, "n_factors": 16, "n_epochs": 2, "seed": 0, "n_users": N_USERS}
    expected["curve_users"] = N_USERS
    assert 0 < first["effective_items"] <= 50
    expected["effective_items"] = first["effective_items"]
    assert first == expected
    assert second == expected | {"n_factors": 4}
    assert sweep(loaded, Settings(), "ranking", "learning_rate", [0.03], device="cpu").default.value == 0.02
    reset_tuning(loaded, "ranking")
    with reading(loaded) as connection:
        assert already_trained(connection, "ranking", {}, 0) is None


def test_tuned_settings_hold_for_four_times_the_ratings_and_a_quarter(
    loaded: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr("jobs.training_data.say", said.append)
    keep_parameters(loaded, {"learning_rate": 0.02}, n_ratings=1000)
    for n_ratings in (250, 1000, 4000):
        assert chosen(loaded, n_ratings).learning_rate == 0.02
    assert said == []
    for n_ratings in (249, 4001):
        assert chosen(loaded, n_ratings) == default_config("ranking", n_ratings, N_USERS)
    assert said[1] == (
        "ranking: the tuned config is not used: it was found on 1,000 ratings, and there are 4,001 now. "
        "Using the defaults; to tune again: `recsys tune --objective ranking`"
    )


def test_one_search_at_a_time(loaded: Engine) -> None:
    with lease(loaded, TUNING), pytest.raises(LockedError, match="tuning is being run by"):
        tune(loaded, Settings(), "ranking", n_trials=1)


def test_an_empty_database_says_what_to_run(tmp_path: Path) -> None:
    engine = connect(f"sqlite:///{tmp_path / 'empty.db'}")
    migration.upgrade(engine)
    with pytest.raises(TrainingError, match="run `recsys load PATH` first"):
        tune(engine, Settings(), "ranking")
    engine.dispose()


def test_the_command(loaded: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RECSYS_DATABASE_URL", loaded.url.render_as_string())
    monkeypatch.setenv("COLUMNS", "200")

    def run(*arguments: str) -> str:
        shown = CliRunner().invoke(app, ["tune", *arguments])
        assert shown.exit_code == 0, shown.output
        return shown.stdout

    answer = json.loads(run("--trials", "2", "--device", "cpu", "--json"))
    assert len(answer["trials"]) == 2
    assert answer["default"]["parameters"] == tunes.defaults(DEFAULT)
    out = tmp_path / "tuning.html"
    said = run("--trials", "2", "--out", str(out))
    assert "learning_rate" in said
    assert "2 trials, 2 of them by earlier calls" in said
    assert "recsys train" in said
    assert f"plot: {out}" in said
    assert out.exists()
    keep_parameters(loaded, {"learning_rate": 0.02})
    assert "deleted; recsys train uses the defaults" in run("--reset")
    assert json.loads(run("--reset", "--json")) == {
        "objective": "ranking",
        "architecture": "dot",
        "forgotten": False,
    }
    assert chosen(loaded) == DEFAULT
    assert "recsys tune --trials 30" in run("--help")
    refused = CliRunner().invoke(app, ["tune", "--reset", "--fresh"])
    assert "--reset and --fresh: give one of them" in str(refused.exception)


def test_a_search_that_is_killed_loses_only_its_last_trial(loaded: Engine, tmp_path: Path) -> None:
    recsys = Recsys(tmp_path, loaded.url.render_as_string())
    with subprocess.Popen(
        recsys.command("tune", "--minutes", "5", "--device", "cpu"),
        cwd=tmp_path,
        env=recsys.environment,
        stdout=subprocess.DEVNULL,
    ) as process:
        n_trials = 0
        while n_trials < 2:
            time.sleep(0.05)
            assert process.poll() is None
            with reading(loaded) as connection:
                n_trials = len(connection.execute(select(schema.tuning_trials.c.trial_key)).all())
        process.send_signal(signal.SIGKILL)
    expire_leases(loaded)
    assert tune(loaded, Settings(), "ranking", n_trials=2, device="cpu").n_earlier >= 2


def test_ratings_without_times_are_searched_too(sqlite_engine: Engine) -> None:
    """Each of the three parts that a search holds out, one out of what the others left, must hold something."""
    made = sample.generate(n_users=N_USERS, n_items=50, n_ratings=N_RATINGS, seed=1).ratings
    timeless = replace(made, rated_at=np.full(N_RATINGS, NO_TIME))
    upsert_ratings(sqlite_engine, collect([timeless]))
    small: dict[str, float | None] = {"n_factors": 4, "n_epochs": 2}
    objectives: tuple[Objective, ...] = ("rating", "ranking")
    for objective in objectives:
        assert find_learning_rate(sqlite_engine, Settings(), objective, overrides=small, device="cpu").learning_rates
        swept = sweep(sqlite_engine, Settings(), objective, "weight_decay", [0.03, 3.0], overrides=small, device="cpu")
        assert all(row.metric is not None for row in swept.rows)
    report = tune(sqlite_engine, Settings(), "ranking", n_trials=2, device="cpu")
    assert report.n_diverged == 0
    assert report.best.value is not None
