"""The map of the items as a figure for notebooks, fast with many points."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray

from recsys.analysis.colouring import CATEGORY, Colouring, colouring
from recsys.analysis.style import GREY, INK, chart_layout, figure_text, shorten

if TYPE_CHECKING:
    from recsys.analysis.clusters import Cluster
    from recsys.analysis.view import ModelView

MOST_SHOWN = 200_000
"""The largest number of points: a larger catalogue is drawn by its most rated items."""

MAP_HEIGHT_PX = 640
PROJECTIONS = {"map": "Map", "pca": "Components"}


def map_figure(
    view: "ModelView",
    colour: str = "cluster",
    projection: str = "map",
    n_names: int = 0,
) -> go.Figure:
    """Draw the items as points, with WebGL.

    Args:
        colour: see `recsys.analysis.colouring.colour_names`.
        projection: `map`, where near items are alike; or `pca`, the first two components.
        n_names: number of the most rated items that are named.

    Raises:
        InputError: there is no such colouring.
    """
    colours = colouring(view, colour)
    xy, titles = places(view, projection)
    shown = np.sort(view.items.most_rated(MOST_SHOWN))
    if colours.on_top is not None:
        shown = shown[np.argsort(colours.on_top[shown], kind="stable")]
    figure = go.Figure(layout=chart_layout(MAP_HEIGHT_PX))
    figure.add_trace(points(view, xy, shown, colours))
    named = view.items.most_rated(n_names).tolist()
    if named:
        figure.add_trace(_named_points(view, xy, named, colours))
    if colour == "cluster":
        figure.update_layout(annotations=cluster_names(view, xy, shown))
    title = figure_text(colours.title)
    if colour.startswith(CATEGORY):
        title = f"{title}: {int(colours.values.sum()):,} items"
    figure.update_layout(
        showlegend=False, hovermode="closest", dragmode="pan", margin={"t": 12, "l": 48}, uirevision=projection
    )
    plane = projection == "pca" or view.map.method == "pca"
    figure.update_xaxes(title=titles[0], showgrid=plane, showticklabels=plane, zeroline=plane)
    figure.update_yaxes(title=titles[1], showgrid=plane, showticklabels=plane, zeroline=plane)
    figure.update_layout(meta={"colour": title, "n_shown": len(shown), "n_items": len(view.items)})
    return figure


def places(view: "ModelView", projection: str) -> tuple[NDArray[np.float32], tuple[str, str]]:
    """Return the places of all items, (n_items, 2), and the titles of both axes."""
    if projection == "map" and view.map.method != "pca":
        return view.map.xy, ("", "")
    components = view.components
    xy = np.zeros((len(view.items), 2), np.float32)
    n = min(2, components.n_components)
    xy[:, :n] = components.positions[:, :n]
    names = [f"Component {k + 1} ({components.explained[k]:.1%} of the variance)" for k in range(n)]
    names += ["", ""]
    return xy, (names[0], names[1])


def points(view: "ModelView", xy: NDArray[np.float32], shown: NDArray[np.int64], colours: Colouring) -> go.Scattergl:
    """Return the points of some items; `customdata` holds their ids."""
    items = view.items
    size = 4 + 8 * np.sqrt(items.n_ratings[shown] / max(1, int(items.n_ratings.max(initial=1))))
    if len(shown) > 20_000:
        size = np.maximum(3, size - 1)
    return go.Scattergl(
        x=xy[shown, 0],
        y=xy[shown, 1],
        mode="markers",
        name="items",
        text=[hover_text(view, idx) for idx in shown.tolist()],
        customdata=[items.item_ids[idx] for idx in shown.tolist()],
        hovertemplate="%{text}<extra></extra>",
        marker={
            "size": size.astype(np.float32),
            "opacity": 0.75,
            "line": {"width": 0},
            **_marker_colours(colours, shown),
        },
        unselected={"marker": {"opacity": 0.15}},
    )


def hover_text(view: "ModelView", idx: int) -> str:
    """Return title, id and number of ratings of an item, for a figure."""
    items = view.items
    name = figure_text(shorten(items.names[idx], 80))
    return f"<b>{name}</b><br>{figure_text(shorten(items.item_ids[idx], 40))} · {items.rating_count(idx)}"


def cluster_places(
    view: "ModelView", xy: NDArray[np.float32], shown: NDArray[np.int64]
) -> list[tuple["Cluster", tuple[float, float]]]:
    """Return the clusters, the largest first, each with the median of its points."""
    labels = view.cluster_labels[shown]
    found = []
    for cluster in view.clusters:
        members = shown[labels == cluster.number]
        if len(members):
            x, y = np.median(xy[members], axis=0).tolist()
            found.append((cluster, (x, y)))
    return found


def cluster_names(view: "ModelView", xy: NDArray[np.float32], shown: NDArray[np.int64]) -> list[dict[str, Any]]:
    """Return an annotation for each cluster, at the median of its points, as far as they do not overlap."""
    span = np.maximum(np.ptp(xy[shown], axis=0), 1e-9)
    placed: list[NDArray[np.float64]] = []
    found = []
    for cluster, place in cluster_places(view, xy, shown):
        at = np.array(place)
        if any((np.abs(at - other) / span < (0.16, 0.035)).all() for other in placed):
            continue
        placed.append(at)
        found.append(
            {
                "x": place[0],
                "y": place[1],
                "text": f"<b>{figure_text(shorten(cluster.name, 34))}</b>",
                "showarrow": False,
                "bgcolor": "rgba(255,255,255,0.75)",
                "font": {"size": 12, "color": INK},
                "borderpad": 1,
            }
        )
    return found


def _named_points(
    view: "ModelView", xy: NDArray[np.float32], chosen: Sequence[int], colours: Colouring
) -> go.Scattergl:
    idx = np.array(chosen, np.int64)
    return go.Scattergl(
        x=xy[idx, 0],
        y=xy[idx, 1],
        mode="markers+text",
        name="named",
        text=_apart_names(view, xy, idx),
        textposition="top center",
        textfont={"size": 11},
        customdata=[view.items.item_ids[item] for item in chosen],
        hovertext=[hover_text(view, item) for item in idx.tolist()],
        hovertemplate="%{hovertext}<extra></extra>",
        marker={
            "size": 7,
            "opacity": 1,
            "line": {"width": 1.5, "color": INK},
            **_marker_colours(colours, idx, False),
        },
    )


def _apart_names(view: "ModelView", xy: NDArray[np.float32], idx: NDArray[np.int64]) -> list[str]:
    """Return the names of items, and an empty one for an item that is too close to a named one."""
    span = np.maximum(np.ptp(xy, axis=0), 1e-9) if len(xy) else np.ones(2)
    named: list[NDArray[np.float32]] = []
    names = []
    for item in idx.tolist():
        is_apart = all((np.abs(xy[item] - other) / span > (0.2, 0.025)).any() for other in named)
        names.append(figure_text(shorten(view.items.names[item], 28)) if is_apart else "")
        if is_apart:
            named.append(xy[item])
    return names


def _marker_colours(colours: Colouring, idx: NDArray[np.int64], bar: bool = True) -> dict[str, Any]:
    values = colours.values[idx]
    known = ~np.isnan(values)
    if not known.any():
        return {"color": GREY}
    marker: dict[str, Any] = {
        "color": np.where(known, values, colours.low).astype(np.float32),
        "colorscale": colours.scale,
        "cmin": colours.low,
        "cmax": colours.high,
        "showscale": bar and colours.bar,
    }
    if marker["showscale"]:
        marker["colorbar"] = {
            "title": {"text": figure_text(colours.title), "side": "right"},
            "thickness": 12,
            "len": 0.6,
        }
        if colours.ticks:
            marker["colorbar"] |= {
                "tickvals": [value for value, _ in colours.ticks],
                "ticktext": [text for _, text in colours.ticks],
            }
    return marker
