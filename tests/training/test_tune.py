"""The search for settings: its space, what it tries first, and what it makes of earlier trials."""

import math
from dataclasses import replace
from itertools import islice

import pytest

from recsys.errors import TrainingError
from recsys.evaluation.metrics import evaluate_rating
from recsys.factors import Factors
from recsys.training import tune as tunes
from recsys.training.config import Config, default_config
from recsys.training.fit import fit
from recsys.training.tune import (
    Parameters,
    SearchRange,
    Trial,
    best_trial,
    defaults,
    next_parameters,
    run_trials,
    search_space,
)
from tests.training.made import checkerboard, ratings

SMALL: dict[str, float | None] = {"n_factors": 16, "n_epochs": 2, "batch_size": 256}


def config(**overrides: float | None) -> Config:
    return default_config("rating", 1800, **(SMALL | overrides))


def drawn(n_trials: int, objective: str = "ranking", seed: int = 0) -> list[Parameters]:
    """What is tried, where a learning rate of .02 is the best and the rest is of no matter."""
    chosen = default_config("ranking" if objective == "ranking" else "rating", 100_000)
    trials: list[Trial] = []
    while len(trials) < n_trials:
        parameters = next_parameters(
            search_space(chosen), [defaults(chosen)], trials, higher_is_better=False, seed=seed
        )
        trials.append(Trial(parameters, abs(math.log(parameters["learning_rate"] / 0.02)), 1.0))
    return [trial.parameters for trial in trials]


def test_the_space_lies_around_the_defaults() -> None:
    ranking = default_config(
        "ranking",
        100_000,
        learning_rate=0.03,
        weight_decay=2,
        rating_weight=2.0,
        batch_size=8192,
        n_factors=64,
        n_epochs=30,
    )
    assert search_space(ranking) == {
        "learning_rate": SearchRange("real", 0.03 / 4, 0.03 * 4),
        "weight_decay": SearchRange("real", 0.2, 20),
        "rating_weight": SearchRange("real", 0.5, 8.0),
        "batch_size": SearchRange("doubling", 2048, 32768),
        "n_factors": SearchRange("doubling", 16, 256),
        "n_epochs": SearchRange("whole", 15, 60),
    }
    item = default_config("ranking", 100_000, architecture="item")
    assert defaults(item) == {"rating_weight": 2.0, "item_dropout": 0.5, "n_neighbours": 100}
    assert search_space(default_config("ranking", 100_000, architecture="blend")) == search_space(
        default_config("ranking", 100_000)
    )
    rating = search_space(default_config("rating", 100_000, l2=0.05, damping=2.5, implicit=False))
    assert rating.keys() == {"learning_rate", "l2", "damping", "batch_size", "n_factors", "n_epochs"}
    assert (rating["l2"], rating["damping"]) == (SearchRange("real", 0.005, 0.5), SearchRange("real", 0.25, 25))
    assert {"user_implicit_l2", "item_implicit_l2"} < search_space(default_config("rating", 100_000)).keys()


def test_a_setting_of_nought_is_left_alone_and_an_odd_default_stays_in_the_space() -> None:
    space = search_space(config(damping=0.0, n_factors=300, batch_size=7, n_epochs=1))
    assert "damping" not in space
    assert space["n_factors"] == SearchRange("doubling", 75, 300)
    assert space["batch_size"] == SearchRange("doubling", 7, 28)
    assert space["n_epochs"] == SearchRange("whole", 1, 2)


@pytest.mark.parametrize("objective", ["rating", "ranking"])
def test_the_defaults_come_first_and_the_rest_lies_in_the_space(objective: str) -> None:
    tried = drawn(20, objective)
    chosen = default_config("ranking" if objective == "ranking" else "rating", 100_000)
    assert tried[0] == defaults(chosen)
    assert len({tuple(parameters.items()) for parameters in tried}) == 20
    for parameters in tried:
        for field, values in search_space(chosen).items():
            assert values.low <= parameters[field] <= values.high
            assert isinstance(parameters[field], float if values.kind == "real" else int)
        assert math.log2(parameters["n_factors"]).is_integer()
        assert float(f"{parameters['learning_rate']:.3g}") == parameters["learning_rate"]


def test_the_seed_and_the_trials_settle_what_comes_next() -> None:
    assert drawn(14) == drawn(14)
    assert drawn(14)[:12] == drawn(12)
    assert drawn(3, seed=1)[1:] != drawn(3)[1:]


def test_later_trials_are_where_the_earlier_ones_did_well() -> None:
    def distance(tried: list[Parameters]) -> float:
        return sum(abs(math.log(parameters["learning_rate"] / 0.02)) for parameters in tried) / len(tried)

    tried = drawn(40)
    assert distance(tried[25:]) < 0.6 * distance(tried[1:10])


