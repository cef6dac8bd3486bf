"""Principal components against an independent decomposition, and items whose position is known."""

import numpy as np
import pytest
from numpy.typing import NDArray

from recsys.analysis.components import both_ends, principal_components


def random_factors(n_items: int = 60, n_factors: int = 7, seed: int = 0) -> NDArray[np.float32]:
    rng = np.random.default_rng(seed)
    mixed = rng.normal(size=(n_items, n_factors)) @ rng.normal(size=(n_factors, n_factors)) + 3
    return mixed.astype(np.float32)


class TestPrincipalComponents:
    def test_equals_the_eigenvectors_of_the_covariance(self) -> None:
        factors = random_factors()
        found = principal_components(factors, 7)
        variance, vectors = np.linalg.eigh(np.cov(factors.T.astype(np.float64)))
        np.testing.assert_allclose(found.explained, variance[::-1] / variance.sum(), rtol=1e-9)
        np.testing.assert_allclose(np.abs(found.directions @ vectors[:, ::-1]), np.eye(7), atol=1e-7)

    def test_positions_are_the_centred_factors_along_the_directions(self) -> None:
        factors = random_factors().astype(np.float64)
        found = principal_components(random_factors(), 3)
        np.testing.assert_allclose(found.positions, (factors - factors.mean(axis=0)) @ found.directions.T, atol=1e-9)
        np.testing.assert_allclose(found.directions @ found.directions.T, np.eye(3), atol=1e-12)

    def test_rank_one_factors_have_one_component_with_the_known_items_at_its_ends(self) -> None:
        coordinate = np.array([0.0, 5.0, -2.0, 1.0, -1.0, 2.5])
        factors = np.outer(coordinate, [3.0, -4.0, 12.0]).astype(np.float32)
        found = principal_components(factors, 4)
        assert found.n_components == 1
        assert found.explained[0] == pytest.approx(1.0)
        np.testing.assert_allclose(found.positions[:, 0], 13 * (coordinate - coordinate.mean()), rtol=1e-6)
        low, high = both_ends(found.positions[:, 0], 2)
        assert low.tolist() == [2, 4]
        assert high.tolist() == [1, 5]

    def test_the_farthest_item_is_on_the_positive_side(self) -> None:
        found = principal_components(random_factors(), 7)
        farthest = np.abs(found.positions).argmax(axis=0)
        assert (found.positions[farthest, np.arange(7)] > 0).all()

    def test_rotated_and_mirrored_factors_give_the_same_positions(self) -> None:
        factors = random_factors()
        rotation, _ = np.linalg.qr(np.random.default_rng(1).normal(size=(7, 7)))
        rotated = principal_components((factors @ rotation).astype(np.float32), 4)
        for other in (rotated, principal_components(-factors[:, ::-1], 4)):
            np.testing.assert_allclose(other.positions, principal_components(factors, 4).positions, atol=1e-4)

    def test_the_same_factors_give_the_same_bytes(self) -> None:
        first, second = principal_components(random_factors()), principal_components(random_factors())
        assert first.positions.tobytes() == second.positions.tobytes()

    @pytest.mark.parametrize(
        "factors",
        [
            np.zeros((0, 4)),
            np.zeros((5, 0)),
            np.ones((1, 4)),
            np.full((100, 8), 0.1),
            np.tile([1e6, -0.3], (50, 1)),
        ],
        ids=["no items", "no factors", "one item", "equal", "equal and large"],
    )
    def test_factors_without_variance_have_no_component(self, factors: NDArray[np.float64]) -> None:
        found = principal_components(factors.astype(np.float32))
        assert found.n_components == 0
        assert found.positions.shape == (len(factors), 0)
        assert found.directions.shape == (0, factors.shape[1])

    def test_two_items_differ_in_one_direction(self) -> None:
        assert principal_components(random_factors(2)).n_components == 1


class TestBothEnds:
    def test_the_most_extreme_item_is_first(self) -> None:
        low, high = both_ends(np.array([3.0, 1.0, 2.0, 5.0, 4.0]), 2)
        assert low.tolist() == [1, 2]
        assert high.tolist() == [3, 4]

    def test_considers_eligible_items_only(self) -> None:
        among = np.array([True, False, True, False, True])
        low, high = both_ends(np.array([3.0, 1.0, 2.0, 5.0, 4.0]), 1, among)
        assert low.tolist() == [2]
        assert high.tolist() == [4]

    @pytest.mark.parametrize(("n_items", "n_low", "n_high"), [(0, 0, 0), (1, 0, 1), (2, 1, 1), (3, 1, 2), (9, 4, 4)])
    def test_no_item_is_at_both_ends(self, n_items: int, n_low: int, n_high: int) -> None:
        low, high = both_ends(np.arange(n_items, dtype=float), 4)
        assert (len(low), len(high)) == (n_low, n_high)
        assert not set(low.tolist()) & set(high.tolist())

    def test_equal_values_keep_the_order_of_items(self) -> None:
        low, high = both_ends(np.zeros(6), 2)
        assert high.tolist() == [0, 1]
        assert low.tolist() == [2, 3]
