"""Colours of the points of a map: by cluster, category, bias, popularity, mean rating or year."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from recsys.analysis.style import BLUE, GREY, PALETTE
from recsys.errors import InputError

if TYPE_CHECKING:
    from recsys.analysis.view import ModelView

CATEGORY = "category:"
"""Prefix of a category's colouring: `category:Drama`."""

# From dark to light, for every kind of colour vision. Source: Nuñez, Anderton & Renslow, "Optimizing colormaps with
# consideration for color vision deficiency", PLOS ONE 2018.
SEQUENTIAL = "Cividis"
DIVERGING = ((0.0, "#D55E00"), (0.5, "#DADAD5"), (1.0, "#0072B2"))

Scale = str | Sequence[tuple[float, str]]


@dataclass(frozen=True, slots=True)
class Colouring:
    """A colour for each item.

    Attributes:
        title: for the legend.
        values: (n_items,) float64; NaN is drawn grey.
        scale: a colour scale of plotly.
        low, high: the values at the ends of the scale.
        bar: whether a colour bar explains the values.
        on_top: (n_items,) the items that are drawn over all others; `None`: no difference.
        ticks: value → text of the colour bar; empty: numbers.
    """

    title: str
    values: NDArray[np.float64]
    scale: Scale
    low: float
    high: float
    bar: bool = True
    on_top: NDArray[np.bool_] | None = None
    ticks: tuple[tuple[float, str], ...] = ()


def colour_names(view: "ModelView") -> list[tuple[str, str]]:
    """Return what the points can be coloured by: (value, name)."""
    items = view.items
    names = [("cluster", "Cluster"), ("popularity", "Number of ratings"), ("bias", "Item bias")]
    if len(items.mean_rating):
        names.append(("mean", "Mean rating"))
    if len(items.year) and not np.isnan(items.year).all():
        names.append(("year", "Year"))
    return names + [(CATEGORY + name, f"{name} ({len(idx):,})") for name, idx in items.category_idx.items()]


def colouring(view: "ModelView", by: str = "cluster") -> Colouring:
    """Return the colours of all items.

    Args:
        by: one of `colour_names`.

    Raises:
        InputError: there is no such colouring.
    """
    items = view.items
    if by == "cluster":
        return _steps("Cluster", view.cluster_labels.astype(np.float64), PALETTE)
    if by.startswith(CATEGORY):
        name = by.removeprefix(CATEGORY)
        if name in items.category_idx:
            members = items.in_category(name)
            return Colouring(name, members.astype(float), ((0, GREY), (1, BLUE)), 0, 1, bar=False, on_top=members)
        raise InputError(f"there is no category {name!r}: choose one of {', '.join(list(items.category_idx)[:20])}")
    if by == "popularity":
        values = np.log10(np.maximum(items.n_ratings, 1))
        highest = float(values.max(initial=1.0))
        ticks = tuple((float(power), f"{10**power:,}") for power in range(int(highest) + 1))
        return Colouring("Ratings", values, SEQUENTIAL, 0.0, highest, ticks=ticks)
    if by == "bias":
        limit = float(np.quantile(np.abs(view.bias), 0.98)) if len(view.bias) else 1.0
        return Colouring(view.bias_title, view.bias.astype(np.float64), DIVERGING, -(limit or 1.0), limit or 1.0)
    if by == "mean" and len(items.mean_rating):
        return _numbers("Mean rating", items.mean_rating)
    if by == "year" and len(items.year):
        return _numbers("Year", items.year)
    known = ", ".join(name for name, _ in colour_names(view) if not name.startswith(CATEGORY))
    raise InputError(f"items cannot be coloured by {by!r}: choose one of {known}, or {CATEGORY}NAME")


def cluster_colour(number: int) -> str:
    """Return the colour of a cluster; colours repeat after seven."""
    return PALETTE[number % len(PALETTE)]


def _steps(title: str, labels: NDArray[np.float64], palette: Sequence[str]) -> Colouring:
    """Return one colour of the palette for each label, which repeat; grey for −1."""
    n = len(palette)
    scale = [(step, colour) for at, colour in enumerate(palette) for step in (at / n, (at + 1) / n)]
    values = np.where(labels < 0, np.nan, labels % n + 0.5)
    return Colouring(title, values, tuple(scale), 0.0, float(n), bar=False)


def _numbers(title: str, values: NDArray[np.float64]) -> Colouring:
    known = values[~np.isnan(values)]
    low, high = np.quantile(known, [0.02, 0.98]).tolist() if len(known) else (0.0, 1.0)
    return Colouring(title, values, SEQUENTIAL, low, high if high > low else low + 1)
