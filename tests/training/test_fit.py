"""Training: learns what is known to be there, repeats itself bit for bit, and says what is wrong."""

import json
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch

from recsys.data.dataset import Ratings
from recsys.errors import InputError, TrainingError
from recsys.factors import Factors
from recsys.training.baselines import bias_only, popular
from recsys.training.evaluation import evaluate_ranking, evaluate_rating
from recsys.training.fit import Config, EpochRecord, default_config, fit, one_cycle, pick_device

from .made import blocks, checkerboard, columns, ratings


def rating_config(data: Ratings, **overrides: float | None) -> Config:
    """Settings for a set of a few hundred ratings without noise."""
    chosen: dict[str, float | None] = {"n_factors": 8, "n_epochs": 30, "batch_size": 64, "l2": 0.005}
    return default_config("rating", data.n_ratings, **(chosen | {"learning_rate": 0.05} | overrides))


def test_rating_learns_a_checkerboard_that_biases_cannot() -> None:
    train, test = checkerboard()
    fitted = fit(train, rating_config(train), device="cpu")
    assert evaluate_rating(fitted.factors, test).rmse < 0.5
    assert evaluate_rating(bias_only(train), test).rmse > 1.8  # half the scale, whatever the bias
    assert fitted.history[-1].train_loss < 0.3 * fitted.history[0].train_loss


def test_ranking_learns_blocks_that_popularity_cannot() -> None:
    train, test = blocks()
    config = default_config("ranking", train.n_ratings, n_factors=8, batch_size=256, weight_decay=0.5)
    learned = evaluate_ranking(fit(train, config, device="cpu").factors, train, test, k=10, relevant_from=None)
    by_count = evaluate_ranking(popular(train, "ranking"), train, test, k=10, relevant_from=None)
    assert learned.recall > 0.9  # a user's block has about 9 items left to list, and they are the first 10
    assert by_count.recall < 0.4


def test_defaults_beat_biases_where_there_is_structure() -> None:
    random = np.random.default_rng(0)
    p, q = random.normal(size=(300, 2)), random.normal(size=(200, 2))
    user, item = np.nonzero(random.random((300, 200)) < 0.2)
    z = (p[user] * q[item]).sum(1) + 0.3 * random.normal(size=len(user))
    data = columns(user, item, np.clip(np.round(5 + 2 * z), 0, 10))
    held = random.random(data.n_ratings) < 0.1
    train, test = data.select(~held), data.select(held)
    fitted = fit(train, default_config("rating", train.n_ratings), rating_scale=(0, 10), device="cpu")
    assert fitted.factors.rating_range == (-0.5, 10.5)
    baseline = evaluate_rating(bias_only(train, (0, 10)), test).rmse
    assert evaluate_rating(fitted.factors, test).rmse < 0.8 * baseline


@pytest.mark.parametrize("objective", ["rating", "ranking"])
def test_a_seed_repeats_a_cpu_run_bit_for_bit(objective: str) -> None:
    train, _ = checkerboard()
    config = default_config(
        "rating" if objective == "rating" else "ranking", train.n_ratings, n_epochs=3, batch_size=32
    )
    first = fit(train, config, device="cpu", seed=7)
    torch.manual_seed(99)  # global state must not matter
    again = fit(train, config, device="cpu", seed=7)
    other = fit(train, config, device="cpu", seed=8)
    assert same_bits(first.factors, again.factors)
    assert not same_bits(first.factors, other.factors)
    assert [record.train_loss for record in first.history] == [record.train_loss for record in again.history]


def same_bits(a: Factors, b: Factors) -> bool:
    names = ("user_factors", "item_factors", "user_bias", "item_bias")
    return a.global_bias == b.global_bias and all(
        getattr(a, name).tobytes() == getattr(b, name).tobytes() for name in names
    )


def test_global_random_state_is_left_alone() -> None:
    train, _ = checkerboard()
    torch_before, numpy_before = torch.random.get_rng_state(), np.random.get_state()[1].copy()
    fit(train, rating_config(train, n_epochs=1), device="cpu")
    assert torch.equal(torch.random.get_rng_state(), torch_before)
    assert np.array_equal(np.random.get_state()[1], numpy_before)


def test_callbacks_see_every_step_and_epoch() -> None:
    train, test = checkerboard()
    config = rating_config(train, n_epochs=3, batch_size=1000)
    epochs: list[EpochRecord] = []
    steps: list[tuple[int, int]] = []
    fitted = fit(
        train,
        config,
        device="cpu",
        validate=lambda factors: evaluate_rating(factors, test).rmse,
        on_epoch=epochs.append,
        on_step=lambda step, n_steps: steps.append((step, n_steps)),
    )
    assert steps == [(step, 6) for step in range(1, 7)]  # two batches of up to 1,000 in each epoch
    assert tuple(epochs) == fitted.history
    assert [record.epoch for record in epochs] == [1, 2, 3]
    assert epochs[-1].valid == evaluate_rating(fitted.factors, test).rmse
    assert 0 < epochs[0].seconds < fitted.seconds
    assert json.loads(json.dumps([asdict(record) for record in epochs]))[0]["epoch"] == 1


def test_watching_does_not_change_the_outcome() -> None:
    train, test = checkerboard()
    config = rating_config(train, n_epochs=2)
    plain = fit(train, config, device="cpu")
    watched = fit(train, config, device="cpu", validate=lambda factors: evaluate_rating(factors, test).rmse)
    assert same_bits(plain.factors, watched.factors)


