"""Principal components against an independent decomposition, and items whose place is known."""

import numpy as np
import pytest
from numpy.typing import NDArray

from recsys.analysis.components import both_ends, principal_components
from recsys.analysis.labels import OTHER, ItemLabels
from recsys.analysis.placement import FONT_PX, place_names, text_width


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
        place = np.array([0.0, 5.0, -2.0, 1.0, -1.0, 2.5])
        factors = np.outer(place, [3.0, -4.0, 12.0]).astype(np.float32)
        found = principal_components(factors, 4)
        assert found.n_components == 1
        assert found.explained[0] == pytest.approx(1.0)
        np.testing.assert_allclose(found.positions[:, 0], 13 * (place - place.mean()), rtol=1e-6)
        low, high = both_ends(found.positions[:, 0], 2)
        assert low.tolist() == [2, 4]
        assert high.tolist() == [1, 5]

    def test_the_farthest_item_is_on_the_positive_side(self) -> None:
        found = principal_components(random_factors(), 7)
        farthest = np.abs(found.positions).argmax(axis=0)
        assert (found.positions[farthest, np.arange(7)] > 0).all()

    def test_the_same_picture_for_factors_turned_or_mirrored(self) -> None:
        factors = random_factors()
        rotation, _ = np.linalg.qr(np.random.default_rng(1).normal(size=(7, 7)))
        turned = principal_components((factors @ rotation).astype(np.float32), 4)
        for other in (turned, principal_components(-factors[:, ::-1], 4)):
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
    def test_without_variance_there_is_no_component(self, factors: NDArray[np.float64]) -> None:
        found = principal_components(factors.astype(np.float32))
        assert found.n_components == 0
        assert found.positions.shape == (len(factors), 0)
        assert found.directions.shape == (0, factors.shape[1])

    def test_two_items_differ_in_one_direction(self) -> None:
        assert principal_components(random_factors(2)).n_components == 1


class TestBothEnds:
    def test_most_extreme_first(self) -> None:
        low, high = both_ends(np.array([3.0, 1.0, 2.0, 5.0, 4.0]), 2)
        assert low.tolist() == [1, 2]
        assert high.tolist() == [3, 4]

    def test_only_among_those_eligible(self) -> None:
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


class TestItemLabels:
    def test_an_item_without_a_title_goes_by_its_id(self) -> None:
        items = ItemLabels(["a", "b", "c"], ["Alien\n (1979)", None, "  "], [(), (), ()], np.zeros(3, np.int64))
        assert [items.name(i) for i in range(3)] == ["Alien (1979)", "b", "c"]

    def test_rare_categories_share_one_colour(self) -> None:
        categories = [["Drama", "War"], ["Drama"], ["Crime"], ["Action"], [], ["Crime"]]
        items = ItemLabels(list("abcdef"), [None] * 6, categories, np.zeros(6, np.int64))
        assert items.main_categories(2) == ["Drama", "Drama", "Crime", OTHER, OTHER, "Crime"]
        assert items.main_categories(3)[3] == "Action"

    def test_columns_of_different_length_are_refused(self) -> None:
        with pytest.raises(ValueError, match="differ in length"):
            ItemLabels(["a"], [], [()], np.zeros(1, np.int64))


class TestPlaceNames:
    def place(
        self, points: list[tuple[float, float]], forms: list[list[str]], most: int = 99, radius: float = 4.0
    ) -> dict[int, str]:
        found = place_names(
            np.array(points), list(enumerate(forms)), (400.0, 300.0), 400.0, np.full(len(points), radius), most
        )
        return {item: f"{placed.text}: {placed.place}" for item, placed in found.items()}

    @pytest.mark.parametrize("radius", [1.0, 4.0, 20.0])
    def test_a_name_alone_stands_to_the_right(self, radius: float) -> None:
        assert self.place([(200, 150)], [["Alien"]], radius=radius) == {0: "Alien: middle right"}

    def test_a_name_stays_inside_the_drawing(self) -> None:
        assert self.place([(395, 150)], [["Alien"]]) == {0: "Alien: middle left"}
        assert self.place([(200, 150)], [["x" * 500]]) == {}

    def test_a_name_covers_no_point_that_is_to_have_one(self) -> None:
        assert self.place([(200, 150), (230, 150)], [["Alien"], ["Brazil"]])[0] == "Alien: middle left"

    def test_the_first_name_comes_before_points_with_later_ones(self) -> None:
        around = [(200.0 + x, 150.0 + y) for x in (-25, 0, 25) for y in (-15, 0, 15)]
        around.insert(0, around.pop(4))  # the one in the middle
        assert 0 in self.place(around, [[f"Title {i}"] for i in range(9)])

    def test_a_short_form_comes_before_covering_a_point(self) -> None:
        around = [(200.0 + x, 150.0 + y) for x in (-40, 0, 40) for y in (-15, 0, 15)]
        around.insert(0, around.pop(4))
        assert self.place(around, [["1. Alien and more", "1."], *([f"{i}."] for i in range(2, 10))])[0][:3] == "1.:"

    def test_crowded_points_keep_the_first_names_or_a_short_form(self) -> None:
        crowd = [(200.0 + i % 4, 150.0 + i // 4) for i in range(16)]
        found = self.place(crowd, [[f"{i}. A rather long name", f"{i}."] for i in range(16)])
        assert found[0].startswith("0. A rather long name")
        assert 1 < len(found) < 16

    @pytest.mark.parametrize("seed", range(5))
    def test_names_do_not_meet_in_the_drawing_or_a_wider_one(self, seed: int) -> None:
        points = np.random.default_rng(seed).uniform((10, 10), (390, 290), (60, 2))
        found = self.place([(x, y) for x, y in points], [[f"Title {i}"] for i in range(60)], radius=1.0)
        assert len(found) >= 20
        for stretch in np.linspace(1, 3, 41):
            boxes = []
            for item, told in found.items():
                name, place = told.split(": ")
                x, y, width = points[item, 0] * stretch, points[item, 1], text_width(name)
                gap = 1 / 0.8 + 1
                left = x - gap - width if "left" in place else x + gap if "right" in place else x - width / 2
                bottom = y - gap - 14 if "bottom" in place else y + gap if "top" in place else y - 7
                boxes.append((left, bottom, left + width, bottom + 14))
            for i, a in enumerate(boxes):
                assert all(a[0] >= b[2] or b[0] >= a[2] or a[1] >= b[3] or b[1] >= a[3] for b in boxes[:i])

    def test_no_more_than_asked_for(self) -> None:
        assert len(self.place([(50, 50), (50, 150), (50, 250)], [["a"], ["b"], ["c"]], most=2)) == 2

    def test_wide_characters_take_more_room(self) -> None:
        assert text_width("映画") > text_width("ab") > FONT_PX
