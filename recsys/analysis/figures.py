"""Factors as plotly figures."""

import html
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray

from recsys.analysis.components import Components
from recsys.analysis.labels import OTHER, ItemLabels
from recsys.analysis.placement import FONT_PX, Placed, place_names

# Okabe and Ito's palette, told apart with every kind of colour vision, but for its yellow, too pale on white.
BLUE, VERMILLION = "#0072B2", "#D55E00"
PALETTE = (BLUE, "#E69F00", "#009E73", VERMILLION, "#CC79A7", "#56B4E9", "#333333")
GREY = "#B4B4B0"
INK = "#2A2A28"

MOST_POINTS = 5000
"""A figure draws the most rated items, this many at most: more make browsers slow and a cloud no clearer."""

NARROWEST_PX = 880
"""Names do not touch in a figure of this width or a wider one; a page must not draw it narrower."""

_HEIGHT_PX = 640
_CURVE_HEIGHT_PX = 300
_MARGIN = {"l": 64, "r": 16, "t": 40, "b": 56}
_DRAWING_PX = (NARROWEST_PX - _MARGIN["l"] - _MARGIN["r"], _HEIGHT_PX - _MARGIN["t"] - _MARGIN["b"])
_USUAL_PX = 1060 - _MARGIN["l"] - _MARGIN["r"]
_FONT = "system-ui, sans-serif"
_HALO = ", ".join(["0 0 3px white"] * 6)

Range = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Curve:
    """A figure of how something went over the epochs, and its title."""

    title: str
    figure: go.Figure


