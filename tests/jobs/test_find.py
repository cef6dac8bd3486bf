"""lr-find and sweep on a small generated sample in a real SQLite file."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
from sqlalchemy import Engine, func, select
from typer.testing import CliRunner

from jobs.cli.tuning import lr_find_command, sweep_command
from jobs.find import find_learning_rate, sweep
from recsys.data import sample
from recsys.data.encoding import collect
from recsys.database import migration, schema
from recsys.database.engine import connect, reading
from recsys.database.ratings import upsert_ratings
from recsys.database.runs import read_runs
from recsys.errors import InputError, TrainingError
from recsys.settings import Settings

SMALL: dict[str, float | None] = {"n_factors": 4, "n_epochs": 2}


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A database of 6,000 generated ratings; nothing here adds versions to it."""
    url = f"sqlite:///{tmp_path_factory.mktemp('finders') / 'test.db'}"
    engine = connect(url)
    migration.upgrade(engine)
    upsert_ratings(engine, collect([sample.generate(n_users=200, n_items=100, n_ratings=6000, seed=1).ratings]))
    engine.dispose()
    return url


@pytest.fixture
def loaded(url: str) -> Iterator[Engine]:
    engine = connect(url)
    yield engine
    engine.dispose()


@pytest.fixture
def runner(url: str, monkeypatch: pytest.MonkeyPatch) -> CliRunner:
    monkeypatch.setenv("RECSYS_DATABASE_URL", url)
    return CliRunner()


@pytest.fixture
def app() -> typer.Typer:
    app = typer.Typer()
    app.command("lr-find")(lr_find_command)
    app.command("sweep")(sweep_command)
    return app


def n_models(engine: Engine) -> int:
    with reading(engine) as connection:
        return connection.execute(select(func.count()).select_from(schema.models)).scalar_one()


def test_a_learning_rate_is_found_and_drawn(loaded: Engine, tmp_path: Path) -> None:
    out = tmp_path / "plots" / "lr.html"
    report = find_learning_rate(loaded, Settings(), "ranking", out, overrides=SMALL, device="cpu")
    assert 1e-4 < report.valley < 1
    assert 1e-4 < report.slide < 1
    assert report.default == 0.01
    assert report.fall > 0.01
    assert report.notice is None
    assert len(report.learning_rates) == len(report.smoothed) <= 200
    page = out.read_text()
    assert report.plot == str(out)
    assert "Learning rate of the ranking model" in page
    assert "<script src" not in page
    assert "two thirds" in page
    assert [path.name for path in out.parent.iterdir()] == ["lr.html"]
    assert n_models(loaded) == 0
    with reading(loaded) as connection:
        (run,) = read_runs(connection, 1, "lr-find")
    assert (run.status, run.detail["learning_rates"]) == ("done", report.learning_rates)


def test_a_loss_that_hardly_falls_is_said_to_prove_nothing(loaded: Engine, tmp_path: Path) -> None:
    out = tmp_path / "lr.html"
    report = find_learning_rate(
        loaded, Settings(), "rating", out, highest=1e-3, n_steps=40, overrides=SMALL, device="cpu"
    )
    assert report.fall < 0.01
    assert "fell by less than 1%" in (report.notice or "")
    assert "Use a sweep instead" in (report.notice or "")
    assert "Use a sweep" in out.read_text()


@pytest.mark.parametrize("objective", ["rating", "ranking"])
def test_a_sweep_trains_each_value_and_the_default(loaded: Engine, tmp_path: Path, objective: str) -> None:
    out = tmp_path / "sweep.html"
    values = [0.01, 1.0, 100.0]
    report = sweep(
        loaded,
        Settings(),
        "rating" if objective == "rating" else "ranking",
        "weight_decay",
        values,
        out,
        overrides=SMALL,
        device="cpu",
    )
    assert [row.value for row in report.rows] == values
    assert report.default.value not in values
    measured = {row.value: row.metric for row in (*report.rows, report.default) if row.metric is not None}
    assert len(measured) == 4
    assert (report.metric, report.higher_is_better) == (("rmse", False) if objective == "rating" else ("ndcg", True))
    with reading(loaded) as connection:
        (run,) = read_runs(connection, 1, "sweep")
    assert [row["metric"] for row in run.detail["rows"]] == [row.metric for row in report.rows]
    assert measured[report.best] == (min if objective == "rating" else max)(measured.values())
    page = out.read_text()
    assert f"weight_decay of the {objective} model" in page
    assert "(default)" in page
    assert n_models(loaded) == 0


def test_the_default_among_the_values_is_trained_once(loaded: Engine) -> None:
    report = sweep(loaded, Settings(), "ranking", "learning_rate", [0.01, 0.3], overrides=SMALL, device="cpu")
    assert report.rows[0] == report.default
    assert report.plot is None


def test_a_page_that_cannot_be_written_says_where(loaded: Engine, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    out = tmp_path / "file" / "lr.html"
    with pytest.raises(InputError, match=r"lr\.html cannot be written .*--out"):
        find_learning_rate(loaded, Settings(), "ranking", out, overrides=SMALL, device="cpu")


def test_an_empty_database_says_what_to_run(tmp_path: Path) -> None:
    engine = connect(f"sqlite:///{tmp_path / 'empty.db'}")
    migration.upgrade(engine)
    with pytest.raises(TrainingError, match="run `recsys load PATH` first"):
        find_learning_rate(engine, Settings(), "ranking")
    with pytest.raises(TrainingError, match="run `recsys load PATH` first"):
        sweep(engine, Settings(), "ranking", "weight_decay", [1.0])
    engine.dispose()


def test_the_commands_print_tables_and_json(runner: CliRunner, app: typer.Typer) -> None:
    shown = runner.invoke(app, ["lr-find", "--steps", "60", "--n-factors", "4", "--device", "cpu"])
    assert shown.exit_code == 0, shown.output
    assert "valley" in shown.output
    assert "default" in shown.output
    arguments = ["sweep", "--l2", "1e-2:1e-1", "--objective", "rating", "--n-epochs", "1", "--n-factors", "4"]
    shown = runner.invoke(app, [*arguments, "--device", "cpu"])
    assert shown.exit_code == 0, shown.output
    assert "best" in shown.output
    answer = json.loads(runner.invoke(app, [*arguments, "--device", "cpu", "--json"]).stdout)
    assert answer["field"] == "l2"
    assert [row["value"] for row in answer["rows"]] == [0.01, 0.1]


def test_two_settings_at_once_are_refused(runner: CliRunner, app: typer.Typer) -> None:
    refused = runner.invoke(app, ["sweep", "--l2", "1:10", "--weight-decay", "1:10"])
    assert isinstance(refused.exception, InputError)
    assert "--weight-decay and --l2: a sweep varies one of them" in str(refused.exception)


@pytest.mark.parametrize("command", ["lr-find", "sweep"])
def test_help_teaches_by_example(runner: CliRunner, app: typer.Typer, command: str) -> None:
    shown = runner.invoke(app, [command, "--help"], env={"COLUMNS": "200"})
    assert shown.exit_code == 0
    assert f"recsys {command}" in shown.output
    assert "--json" in shown.output
