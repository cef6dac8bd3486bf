"""Training: learns what is known to be there, repeats itself bit for bit, and says what is wrong."""

import json
from dataclasses import asdict, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import recsys.training.fit as fit_module
from recsys.data.dataset import Ratings
from recsys.data.features import build_features
from recsys.data.scale import validate_ratings
from recsys.errors import InputError, TrainingError
from recsys.evaluation.baselines import bias_only, popular
from recsys.evaluation.metrics import evaluate_ranking, evaluate_rating
from recsys.factors import Factors, RankingConstants, RatingConstants
from recsys.library.loading import load_ratings
from recsys.results import Architecture, Objective
from recsys.scoring.score import predict_ratings, score_users
from recsys.training.build import EpochRecord, build
from recsys.training.config import Config, default_config
from recsys.training.devices import pick_device
from recsys.training.fit import Fitted, fit
from recsys.training.loop import one_cycle, train_step
from tests.training.made import blocks, checkerboard, columns, ratings


def rating_config(data: Ratings, **overrides: Any) -> Config:
    """Settings for a set of a few hundred ratings without noise."""
    chosen = {"n_factors": 8, "n_epochs": 20, "batch_size": 128, "l2": 0.005, "learning_rate": 0.02}
    return default_config("rating", data.n_ratings, **(chosen | overrides))


def neural_config(data: Ratings, objective: Objective, **overrides: Any) -> Config:
    chosen = {"n_epochs": 30, "batch_size": 64, "learning_rate": 0.02, "hidden": (16, 8)}
    return default_config(objective, data.n_ratings, architecture="neural", **(chosen | overrides))


OBJECTIVES = pytest.mark.parametrize("objective", ["rating", "ranking"])
KINDS = pytest.mark.parametrize(
    ("objective", "architecture"),
    [("rating", "dot"), ("ranking", "dot"), ("rating", "neural"), ("ranking", "neural")],
    ids=["dot rating", "dot ranking", "neural rating", "neural ranking"],
)


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


def test_the_neural_model_learns_a_checkerboard() -> None:
    train, test = checkerboard()
    for batch_norm, n_epochs in ((False, 8), (True, 12)):
        config = neural_config(train, "rating", n_epochs=n_epochs, learning_rate=0.04, batch_norm=batch_norm)
        fitted = fit(train, config, device="cpu")
        assert evaluate_rating(fitted.factors, test).rmse < 0.5
        assert fitted.factors.head is not None


@pytest.mark.parametrize("n_sampled", [0, 50])
def test_the_neural_model_learns_blocks(n_sampled: int) -> None:
    train, test = blocks()
    config = neural_config(
        train, "ranking", n_sampled=n_sampled, n_epochs=15, batch_size=256, learning_rate=0.01, weight_decay=0.5
    )
    learned = evaluate_ranking(fit(train, config, device="cpu").factors, train, test, k=10, relevant_from=None)
    assert learned.recall > 0.85  # popularity: below 0.4


def test_a_sample_of_the_catalogue_ranks_about_as_well_as_all_of_it() -> None:
    train, test = blocks()

    def recall(n_sampled: int) -> float:
        config = default_config(
            "ranking", train.n_ratings, n_factors=8, batch_size=256, weight_decay=0.5, n_sampled=n_sampled
        )
        factors = fit(train, config, device="cpu").factors
        return evaluate_ranking(factors, train, test, k=10, relevant_from=None).recall

    whole, sampled = recall(0), recall(50)
    assert whole != sampled
    assert sampled == pytest.approx(whole, abs=0.05)


def test_a_large_catalogue_is_sampled_by_default_and_a_small_one_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    train, _ = blocks()
    config = default_config("ranking", train.n_ratings, n_epochs=1, n_factors=2)
    small = fit(train, config, device="cpu").factors
    assert same_bits(small, fit(train, replace(config, n_sampled=0), device="cpu").factors)
    monkeypatch.setattr("recsys.training.config.MAX_FULL_CATALOGUE", 99)
    large = fit(train, config, device="cpu").factors
    assert not same_bits(small, large)
    assert same_bits(large, fit(train, replace(config, n_sampled=8192), device="cpu").factors)


KINDS_OF_ITEMS = [(0,), (1,), (2,), (0, 1), (1, 2), (0, 2)]
WITHHELD = np.arange(10, 16)  # one item of each


