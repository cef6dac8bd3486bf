"""The publish gate: decisions whose bounds are worked out by hand."""

from typing import Any

import numpy as np
import pytest

from recsys.evaluation.comparison import (
    PATIENCE_NIGHTS,
    Comparison,
    lower_bound,
    mean_and_error,
    passes_after_waiting,
    t95,
)
from recsys.evaluation.gate import Measured, decide


def ndcg(values: list[float], keys: list[int] | None = None) -> Measured:
    return Measured(
        "NDCG@10", float(np.mean(values)), True, np.array(keys or range(len(values))), np.array(values, np.float64)
    )


def mse(values: list[float]) -> Measured:
    return Measured("MSE", float(np.mean(values)), False, np.arange(len(values)), np.array(values, np.float64))


def test_the_first_version_must_beat_its_baseline() -> None:
    assert decide(ndcg([0.3, 0.3]), ndcg([0.2, 0.2]), None, 0.02, None).publish
    refused = decide(ndcg([0.2, 0.2]), ndcg([0.2, 0.2]), None, 0.02, None)
    assert not refused.publish
    assert "not better than the baseline: NDCG@10 0.2000 against the baseline's 0.2000" in refused.reason


def test_for_errors_less_is_better() -> None:
    assert decide(mse([0.8, 0.8]), mse([0.9, 0.9]), None, 0.02, None).publish
    assert not decide(mse([0.9, 0.9]), mse([0.8, 0.8]), None, 0.02, None).publish
    assert decide(mse([0.8, 0.8]), mse([0.95, 0.95]), mse([0.9, 0.9]), 0.02, None).publish
    assert not decide(mse([0.93, 0.93]), mse([0.95, 0.95]), mse([0.9, 0.9]), 0.02, None).publish


def test_the_bound_is_that_of_the_paired_difference() -> None:
    live = ndcg([0.5, 0.5, 0.5, 0.5])
    # Differences ±.1: mean 0, sd .11547; t with 3 degrees of freedom is 2.3534, so the bound is
    # −2.3534 · .11547 / 2 = −.13587.
    new = ndcg([0.6, 0.4, 0.6, 0.4])
    decision = decide(new, ndcg([0.1]), live, 0.28, None)
    assert decision.publish
    assert "+0.0000 a user against the live version over 4 users, lower 95 % bound -0.1359, allowed -0.1400" in (
        decision.reason
    )
    refused = decide(new, ndcg([0.1]), live, 0.26, None)  # allowed −.13
    assert not refused.publish
    assert "with 4 users a loss below 27.2% cannot be seen; night 1 of 7" in refused.reason


@pytest.mark.parametrize(("degrees", "quantile"), [(1, 6.3138), (4, 2.1318), (5, 2.0150), (10, 1.8125), (299, 1.6500)])
def test_the_quantiles_of_student_t(degrees: int, quantile: float) -> None:
    assert float(t95(degrees)) == pytest.approx(quantile, abs=2e-3)


def test_a_constant_difference_has_no_spread() -> None:
    live, new = ndcg([0.1, 0.5, 0.9]), ndcg([0.09, 0.49, 0.89])
    assert not decide(new, ndcg([0.05]), live, 0.0199, None).publish  # allowed −.00995
    assert decide(new, ndcg([0.05]), live, 0.0201, None).publish


def test_only_users_that_both_know_are_compared() -> None:
    live = ndcg([0.9, 0.5, 0.5], [1, 2, 3])
    new = ndcg([0.5, 0.5, 0.9], [2, 3, 4])
    assert "over 2 users" in decide(new, ndcg([0.1]), live, 0.02, None).reason
    assert decide(new, ndcg([0.1]), live, 0.02, np.array([3])).reason.startswith("no users to compare")


@pytest.mark.parametrize("value", [0.1, 0.10001])
def test_better_than_live_but_not_than_the_baseline_is_refused(value: float) -> None:
    assert not decide(ndcg([0.1] * 3), ndcg([value] * 3), ndcg([0.05] * 3), 0.02, None).publish


NIGHTS_BEFORE = PATIENCE_NIGHTS - 1


def undecided_night(mean: float) -> Comparison:
    """A night on four users that could see a loss of 6 % at best."""
    return Comparison(4, 4, mean, 0.5, 0.012)


@pytest.mark.parametrize(
    ("earlier", "tonight", "publish", "reason"),
    [
        ([0.01] * NIGHTS_BEFORE, 0.0, True, "not worse in the mean (+1.7% in the mean of 7 nights"),
        ([0.01] * (NIGHTS_BEFORE - 1), 0.0, False, "night 6 of 7"),
        ([-0.01] * NIGHTS_BEFORE, 0.0, False, "not shown to be as good in the mean (-1.7% in the mean of 7 nights"),
        ([0.01] * NIGHTS_BEFORE, -0.01, False, "not shown to be as good in the mean"),
    ],
)
def test_where_no_loss_can_be_seen_the_mean_of_several_nights_decides(
    earlier: list[float], tonight: float, publish: bool, reason: str
) -> None:
    new = ndcg([0.6 + tonight, 0.4 + tonight, 0.6 + tonight, 0.4 + tonight])
    nights = [undecided_night(mean) for mean in earlier]
    decision = decide(new, ndcg([0.1]), ndcg([0.5] * 4), 0.02, None, earlier=nights)
    assert decision.publish is publish
    assert reason in decision.reason


