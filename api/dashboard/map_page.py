"""The page with the map of the items, and the data that its canvas draws."""

import json
from typing import TYPE_CHECKING, Any

import numpy as np
from dash import dcc, html
from dash.development.base_component import Component
from fastapi import FastAPI
from fastapi.responses import JSONResponse, Response

from api.dashboard import PREFIX
from api.dashboard.parts import Asked, card, controls, item_link, notice, search_field, select, table, version_select
from api.dashboard.store import Views
from api.state import AppState, in_thread
from recsys.analysis.colouring import CATEGORY, Colouring, colour_names, colouring
from recsys.analysis.map_figure import PROJECTIONS, places
from recsys.analysis.map_points import colour_steps, map_points
from recsys.analysis.style import shorten
from recsys.analysis.view import ModelView
from recsys.errors import NotFoundError

if TYPE_CHECKING:
    import pandas as pd

LEVEL_OF_DETAIL = 200_000
"""Above so many items the browser draws the most rated ones while the map moves, and all when it rests."""

TOOLS = (
    ("move", "Move", "Drag the map"),
    ("select", "Select", "Draw around items"),
    ("in", "+", "Closer"),
    ("out", "−", "Farther"),
    ("whole", "Whole map", "Show all items"),
    ("save", "Save image", "Save the map as an image"),
)


def map_page(asked: Asked) -> list[Component]:
    """Return the map, with controls, a search field, and places for details and a selection."""
    view = asked.view
    colour, projection = asked.params.get("colour", "cluster"), asked.params.get("projection", "map")
    if projection not in PROJECTIONS:
        projection = "map"
    if not len(view.items):
        return [controls(version_select(asked)), card("Map", notice("This version knows no items."))]
    colours, (_, axes) = colouring(view, colour), places(view, projection)
    named = dict(colour_names(view))
    how = "Near items appeal to the same users. Click an item to see its neighbours; select some for a table."
    if view.map.method == "pca" and projection == "map" and len(view.items) >= 50:
        how = f"No map of this version is stored, so this shows its components: `recsys map` computes one. {how}"
    if len(view.items) > LEVEL_OF_DETAIL:
        how += f" While the map moves, the {LEVEL_OF_DETAIL:,} most rated of its {len(view.items):,} items are drawn."
    if axes[0]:
        how += f" Across: {axes[0]}. Up: {axes[1] or 'nothing'}."
    details, focus = item_details(asked)
    asked.state.threads.submit(view.prepare_nearest)
    query = {"version": view.number, "colour": colour, "projection": projection, "at": asked.views.read_at(view.number)}
    plane = html.Div(
        [
            html.Canvas(
                tabIndex="0",
                role="application",
                **{
                    "aria-label": f"Map of {len(view.items):,} items. Arrow keys move it, plus and minus zoom, 0 shows "
                    "all. Items can also be found by their titles."
                },
            ),
            html.Div(className="tip", hidden=True),
        ],
        className="plane",
    )
    box = html.Div(
        [
            html.Div([tool(*one) for one in TOOLS], className="tools", role="toolbar", **{"aria-label": "Map"}),
            *legend(colours, colour),
            plane,
            html.P("Loading the items …", className="state", role="status"),
        ],
        id="map",
        className="map-box",
        **{
            "data-src": asked.link("map-points", **query),
            "data-about": asked.link("map-item", version=view.number),
            "data-key": f"{view.number} {projection}",
            "data-focus": json.dumps(focus),
        },
    )
    return [
        controls(
            version_select(asked),
            select("colour", "Colour", colour_names(view), colour),
            select("projection", "Projection", list(PROJECTIONS.items()), projection),
            search_field(),
        ),
        html.Div(
            [
                card(f"Map, coloured by {named[colour].lower()}", box, how=how, name="map"),
                html.Aside(
                    html.Div(details, id="details", **{"aria-live": "polite"}),
                    className="beside",
                ),
            ],
            className="map-page",
        ),
        dcc.Store(id="focus", data=focus),
        dcc.Store(id="selected"),
        dcc.Download(id="csv"),
        html.Div(id="selection"),
        html.Div(html.Button("Download CSV", id="download", className="hidden"), className="actions"),
    ]


def tool(name: str, text: str, title: str) -> html.Button:
    """Return a button of the map; the first two stay pressed."""
    marks = {"data-tool": name, "aria-label": title} | (
        {"aria-pressed": str(name == "move").lower()} if name in ("move", "select") else {}
    )
    return html.Button(text, type="button", title=title, **marks)