def described(n_users: int = 60, n_items: int = 48, seed: int = 0) -> tuple[Ratings, Ratings]:
    """Users love the items of one of three kinds, of which an item has one or two: (train, test of withheld items).

    Nobody's ratings of items 10 to 15 are known in training, nor does item 47 have any kind.
    """
    random = np.random.default_rng(seed)
    user, item = (of.ravel() for of in np.indices((n_users, n_items)))
    kinds = [() if key == n_items - 1 else KINDS_OF_ITEMS[key % 6] for key in range(n_items)]
    loves = np.array([[kind in kinds[key] for key in range(n_items)] for kind in range(3)])
    everything = columns(user, item, np.where(loves[user % 3, item], 5.0, 1.0))
    known = build_features(np.arange(n_items), [[f"k{kind}" for kind in of] for of in kinds], [{}] * n_items)
    everything = replace(everything, item_features=known)
    withheld = np.isin(item, WITHHELD)
    return everything.select(~withheld & (random.random(len(user)) < 0.5)), everything.select(withheld)


def described_config(data: Ratings, objective: Objective, architecture: Architecture, **overrides: Any) -> Config:
    chosen: dict[str, Any] = {"n_epochs": 20, "batch_size": 64, "learning_rate": 0.02, "feature_l2": 1.0, "l2": 0.005}
    chosen |= {"weight_decay": 0.1} if architecture == "neural" else {"n_factors": 6}
    return default_config(objective, data.n_ratings, architecture=architecture, **(chosen | overrides))


@KINDS
def test_items_without_ratings_get_the_row_and_bias_of_their_features(
    objective: Objective, architecture: Architecture
) -> None:
    train, _ = described()
    config = described_config(train, objective, architecture, n_epochs=3)
    factors = fit(train, config, device="cpu").factors
    assert factors.item_keys.tolist() == list(range(48))
    assert factors.user_keys.tolist() == list(range(60))
    of_item = np.column_stack([factors.item_factors, factors.item_bias])
    of_kinds = dict(zip(KINDS_OF_ITEMS, of_item[[10 + (place - 10) % 6 for place in range(6)]], strict=True))
    # {0, 1} and 2 are {1, 2} and 0: whatever is added to all rows, such as a neural model's first bias.
    assert of_kinds[0, 1] + of_kinds[2,] == pytest.approx(of_kinds[1, 2] + of_kinds[0,], abs=1e-5)
    assert of_kinds[0, 1] + of_kinds[2,] == pytest.approx(of_kinds[0, 2] + of_kinds[1,], abs=1e-5)
    n_dot = factors.embeddings.shape[1]
    multiplied = [*range(n_dot), -1]
    assert of_kinds[0, 1][multiplied] == pytest.approx((of_kinds[0,] + of_kinds[1,])[multiplied], abs=1e-5)
    assert np.abs(of_kinds[0,] - of_kinds[1,]).max() > 0.01
    # Every other item has a row of its own as well.
    assert np.abs(of_item[16] - of_kinds[KINDS_OF_ITEMS[16 % 6]]).max() > 0.001


@pytest.mark.parametrize("architecture", ["dot", "neural"])
def test_features_predict_ratings_of_items_without_any(architecture: Architecture) -> None:
    train, test = described()
    config = described_config(train, "rating", architecture, n_epochs=16)
    with_features = evaluate_rating(fit(train, config, device="cpu").factors, test).rmse
    without = evaluate_rating(fit(train, replace(config, features=False), device="cpu").factors, test).rmse
    assert without > 1.8
    assert with_features < 0.5 * without


@pytest.mark.parametrize("architecture", ["dot", "neural"])
def test_features_rank_items_without_any_ratings(architecture: Architecture) -> None:
    train, test = described()
    liked = test.select(test.rating == 5)
    train = train.select(train.rating == 5)
    factors = fit(train, described_config(train, "ranking", architecture), device="cpu").factors
    of_withheld = score_users(factors, np.arange(60))[:, WITHHELD]
    loves = np.zeros((60, 6), bool)
    loves[liked.user_idx, liked.item_idx - 10] = True
    right = of_withheld[loves].reshape(60, 3, 1) > of_withheld[~loves].reshape(60, 1, 3)
    assert right.mean() > 0.9


