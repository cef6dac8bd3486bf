"""Labels beside points: inside the drawing, without overlap, the first names first."""

import numpy as np
import pytest

from recsys.analysis.placement import FONT_PX, place_labels, text_width


class TestPlaceLabels:
    def place(
        self, points: list[tuple[float, float]], forms: list[list[str]], n: int = 99, radius: float = 4.0
    ) -> dict[int, str]:
        found = place_labels(
            np.array(points), list(enumerate(forms)), (400.0, 300.0), 400.0, np.full(len(points), radius), n
        )
        return {item: f"{label.text}: {label.position}" for item, label in found.items()}

    @pytest.mark.parametrize("radius", [1.0, 4.0, 20.0])
    def test_a_single_label_is_to_the_right(self, radius: float) -> None:
        assert self.place([(200, 150)], [["Alien"]], radius=radius) == {0: "Alien: middle right"}

    def test_a_label_stays_inside_the_drawing(self) -> None:
        assert self.place([(395, 150)], [["Alien"]]) == {0: "Alien: middle left"}
        assert self.place([(200, 150)], [["x" * 500]]) == {}

    def test_a_label_covers_no_point_that_needs_a_label(self) -> None:
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
    def test_labels_do_not_overlap_in_the_drawing_or_a_wider_one(self, seed: int) -> None:
        points = np.random.default_rng(seed).uniform((10, 10), (390, 290), (60, 2))
        found = self.place([(x, y) for x, y in points], [[f"Title {i}"] for i in range(60)], radius=1.0)
        assert len(found) >= 20
        for stretch in np.linspace(1, 3, 41):
            boxes = []
            for item, label in found.items():
                name, position = label.split(": ")
                x, y, width = points[item, 0] * stretch, points[item, 1], text_width(name)
                gap = 1 / 0.8 + 1
                left = x - gap - width if "left" in position else x + gap if "right" in position else x - width / 2
                bottom = y - gap - 14 if "bottom" in position else y + gap if "top" in position else y - 7
                boxes.append((left, bottom, left + width, bottom + 14))
            for i, a in enumerate(boxes):
                assert all(a[0] >= b[2] or b[0] >= a[2] or a[1] >= b[3] or b[1] >= a[3] for b in boxes[:i])

    def test_places_at_most_n_labels(self) -> None:
        assert len(self.place([(50, 50), (50, 150), (50, 250)], [["a"], ["b"], ["c"]], n=2)) == 2

    def test_wide_characters_take_more_room(self) -> None:
        assert text_width("映画") > text_width("ab") > FONT_PX
