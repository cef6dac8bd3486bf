"""Sweeps: the values of a range, one training for each, and the best of them."""

import math

import pytest

from recsys.errors import InputError, TrainingError
from recsys.evaluation.metrics import evaluate_rating
from recsys.factors import Factors
from recsys.training.config import default_config
from recsys.training.fit import fit
from recsys.training.sweep import SweepRow, best_row, multiples_of_ten, sweep_values
from tests.training.made import checkerboard, ratings


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("1e-3:1e1", [0.001, 0.01, 0.1, 1.0, 10.0]),
        ("0.03:30", [0.03, 0.3, 3.0, 30.0]),
        ("2:2", [2.0]),
        (" 1e-1 : 1 ", [0.1, 1.0]),
    ],
)
def test_a_range_holds_multiples_of_ten_and_both_ends(text: str, values: list[float]) -> None:
    assert multiples_of_ten(text) == values


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1e-3", "expected LOW:HIGH, as in 1e-3:1e1"),
        ("1:2:3", "expected LOW:HIGH"),
        ("a:b", "its ends must be numbers"),
        (":1", "its ends must be numbers"),
        ("0:1", "must be above 0 and the lower one first"),
        ("1e1:1e-3", "must be above 0 and the lower one first"),
        ("nan:1", "must be above 0"),
        ("1:inf", "must be above 0"),
        ("1e-3:5", "1e-3 never becomes 5; end with 10"),
        ("1e-30:1e30", "holds 61 values, more than 20"),
    ],
)
def test_a_bad_range_says_how_to_write_it(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        multiples_of_ten(text)


def test_a_row_is_what_fit_and_the_metric_say() -> None:
    train, test = checkerboard()
    config = default_config("rating", train.n_ratings, n_factors=4, n_epochs=3, batch_size=64, learning_rate=0.05)

    def rmse(factors: Factors) -> float:
        return evaluate_rating(factors, test).rmse

    rows = list(sweep_values(train, config, [config.l2, 100.0], rmse, field="l2", device="cpu", seed=2))
    alone = fit(train, config, device="cpu", seed=2)
    assert [row.value for row in rows] == [config.l2, 100.0]
    assert rows[0].metric == rmse(alone.factors)
    assert rows[0].train_loss == alone.history[-1].train_loss
    assert rows[0].metric < (rows[1].metric or 0)  # so strong a penalty leaves only biases, which know nothing
    assert rows[0].seconds > 0


@pytest.mark.parametrize("field", ["weight_decay", "l2", "damping", "learning_rate"])
def test_every_field_changes_the_training(field: str) -> None:
    assert field in ("weight_decay", "l2", "damping", "learning_rate")
    train, test = checkerboard()
    config = default_config("rating", train.n_ratings, n_factors=4, n_epochs=1, batch_size=64)
    rows = list(
        sweep_values(train, config, [0.001, 0.5], lambda f: evaluate_rating(f, test).rmse, field=field, device="cpu")  # type: ignore[arg-type]
    )
    assert rows[0].metric != rows[1].metric


def test_a_training_that_diverges_is_a_row_without_a_metric() -> None:
    train, _ = checkerboard()
    config = default_config("ranking", train.n_ratings, n_factors=4, n_epochs=2, batch_size=64)
    rows = list(sweep_values(train, config, [0.01, 1e30], lambda _: 0.5, field="learning_rate", device="cpu"))
    assert rows[0].metric == 0.5
    assert (rows[1].metric, rows[1].train_loss) == (None, None)
    assert best_row(rows, higher_is_better=True) == rows[0]


def test_epochs_are_counted() -> None:
    train, _ = checkerboard()
    config = default_config("rating", train.n_ratings, n_factors=4, n_epochs=2)
    epochs: list[None] = []
    list(sweep_values(train, config, [0.0, 1.0], lambda _: 0.0, device="cpu", on_epoch=lambda: epochs.append(None)))
    assert len(epochs) == 4


def test_best_is_the_lowest_or_the_highest_of_what_was_measured() -> None:
    rows = [SweepRow(value, metric, 1.0, 1.0) for value, metric in ((0.1, 0.9), (1, 0.8), (10, None), (100, math.nan))]
    assert best_row(rows, higher_is_better=False).value == 1
    assert best_row(rows, higher_is_better=True).value == 0.1
    with pytest.raises(TrainingError, match="diverged at every value"):
        best_row(rows[2:], higher_is_better=True)


def test_bad_input_is_refused_before_anything_is_trained() -> None:
    train, _ = checkerboard()
    config = default_config("rating", train.n_ratings)
    with pytest.raises(InputError, match="n_epochs cannot be swept; use one of weight_decay, l2"):
        sweep_values(train, config, [1.0], lambda _: 0.0, field="n_epochs")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="learning_rate 0: values must be above 0"):
        sweep_values(train, config, [0.1, 0.0], lambda _: 0.0, field="learning_rate")
    with pytest.raises(InputError, match="weight_decay -1: values must be 0 or above"):
        sweep_values(train, config, [-1.0], lambda _: 0.0)
    with pytest.raises(TrainingError, match="no ratings to train on"):
        sweep_values(ratings([]), config, [1.0], lambda _: 0.0)
    with pytest.raises(TrainingError, match="device 'tpu' is unknown"):
        sweep_values(train, config, [1.0], lambda _: 0.0, device="tpu")