@KINDS
def test_users_without_ratings_get_the_row_and_bias_of_their_features(
    objective: Objective, architecture: Architecture
) -> None:
    """The same with users for items: two users of one kind are the same, and not what a third kind is."""
    train, _ = checkerboard()
    known = build_features(np.arange(64), [["odd" if key % 2 else "even"] for key in range(64)], [{}] * 64)
    train = replace(train.select(train.user_idx != 3), user_features=known)
    config = described_config(train, objective, architecture, n_epochs=8)
    factors = fit(train, config, device="cpu").factors
    assert factors.user_keys.tolist() == list(range(64))
    rows = np.column_stack([factors.user_factors, factors.user_bias])
    assert np.array_equal(rows[3], rows[61])
    assert np.array_equal(rows[60], rows[62])
    assert np.abs(rows[60] - rows[61]).max() > 0.01
    if objective == "rating":
        liked = np.arange(60) % 2 == 1
        predicted = predict_ratings(factors, np.full(60, 61), np.arange(60))
        assert predicted[liked].min() > predicted[~liked].max()


@KINDS
def test_rows_are_made_of_what_fold_in_is_told(objective: Objective, architecture: Architecture) -> None:
    """A user or item known by features only has the row of its features, and the implicit rows are left for rest."""
    train, _ = checkerboard()
    of_all = build_features(np.arange(64), [["odd" if key % 2 else "even"] for key in range(64)], [{}] * 64)
    train = replace(train.select((train.user_idx != 3) & (train.item_idx != 5)), user_features=of_all)
    train = replace(train, item_features=of_all)
    config = described_config(train, objective, architecture, n_epochs=3)
    factors = fit(train, config, device="cpu").factors
    users, items = factors.users.features, factors.items.features
    assert users is not None
    assert items is not None
    assert users.names == items.names == of_all.names
    odd = of_all.names.index("category: odd")
    assert factors.user_factors[3] == pytest.approx(users.base + users.vectors[odd], abs=1e-5)
    assert factors.user_bias[3] == pytest.approx(users.bias[odd], abs=1e-5)
    assert factors.item_factors[5] == pytest.approx(items.base + items.vectors[odd], abs=1e-5)
    assert factors.item_bias[5] == pytest.approx(items.bias[odd], abs=1e-5)
    assert factors.items.implicit is not None
    assert factors.items.implicit.shape == factors.item_factors.shape
    assert np.flatnonzero(~factors.items.implicit.any(1)).tolist() == [5, *range(60, 64)]
    assert (factors.head is None) == (architecture == "dot")
    assert isinstance(factors.constants, RatingConstants if objective == "rating" else RankingConstants)
    if factors.head is not None:
        assert factors.head.user_map is not None
        assert factors.head.user_map.shape[0] == factors.n_factors
    if isinstance(factors.constants, RankingConstants):
        assert factors.constants.mean == pytest.approx(train.rating.mean())
        assert factors.constants.span == 4
        assert factors.constants.ridge > 0


def test_without_implicit_terms_and_features_there_are_none_to_fold_in_with() -> None:
    train, _ = checkerboard()
    factors = fit(train, default_config("rating", train.n_ratings, implicit=False, n_epochs=1), device="cpu").factors
    assert factors.items.implicit is None
    assert factors.users.features is None
    assert factors.items.features is None


@KINDS
def test_features_of_nobody_in_the_ratings_do_no_harm(objective: Objective, architecture: Architecture) -> None:
    train, _ = checkerboard(20, 12)
    known = build_features(np.arange(1000, 1010), [["a"] if key < 5 else ["b"] for key in range(10)], [{}] * 10)
    config = described_config(train, objective, architecture, n_epochs=2)
    fitted = fit(replace(train, item_features=known, user_features=known), config, device="cpu").factors
    assert fitted.item_keys.tolist() == [*range(20), *range(1000, 1010)]
    assert fitted.user_keys.tolist() == [*range(20), *range(1000, 1010)]
    assert np.isfinite(score_users(fitted, np.arange(30))).all()
    # Nothing was learned of them: neither rows nor biases that matter.
    n_dot = fitted.embeddings.shape[1]
    assert np.abs(fitted.item_factors[20:, :n_dot]).max() < 0.1
    assert np.abs(fitted.item_bias[20:]).max() < 1e-3