def item_map(components: Components, items: ItemLabels, n_names: int = 30) -> go.Figure:
    """The items along the first two components, coloured by main category, the most rated ones named.

    Args:
        components: at least two of them.
        items: in the order of `components.positions`.
        n_names: how many names to print, if there is room.
    """
    at = components.positions[:, :2]  # (n_items, 2)
    by_ratings = _most_rated(items)
    x_range, y_range = _padded(at[by_ratings, 0], 0.12), _padded(at[by_ratings, 1])
    size = 5 + 9 * np.sqrt(items.n_ratings / max(1, int(items.n_ratings.max())))
    # Half as many again as are wanted stand by for those that find no room.
    candidates = [(int(item), [short_name(items.name(item))]) for item in by_ratings[: n_names * 3 // 2]]
    pixels = _pixels(at, x_range, y_range)
    places = place_names(pixels, candidates, _DRAWING_PX, _USUAL_PX, size / 2, n_names)

    category = items.main_categories(len(PALETTE))
    drawn = sorted({category[item] for item in by_ratings}, key=lambda name: (name == OTHER, name))
    colour = {name: GREY if name == OTHER else PALETTE[i % len(PALETTE)] for i, name in enumerate(drawn)}
    of_category = {name: [int(item) for item in by_ratings if category[item] == name] for name in drawn}
    figure = go.Figure()
    for name in drawn:
        figure.add_trace(_points(at, of_category[name], items, name, colour[name], size, opacity=0.65))
    # After all points, which would cover them; in the group of their points, to be hidden together.
    for name in drawn:
        if named := [item for item in of_category[name] if item in places]:
            figure.add_trace(_names(at, named, name, INK, size, places))
    figure.update_layout(_layout(_HEIGHT_PX))
    figure.update_xaxes(title=f"Component 1 ({components.explained[0]:.1%} of the variance)", range=x_range)
    figure.update_yaxes(title=f"Component 2 ({components.explained[1]:.1%} of the variance)", range=y_range)
    return figure


def bias_against_ratings(
    item_bias: NDArray[np.floating],
    items: ItemLabels,
    most_loved: NDArray[np.int64],
    least_loved: NDArray[np.int64],
    axis_title: str = "Item bias",
) -> go.Figure:
    """The bias of each rated item against its number of ratings, the items at both ends named or ranked.

    Args:
        item_bias: (n_items,) in the unit that `axis_title` names.
        items: in the order of `item_bias`; at least one has a rating.
        most_loved, least_loved: positions of the items to name, the most extreme first; all have ratings.
        axis_title: of the vertical axis.
    """
    count = np.maximum(items.n_ratings, 1).astype(np.float64)
    at = np.stack([count, item_bias.astype(np.float64)], axis=1)  # (n_items, 2)
    by_ratings = _most_rated(items)
    others = by_ratings[(items.n_ratings[by_ratings] > 0) & ~np.isin(by_ratings, [*most_loved, *least_loved])]
    drawn = np.concatenate([others, most_loved, least_loved])
    x_range, y_range = _padded(np.log10(at[drawn, 0])), _padded(at[drawn, 1], 0.12)
    size = np.full(len(at), 9.0)
    # A rank alone, where there is no room for a name: lists of names are ranked too.
    candidates = [
        (item, [f"{rank}. {short_name(items.name(item))}", f"{rank}."])
        for end in (most_loved, least_loved)
        for rank, item in enumerate(end.tolist(), start=1)
    ]
    pixels = _pixels(np.stack([np.log10(at[:, 0]), at[:, 1]], axis=1), x_range, y_range)
    places = place_names(pixels, candidates, _DRAWING_PX, _USUAL_PX, size / 2, len(candidates))

    figure = go.Figure()
    figure.add_trace(_points(at, others.tolist(), items, "other items", GREY, size - 3, 0.6, "bias"))
    ends = (
        ("liked beyond their kind", most_loved, BLUE),
        ("liked less than their kind", least_loved, VERMILLION),
    )
    for name, end, colour in ends:
        figure.add_trace(_points(at, end.tolist(), items, name, colour, size, 0.9, "bias"))
        named = [item for item in end.tolist() if item in places]
        figure.add_trace(_names(at, named, name, colour, size, places))
    figure.update_layout(_layout(_HEIGHT_PX))
    figure.update_xaxes(title="Number of ratings (logarithmic)", type="log", range=x_range)
    ticks = [digit * 10**power for power in range(9) for digit in (1, 3)]
    figure.update_xaxes(tickvals=ticks, ticktext=[f"{tick:,}" for tick in ticks])
    figure.update_yaxes(title=axis_title, range=y_range)
    return figure


def training_curves(history: Sequence[Mapping[str, object]]) -> list[Curve]:
    """What was recorded after each epoch, one figure for the losses and one for each other measure.

    Args:
        history: one mapping for each epoch, in order; values that are no finite number leave a gap, and what
            has no number at all, or measures time, gets no figure. Epochs without `epoch` are counted from 1.
    """
    epochs = [_number(row.get("epoch")) or i for i, row in enumerate(history, start=1)]
    columns: dict[str, list[float | None]] = {}
    for key in dict.fromkeys(key for row in history for key in row):
        values = [_number(row.get(key)) for row in history]
        if key != "epoch" and not key.endswith("seconds") and any(value is not None for value in values):
            columns[key] = values
    losses = [key for key in columns if key.endswith("loss")]
    groups = [losses] if losses else []
    groups += [[key] for key in columns if key not in losses]
    return [_curve(epochs, {key: columns[key] for key in group}) for group in groups]


def short_name(name: str) -> str:
    """A name to print in a figure: without the year in brackets, cut to leave room for others."""
    name = re.sub(r"\s*\(\d{4}\)$", "", name) or name
    return _cut(name, 30)


def _curve(epochs: Sequence[float], columns: Mapping[str, Sequence[float | None]]) -> Curve:
    names = {
        "train_loss": "training",
        "valid_loss": "held-out ratings",
        "valid": "Measure on held-out ratings",
    }
    title = "Training loss" if list(columns) == ["train_loss"] else "Loss" if "train_loss" in columns else ""
    top = 32 if len(columns) > 1 else 12
    figure = go.Figure()
    for (key, values), colour in zip(columns.items(), PALETTE, strict=False):
        name = names.get(key, key.replace("_", " "))
        title = title or name
        figure.add_trace(
            go.Scatter(
                x=epochs,
                y=values,
                mode="lines+markers" if len(epochs) <= 40 else "lines",
                name=_text(name),
                line={"color": colour, "width": 2},
                marker={"size": 6},
                hovertemplate="epoch %{x}: <b>%{y:.4f}</b><extra></extra>",
            )
        )
    figure.update_layout(_layout(_CURVE_HEIGHT_PX), showlegend=len(columns) > 1, margin_t=top)
    figure.update_xaxes(title="Epoch", tickformat="d", zeroline=False)
    figure.update_yaxes(title=_text(title), zeroline=False)
    return Curve(title[:1].upper() + title[1:], figure)


def _points(
    at: NDArray[np.float64],
    shown: Sequence[int],
    items: ItemLabels,
    name: str,
    colour: str,
    size: NDArray[np.float64],
    opacity: float,
    value_name: str = "",
) -> go.Scatter:
    """Markers of some items; hovering tells what they are, and their height where it has a name."""
    told = [
        [
            _text(_cut(items.name(item), 80)),
            _text(_cut(", ".join(items.categories[item]), 80) or "no category"),
            items.rated(item),
        ]
        for item in shown
    ]
    value = f"<br>{value_name} %{{y:+.2f}}" if value_name else ""
    return go.Scatter(
        x=at[shown, 0],
        y=at[shown, 1],
        mode="markers",
        name=_text(name),
        legendgroup=_text(name),
        marker={"color": colour, "size": size[shown], "opacity": opacity, "line": {"width": 0}},
        customdata=told,
        hovertemplate="<b>%{customdata[0]}</b><br>%{customdata[1]}<br>%{customdata[2]}" + value + "<extra></extra>",
    )


def _names(
    at: NDArray[np.float64],
    shown: Sequence[int],
    group: str,
    colour: str,
    size: NDArray[np.float64],
    places: Mapping[int, Placed],
) -> go.Scatter:
    """Names beside some items, and a ring around each that has one."""
    return go.Scatter(
        x=at[shown, 0],
        y=at[shown, 1],
        mode="markers+text",
        text=[_text(places[item].text) for item in shown],
        textposition=[places[item].place for item in shown],
        textfont={"size": FONT_PX, "color": colour, "shadow": _HALO},
        marker={"size": size[shown], "color": "rgba(0,0,0,0)", "line": {"width": 1, "color": INK}},
        legendgroup=_text(group),
        showlegend=False,
        hoverinfo="skip",
    )


def _layout(height: int) -> go.Layout:
    axis = {
        "showline": False,
        "gridcolor": "#ECECE8",
        "zerolinecolor": "#D4D4CF",
        "ticks": "",
        "title": {"font": {"size": 13}, "standoff": 10},
    }
    return go.Layout(
        template="none",
        height=height,
        margin=_MARGIN,
        font={"family": _FONT, "size": 12, "color": INK},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        xaxis=axis,
        yaxis=axis,
        hovermode="closest",
        hoverlabel={
            "bgcolor": "white",
            "bordercolor": "#C9C9C4",
            "font": {"color": INK, "size": 13, "family": _FONT},
            "align": "left",
        },
        legend={
            "orientation": "h",
            "x": 0,
            "y": 1,
            "xanchor": "left",
            "yanchor": "bottom",
            "itemsizing": "constant",
        },
    )


def _most_rated(items: ItemLabels) -> NDArray[np.int64]:
    return np.argsort(-items.n_ratings, kind="stable")[:MOST_POINTS].astype(np.int64)


def _padded(values: NDArray[np.float64], share: float = 0.06) -> Range:
    """The range of an axis: the values and some air at both ends; round a single value, that value ± 1."""
    low, high = float(values.min()), float(values.max())
    air = share * (high - low) or 1.0
    return low - air, high + air


def _pixels(at: NDArray[np.float64], x_range: Range, y_range: Range) -> NDArray[np.float64]:
    """Where points stand in the smallest drawing: (n_items, 2) pixels from its lower left corner."""
    low = np.array([x_range[0], y_range[0]])
    high = np.array([x_range[1], y_range[1]])
    pixels: NDArray[np.float64] = (at - low) / (high - low) * np.array(_DRAWING_PX)
    return pixels


def _number(value: object) -> float | None:
    """A finite number, or None."""
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        return float(value)
    return None


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1].rstrip() + "…"


def _text(text: str) -> str:
    """Text for plotly, which reads tags and entities in every string that it draws."""
    return html.escape(text, quote=False)
