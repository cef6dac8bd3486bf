"""The map of all items as small arrays, for a program that draws points itself: the dashboard."""

import json
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import plotly.colors
from numpy.typing import NDArray

from recsys.analysis.colouring import Colouring, colouring
from recsys.analysis.map_figure import cluster_places, places
from recsys.analysis.style import GREY, shorten

if TYPE_CHECKING:
    from recsys.analysis.view import ModelView

N_SIZES = 8
UNKNOWN = 255
"""Number of the colour of items whose value is not known; the others are 0 to 254 from low to high."""


@dataclass(frozen=True, slots=True)
class MapPoints:
    """Places, sizes and colours of all items of a version, in their order.

    Attributes:
        xy: (n_items, 2) float32.
        size: (n_items,) uint8, from 0 to `N_SIZES` − 1.
        colour: (n_items,) uint8, positions in `palette`.
        palette: 256 colours, `#RRGGBB`.
        top: the colour that is drawn over the others; −1: none.
        labels: texts with their places: `x`, `y`, `text`.
        colours: what the colours mean.
        axes: titles of both axes; empty where they mean nothing.
    """

    xy: NDArray[np.float32]
    size: NDArray[np.uint8]
    colour: NDArray[np.uint8]
    palette: list[str]
    top: int
    labels: list[dict[str, Any]]
    colours: Colouring
    axes: tuple[str, str]

    def to_bytes(self) -> bytes:
        """Return the points in one piece.

        Little-endian: the length of the JSON text as uint32; the text, padded with spaces to a multiple of 4: `n`,
        `palette`, `top`, `labels`; x and y, n float32 each; n sizes and n colours, a byte each.
        """
        head = {"n": len(self.xy), "palette": self.palette, "top": self.top, "labels": self.labels}
        text = json.dumps(head).encode()
        text += b" " * (-len(text) % 4)
        x, y = (np.ascontiguousarray(self.xy[:, axis], "<f4").tobytes() for axis in (0, 1))
        return b"".join([struct.pack("<I", len(text)), text, x, y, self.size.tobytes(), self.colour.tobytes()])


def map_points(view: "ModelView", colour: str = "cluster", projection: str = "map") -> MapPoints:
    """Return the points of all items.

    Args:
        colour: see `recsys.analysis.colouring.colour_names`.
        projection: `map` or `pca`.

    Raises:
        InputError: there is no such colouring.
    """
    colours = colouring(view, colour)
    xy, axes = places(view, projection)
    share = np.sqrt(view.items.n_ratings / max(1, int(view.items.n_ratings.max(initial=1))))
    spread = np.clip((colours.values - colours.low) / (colours.high - colours.low), 0, 1) * (UNKNOWN - 1)
    numbers = np.where(np.isnan(spread), UNKNOWN, np.round(spread)).astype(np.uint8)
    labels = []
    if colour == "cluster":
        at = np.flatnonzero(view.cluster_labels >= 0)
        labels = [
            {"x": x, "y": y, "text": shorten(cluster.name, 40)} for cluster, (x, y) in cluster_places(view, xy, at)
        ]
    return MapPoints(
        xy=xy,
        size=np.minimum(share * N_SIZES, N_SIZES - 1).astype(np.uint8),
        colour=numbers,
        palette=[*colour_steps(colours, UNKNOWN), GREY],
        top=-1 if colours.on_top is None else UNKNOWN - 1,
        labels=labels,
        colours=colours,
        axes=axes,
    )


def colour_steps(colours: Colouring, n: int) -> list[str]:
    """Return n colours of a scale from low to high: `#RRGGBB`."""
    scale = plotly.colors.get_colorscale(colours.scale) if isinstance(colours.scale, str) else colours.scale
    places = [place for place, _ in scale]
    parts = np.array([_rgb(colour) for _, colour in scale]).T
    steps = np.linspace(0, 1, n)
    rgb = np.round([np.interp(steps, places, part) for part in parts]).astype(int).T
    return [f"#{red:02X}{green:02X}{blue:02X}" for red, green, blue in rgb.tolist()]


def _rgb(colour: str) -> tuple[float, ...]:
    """Return the parts of `#RRGGBB` or `rgb(r, g, b)`, 0 to 255."""
    found: tuple[float, ...] = (
        plotly.colors.hex_to_rgb(colour) if colour.startswith("#") else plotly.colors.unlabel_rgb(colour)
    )
    return found
