"""Learning-rate range test: suggestions on curves whose answer is known, and the test itself on a checkerboard."""

import numpy as np
import pytest
import torch

from recsys.errors import InputError, TrainingError
from recsys.training.config import default_config
from recsys.training.lr_find import LrFind, lr_find, slide, smooth, valley
from tests.training.made import blocks, checkerboard, ratings

RATES = np.geomspace(1e-5, 1e1, 61)  # ten steps a decade


def test_smooth_is_the_weighted_mean_of_what_came_before() -> None:
    losses = np.array([3.0, 1.0, 4.0, 1.0, 5.0])
    for t in range(1, 6):
        weights = 0.9 ** np.arange(t - 1, -1, -1)
        assert smooth(losses[:t], 0.9)[-1] == pytest.approx(np.average(losses[:t], weights=weights))
    assert smooth(np.full(50, 2.5)) == pytest.approx(np.full(50, 2.5))  # no pull to zero at the start


def test_valley_is_two_thirds_along_the_descent() -> None:
    # Level to 1e-4, down to 1e-1, up again: two thirds of the way from 1e-4 to 1e-1 is 1e-2.
    smoothed = np.interp(np.log10(RATES), [-5, -4, -1, 1], [5, 5, 2, 9])
    assert valley(RATES, smoothed) == pytest.approx(1e-2)


def test_valley_takes_the_longer_of_two_descents() -> None:
    smoothed = np.interp(np.log10(RATES), [-5, -4, -3.9, -0.9, 1], [9, 8, 20, 17, 30])
    assert valley(RATES, smoothed) == pytest.approx(10**-1.9)


def test_valley_reaches_across_a_bump() -> None:
    smoothed = np.interp(np.log10(RATES), [-5, -4, -1, 1], [5, 5, 2, 9])
    smoothed[25] += 1.0  # at 10**-2.5
    assert valley(RATES, smoothed) == pytest.approx(1e-2)


def test_slide_is_the_middle_of_the_steepest_half_decade() -> None:
    # A gentle descent of three decades, then a steep one of half a decade: from 1e-2 to 10**-1.5.
    smoothed = np.interp(np.log10(RATES), [-5, -2, -1.5, 1], [9, 8, 4, 12])
    assert slide(RATES, smoothed) == pytest.approx(10**-1.75)


def test_slide_is_the_same_on_any_scale_of_the_loss() -> None:
    smoothed = np.interp(np.log10(RATES), [-5, -2, -1.5, 1], [9, 8, 4, 12])
    assert slide(RATES, 1000 * smoothed + 7) == slide(RATES, smoothed)


def test_one_lucky_batch_is_no_slide() -> None:
    smoothed = np.interp(np.log10(RATES), [-5, -2, -1, 1], [9, 8, 2, 12])
    smoothed[8] -= 0.5
    assert 1e-2 <= slide(RATES, smoothed) <= 1e-1


@pytest.mark.parametrize("suggest", [valley, slide])
def test_a_loss_that_only_rises_suggests_nothing(suggest: object) -> None:
    assert callable(suggest)
    with pytest.raises(TrainingError, match=r"falls nowhere between learning rates 1e-05 and 10"):
        suggest(RATES, np.arange(len(RATES), dtype=np.float64))


def found(objective: str, seed: int = 0, **options: float) -> LrFind:
    train, _ = blocks() if objective == "ranking" else checkerboard()
    config = default_config("ranking" if objective == "ranking" else "rating", train.n_ratings, n_factors=8)
    n_steps = int(options.pop("n_steps", 150))
    return lr_find(train, config, n_steps=n_steps, device="cpu", seed=seed, **options)


@pytest.mark.parametrize("objective", ["rating", "ranking"])
def test_the_suggestions_lie_where_the_loss_falls(objective: str) -> None:
    test = found(objective)
    at_minimum = test.learning_rates[test.smoothed.argmin()]
    assert 1e-4 < test.valley < at_minimum
    assert 1e-4 < test.slide < at_minimum
    assert test.fall > 0.01


@pytest.mark.parametrize("objective", ["rating", "ranking"])
def test_rates_grow_by_a_factor_and_the_test_ends_where_training_diverges(objective: str) -> None:
    test = found(objective, highest=1e4)
    assert test.learning_rates[0] == pytest.approx(1e-5)
    assert np.diff(np.log(test.learning_rates)) == pytest.approx(np.log(1e9) / 149)
    assert len(test.learning_rates) == len(test.losses) == len(test.smoothed)
    assert np.isfinite(test.losses).all()
    assert (test.smoothed[:-1] <= 4.5 * np.minimum.accumulate(test.smoothed)[:-1]).all()
    if objective == "ranking":  # the rating loss has an end, the ranking loss has none
        assert len(test.learning_rates) < 150


def test_before_anything_is_learned_batches_do_not_differ() -> None:
    test = found("ranking", highest=1e-4)
    assert test.losses[:20] == pytest.approx(np.full(20, test.losses[0]), rel=1e-3)


def test_a_seed_repeats_it_and_global_random_state_is_left_alone() -> None:
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    first = found("rating", seed=3)
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(99)
    again, other = found("rating", seed=3), found("rating", seed=4)
    assert first.losses.tobytes() == again.losses.tobytes()
    assert (first.valley, first.slide) == (again.valley, again.slide)
    assert first.losses.tobytes() != other.losses.tobytes()


def test_progress_counts_the_steps() -> None:
    train, _ = checkerboard()
    steps: list[tuple[int, int]] = []
    config = default_config("rating", train.n_ratings, n_factors=4)
    lr_find(train, config, n_steps=30, device="cpu", on_step=lambda *step: steps.append(step))
    assert steps[:2] == [(1, 30), (2, 30)]


def test_bad_input_says_what_to_mend() -> None:
    train, _ = checkerboard()
    config = default_config("rating", train.n_ratings)
    with pytest.raises(InputError, match=r"from 1 to 0\.1: the lower must be above 0"):
        lr_find(train, config, lowest=1, highest=0.1)
    with pytest.raises(InputError, match="5 steps are too few"):
        lr_find(train, config, n_steps=5)
    with pytest.raises(TrainingError, match="no ratings to train on"):
        lr_find(ratings([]), config)
    with pytest.raises(TrainingError, match="device 'tpu' is unknown"):
        lr_find(train, config, device="tpu")