def test_a_trial_that_diverged_is_avoided_and_one_outside_the_space_not_looked_at() -> None:
    space = {"learning_rate": SearchRange("real", 0.01, 1.0)}
    trials = [Trial({"learning_rate": 0.01 + 0.005 * n}, 1.0, 1.0) for n in range(5)]
    trials += [Trial({"learning_rate": 0.9 - 0.01 * n}, None, 1.0) for n in range(10)]
    outside = [Trial({"learning_rate": 7.0}, 9.0, 1.0), Trial({"l2": 0.1}, 9.0, 1.0)]
    for seed in range(5):
        parameters = next_parameters(space, [], [*trials, *outside], higher_is_better=True, seed=seed)
        assert parameters["learning_rate"] < 0.3


def test_a_trial_is_what_fit_and_the_metric_say() -> None:
    train, test = checkerboard()

    def rmse(factors: Factors) -> float:
        return evaluate_rating(factors, test).rmse

    epochs: list[int] = []
    also = {**defaults(config()), "learning_rate": 0.02}
    trials = list(
        run_trials(
            train,
            config(),
            rmse,
            higher_is_better=False,
            also=[also],
            n_trials=3,
            device="cpu",
            seed=2,
            on_epoch=epochs.append,
        )
    )
    assert [trial.parameters for trial in trials[:2]] == [defaults(config()), also]
    for trial in trials:
        again = fit(train, tunes.with_parameters(config(), trial.parameters), device="cpu", seed=2)
        assert trial.value == rmse(again.factors)
    assert epochs == [
        trial.parameters["n_epochs"] for trial in trials for _ in range(int(trial.parameters["n_epochs"]))
    ]
    # Broken off after the first and taken up again, it is the same.
    later = run_trials(
        train, config(), rmse, trials[:1], higher_is_better=False, also=[also], n_trials=3, device="cpu", seed=2
    )
    assert [(trial.parameters, trial.value) for trial in later] == [
        (trial.parameters, trial.value) for trial in trials[1:]
    ]


def test_a_trial_begins_only_while_the_median_one_still_fits() -> None:
    train, _ = checkerboard()
    earlier = [Trial(defaults(config()), 0.5, seconds) for seconds in (1.0, 40.0, 1000.0)]

    def more(seconds: float) -> int:
        found = run_trials(
            train, config(), lambda _: 0.5, earlier, higher_is_better=True, seconds=seconds, device="cpu"
        )
        return len(list(islice(found, 2)))

    assert more(39.9) == 0
    assert more(50.0) > 0
    none_yet = run_trials(train, config(), lambda _: 0.5, higher_is_better=True, seconds=0, device="cpu")
    assert [trial.parameters for trial in none_yet] == [defaults(config())]


def test_a_training_that_diverges_is_a_trial_without_a_value() -> None:
    train, _ = checkerboard()
    ruinous = {**defaults(config()), "learning_rate": 1e30}
    trials = list(
        run_trials(train, config(), lambda _: 0.5, higher_is_better=True, also=[ruinous], n_trials=3, device="cpu")
    )
    assert [trial.value for trial in trials] == [0.5, None, 0.5]
    assert best_trial(trials, higher_is_better=True) is trials[0]
    not_a_number = run_trials(train, config(), lambda _: math.nan, higher_is_better=True, n_trials=1, device="cpu")
    assert next(not_a_number).value is None


def test_best_is_the_lowest_or_the_highest_the_first_of_equals() -> None:
    trials = [Trial({"l2": float(n)}, value, 1.0) for n, value in enumerate((0.5, None, 0.7, 0.7, 0.5))]
    assert best_trial(trials, higher_is_better=True) is trials[2]
    assert best_trial(trials, higher_is_better=False) is trials[0]
    with pytest.raises(TrainingError, match="diverged in the only trial"):
        best_trial(trials[1:2], higher_is_better=True)
    with pytest.raises(TrainingError, match="diverged in all 2 trials"):
        best_trial([replace(trial, value=None) for trial in trials[:2]], higher_is_better=True)


def test_bad_input_is_refused_before_anything_is_trained() -> None:
    train, _ = checkerboard()
    with pytest.raises(TrainingError, match="no ratings to train on"):
        run_trials(ratings([]), config(), lambda _: 0.0, higher_is_better=True)
    with pytest.raises(TrainingError, match="device 'tpu' is unknown"):
        run_trials(train, config(), lambda _: 0.0, higher_is_better=True, device="tpu")
