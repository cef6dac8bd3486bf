"""Users on the map of the items: each stands amid the items of their list."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from numpy.typing import NDArray

from recsys.analysis.colouring import SEQUENTIAL
from recsys.analysis.map_figure import MAP_HEIGHT_PX, places
from recsys.analysis.style import GREY, chart_layout, figure_text, shorten

if TYPE_CHECKING:
    from recsys.analysis.view import ModelView

MOST_ITEMS = 5000
"""Items that are drawn behind the users, the most rated ones."""


def user_places(lists: NDArray[np.int64], xy: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return a place for each user on the map of the items: (n_users, 2), NaN for an empty list.

    It is the mean of the half of the list that is closest together: the item with the smallest sum of distances to the
    others, and the items nearest to it. So a user of two tastes stands amid the larger one and not between both.

    Args:
        lists: (n_users, n) positions of items, −1 where a list is short.
        xy: (n_items, 2).
    """
    if not len(xy) or not lists.size:
        return np.full((len(lists), 2), np.nan)
    listed = lists >= 0
    at = xy[np.maximum(lists, 0)].astype(np.float64)  # (n_users, n, 2)
    distance = np.linalg.norm(at[:, :, None] - at[:, None], axis=3)  # (n_users, n, n)
    total = np.where(listed, (distance * listed[:, None]).sum(axis=2), np.inf)
    from_middle = np.where(listed, distance[np.arange(len(lists)), total.argmin(axis=1)], np.inf)
    rank = from_middle.argsort(axis=1, kind="stable").argsort(axis=1)
    half = (listed.sum(axis=1) + 1) // 2
    near = rank < half[:, None]
    found: NDArray[np.float64] = (at * near[:, :, None]).sum(axis=1)
    found[half > 0] /= half[half > 0, None]
    found[half == 0] = np.nan
    return found


def user_map(view: "ModelView", users: pd.DataFrame, names: Mapping[int, str] | None = None) -> go.Figure:
    """Draw users over the items of their map, coloured by their numbers of ratings.

    Args:
        users: `Tables.users`.
        names: key of a user → external id; by default the key.
    """
    xy, titles = places(view, "map")
    shown = view.items.most_rated(MOST_ITEMS)
    figure = go.Figure(layout=chart_layout(MAP_HEIGHT_PX))
    items = {"color": GREY, "size": 3, "opacity": 0.5}
    figure.add_trace(go.Scattergl(x=xy[shown, 0], y=xy[shown, 1], mode="markers", hoverinfo="skip", marker=items))
    users = users.dropna(subset=["x", "y"])
    ids = [str(key) if names is None else names[key] for key in users.index.tolist()]
    hover = [
        f"<b>{figure_text(shorten(user_id, 60))}</b><br>{n:,} ratings"
        + ("" if np.isnan(mean) else f", mean {mean:.2f}")
        for user_id, n, mean in zip(ids, users.n_ratings.tolist(), users.mean_rating.tolist(), strict=True)
    ]
    values = np.log10(np.maximum(users.n_ratings.to_numpy(), 1))
    powers = range(int(values.max(initial=1.0)) + 1)
    bar = {"title": {"text": "Ratings", "side": "right"}, "thickness": 12, "len": 0.6}
    bar |= {"tickvals": list(powers), "ticktext": [f"{10**power:,}" for power in powers]}
    figure.add_trace(
        go.Scattergl(
            x=users.x,
            y=users.y,
            mode="markers",
            name="users",
            text=hover,
            customdata=ids,
            hovertemplate="%{text}<extra></extra>",
            marker={
                "size": 8,
                "opacity": 0.85,
                "line": {"width": 0.75, "color": GREY},  # dark points on a dark page
                "color": values,
                "colorscale": SEQUENTIAL,
                "colorbar": bar,
            },
        )
    )
    plane = view.map.method == "pca"
    margin = {"t": 12, "l": 48} if plane else {"t": 12, "l": 12, "b": 12}
    figure.update_layout(showlegend=False, dragmode="pan", margin=margin)
    for update, title in ((figure.update_xaxes, titles[0]), (figure.update_yaxes, titles[1])):
        update(title=title, showgrid=plane, showticklabels=plane, zeroline=plane)
    return figure
