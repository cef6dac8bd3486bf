"""Positions of labels beside their points, so that no two labels overlap."""

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FONT_PX = 11
LINE_PX = 14
GAP_PX = 4
"""Smallest distance between two labels on the same line."""

# plotly's name of the position, and its direction from the point: −1, 0, 1
POSITIONS = (
    ("middle right", 1, 0),
    ("middle left", -1, 0),
    ("top center", 0, 1),
    ("bottom center", 0, -1),
    ("top right", 1, 1),
    ("bottom right", 1, -1),
    ("top left", -1, 1),
    ("bottom left", -1, -1),
)


@dataclass(frozen=True, slots=True)
class Box:
    """The edges of a label in pixels, and `x` of the point that it belongs to."""

    x: float
    left: float
    bottom: float
    right: float
    top: float

    @classmethod
    def beside(cls, point: NDArray[np.float64], width: float, gap: float, right: int, up: int) -> "Box":
        """Return the box of a label that is `width` pixels wide.

        Args:
            point: (2,) pixels.
            gap: pixels between the point and the label.
            right, up: direction from the point, −1, 0 or 1.
        """
        x, y = float(point[0]), float(point[1])
        left = x + right * gap - (0, width / 2, width)[1 - right]
        bottom = y + up * gap - (0, LINE_PX / 2, LINE_PX)[1 - up]
        return cls(x, left - GAP_PX / 2, bottom, left + width + GAP_PX / 2, bottom + LINE_PX)

    def inside(self, size: tuple[float, float]) -> bool:
        return self.left >= 0 and self.bottom >= 0 and self.right <= size[0] and self.top <= size[1]

    def apart(self, other: "Box") -> bool:
        """Return whether two labels do not touch, in this drawing or in any wider one.

        In a wider drawing the points move apart and the labels move with them: labels in the order of their
        points do not meet, but labels in the opposite order do.
        """
        return (
            self.bottom >= other.top
            or other.bottom >= self.top
            or (self.right <= other.left and self.x <= other.x)
            or (other.right <= self.left and other.x <= self.x)
        )

    def touches(self, points: NDArray[np.float64], radius: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Return which round markers the label touches: (n_items,)."""
        x, y = points.T
        touched: NDArray[np.bool_] = (x + radius > self.left) & (x - radius < self.right)
        touched &= (y + radius > self.bottom) & (y - radius < self.top)
        return touched


@dataclass(frozen=True, slots=True)
class Label:
    """A label that fits: its text, and plotly's `textposition`."""

    text: str
    position: str


def place_labels(
    points: NDArray[np.float64],
    names: Sequence[tuple[int, Sequence[str]]],
    size: tuple[float, float],
    usual_width: float,
    radius: NDArray[np.float64],
    n: int,
) -> dict[int, Label]:
    """Place labels beside points, in the order of `names`.

    A label takes the position, of eight around its point, that covers the fewest points. The position must be
    inside the drawing and touch no label placed before and no point of `names`. If there is none, a shorter form
    of the name may fit. If no form fits, the label may cover points of `names` that have no label yet; they then
    get none. If there is no such position either, the name is left out.

    Labels do not touch in the narrowest drawing or in any wider one. The points that they cover depend on the
    width, and are counted at the usual one.

    Args:
        points: (n_items, 2) pixels from the lower left corner.
        names: item_idx and the forms of its name, the preferred one first.
        size: width and height of the narrowest drawing in pixels.
        usual_width: width of the drawing in a window of usual size, in pixels.
        radius: (n_items,) of the markers, in pixels.
        n: the largest number of labels.

    Returns:
        item_idx → label.
    """
    usual = points * (usual_width / size[0], 1)
    wanted = np.zeros(len(points), bool)
    wanted[[item_idx for item_idx, _ in names]] = True
    has_label, covered = np.zeros(len(points), bool), np.zeros(len(points), bool)
    labels: dict[int, Label] = {}
    boxes: list[Box] = []

    def best(item_idx: int, name: str, protected: NDArray[np.bool_]) -> tuple[Label, Box, NDArray[np.bool_]] | None:
        """Return the label that covers the fewest points and no protected one, its box, and the covered points."""
        width = text_width(name)
        gap = float(radius[item_idx]) / 0.8 + 1  # from the centre of the marker to the text: plotly's own formula
        found, fewest = None, len(points) + 1
        for position, right, up in POSITIONS:
            box = Box.beside(points[item_idx], width, gap, right, up)
            if not box.inside(size) or not all(box.apart(other) for other in boxes):
                continue
            touched = Box.beside(usual[item_idx], width, gap, right, up).touches(usual, radius)
            touched[item_idx] = False
            if not (touched & protected).any() and touched.sum() < fewest:
                found, fewest = (Label(name, position), box, touched), int(touched.sum())
        return found

    for item_idx, forms in names:
        if len(labels) == n:
            break
        if covered[item_idx]:
            continue
        attempts = (best(item_idx, name, protected) for protected in (wanted, has_label) for name in forms)
        if first := next(filter(None, attempts), None):
            labels[item_idx], box, touched = first
            boxes.append(box)
            has_label[item_idx] = True
            covered |= touched
    return labels


def text_width(text: str) -> float:
    """Estimate the width of a text in pixels; emoji and East Asian characters are as wide as they are high."""
    wide = sum(unicodedata.east_asian_width(character) in "WF" for character in text)
    return FONT_PX * (0.61 * (len(text) - wide) + 1.1 * wide)