def test_one_cycle_rises_to_the_peak_and_falls_to_nothing() -> None:
    rates, betas = zip(*(one_cycle(step, 100, 0.1) for step in range(100)), strict=True)
    assert rates[0] == pytest.approx(0.1 / 25)
    assert max(rates) == rates[25] == pytest.approx(0.1)
    assert list(rates[:26]) == sorted(rates[:26])
    assert list(rates[25:]) == sorted(rates[25:], reverse=True)
    assert 0 < rates[-1] < 0.1 / 1000
    assert min(betas) == betas[25] == pytest.approx(0.85)
    assert betas[0] == pytest.approx(0.95)
    assert one_cycle(0, 1, 0.1)[0] > 0  # a single step learns something


@pytest.mark.parametrize("n_ratings", [1, 10_000, 100_000, 1_000_000, 25_000_000])
@pytest.mark.parametrize("objective", ["rating", "ranking"])
def test_defaults_exist_for_every_size_and_survive_json(objective: str, n_ratings: int) -> None:
    config = default_config("rating" if objective == "rating" else "ranking", n_ratings)
    assert Config(**json.loads(json.dumps(asdict(config)))) == config


def test_overrides_replace_defaults_and_none_does_not() -> None:
    default = default_config("rating", 100_000)
    assert default_config("rating", 100_000, n_factors=None, l2=None) == default
    assert default_config("rating", 100_000, n_factors=7, l2=None) == replace(default, n_factors=7)


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("n_factors", 0, "n_factors is 0; it must be at least 1"),
        ("n_epochs", 0, "n_epochs is 0; it must be at least 1"),
        ("batch_size", -1, "batch_size is -1; it must be at least 1"),
        ("learning_rate", 0.0, "learning_rate is 0.0; it must be above 0"),
        ("l2", -0.1, "l2 is -0.1; it must not be negative"),
        ("weight_decay", float("nan"), "weight_decay is nan; it must not be negative"),
    ],
)
def test_settings_out_of_range_are_named(field: str, value: float, expected: str) -> None:
    with pytest.raises(InputError, match=expected):
        default_config("rating", 1000, **{field: value})


def test_cuda_without_cuda_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(TrainingError, match=r"device cuda: no CUDA device.*--device cpu"):
        fit(checkerboard()[0], default_config("rating", 1000), device="cuda")
    assert pick_device("auto") == torch.device("cpu")
    with pytest.raises(TrainingError, match="device 'tpu' is unknown; use auto, cpu or cuda"):
        pick_device("tpu")


def test_a_diverged_training_says_what_to_do() -> None:
    train, _ = checkerboard()
    with pytest.raises(TrainingError, match=r"the loss of epoch \d is (nan|inf).*learning rate below 1e\+30"):
        fit(train, rating_config(train, learning_rate=1e30), device="cpu")


@pytest.mark.parametrize("objective", ["rating", "ranking"])
@pytest.mark.parametrize(
    "rows",
    [
        [(0, 0, 3.0)],
        [(0, 0, 1.0), (0, 1, 5.0), (0, 2, 3.0)],
        [(0, 0, 1.0), (1, 0, 5.0), (2, 0, 3.0)],
        [(0, 0, 4.0), (0, 1, 4.0), (1, 0, 4.0), (1, 2, 4.0)],
    ],
    ids=["one rating", "one user", "one item", "all ratings equal"],
)
def test_tiny_sets_give_a_sensible_result(objective: str, rows: list[tuple[int, int, float]]) -> None:
    train = ratings(rows)
    config = default_config("rating" if objective == "rating" else "ranking", train.n_ratings)
    factors = fit(train, config, device="cpu").factors
    everyone = np.arange(factors.n_users)
    assert np.isfinite(factors.scores(everyone)).all()
    if objective == "rating":
        predictions = factors.predict(train.user_idx.astype(np.int64), train.item_idx.astype(np.int64))
        low, high = train.rating.min() - 0.5, train.rating.max() + 0.5
        assert ((predictions > low) & (predictions < high)).all()
        if low + 1 == high:
            assert predictions == pytest.approx(train.rating, abs=0.1)


def test_no_ratings_say_what_to_do() -> None:
    with pytest.raises(TrainingError, match="there are no ratings to train on; load some"):
        fit(ratings([]), default_config("rating", 0), device="cpu")


def test_ratings_outside_the_stated_scale_are_refused() -> None:
    train, _ = checkerboard()
    with pytest.raises(TrainingError, match="outside the scale 2 to 5"):
        fit(train, rating_config(train), rating_scale=(2, 5), device="cpu")


def test_users_and_items_without_ratings_are_not_in_the_model() -> None:
    train, _ = checkerboard()
    part = train.select((train.user_idx != 3) & (train.item_idx != 5))
    factors = fit(part, rating_config(part, n_epochs=1), device="cpu").factors
    assert factors.user_keys.tolist() == [key for key in range(60) if key != 3]
    assert factors.item_keys.tolist() == [key for key in range(60) if key != 5]
    assert factors.user_factors.shape == (59, 8)


def test_an_unknown_user_or_item_is_predicted_from_what_is_known() -> None:
    train, _ = checkerboard()
    factors = fit(train, rating_config(train), device="cpu").factors
    metrics = evaluate_rating(factors, ratings([(500, 0, 3), (0, 500, 3), (500, 500, 3)]))
    z = np.array([factors.item_bias[0], factors.user_bias[0], 0]) + factors.global_bias
    assert factors.rating_range is not None
    low, high = factors.rating_range
    error = low + (high - low) / (1 + np.exp(-z)) - 3
    assert metrics.rmse == pytest.approx(np.sqrt((error**2).mean()), rel=1e-5)
