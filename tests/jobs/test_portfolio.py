"""Which architecture a night trains: the candidate that orders a validation part best."""

from dataclasses import replace

import pytest
from sqlalchemy import Engine

from jobs.nightly import nightly
from jobs.portfolio import CANDIDATES, CHOICE_TRAININGS, Choice, choose_architecture, kept_choice
from recsys.data import sample
from recsys.data.dataset import Ratings
from recsys.data.encoding import collect
from recsys.database.engine import reading
from recsys.database.items import upsert_items
from recsys.database.models import load_factors, store, version
from recsys.database.ratings import upsert_ratings
from recsys.database.runs import read_run, read_runs
from recsys.errors import TrainingError
from recsys.learner import Learner
from recsys.library.loading import RatingData
from recsys.settings import Settings
from recsys.training.config import Config, default_config
from tests.training.test_item import chosen_at_random, made

SMALL = {"n_factors": 4, "n_epochs": 2, "batch_size": 256}
CONFIGS = {name: default_config("ranking", 1800, architecture=name, **SMALL) for name in CANDIDATES}  # type: ignore[arg-type]


def fit(ratings: Ratings, config: Config) -> Learner:
    return Learner.fit(RatingData(ratings, {}, {}), config=config, device="cpu")


def test_the_best_candidate_on_ratings_that_none_has_seen_is_chosen() -> None:
    trained: list[int] = []

    def counting(ratings: Ratings, config: Config) -> Learner:
        trained.append(ratings.n_ratings)
        return fit(ratings, config)

    ratings = chosen_at_random(tastes=4)
    choice = choose_architecture(ratings, (1.0, 5.0), CONFIGS, counting)
    assert set(choice.measured) == set(CANDIDATES)
    assert choice.measured[choice.architecture] == max(choice.measured.values())
    assert choice.architecture in ("item", "blend")  # two epochs of four factors learn little
    assert len(trained) == 2  # the blend is made of both
    assert max(trained) < ratings.n_ratings
    assert choice.settings["item_l2"] > 0


def test_a_candidate_that_cannot_be_trained_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr("jobs.portfolio.say", said.append)

    def failing(*failed: str) -> object:
        def fit_or_fail(ratings: Ratings, config: Config) -> Learner:
            if config.architecture in failed:
                raise TrainingError("needs about 9 GiB of memory")
            return fit(ratings, config)

        return fit_or_fail

    ratings = chosen_at_random(tastes=4)
    choice = choose_architecture(ratings, (1.0, 5.0), CONFIGS, failing("item"))  # type: ignore[arg-type]
    assert (choice.architecture, list(choice.measured)) == ("dot", ["dot"])
    assert said[0] == "ranking: item is left out: needs about 9 GiB of memory"
    with pytest.raises(TrainingError, match="9 GiB"):
        choose_architecture(ratings, (1.0, 5.0), CONFIGS, failing("item", "dot"))  # type: ignore[arg-type]


def test_with_too_few_ratings_to_measure_on_the_dot_product_is_trained() -> None:
    ratings = made([0, 1, 2], [0, 1, 0], [5, 4, 5], 3, 2)
    assert choose_architecture(ratings, (1.0, 5.0), CONFIGS, fit).architecture == "dot"


def test_a_night_tries_the_candidates_and_says_how_good_they_were(sqlite_engine: Engine) -> None:
    loaded = sample.generate(n_users=120, n_items=60, n_ratings=3000, seed=1)
    upsert_items(sqlite_engine, loaded.items)
    upsert_ratings(sqlite_engine, collect([loaded.ratings]))
    overrides = {"ranking": SMALL, "rating": SMALL}
    report = nightly(sqlite_engine, Settings(), overrides=overrides, device="cpu")  # type: ignore[arg-type]
    training = next(each for each in report.trainings if each.objective == "ranking")
    assert training.candidates is not None
    assert training.architecture == max(training.candidates, key=lambda name: training.candidates[name])  # type: ignore[index]
    assert next(each for each in report.trainings if each.objective == "rating").candidates is None
    with reading(sqlite_engine) as connection:
        run = read_run(connection, read_runs(connection, 1, "nightly")[0].number)
        stored = version(connection, training.model_version)
    assert run is not None
    (step,) = [each for each in run.steps if each.name == "choose"]
    assert step.figures["measured"] == training.candidates
    assert stored.training.configuration["candidates"] == training.candidates
    assert stored.training.configuration["alpha"] is None
    again = nightly(sqlite_engine, Settings(), overrides=overrides, device="cpu")  # type: ignore[arg-type]
    assert [each.status for each in again.objectives] == ["nothing_new"] * 2
    batch = sample.generate(n_users=120, n_items=60, n_ratings=100, seed=2).ratings
    upsert_ratings(sqlite_engine, collect([batch]))
    kept = nightly(sqlite_engine, Settings(gate_margin=1.0), overrides=overrides, device="cpu").trainings[1]  # type: ignore[arg-type]
    assert (kept.architecture, kept.candidates) == (training.architecture, None)
    with reading(sqlite_engine) as connection:
        found = [version(connection, each.model_version).training.configuration["found"] for each in (training, kept)]
    assert found[0] == found[1]
    chosen = nightly(sqlite_engine, Settings(gate_margin=1.0), overrides=overrides, device="cpu", architecture="item")  # type: ignore[arg-type]
    assert [(each.architecture, each.candidates) for each in chosen.trainings] == [("item", None)]


@pytest.mark.parametrize("engine", ["sqlite"], indirect=True)
@pytest.mark.parametrize(
    ("age", "n_ratings", "gate_passed", "holds"),
    [
        (0, 1000, True, True),
        (CHOICE_TRAININGS - 2, 1000, True, True),
        (CHOICE_TRAININGS - 1, 1000, True, False),
        (0, 1100, True, True),
        (0, 1101, True, False),
        (0, 899, True, False),
        (0, 1000, False, False),
    ],
)
def test_a_choice_holds_for_some_trainings_while_the_ratings_are_about_as_many(
    known_engine: Engine, age: int, n_ratings: int, gate_passed: bool, holds: bool
) -> None:
    with reading(known_engine) as connection:
        assert kept_choice(connection, 6) is None  # a version that nothing was chosen for
        factors, training = load_factors(connection, 1), version(connection, 1).training
    chosen = Choice("item", {"dot": 0.1, "item": 0.2}, {}, n_ratings=1000, age=age)
    found = {"item_l2": 3.0}
    configuration = {**training.configuration, **chosen.as_record(), "found": found}
    store(
        known_engine,
        factors,
        replace(training, architecture="item", configuration=configuration, gate_passed=gate_passed),
    )
    with reading(known_engine) as connection:
        kept = kept_choice(connection, n_ratings)
    assert kept == (replace(chosen, settings=found, age=age + 1) if holds else None)


def test_settings_that_were_found_leave_those_that_are_given() -> None:
    choice = Choice("item", {}, {"item_l2": 3.0, "item_power": 0.5})
    config = choice.applied_to(default_config("ranking", 1000, architecture="item", item_l2=7.0))
    assert (config.item_l2, config.item_power) == (7.0, 0.5)