def test_no_features_and_features_left_out_are_as_none() -> None:
    train, _ = described()
    config = described_config(train, "rating", "dot", n_epochs=1)
    plain = fit(replace(train, item_features=None), config, device="cpu").factors
    empty = build_features(np.arange(48), [[]] * 48, [{}] * 48)
    assert empty.n_features == 0
    assert same_bits(plain, fit(replace(train, item_features=empty), config, device="cpu").factors)
    assert same_bits(plain, fit(train, replace(config, features=False), device="cpu").factors)
    assert plain.item_keys.tolist() == [key for key in range(48) if key not in WITHHELD]


@KINDS
def test_batches_cut_into_parts_have_the_same_gradient(objective: Objective, architecture: Architecture) -> None:
    """The parts are not of the same size; chance of layers and candidates is left out."""
    train, _ = described()
    train = validate_ratings(train, None)
    config = described_config(train, objective, architecture)
    config = replace(config, dropout=0.0, implicit_dropout=0.0, n_sampled=0, damping=0.3, batch_size=10_000)

    def step(accumulate: int) -> tuple[float, dict[str, np.ndarray]]:
        run = build(train, config, None, torch.Generator().manual_seed(0))
        loss = train_step(run, 3, 23, 0.01, 0.9, accumulate=accumulate)
        gradients = {name: of.grad.numpy() for name, of in run.model.named_parameters() if of.grad is not None}
        return loss.item(), gradients

    (loss, whole), (loss_of_parts, cut) = step(1), step(3)
    assert loss_of_parts == pytest.approx(loss, rel=1e-5)
    assert whole.keys() == cut.keys()
    for name, gradient in whole.items():
        assert cut[name] == pytest.approx(gradient, rel=1e-3, abs=1e-6 + 1e-4 * float(np.abs(gradient).max())), name


def test_batches_cut_into_parts_teach_nearly_the_same() -> None:
    train, _ = checkerboard()
    whole, cut = (fit(train, rating_config(train), device="cpu", accumulate=n).factors for n in (1, 4))
    assert not same_bits(whole, cut)
    users = np.arange(60)
    assert score_users(cut, users) == pytest.approx(score_users(whole, users), abs=0.01)


@KINDS
def test_batches_are_cut_into_no_more_parts_than_they_have(objective: Objective, architecture: Architecture) -> None:
    train, _ = checkerboard(10, 6)
    config = default_config(
        objective, train.n_ratings, architecture=architecture, n_epochs=2, batch_size=8, dropout=0.0, n_sampled=5
    )
    most, more = (fit(train, config, device="cpu", accumulate=n).factors for n in (8, 1000))
    assert same_bits(most, more)


def test_batches_are_cut_into_one_part_at_least() -> None:
    with pytest.raises(InputError, match="accumulate is 0: a batch can be cut into 1 part or more"):
        fit(checkerboard()[0], rating_config(checkerboard()[0]), device="cpu", accumulate=0)


@OBJECTIVES
@pytest.mark.parametrize("accumulate", [1, 1000])
def test_a_batch_of_one_row_can_be_normalised(objective: Objective, accumulate: int) -> None:
    """The last of an epoch may be, and parts are: torch refuses to take its variance."""
    train, _ = checkerboard(10, 7)
    train = train.select(np.arange(61))
    config = neural_config(train, objective, batch_size=20, n_epochs=2, hidden=(4, 3), batch_norm=True)
    factors = fit(train, config, device="cpu", accumulate=accumulate).factors
    assert np.isfinite(score_users(factors, np.arange(factors.n_users))).all()


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


@KINDS
def test_a_seed_repeats_a_cpu_run_bit_for_bit(objective: Objective, architecture: Architecture) -> None:
    train, _ = checkerboard()
    config = default_config(objective, train.n_ratings, architecture=architecture, n_epochs=3, batch_size=128)
    first = fit(train, config, device="cpu", seed=7)
    torch.manual_seed(99)  # global state must not matter
    again = fit(train, config, device="cpu", seed=7)
    other = fit(train, config, device="cpu", seed=8)
    assert same_bits(first.factors, again.factors)
    assert not same_bits(first.factors, other.factors)
    assert [record.train_loss for record in first.history] == [record.train_loss for record in again.history]


