"""The publish gate: decisions whose bounds are worked out by hand."""

import numpy as np
import pytest

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
    new = ndcg([0.6, 0.4, 0.6, 0.4])  # differences ±.1: mean 0, sd .11547, bound −1.645 · .11547 / 2 = −.09498
    decision = decide(new, ndcg([0.1]), live, 0.2, None)
    assert decision.publish
    assert "+0.0000 a user against the live version over 4 users, lower 95 % bound -0.0950, allowed -0.1000" in (
        decision.reason
    )
    assert not decide(new, ndcg([0.1]), live, 0.18, None).publish  # allowed −.09


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
