"""Plotly figures of a model: map of the items, bias against ratings, training curves."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray

from recsys.analysis.colouring import Colouring, colour_names, colouring
from recsys.analysis.labels import ItemLabels
from recsys.analysis.map_figure import places
from recsys.analysis.measures import format_value, measure_of
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

if TYPE_CHECKING:
    from recsys.analysis.view import ModelView

MOST_POINTS = 5000
"""The largest number of items in a figure, the most rated ones: more make browsers slow and a cloud no clearer."""

MOST_COLOURS = 40
"""The largest number of entries of the menu of colours."""

MIN_WIDTH_PX = 680
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
        """Return the markers of some items; hovering shows name, categories, id and number of ratings."""
        hover = [
            [
                figure_text(shorten(self.items.name(item), 80)),
                figure_text(shorten(", ".join(self.items.categories[item]), 80) or "no category"),
                f"{figure_text(shorten(self.items.item_ids[item], 40))} · {self.items.rating_count(item)}",
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


def item_map(view: "ModelView", n_names: int = 30) -> go.Figure:
    """Draw the items on their map, with a menu that chooses the colours, and names of the most rated.

    Args:
        view: of at least two items that differ.
        n_names: the largest number of names.
    """
    items, shown = view.items, view.items.most_rated(MOST_POINTS)
    size = 5 + 9 * np.sqrt(items.n_ratings / max(1, int(items.n_ratings.max())))
    places_of, titles = places(view, "map")
    scatter = ItemScatter(places_of.astype(np.float64), size, items)
    x_range, y_range = scatter.axis_range(shown, 0, 0.12), scatter.axis_range(shown, 1)
    # Half as many again as wanted, in place of names that do not fit.
    candidates = [(int(item), [short_name(items.name(item))]) for item in shown[: n_names * 3 // 2]]
    labels = scatter.place_labels(candidates, x_range, y_range, n_names)

    figure = go.Figure()
    figure.add_trace(scatter.markers(shown.tolist(), "items", GREY, 0.7))
    figure.add_trace(scatter.labels(list(labels), "names", INK, labels))
    figure.update_layout(chart_layout(HEIGHT_PX), showlegend=False)
    choices = colour_names(view)[:MOST_COLOURS]
    buttons = [
        {
            "method": "restyle",
            "label": figure_text(shorten(name, 34)),
            "args": [_restyled(colouring(view, value), shown), [0]],
        }
        for value, name in choices
    ]
    figure.update_traces(marker={**_marker(colouring(view, choices[0][0]), shown)}, selector={"name": "items"})
    menu = {
        "x": 1,
        "y": 1,
        "xanchor": "right",
        "yanchor": "bottom",
        "pad": {"b": 4},
        "bgcolor": "white",
        "buttons": buttons,
    }
    figure.update_layout(updatemenus=[menu])
    plane = view.map.method == "pca"
    for axis, update in enumerate((figure.update_xaxes, figure.update_yaxes)):
        update(title=titles[axis], range=(x_range, y_range)[axis], showticklabels=plane, showgrid=plane, zeroline=plane)
    return figure


def _marker(colours: Colouring, shown: NDArray[np.int64]) -> dict[str, Any]:
    """Return the colours of the markers of some items, with a colour bar above the drawing area."""
    values = np.nan_to_num(colours.values[shown], nan=colours.low)
    bar: dict[str, Any] = {"orientation": "h", "x": 0, "xanchor": "left", "y": 1.0, "yanchor": "bottom", "len": 0.4}
    bar |= {"thickness": 8, "title": {"text": figure_text(colours.title), "side": "top"}, "tickfont": {"size": 10}}
    return {
        "color": [round(value, 2) for value in values.tolist()],
        "colorscale": colours.scale,
        "cmin": colours.low,
        "cmax": colours.high,
        "showscale": colours.bar,
        "colorbar": bar,
    }


def _restyled(colours: Colouring, shown: NDArray[np.int64]) -> dict[str, list[Any]]:
    """Return the change of the markers that a button of the menu makes."""
    marker = _marker(colours, shown)
    if not colours.bar:
        marker["color"] = [int(value) if float(value).is_integer() else value for value in marker["color"]]
    scale = marker["colorscale"]
    changes = {f"marker.{name}": [marker[name]] for name in ("color", "cmin", "cmax", "showscale")}
    changes["marker.colorscale"] = [scale if isinstance(scale, str) else [list(step) for step in scale]]
    changes["marker.colorbar.title.text"] = [marker["colorbar"]["title"]["text"]]
    ticks = [value for value, _ in colours.ticks]
    changes["marker.colorbar.tickvals"] = [ticks or None]
    changes["marker.colorbar.ticktext"] = [[text for _, text in colours.ticks] or None]
    return changes


def bias_points(values: NDArray[np.floating], items: ItemLabels, axis_title: str, min_ratings: int = 1) -> go.Figure:
    """Draw a value of each item against its number of ratings, with WebGL: as fast with 100,000 items as with 100.

    Args:
        values: (n_items,).
        axis_title: title of the vertical axis.
        min_ratings: items with fewer ratings are left out.
    """
    shown = np.flatnonzero(items.n_ratings >= max(1, min_ratings))
    hover = [
        f"<b>{figure_text(shorten(items.names[idx], 80))}</b><br>{figure_text(shorten(items.item_ids[idx], 40))}"
        for idx in shown.tolist()
    ]
    figure = go.Figure(
        go.Scattergl(
            x=items.n_ratings[shown],
            y=values[shown].astype(np.float32),
            mode="markers",
            text=hover,
            customdata=[items.item_ids[idx] for idx in shown.tolist()],
            marker={"color": BLUE, "size": 6, "opacity": 0.5},
            hovertemplate="%{text}<br>%{x:,} ratings<br><b>%{y:.3f}</b><extra></extra>",
        ),
        chart_layout(480),
    )
    ticks = [digit * 10**power for power in range(9) for digit in (1, 3)]
    figure.update_layout(showlegend=False, margin={"t": 12}, dragmode="pan")
    figure.update_xaxes(
        title="Number of ratings (logarithmic)", type="log", tickvals=ticks, ticktext=[f"{tick:,}" for tick in ticks]
    )
    figure.update_yaxes(title=figure_text(axis_title))
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


def training_curves(
    history: Sequence[Mapping[str, object]],
    metrics: Mapping[str, float] | None = None,
    configuration: Mapping[str, object] | None = None,
) -> list[Curve]:
    """Draw the values recorded after each epoch: one figure for the losses, and one for each other measure.

    Args:
        history: one mapping per epoch, in order; see `tables.training_table`.
        metrics: measures of the finished version. Where a curve has one, a line shows it: the curve is measured on a
            part of the users, the version on all of them, so that its value differs from the end of the curve.
        configuration: of the training; the titles say the number of users that it names.
    """
    n_users = (configuration or {}).get("curve_users")
    held_out = "held-out ratings" if n_users is None else f"held-out ratings of {n_users:,} users"
    table = training_table(history)
    measures = [str(key) for key in table.columns]
    losses = [key for key in measures if key.endswith("loss")]
    others = [key for key in measures if key not in losses]
    curves = []
    for keys in [losses, *([key] for key in others)]:
        if not keys:
            continue
        measure = measure_of(keys[0])
        title = measure.name if measure.higher_is_better is None else f"{measure.name} on {held_out}"
        if keys == ["valid"]:
            title = f"Measure on {held_out}"
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
        final = (metrics or {}).get(keys[0])
        if final is not None and len(keys) == 1:
            figure.add_hline(
                y=final,
                line={"color": GREY, "dash": "dash", "width": 1.5},
                annotation={"text": f"the version, all users: {format_value(final)}", "font": {"size": 11}},
                annotation_position="bottom left" if measure.higher_is_better is False else "top left",
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