@KINDS
def test_a_seed_repeats_a_run_of_two_threads_bit_for_bit(objective: Objective, architecture: Architecture) -> None:
    train, _ = checkerboard()
    config = default_config(objective, train.n_ratings, architecture=architecture, n_epochs=3, batch_size=128)
    n_threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        first = fit(train, config, device="cpu", seed=7)
        again = fit(train, config, device="cpu", seed=7)
    finally:
        torch.set_num_threads(n_threads)
    assert same_bits(first.factors, again.factors)


def same_bits(a: Factors, b: Factors) -> bool:
    def parts(of: Factors) -> list[bytes]:
        layers = [] if of.head is None else [array for layer in of.head.layers for array in layer]
        tables = (of.user_keys, of.item_keys, of.user_factors, of.item_factors, of.user_bias, of.item_bias)
        return [array.tobytes() for array in (*tables, *layers)]

    return a.global_bias == b.global_bias and parts(a) == parts(b)


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
@KINDS
def test_defaults_exist_for_every_size_and_survive_json(
    objective: Objective, architecture: Architecture, n_ratings: int
) -> None:
    config = default_config(objective, n_ratings, architecture=architecture)
    record = json.loads(json.dumps(config.as_record()))
    assert Config(**{**record, "hidden": tuple(record["hidden"])}) == config


def test_popularity_spread_over_many_items_needs_less_decay() -> None:
    few, many, more = (default_config("ranking", 1_000_000, 30_000, n).weight_decay for n in (1_000, 20_000, 1e9))
    assert few == default_config("ranking", 1_000_000, 30_000).weight_decay
    assert few > 1.5 * many > 1.5 * more == 0.75
    assert default_config("rating", 1_000_000, 30_000, 20_000) == default_config("rating", 1_000_000, 30_000)


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
        ("feature_l2", -1.0, "feature_l2 is -1.0; it must not be negative"),
        ("n_sampled", -1, "n_sampled is -1; it must be 0, for the whole catalogue, or more"),
        ("implicit_dropout", 1.0, "implicit_dropout is 1.0; it must be at least 0 and below 1"),
        ("dropout", -0.1, "dropout is -0.1; it must be at least 0 and below 1"),
        ("hidden", (64,), "hidden layers belong to the neural architecture"),
    ],
)
def test_settings_out_of_range_are_named(field: str, value: float, expected: str) -> None:
    with pytest.raises(InputError, match=expected):
        default_config("rating", 1000, **{field: value})


def test_layers_without_width_are_refused() -> None:
    for hidden in ((), (64, 0)):
        with pytest.raises(InputError, match="needs at least one hidden layer of width 1 or more"):
            default_config("rating", 1000, architecture="neural", hidden=hidden)


