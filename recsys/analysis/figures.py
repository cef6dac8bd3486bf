"""Plotly figures of a model: map of the items, bias against ratings, training curves."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray

from recsys.analysis.components import Components
from recsys.analysis.labels import OTHER, ItemLabels
from recsys.analysis.measures import measure_of
from recsys.analysis.placement import FONT_PX, Label, place_labels
from recsys.analysis.style import (
    BLUE,
    GREY,
    INK,
    MARGIN,
    PALETTE,
    VERMILLION,
    chart_layout,
    figure_text,
    shorten,
)
from recsys.analysis.tables import training_table

MOST_POINTS = 5000
"""The largest number of items in a figure, the most rated ones: more make browsers slow and a cloud no clearer."""

MIN_WIDTH_PX = 880
"""Labels do not touch in a figure of this width or a wider one; a page must not draw it narrower."""

USUAL_WIDTH_PX = 1060
HEIGHT_PX = 640
CURVE_HEIGHT_PX = 300

LOSSES = {"train_loss": "training", "valid_loss": "held-out ratings"}


@dataclass(frozen=True, slots=True)
class Curve:
    """A figure of a measure over the epochs, and its title."""

    title: str
    figure: go.Figure


@dataclass(frozen=True, slots=True)
class ItemScatter:
    """Items as points of a figure, with labels beside some of them.

    Attributes:
        xy: (n_items, 2) coordinates.
        size: (n_items,) diameters of the markers in pixels.
        items: names, in the order of `xy`.
        value_name: name of the vertical coordinate in the text shown on hovering; empty leaves it out.
        log_x: whether the horizontal axis is logarithmic.
    """

    xy: NDArray[np.float64]
    size: NDArray[np.float64]
    items: ItemLabels
    value_name: str = ""
    log_x: bool = False

    @property
    def on_axes(self) -> NDArray[np.float64]:
        """The coordinates as plotly measures its axes: decimal logarithms on a logarithmic axis."""
        return np.stack([np.log10(self.xy[:, 0]), self.xy[:, 1]], axis=1) if self.log_x else self.xy

    def axis_range(self, item_idx: NDArray[np.int64], axis: int, padding: float = 0.06) -> tuple[float, float]:
        """Return the range of an axis around some items, padded by a share of it; around a single value, ± 1."""
        values = self.on_axes[item_idx, axis]
        low, high = float(values.min()), float(values.max())
        margin = padding * (high - low) or 1.0
        return low - margin, high + margin

    def place_labels(
        self,
        names: Sequence[tuple[int, Sequence[str]]],
        x_range: tuple[float, float],
        y_range: tuple[float, float],
        n: int,
    ) -> dict[int, Label]:
        """Place the names of items beside their points; see `placement.place_labels`."""
        size = MIN_WIDTH_PX - MARGIN["l"] - MARGIN["r"], HEIGHT_PX - MARGIN["t"] - MARGIN["b"]
        low, high = np.array([x_range, y_range]).T
        pixels = (self.on_axes - low) / (high - low) * size
        usual_width = USUAL_WIDTH_PX - MARGIN["l"] - MARGIN["r"]
        return place_labels(pixels, names, size, usual_width, self.size / 2, n)

    def markers(self, item_idx: Sequence[int], group: str, colour: str, opacity: float) -> go.Scatter:
        """Return the markers of some items; hovering shows name, categories and number of ratings."""
        hover = [
            [
                figure_text(shorten(self.items.name(item), 80)),
                figure_text(shorten(", ".join(self.items.categories[item]), 80) or "no category"),
                self.items.rating_count(item),
            ]
            for item in item_idx
        ]
        value = f"<br>{self.value_name} %{{y:+.2f}}" if self.value_name else ""
        return go.Scatter(
            x=self.xy[item_idx, 0],
            y=self.xy[item_idx, 1],
            mode="markers",
            name=figure_text(group),
            legendgroup=figure_text(group),
            marker={"color": colour, "size": self.size[item_idx], "opacity": opacity, "line": {"width": 0}},
            customdata=hover,
            hovertemplate="<b>%{customdata[0]}</b><br>%{customdata[1]}<br>%{customdata[2]}" + value + "<extra></extra>",
        )

    def labels(self, item_idx: Sequence[int], group: str, colour: str, labels: Mapping[int, Label]) -> go.Scatter:
        """Return the labels of some items, and a ring around the marker of each."""
        return go.Scatter(
            x=self.xy[item_idx, 0],
            y=self.xy[item_idx, 1],
            mode="markers+text",
            text=[figure_text(labels[item].text) for item in item_idx],
            textposition=[labels[item].position for item in item_idx],
            textfont={"size": FONT_PX, "color": colour, "shadow": ", ".join(["0 0 3px white"] * 6)},
            marker={"size": self.size[item_idx], "color": "rgba(0,0,0,0)", "line": {"width": 1, "color": INK}},
            legendgroup=figure_text(group),
            showlegend=False,
            hoverinfo="skip",
        )


def item_map(components: Components, items: ItemLabels, n_names: int = 30) -> go.Figure:
    """Draw the items along the first two components, coloured by main category, with names of the most rated.

    Args:
        components: at least two of them.
        items: in the order of `components.positions`.
        n_names: the largest number of names.
    """
    shown = items.most_rated(MOST_POINTS)
    size = 5 + 9 * np.sqrt(items.n_ratings / max(1, int(items.n_ratings.max())))
    scatter = ItemScatter(components.positions[:, :2], size, items)
    x_range, y_range = scatter.axis_range(shown, 0, 0.12), scatter.axis_range(shown, 1)
    # Half as many again as wanted, in place of names that do not fit.
    candidates = [(int(item), [short_name(items.name(item))]) for item in shown[: n_names * 3 // 2]]
    labels = scatter.place_labels(candidates, x_range, y_range, n_names)

    category = items.main_categories(len(PALETTE))
    names = sorted({category[item] for item in shown}, key=lambda name: (name == OTHER, name))
    colours = {name: GREY if name == OTHER else PALETTE[i % len(PALETTE)] for i, name in enumerate(names)}
    of_category = {name: [int(item) for item in shown if category[item] == name] for name in names}
    figure = go.Figure()
    for name in names:
        figure.add_trace(scatter.markers(of_category[name], name, colours[name], 0.65))
    # After all markers, which would cover them; in the group of their markers, so that the legend hides both.
    for name in names:
        if labelled := [item for item in of_category[name] if item in labels]:
            figure.add_trace(scatter.labels(labelled, name, INK, labels))
    figure.update_layout(chart_layout(HEIGHT_PX))
    for axis, update in enumerate((figure.update_xaxes, figure.update_yaxes)):
        title = f"Component {axis + 1} ({components.explained[axis]:.1%} of the variance)"
        update(title=title, range=(x_range, y_range)[axis])
    return figure


def bias_against_ratings(
    item_bias: NDArray[np.floating],
    items: ItemLabels,
    highest: NDArray[np.int64],
    lowest: NDArray[np.int64],
    axis_title: str = "Item bias",
) -> go.Figure:
    """Draw the bias of each rated item against its number of ratings, with names of the items at both ends.

    Args:
        item_bias: (n_items,) in the unit that `axis_title` names.
        items: in the order of `item_bias`; at least one has a rating.
        highest, lowest: positions of the items to name, the most extreme first; all have ratings.
        axis_title: title of the vertical axis.
    """
    xy = np.stack([np.maximum(items.n_ratings, 1), item_bias], axis=1).astype(np.float64)
    most_rated = items.most_rated(MOST_POINTS)
    others = most_rated[(items.n_ratings[most_rated] > 0) & ~np.isin(most_rated, [*highest, *lowest])]
    shown = np.concatenate([others, highest, lowest])
    scatter = ItemScatter(xy, np.full(len(xy), 9.0), items, value_name="bias", log_x=True)
    small = ItemScatter(xy, np.full(len(xy), 6.0), items, value_name="bias", log_x=True)
    x_range, y_range = scatter.axis_range(shown, 0), scatter.axis_range(shown, 1, 0.12)
    # The rank alone where a name does not fit: the lists beside the figure have the same ranks.
    candidates = [
        (item, [f"{rank}. {short_name(items.name(item))}", f"{rank}."])
        for end in (highest, lowest)
        for rank, item in enumerate(end.tolist(), start=1)
    ]
    labels = scatter.place_labels(candidates, x_range, y_range, len(candidates))

    figure = go.Figure()
    figure.add_trace(small.markers(others.tolist(), "other items", GREY, 0.6))
    for group, end, colour in (("highest bias", highest, BLUE), ("lowest bias", lowest, VERMILLION)):
        figure.add_trace(scatter.markers(end.tolist(), group, colour, 0.9))
        labelled = [item for item in end.tolist() if item in labels]
        figure.add_trace(scatter.labels(labelled, group, colour, labels))
    figure.update_layout(chart_layout(HEIGHT_PX))
    figure.update_xaxes(title="Number of ratings (logarithmic)", type="log", range=x_range)
    ticks = [digit * 10**power for power in range(9) for digit in (1, 3)]
    figure.update_xaxes(tickvals=ticks, ticktext=[f"{tick:,}" for tick in ticks])
    figure.update_yaxes(title=axis_title, range=y_range)
    return figure


def training_curves(history: Sequence[Mapping[str, object]]) -> list[Curve]:
    """Draw the values recorded after each epoch: one figure for the losses, and one for each other measure.

    Args:
        history: one mapping per epoch, in order; see `tables.training_table`.
    """
    table = training_table(history)
    measures = [str(key) for key in table.columns]
    losses = [key for key in measures if key.endswith("loss")]
    others = [key for key in measures if key not in losses]
    curves = []
    for keys in [losses, *([key] for key in others)]:
        if not keys:
            continue
        measure = measure_of(keys[0])
        title = measure.name if measure.higher_is_better is None else f"{measure.name} on held-out ratings"
        if keys == ["valid"]:
            title = "Measure on held-out ratings"
        elif keys == losses:
            title = "Training loss" if keys == ["train_loss"] else "Loss"
        figure = go.Figure()
        for key, colour in zip(keys, PALETTE, strict=False):
            figure.add_trace(
                go.Scatter(
                    x=table.index.tolist(),
                    y=[None if math.isnan(value) else value for value in table[key].tolist()],
                    mode="lines+markers" if len(table) <= 40 else "lines",
                    name=figure_text(LOSSES.get(key, key.replace("_", " "))),
                    line={"color": colour, "width": 2},
                    marker={"size": 6},
                    hovertemplate="epoch %{x}: <b>%{y:.4f}</b><extra></extra>",
                )
            )
        has_legend = len(keys) > 1
        figure.update_layout(chart_layout(CURVE_HEIGHT_PX), showlegend=has_legend, margin_t=32 if has_legend else 12)
        figure.update_xaxes(title="Epoch", tickformat="d", zeroline=False)
        figure.update_yaxes(zeroline=False)
        curves.append(Curve(title, figure))
    return curves


def short_name(name: str) -> str:
    """Return a name for a figure: without a year in brackets at its end, and at most 30 characters long."""
    return shorten(re.sub(r"\s*\(\d{4}\)$", "", name) or name, 30)