def legend(colours: Colouring, name: str) -> list[Component]:
    """Return what the colours mean: a bar from low to high, or a dot for a category; nothing for clusters."""
    if name == "cluster":
        return []
    if name.startswith(CATEGORY):
        dot = html.Span(className="swatch", style={"background": colour_steps(colours, 2)[1]})
        return [html.Div([dot, f"{colours.title}; grey: other items"], className="legend")]
    low, high = (
        f"{10**value:,.0f}" if colours.ticks else f"{value:.4g}".replace("-", "−")
        for value in (colours.low, colours.high)
    )
    gradient = f"linear-gradient(to right, {', '.join(colour_steps(colours, 12))})"
    bar = html.Span(className="bar", style={"background": gradient})
    return [html.Div([colours.title, html.Span(low), bar, html.Span(high)], className="legend")]


def item_details(asked: Asked) -> tuple[list[Component], dict[str, Any]]:
    """Return what the map page says about the item of the address, and what the canvas marks."""
    view, item_id = asked.view, asked.params.get("item")
    if not item_id:
        return [card("Nothing is chosen", notice("Click an item, or search."))], {"item": None}
    try:
        idx = view.require(item_id)
    except NotFoundError as error:
        return [notice(error.public)], {"item": item_id}
    items = view.items
    near = view.nearest(idx, 10)
    neighbours = near.item_idx[0].tolist()
    rows = [
        {"item_id": items.item_ids[at], "title": items.name(at), "cosine": cosine}
        for at, cosine in zip(neighbours, near.cosine[0].tolist(), strict=True)
    ]
    content: list[Component] = [
        html.Section(
            [
                html.H2(item_link(asked, item_id, items.name(idx))),
                html.P(
                    [", ".join(items.categories[idx]) or "no category", f" · {items.rating_count(idx)}"],
                    className="how",
                ),
                html.P(why_here(view, idx, neighbours)),
                table(rows, {"title": "Nearest items", "cosine": "Cosine"}, {"cosine": ".2f"}, asked, "Nearest items"),
            ],
            className="card",
        )
    ]
    names = [shorten(items.name(at), 32) for at in [idx, *neighbours]]
    return content, {"item": item_id, "idx": idx, "neighbours": neighbours, "names": names}


def why_here(view: ModelView, idx: int, neighbours: list[int]) -> str:
    """Return why an item is where it is: its cluster, and what its neighbours share."""
    items = view.items
    counts = {name: sum(name in items.categories[at] for at in neighbours) for name in items.category_idx}
    shared = sorted((name for name, n in counts.items() if n >= 5), key=lambda name: -counts[name])[:2]
    sentences = []
    label = int(view.cluster_labels[idx])
    if 0 <= label < len(view.clusters):
        sentences.append(f"Cluster: {view.clusters[label].name}.")
    if shared:
        sentences.append(
            "Of its ten nearest items, " + ", ".join(f"{counts[name]} are {name}" for name in shared) + "."
        )
    if items.n_ratings[idx] < 10:
        sentences.append("It has few ratings, so its place is mostly chance or its categories.")
    return " ".join(sentences) or "Its nearest items share no category."


def selected_items(view: ModelView, item_idx: list[int]) -> "pd.DataFrame":
    """Return the selected items, the most rated first."""
    idx = np.array([at for at in item_idx if 0 <= at < len(view.items)], np.int64)
    chosen = view.table.items(n_components=2).iloc[idx]
    return chosen.sort_values("n_ratings", ascending=False, kind="stable")


def add_map_data(server: FastAPI, state: AppState, views: Views) -> None:
    """Add the routes that the canvas asks: for the points, and for the item under the pointer."""

    async def points(version: int, colour: str = "cluster", projection: str = "map") -> Response:
        def made() -> bytes:
            view = views.choose(version)
            return map_points(view, colour, projection if projection in PROJECTIONS else "map").to_bytes()

        headers = {"cache-control": "private, max-age=300"}  # the address changes when the version is read again
        return Response(await in_thread(state, made), media_type="application/octet-stream", headers=headers)

    async def item(version: int, idx: int) -> Response:
        def made() -> dict[str, str]:
            items = views.choose(version).items
            if not 0 <= idx < len(items):
                raise NotFoundError(f"version {version} has no item at position {idx}")
            line = f"{shorten(items.item_ids[idx], 60)} · {items.rating_count(idx)}"
            return {"item_id": items.item_ids[idx], "title": items.name(idx), "line": line}

        return JSONResponse(await in_thread(state, made))

    server.add_api_route(PREFIX + "map-points", points, methods=["GET"])
    server.add_api_route(PREFIX + "map-item", item, methods=["GET"])