def short_of(memory: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every batch is too large."""

    def batch(*_: object) -> torch.Tensor:
        raise memory

    monkeypatch.setattr("recsys.training.rating_loss.RatingLoss.batch", batch)


@pytest.mark.parametrize("device", ["cpu", "auto"])
def test_too_little_memory_says_what_to_do(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the CPU there is nothing to fall back to."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    train, _ = checkerboard()
    short_of(torch.OutOfMemoryError("Tried to allocate 2 GiB\nmore"), monkeypatch)
    expected = r"memory of device cpu is too short \(Tried to allocate 2 GiB\).*--accumulate 6.*--n-factors\)$"
    with pytest.raises(TrainingError, match=expected):
        fit(train, rating_config(train), device=device, accumulate=3)


def test_too_little_memory_of_the_cpu_is_known_by_its_words(monkeypatch: pytest.MonkeyPatch) -> None:
    train, _ = checkerboard()

    def batch(*_: object) -> torch.Tensor:
        return torch.empty(1 << 60)

    monkeypatch.setattr("recsys.training.rating_loss.RatingLoss.batch", batch)
    with pytest.raises(TrainingError, match="memory of device cpu is too short"):
        fit(train, rating_config(train), device="cpu")
    short_of(MemoryError(), monkeypatch)
    with pytest.raises(TrainingError, match="memory of device cpu is too short"):
        fit(train, rating_config(train), device="cpu")


def test_other_errors_stay_what_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    train, _ = checkerboard()
    short_of(RuntimeError("shapes do not match"), monkeypatch)
    with pytest.raises(RuntimeError, match="shapes do not match"):
        fit(train, rating_config(train), device="cpu")


def test_auto_goes_on_with_the_cpu_where_the_gpu_is_too_small(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """No GPU is needed to see it: training on one is taken to fail."""
    train, _ = checkerboard()
    config = rating_config(train, n_epochs=1)
    expected = fit(train, config, device="cpu").factors
    fit_on = fit_module.fit_on

    def on_cpu_only(device: torch.device, job: Any, **also: Any) -> Fitted:
        if device.type == "cuda":
            raise torch.OutOfMemoryError("CUDA out of memory")
        return fit_on(device, job, **also)

    monkeypatch.setattr(fit_module, "fit_on", on_cpu_only)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    assert same_bits(fit(train, config, device="auto").factors, expected)
    assert "GPU memory is too short for this training: training on the CPU" in caplog.text
    with pytest.raises(TrainingError, match=r"memory of device cuda is too short.*or train with --device cpu"):
        fit(train, config, device="cuda")


def test_cuda_without_cuda_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(TrainingError, match=r"device cuda: no CUDA device.*--device cpu"):
        fit(checkerboard()[0], default_config("rating", 1000), device="cuda")
    assert pick_device("auto") == torch.device("cpu")
    with pytest.raises(TrainingError, match="device 'tpu' is unknown; use auto, cpu or cuda"):
        pick_device("tpu")


@KINDS
def test_a_diverged_training_says_what_to_do(objective: Objective, architecture: Architecture) -> None:
    train, _ = checkerboard(20, 12)
    config = default_config(objective, train.n_ratings, architecture=architecture, learning_rate=1e30, batch_size=64)
    for restarts, below in ((False, r"1e\+30"), (True, r"4.7\d*e\+23")):
        with pytest.raises(TrainingError, match=rf"the loss of epoch \d+ is (nan|inf).*learning rate below {below}"):
            fit(train, config, device="cpu", restarts=restarts)


@KINDS
def test_a_training_whose_loss_rises_starts_anew_with_a_lower_rate(
    objective: Objective, architecture: Architecture, caplog: pytest.LogCaptureFixture
) -> None:
    train, _ = checkerboard()
    config = default_config(
        objective, train.n_ratings, architecture=architecture, learning_rate=30.0, n_epochs=6, batch_size=256
    )
    fitted = fit(train, config, device="cpu")
    losses = [record.train_loss for record in fitted.history]
    assert len(losses) == 6
    assert max(later / earlier for earlier, later in pairwise(losses)) < 1.05
    rates = [restart.learning_rate for restart in fitted.restarts]
    assert rates == [30.0, 15.0, 3.75, 0.46875][: len(rates)]
    assert caplog.text.count("training starts anew with learning rate") == len(rates) >= 1
    assert np.isfinite(score_users(fitted.factors, np.arange(60))).all()
    # The same as with the lower rate from the start.
    again = replace(config, learning_rate=rates[-1] / 2 ** len(rates))
    assert same_bits(fitted.factors, fit(train, again, device="cpu", restarts=False).factors)
    assert fitted.seconds >= fitted.history[-1].seconds > fitted.history[0].seconds


def test_a_loss_that_rises_is_an_outcome_where_rates_are_compared() -> None:
    train, _ = checkerboard()
    config = default_config("rating", train.n_ratings, learning_rate=3.0, n_epochs=6, batch_size=256)
    fitted = fit(train, config, device="cpu", restarts=False)
    assert fitted.restarts == ()
    losses = [record.train_loss for record in fitted.history]
    assert max(later / earlier for earlier, later in pairwise(losses)) > 1.05


@pytest.mark.parametrize(
    ("objective", "architecture", "batch_norm"),
    [
        ("rating", "dot", False),
        ("ranking", "dot", False),
        ("rating", "neural", False),
        ("ranking", "neural", False),
        ("rating", "neural", True),
        ("ranking", "neural", True),
    ],
)
@pytest.mark.parametrize(
    "rows",
    [
        [(0, 0, 3.0)],
        [(0, 0, 2.0), (1, 1, 4.0)],
        [(0, 0, 1.0), (0, 1, 5.0), (0, 2, 3.0)],
        [(0, 0, 1.0), (1, 0, 5.0), (2, 0, 3.0)],
        [(0, 0, 4.0), (0, 1, 4.0), (1, 0, 4.0), (1, 2, 4.0)],
    ],
    ids=["one rating", "two ratings", "one user", "one item", "all ratings equal"],
)
def test_tiny_sets_give_a_sensible_result(
    objective: Objective, architecture: Architecture, rows: list[tuple[int, int, float]], batch_norm: bool
) -> None:
    train = ratings(rows)
    config = default_config(objective, train.n_ratings, architecture=architecture, batch_norm=batch_norm)
    factors = fit(train, config, device="cpu").factors
    everyone = np.arange(factors.n_users)
    assert np.isfinite(score_users(factors, everyone)).all()
    if objective == "rating":
        predictions = predict_ratings(factors, train.user_idx.astype(np.int64), train.item_idx.astype(np.int64))
        low, high = train.rating.min() - 0.5, train.rating.max() + 0.5
        assert ((predictions > low) & (predictions < high)).all()
        if low + 1 == high:
            assert predictions == pytest.approx(train.rating, abs=0.1)


def odd_set(kind: str) -> Ratings:
    """About 1,200 ratings that follow a taste, of an unusual kind."""
    random = np.random.default_rng(0)
    user, item = np.nonzero(random.random((60, 40)) < 0.5)
    if kind == "one user has half of the ratings":
        more = np.arange(40, 40 + len(user))
        user, item = np.append(user, np.full(len(more), 60)), np.append(item, more)
    elif kind == "one item that all rated":
        item = np.where(item < 30, 0, item)
        pairs = np.unique(user * 1000 + item)
        user, item = np.repeat(np.divmod(pairs, 1000), 2, axis=1)
        user[::2], item[::2] = user[::2] + 60, item[::2] % 39
        user, item = np.divmod(np.unique(user * 1000 + item), 1000)
    rating = np.where((user + item) % 2 == 0, 5.0, 2.0)
    if kind == "ratings in the millions":
        rating *= 1e6
    return columns(user, item, rating)


@OBJECTIVES
@pytest.mark.parametrize(
    "kind", ["one user has half of the ratings", "one item that all rated", "ratings in the millions"]
)
def test_odd_sets_train_without_a_rise_and_give_a_sensible_result(kind: str, objective: Objective) -> None:
    train = odd_set(kind)
    fitted = fit(train, default_config(objective, train.n_ratings, train.n_users), device="cpu")
    losses = [record.train_loss for record in fitted.history]
    assert max(later / earlier for earlier, later in pairwise(losses)) < 1.05
    assert fitted.restarts == ()
    factors = fitted.factors
    assert np.isfinite(score_users(factors, np.arange(factors.n_users))).all()
    if objective == "rating":
        predictions = predict_ratings(factors, train.user_idx.astype(np.int64), train.item_idx.astype(np.int64))
        error = np.sqrt(np.square(predictions - train.rating).mean())
        assert error < 0.6 * train.rating.std()


@pytest.mark.shared_data
def test_few_ratings_a_user_train_without_a_rise(shared_data: Path) -> None:
    train = load_ratings(shared_data / "movietweetings-snapshots.zip/movietweetings/10K").ratings
    config = default_config("rating", train.n_ratings, train.n_users, n_epochs=8)
    fitted = fit(train, config, device="cpu")
    losses = [record.train_loss for record in fitted.history]
    assert max(later / earlier for earlier, later in pairwise(losses)) < 1.05
    assert fitted.restarts == ()


def test_no_ratings_say_what_to_do() -> None:
    with pytest.raises(TrainingError, match="there are no ratings to train on; load a file first"):
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


def test_a_given_baseline_gives_the_same_bits_as_the_one_that_fit_makes() -> None:
    train, _ = checkerboard()
    config = default_config("rating", train.n_ratings, n_factors=4, n_epochs=1)
    own = fit(train, config, device="cpu").factors
    given = fit(train, config, baseline=bias_only(train), device="cpu").factors
    other = fit(train, config, baseline=bias_only(train, (-50, 50)), device="cpu").factors
    assert np.array_equal(own.item_bias, given.item_bias)
    assert np.array_equal(own.user_factors, given.user_factors)
    assert not np.array_equal(own.item_bias, other.item_bias)
