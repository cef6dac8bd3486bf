"""The steps of a night: refits and twins, resuming, retention, the record, the notice, the plan, and the doctor."""

import json
import os
import shutil
import stat
from collections.abc import Iterator
from dataclasses import fields
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from sqlalchemy import Engine, select, update

from jobs import pipeline
from jobs.doctor import diagnose
from jobs.night_plan import plan_night
from jobs.nightly import nightly
from jobs.notify import NotifyError, notify
from jobs.training_input import TrainingInput
from recsys.data import sample
from recsys.data.encoding import collect
from recsys.data.rows import RatingBatch
from recsys.database import schema
from recsys.database.engine import connect, reading, writing
from recsys.database.items import upsert_items
from recsys.database.models import live_numbers, load_factors, load_judged, publish, roll_back, versions
from recsys.database.ratings import read_ratings, upsert_ratings
from recsys.database.runs import StoredRun, read_run, read_runs
from recsys.database.users import erase_user
from recsys.errors import InputError, LockedError
from recsys.evaluation.splits import hold_out
from recsys.learner import Learner
from recsys.library.loading import RatingData
from recsys.results import NightlyReport
from recsys.settings import Settings
from recsys.training.config import Config, config_for

MADE = sample.generate(n_users=100, n_items=45, n_ratings=2000, seed=3)
SMALL = {"n_factors": 4, "n_epochs": 2}


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Small trainings that agree with their refits, so that the gate decides."""
    choose = pipeline.choose_config
    monkeypatch.setattr(pipeline, "choose_config", lambda *given: choose(*given[:-1], SMALL))
    monkeypatch.setattr("jobs.train.config_for", lambda *given: config_for(*given[:-1], SMALL))
    monkeypatch.setattr("recsys.evaluation.refit.MIN_OVERLAP", 0.0)
    monkeypatch.setattr("recsys.evaluation.refit.MAX_LOSS", 10.0)
    return Settings(checkpoints=tmp_path / "checkpoints", gate_margin=1.0)


@pytest.fixture
def loaded(engine: Engine) -> Engine:
    fill(engine)
    return engine


def fill(engine: Engine) -> None:
    """Items with categories, and ratings."""
    upsert_items(engine, MADE.items)
    upsert_ratings(engine, collect([MADE.ratings]))


def rate(engine: Engine, user_id: str, item_id: str, rating: float) -> None:
    """One rating later than all others."""
    row = (pa.array([user_id]), pa.array([item_id]), np.array([rating]), np.array([4 * 10**12]), np.array([1]))
    upsert_ratings(engine, collect([RatingBatch(*row)]))


def last_night(engine: Engine) -> StoredRun:
    with reading(engine) as connection:
        run = read_run(connection, read_runs(connection, 1, "nightly")[0].number)
    assert run is not None
    return run


def outcome(engine: Engine) -> dict[str, Any]:
    """What a night leaves behind, without times."""
    with reading(engine) as connection:
        live = live_numbers(connection)
        factors = {name: load_factors(connection, number) for name, number in live.items()}
        twins = {name: load_judged(connection, number) for name, number in live.items()}
        listed = [(stored.objective, stored.training.gate_passed) for stored in versions(connection)]
        rows = connection.scalars(select(schema.models.c.status)).all()
    arrays = [
        (name, each.user_factors.tobytes(), each.item_factors.tobytes())
        for group in (factors, twins)
        for name, each in sorted(group.items())
    ]
    return {"arrays": arrays, "listed": listed, "statuses": set(rows)}


def test_promise_10_what_goes_live_has_seen_every_rating_and_its_twin_has_not(
    loaded: Engine, settings: Settings
) -> None:
    rate(loaded, "newcomer", MADE.items[0].item_id, 5)  # an only rating is not held out
    report = nightly(loaded, settings, device="cpu")
    assert [each.status for each in report.objectives] == ["published", "published"]
    with reading(loaded) as connection:
        ratings = read_ratings(connection)
        for number in (1, 2):
            refit, twin = load_factors(connection, number), load_judged(connection, number)
            assert refit.n_users == ratings.n_users
            # The live version is a training on all ratings, bit for bit.
            source = TrainingInput.read(loaded, settings).for_objective(refit.objective)
            [stored] = [each for each in versions(connection) if each.number == number]
            configuration = stored.training.configuration
            used = {field.name: configuration[field.name] for field in fields(Config)}
            used |= configuration.get("found", {})  # type: ignore[arg-type]
            again = Learner.fit(
                RatingData(source.ratings, {}, {}),
                config=Config(**{**used, "hidden": ()}),
                rating_scale=source.scale,
                device="cpu",
            )
            assert np.array_equal(again.factors.item_factors, refit.item_factors)
            assert np.array_equal(again.factors.user_factors, refit.user_factors)
            weights = [each.weights.values if each.weights else np.empty(0) for each in (again.factors, refit)]
            assert np.array_equal(*weights)
            assert not np.array_equal(refit.item_bias, twin.item_bias)
            assert twin.items.implicit is None
            assert stored.training.n_ratings == ratings.n_ratings
            assert stored.training.refit is not None
            assert stored.training.newest_rating_at == 4 * 10**12
    steps = [(step.name, step.objective) for step in last_night(loaded).steps]
    of_one = ("split", "train", "judge", "refit", "store", "publish")
    expected = [("lease", None), ("count", None)]
    expected += [(name, "rating") for name in of_one]
    expected += [(name, "ranking") for name in (of_one[0], "choose", *of_one[1:])]
    assert steps == [*expected, ("map", None), ("prune", None)]
    assert {step.status for step in last_night(loaded).steps} == {"done"}
    again = nightly(loaded, settings, device="cpu")
    assert again.status == "nothing_new"
    # The next version is compared with the twin: the live version itself has seen the ratings that are held out.
    rate(loaded, "u0001", MADE.items[1].item_id, 4)
    nightly(loaded, settings, device="cpu")
    [judged] = [step for step in last_night(loaded).steps if (step.name, step.objective) == ("judge", "ranking")]
    assert judged.figures["compared_with"] == 2
    assert {"mean", "live", "standard_error", "bound", "visible", "slices", "metrics"} <= judged.figures.keys()


@pytest.mark.parametrize("problem", ["loss", "overlap"])
def test_where_a_refit_is_not_like_its_twin_the_twin_is_served(
    sqlite_engine: Engine, settings: Settings, monkeypatch: pytest.MonkeyPatch, problem: str
) -> None:
    fill(sqlite_engine)
    monkeypatch.setattr("recsys.evaluation.refit." + ("MAX_LOSS" if problem == "loss" else "MIN_OVERLAP"), 0.0)
    if problem == "overlap":
        monkeypatch.setattr("recsys.evaluation.refit.MIN_OVERLAP", 1.1)
    report = nightly(sqlite_engine, settings, device="cpu")
    assert report.status == "published"
    reason = "without the held-out ratings: the " + ("loss of the refit" if problem == "loss" else "lists of the refit")
    assert all(reason in each.reason for each in report.objectives)
    with reading(sqlite_engine) as connection:
        assert set(live_numbers(connection).values()) == {1, 2}
        assert all(stored.training.refit is None for stored in versions(connection))
        for number in (1, 2):
            live, judged = load_factors(connection, number), load_judged(connection, number)
            assert np.array_equal(live.item_factors, judged.item_factors)


@pytest.mark.parametrize("killed_in", ["check_refit", "store", "publish"])
def test_a_night_that_was_killed_goes_on_where_it_stopped(
    sqlite_engine: Engine, settings: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, killed_in: str
) -> None:
    fill(sqlite_engine)
    whole = tmp_path / "whole.db"
    sqlite_engine.dispose()  # the last connection writes the log into the file
    shutil.copy(tmp_path / "test.db", whole)
    undisturbed = connect(f"sqlite:///{whole}")
    nightly(undisturbed, settings, device="cpu")
    expected = outcome(undisturbed)
    undisturbed.dispose()

    class Killed(BaseException):
        pass

    def kill(*_: object, **__: object) -> None:
        raise Killed

    with monkeypatch.context() as patched, pytest.raises(Killed):
        patched.setattr(pipeline, killed_in, kill)
        nightly(sqlite_engine, settings, device="cpu")
    assert last_night(sqlite_engine).status == "failed"
    fitted: list[int] = []
    fit = pipeline.fit_with_progress
    monkeypatch.setattr(pipeline, "fit_with_progress", lambda *given, **named: fitted.append(0) or fit(*given, **named))
    said: list[str] = []
    monkeypatch.setattr(pipeline, "say", said.append)
    nightly(sqlite_engine, settings, device="cpu")
    assert outcome(sqlite_engine) == expected
    steps = [step.name for step in last_night(sqlite_engine).steps if step.objective == "rating"]
    if killed_in == "publish":
        assert steps == ["publish"]
        assert len(fitted) == 4  # of ranking: two candidates, the twin and the refit
    else:
        # Both trainings of rating come from their last checkpoints.
        assert steps == ["split", "train", "judge", "refit", "store", "publish"]
        assert len([line for line in said if line.startswith("rating: continuing from the checkpoint")]) == 2
    assert list(settings.checkpoints.iterdir()) == []


def test_nights_keep_few_sets_of_factors_and_a_rollback_has_its_twin(sqlite_engine: Engine, settings: Settings) -> None:
    fill(sqlite_engine)
    for night in range(4):
        rate(sqlite_engine, f"u000{night + 1}", MADE.items[night].item_id, 5)
        nightly(sqlite_engine, settings, device="cpu")
    with reading(sqlite_engine) as connection:
        numbers = sorted(connection.scalars(select(schema.models.c.number)).all())
        live = live_numbers(connection)
    assert live == {"rating": 7, "ranking": 8}
    assert numbers == [-8, -7, -6, -5, 5, 6, 7, 8]  # live and rollback target, each with its twin
    assert roll_back(sqlite_engine, "ranking", "test").number == 6
    rate(sqlite_engine, "u0009", MADE.items[9].item_id, 5)
    nightly(sqlite_engine, settings, device="cpu")
    judged = [step for step in last_night(sqlite_engine).steps if step.name == "judge"]
    assert [step.figures["compared_with"] for step in judged] == [7, 6]


def test_a_damaged_live_version_does_not_stop_the_nights(sqlite_engine: Engine, settings: Settings) -> None:
    fill(sqlite_engine)
    nightly(sqlite_engine, settings, device="cpu")
    with writing(sqlite_engine) as connection:
        connection.execute(update(schema.item_factors).where(schema.item_factors.c.number == -2).values(bias=99.0))
    rate(sqlite_engine, "u0001", MADE.items[1].item_id, 4)
    assert [each.status for each in nightly(sqlite_engine, settings, device="cpu").objectives] == ["published"] * 2


def test_an_erasure_between_the_trainings_and_the_storing_leaves_no_row(
    loaded: Engine, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = pipeline.store

    def erasing(*given: Any, **named: Any) -> int:
        erase_user(loaded, "u0005", actor="test")
        return store(*given, **named)

    with reading(loaded) as connection:
        key = connection.scalar(select(schema.users.c.user_key).where(schema.users.c.user_id == "u0005"))
    monkeypatch.setattr(pipeline, "store", erasing)
    nightly(loaded, settings, device="cpu")
    with reading(loaded) as connection:
        numbers = list(live_numbers(connection).values())
        assert len(numbers) == 2
        for number in numbers:
            assert key not in load_factors(connection, number).user_keys
            assert key not in load_judged(connection, number).user_keys


class Receiver(BaseHTTPRequestHandler):
    bodies: list[dict[str, Any]] = []  # noqa: RUF012 - of one test

    def do_POST(self) -> None:
        self.bodies.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self.send_response(500 if self.path == "/broken" else 200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def webhook() -> Iterator[str]:
    server = HTTPServer(("127.0.0.1", 0), Receiver)
    Receiver.bodies.clear()
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_the_summary_is_sent_on_success_and_on_failure(
    sqlite_engine: Engine, settings: Settings, webhook: str, tmp_path: Path
) -> None:
    command = tmp_path / "receive"
    command.write_text(f"#!/bin/sh\ncat > {tmp_path}/received\n")
    command.chmod(command.stat().st_mode | stat.S_IXUSR)
    asked = settings.model_copy(update={"notify_url": f"{webhook}/hook", "notify_command": str(command)})
    ended: list[NightlyReport] = []
    report = nightly(sqlite_engine, asked, on_end=ended.append)
    assert report.status == "failed"  # there are no ratings
    with pytest.raises(InputError):
        nightly(sqlite_engine, asked, [tmp_path / "missing.csv"], on_end=ended.append)
    assert "missing.csv" in (ended[-1].error or "")
    assert ended[-1].finished_at >= ended[-1].started_at
    first, second = Receiver.bodies
    assert "rating failed: there are no ratings to train on" in first["text"]
    assert second["night"]["status"] == "failed"
    assert "missing.csv" in second["text"]
    assert json.loads((tmp_path / "received").read_text()) == second
    assert last_night(sqlite_engine).steps[-1].figures == {"sent": ["webhook", "command"]}
    assert last_night(sqlite_engine).exit_code == 1


def test_a_summary_that_cannot_be_sent_is_a_failed_step_and_not_a_failed_night(
    sqlite_engine: Engine, settings: Settings, webhook: str
) -> None:
    fill(sqlite_engine)
    asked = settings.model_copy(update={"notify_url": f"{webhook}/broken", "notify_command": "false"})
    report = nightly(sqlite_engine, asked, device="cpu")
    assert report.status == "published"
    night = last_night(sqlite_engine)
    assert (night.status, night.steps[-1].status) == ("done", "failed")
    assert "RECSYS_NOTIFY_URL failed" in night.steps[-1].figures["error"]
    with pytest.raises(NotifyError, match="RECSYS_NOTIFY_COMMAND failed"):
        notify(asked.model_copy(update={"notify_url": None}), report)
    with pytest.raises(InputError, match="RECSYS_NOTIFY_URL"):
        notify(asked.model_copy(update={"notify_url": "file:///etc/passwd"}), report)


def test_a_dry_run_says_what_the_night_then_does(sqlite_engine: Engine, settings: Settings, tmp_path: Path) -> None:
    folder = sample.write(tmp_path / "made", MADE)
    planned = {(step.step, step.objective): step for step in plan_night(sqlite_engine, settings, [folder]).steps}
    assert planned["load", None].would.startswith("insert 2,")
    assert planned["train", "ranking"].would.startswith("train, the first version")
    assert read_nothing(sqlite_engine)
    nightly(sqlite_engine, settings, [folder], device="cpu")
    planned = {(step.step, step.objective): step for step in plan_night(sqlite_engine, settings, [folder]).steps}
    assert planned["skip", "rating"].why == "the ratings are the same as at the training of version 1"
    rate(sqlite_engine, "u0001", MADE.items[1].item_id, 4)
    planned = {(step.step, step.objective): step for step in plan_night(sqlite_engine, settings).steps}
    assert planned["train", "rating"].would.startswith("train, compare with version 1, refit")


def read_nothing(engine: Engine) -> bool:
    with reading(engine) as connection:
        return connection.execute(select(schema.ratings).limit(1)).one_or_none() is None


def test_the_doctor_names_what_is_wrong(sqlite_engine: Engine, settings: Settings, tmp_path: Path) -> None:
    url = sqlite_engine.url.render_as_string()
    asked = settings.model_copy(update={"database_url": url})
    fill(sqlite_engine)
    found = {check.name: check for check in diagnose(asked).checks}
    assert (found["last night"].status, found["live versions"].status) == ("warning", "warning")
    nightly(sqlite_engine, settings, device="cpu")
    diagnosis = diagnose(asked)
    assert diagnosis.healthy
    found = {check.name: check for check in diagnosis.checks}
    assert {name: check.status for name, check in found.items() if name not in ("disk", "memory")} == {
        "database": "ok",
        "schema": "ok",
        "live versions": "ok",
        "leases": "ok",
        "last night": "ok",
        "device": "ok",
    }
    with writing(sqlite_engine) as connection:
        connection.execute(update(schema.item_factors).where(schema.item_factors.c.number == 2).values(bias=99.0))
    found = {check.name: check for check in diagnose(asked).checks}
    assert found["live versions"].status == "failed"
    assert "recsys models rollback --objective ranking" in (found["live versions"].fix or "")
    missing = diagnose(settings.model_copy(update={"database_url": f"sqlite:///{tmp_path}/missing.db"}))
    assert not missing.healthy
    assert "missing.db is not there" in missing.checks[0].found
    assert "recsys init" in (missing.checks[0].fix or "")
    assert not os.path.exists(f"{tmp_path}/missing.db")


def test_a_version_published_by_hand_is_compared_with_itself_if_it_has_no_twin(
    sqlite_engine: Engine, settings: Settings
) -> None:
    fill(sqlite_engine)
    refusing = settings.model_copy(update={"gate_margin": 0.0})
    nightly(sqlite_engine, settings, device="cpu")
    rate(sqlite_engine, "u0001", MADE.items[1].item_id, 4)
    report = nightly(sqlite_engine, refusing, device="cpu")
    refused = [each for each in report.objectives if each.status == "not_better"]
    assert refused, report
    number = refused[0].model_version
    assert number is not None
    publish(sqlite_engine, number, "by hand", force=True)
    with reading(sqlite_engine) as connection:
        held = hold_out(read_ratings(connection))
        assert held.any()
        assert np.array_equal(
            load_judged(connection, number).user_factors, load_factors(connection, number).user_factors
        )


def test_two_nights_at_once_are_one(sqlite_engine: Engine, settings: Settings, tmp_path: Path) -> None:
    fill(sqlite_engine)
    second = connect(sqlite_engine.url.render_as_string())
    refused: list[str] = []
    choose = pipeline.choose_config

    def while_the_first_runs(*given: Any) -> Any:
        with pytest.raises(LockedError) as error:
            nightly(second, settings, device="cpu")
        refused.append(str(error.value))
        return choose(*given)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(pipeline, "choose_config", while_the_first_runs)
        report = nightly(sqlite_engine, settings, device="cpu")
    assert report.status == "published"
    assert len(refused) == 4  # while rating is trained, and for each candidate of ranking
    with reading(second) as connection:
        assert [run.status for run in read_runs(connection, 10)] == ["done"]
    second.dispose()
