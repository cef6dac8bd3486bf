"""Where names stand beside their points so that no two overlap."""

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FONT_PX = 11
_LINE_PX = 14
_APART_PX = 4  # at least, between two names in a row

# plotly's name of the place, and in which direction from the point: −1, 0, 1
_PLACES = (
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
class _Box:
    """The edges of a text in pixels, and `x` of the point that it belongs to."""

    x: float
    left: float
    bottom: float
    right: float
    top: float

    def inside(self, size: tuple[float, float]) -> bool:
        return self.left >= 0 and self.bottom >= 0 and self.right <= size[0] and self.top <= size[1]

    def apart(self, other: "_Box") -> bool:
        """Whether two texts do not touch, in this drawing or in any wider one.

        Wider, the points move apart and the texts go along: texts that stand in the order of their points
        do not meet, but texts that stand the other way round do.
        """
        return (
            self.bottom >= other.top
            or other.bottom >= self.top
            or (self.right <= other.left and self.x <= other.x)
            or (other.right <= self.left and other.x <= self.x)
        )

    def touches(self, points: NDArray[np.float64], radius: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Which round markers the text touches: (n_items,)."""
        x, y = points.T
        touched: NDArray[np.bool_] = (x + radius > self.left) & (x - radius < self.right)
        touched &= (y + radius > self.bottom) & (y - radius < self.top)
        return touched


@dataclass(frozen=True, slots=True)
class Placed:
    """A name that found room: what to print, and plotly's `textposition`."""

    text: str
    place: str


def place_names(
    points: NDArray[np.float64],
    names: Sequence[tuple[int, Sequence[str]]],
    size: tuple[float, float],
    usual_width: float,
    radius: NDArray[np.float64],
    most: int,
) -> dict[int, Placed]:
    """Find room for names, the first ones first.

    Each name takes, of the eight places around its point, the one that covers the fewest points, among those
    inside the drawing that touch no name placed before and no point that is to have a name. Where there is
    none, a shorter form of the name may still fit. Where none fits, the name may cover points that come later
    and then have none; and without such a place either it is left out.

    Names do not touch in the narrowest drawing or in any wider one. Which points they cover changes with the
    width, and is counted at the one that most will see.

    Args:
        points: (n_items, 2) pixels from the lower left corner.
        names: positions in `points`, and what to print there: the forms of the name, the best first.
        size: width and height in pixels of the narrowest drawing.
        usual_width: of the drawing as most will see it.
        radius: (n_items,) of the markers, in pixels.
        most: how many names at most.
    """
    usual = points * (usual_width / size[0], 1)
    to_name = np.zeros(len(points), bool)
    to_name[[item_idx for item_idx, _ in names]] = True
    has_name, covered = np.zeros(len(points), bool), np.zeros(len(points), bool)
    placed: dict[int, Placed] = {}
    boxes: list[_Box] = []

    def best(item_idx: int, name: str, keep_off: NDArray[np.bool_]) -> tuple[Placed, _Box, NDArray[np.bool_]] | None:
        """The place where a name covers the fewest points and none to keep off, its box, and what it covers."""
        width = text_width(name)
        gap = float(radius[item_idx]) / 0.8 + 1  # from the middle of the marker to the text: plotly's own formula
        found, fewest = None, len(points) + 1
        for place, right, up in _PLACES:
            box = _box(points[item_idx], width, gap, right, up)
            if not box.inside(size) or not all(box.apart(other) for other in boxes):
                continue
            touched = _box(usual[item_idx], width, gap, right, up).touches(usual, radius)
            touched[item_idx] = False
            if not (touched & keep_off).any() and touched.sum() < fewest:
                found, fewest = (Placed(name, place), box, touched), int(touched.sum())
        return found

    for item_idx, forms in names:
        if len(placed) == most:
            break
        if covered[item_idx]:
            continue
        attempts = (best(item_idx, name, keep_off) for keep_off in (to_name, has_name) for name in forms)
        if first := next(filter(None, attempts), None):
            placed[item_idx], box, touched = first
            boxes.append(box)
            has_name[item_idx] = True
            covered |= touched
    return placed


def text_width(text: str) -> float:
    """About how many pixels wide a text is; emoji and East Asian characters are as wide as they are high."""
    wide = sum(unicodedata.east_asian_width(character) in "WF" for character in text)
    return FONT_PX * (0.61 * (len(text) - wide) + 1.1 * wide)


def _box(point: NDArray[np.float64], width: float, gap: float, right: int, up: int) -> _Box:
    """The box of a text beside a point."""
    x, y = float(point[0]), float(point[1])
    left = x + right * gap - (0, width / 2, width)[1 - right]
    bottom = y + up * gap - (0, _LINE_PX / 2, _LINE_PX)[1 - up]
    return _Box(x, left - _APART_PX / 2, bottom, left + width + _APART_PX / 2, bottom + _LINE_PX)