def test_a_night_with_enough_power_starts_the_waiting_anew() -> None:
    seen = Comparison(4, 4, 0.01, 0.5, 0.001)
    nights = [undecided_night(0.01), seen, *[undecided_night(0.01)] * NIGHTS_BEFORE]
    decision = decide(ndcg([0.6, 0.4, 0.6, 0.4]), ndcg([0.1]), ndcg([0.5] * 4), 0.02, None, earlier=nights)
    assert "night 2 of 7" in decision.reason


def test_where_a_loss_of_the_margin_can_be_seen_no_waiting_helps() -> None:
    nights = [undecided_night(0.01)] * NIGHTS_BEFORE
    decision = decide(ndcg([0.4] * 4), ndcg([0.1]), ndcg([0.5] * 4), 0.02, None, earlier=nights)
    assert decision.reason.startswith("worse than allowed")


def simulated(rng: np.random.Generator, n_trials: int, n_users: int, loss: float, n_nights: int = 1) -> tuple[Any, Any]:
    """NDCG@10 of the live version, and of new versions that are worse by `loss`, as two trainings on nearly the same
    ratings have it: a third of the users has a hit, and 95 % of the users have the same in both.

    Returns:
        (n_trials, n_users) of the live version, (n_nights, n_trials, n_users) of the new ones.
    """
    gain = rng.beta(1.2, 2.5, (n_trials, n_users))
    live = rng.random((n_trials, n_users)) < 1 / 3
    shape = (n_nights, n_trials, n_users)
    drawn = np.where(rng.random(shape) < 0.95, live, rng.random(shape) < 1 / 3)
    return live * gain, drawn * (rng.random(shape) >= loss) * gain


@pytest.mark.parametrize(
    ("n_users", "loss", "least", "most"),
    [
        (20_000, 0.0, 0.9, 1.0),  # a loss of 1 % can be seen: as good as live passes
        (20_000, 0.02, 0.0, 0.07),  # worse by the margin: 5 %, and the error of a simulation of 300 nights
        (20_000, 0.03, 0.0, 0.01),
        (
            300,
            0.0,
            0.07,
            0.2,
        ),  # a loss of 7 % cannot be seen: a version as good as live passes in a tenth of the nights
        (300, 0.02, 0.0, 0.07),
    ],
)
def test_simulated_versions_pass_at_the_stated_rates(n_users: int, loss: float, least: float, most: float) -> None:
    rng = np.random.default_rng(5)
    live, (new,) = simulated(rng, 300 if n_users > 1000 else 3000, n_users, loss)
    mean, standard_error = mean_and_error(new - live)
    passed = lower_bound(mean, standard_error, np.count_nonzero(new - live, axis=-1)) > -0.02 * live.mean(-1)
    assert least <= passed.mean() <= most


@pytest.mark.parametrize(
    ("n_users", "loss", "least", "most"),
    [
        (300, 0.0, 0.25, 0.4),
        (300, 0.02, 0.0, 0.05),  # worse by exactly the margin
        (300, 0.03, 0.0, 0.01),
        (100, 0.0, 0.15, 0.3),
        (100, 0.02, 0.0, 0.06),  # 5 %, and the error of a simulation of 3,000 nights
        (100, 0.06, 0.0, 0.01),
    ],
)
def test_a_small_shop_publishes_after_waiting_but_nothing_worse(
    n_users: int, loss: float, least: float, most: float
) -> None:
    """After seven nights without a decision, versions as good as the live one pass in a third of the nights with 300
    users and in a fifth with 100, and those that are worse by the margin in 5 % at most."""
    live, new = simulated(np.random.default_rng(6), 300_000 // n_users, n_users, loss, PATIENCE_NIGHTS)
    mean, error = mean_and_error(new - live)  # (n_nights, n_trials)
    means, errors = ((each / live.mean(-1)).T for each in (mean, error))
    assert least <= float(np.mean(passes_after_waiting(means, errors, 0.02))) <= most


def test_a_spread_that_is_too_wide_waits_on() -> None:
    """Seven nights of +1 % whose common error of 2.5 % leaves a loss of 3 % possible."""
    means, errors = np.full(7, 0.01), np.full(7, 0.025 * np.sqrt(7))
    assert not passes_after_waiting(means, errors, 0.02)
    assert passes_after_waiting(means, errors, 0.04)
