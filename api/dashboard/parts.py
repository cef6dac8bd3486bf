"""Parts that pages share: headings, controls, tables, figures, notices."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, quote, urlencode

import plotly.graph_objects as go
from dash import dcc, html
from dash.development.base_component import Component

from api.dashboard.session import Session
from api.dashboard.store import Views
from api.state import AppState
from recsys.analysis.view import ModelView
from recsys.database.engine import reading
from recsys.database.models import ModelVersion
from recsys.database.users import read_user_ids
from recsys.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

TIME = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d")
GRAPH = {
    "displaylogo": False,
    "responsive": True,
    "scrollZoom": True,
    "modeBarButtonsToRemove": ["autoScale2d", "zoomIn2d", "zoomOut2d"],
}


@dataclass(frozen=True)
class Asked:
    """A page that was asked for.

    Attributes:
        params: what the address says after `?`.
        base: the address of the dashboard, `/dashboard/`.
    """

    state: AppState
    views: Views
    session: Session
    page: str
    params: Mapping[str, str]
    base: str
    known: list[ModelVersion] = field(default_factory=list)

    def number(self, name: str) -> int | None:
        """Return a whole number of the address; `None` without one.

        Raises:
            InputError: it is not a number.
        """
        text = self.params.get(name, "")
        if not text:
            return None
        if not (text.isascii() and text.isdigit() and len(text) < 10):
            raise InputError(f"{name} is {text[:40]!r}: expected a whole number")
        return int(text)

    @property
    def view(self) -> ModelView:
        """The version that the address names, or the live one."""
        return self.views.choose(self.number("version"), self.known)

    def link(self, page: str, **params: object) -> str:
        """Return the address of a page; the version stays the same."""
        kept = {"version": self.params["version"]} if self.params.get("version") else {}
        chosen = {**kept, **{name: str(value) for name, value in params.items() if value is not None}}
        return self.base + page + ("?" + urlencode(chosen, quote_via=quote) if chosen else "")


def read_params(search: str | None) -> dict[str, str]:
    """Return the parameters of an address."""
    return dict(parse_qsl((search or "").lstrip("?")))


def card(title: str, *children: object, how: str = "", name: str = "") -> html.Section:
    """Return a part of a page with a heading and a sentence that explains it."""
    head: list[Any] = [html.H2(title)] + ([html.P(how, className="how")] if how else [])
    return html.Section(head + list(children), className=f"card {name}".strip())


def notice(*children: object) -> html.P:
    """Return a sentence that stands in place of something."""
    return html.P(list(children), className="notice")


def graph(figure: go.Figure, label: str, **more: Any) -> html.Div:
    """Return a figure; `label` names it for people who do not see it."""
    height = figure.layout.height or 400
    figure.update_layout(height=None, autosize=True, uirevision=figure.layout.uirevision or "kept")
    drawn = dcc.Graph(figure=figure, config=GRAPH, responsive=True, style={"height": f"{height}px"}, **more)
    return html.Div(drawn, role="figure", **{"aria-label": label}, className="figure")


def select(
    name: str, label: str, options: Sequence[tuple[str, str]], value: str, default: str | None = None
) -> html.Label:
    """Return a choice that changes one parameter of the address.

    Args:
        options: (value, text) each.
        default: the value that the address leaves out; by default the first.
    """
    entries = [
        html.Option(text, value=option, selected="selected" if option == value else None) for option, text in options
    ]
    default = (options[0][0] if options else "") if default is None else default
    marks = {"data-param": name, "data-default": default}
    # A key: another choice by the address makes a new element, since a browser keeps what a person chose.
    return html.Label([html.Span(label), html.Select(entries, key=f"{name}={value}", **marks)], className="control")


def version_select(asked: Asked, name: str = "version", label: str = "Version", first: str | None = None) -> html.Label:
    """Return the choice of a version."""
    chosen = asked.number(name)
    current = "" if chosen is None and first is not None else str(chosen or asked.view.number)
    options = [] if first is None else [("", first)]
    for version in asked.known:
        live = ", live" if version.live else ""
        options.append((str(version.number), f"{version.number} · {version.objective}{live}"))
    return select(name, label, options, current, default="")


def search_field() -> html.Div:
    """Return a field for titles, and the place of what is found, which opens below it.

    What the field says goes into the store `query`, a moment after the last key.

    A plain text area: Dash's own field loses the place of the cursor where its value is read while a person types.
    """
    field = html.Textarea(id="search", rows=1, placeholder="title or id", spellCheck="false", autoComplete="off")
    label = html.Label([html.Span("Search"), field], className="control")
    return html.Div([label, dcc.Store(id="query"), html.Div(id="found")], className="searching")


def controls(*children: Component) -> html.Div:
    """Return a row of controls."""
    return html.Div(list(children), className="controls")


def item_link(asked: Asked, item_id: str, title: str) -> dcc.Link:
    """Return a link to the page of an item."""
    return dcc.Link(title, href=asked.link("item", item=item_id))


def user_links(asked: Asked, frame: "pd.DataFrame") -> "pd.DataFrame":
    """Return the rows of users who are still there, with a column `user`: a link to the page of each.

    Args:
        frame: with a column `user_key`.
    """
    with reading(asked.state.engine) as connection:
        ids = read_user_ids(connection, frame.user_key.tolist())
    kept = frame[frame.user_key.isin(list(ids))]
    links = [dcc.Link(ids[key], href=asked.link("user", user=ids[key])) for key in kept.user_key.tolist()]
    return kept.assign(user=links)


def table(
    frame: "pd.DataFrame | Sequence[Mapping[str, Any]]",
    headers: Mapping[str, str],
    formats: Mapping[str, str] | None = None,
    asked: Asked | None = None,
    caption: str = "",
) -> html.Div:
    """Return a table.

    Args:
        frame: a data frame, or its rows: column → value.
        headers: column → heading; other columns are left out.
        formats: column → format of its numbers.
        asked: makes links of the titles of rows that have an `item_id`.
        caption: what the table shows, for people who do not see the page.
    """
    records: Sequence[Mapping[Any, Any]] = frame if isinstance(frame, Sequence) else frame.to_dict("records")
    known = records[0] if isinstance(frame, Sequence) and records else getattr(frame, "columns", ())
    columns = [name for name in headers if name in known]
    numeric = {name for name in columns if records and all(isinstance(row[name], int | float) for row in records)}
    rows = []
    for row in records:
        cells = []
        for name in columns:
            value: Any = row[name]
            if name == "title" and asked is not None and "item_id" in row:
                value = item_link(asked, str(row["item_id"]), str(value))
            elif isinstance(value, Component):
                pass
            elif isinstance(value, tuple | list):
                value = ", ".join(map(str, value))
            elif value is None or value != value:
                value = "–"
            elif name in (formats or {}) and not isinstance(value, str):
                value = format(value, (formats or {})[name]).replace("-", "−")
            elif isinstance(value, float):
                value = f"{value:.3f}".replace("-", "−")
            elif isinstance(value, int) and not isinstance(value, bool):
                value = f"{value:,}"
            kind = "number" if name in numeric else "time" if isinstance(value, str) and TIME.fullmatch(value) else ""
            cells.append(html.Td(value, className=kind))
        rows.append(html.Tr(cells))
    head = html.Tr(
        [html.Th(headers[name], scope="col", className="number" if name in numeric else "") for name in columns]
    )
    parts: list[Any] = [html.Caption(caption)] if caption else []
    return html.Div(
        html.Table([*parts, html.Thead(head), html.Tbody(rows)]),
        className="scroll",
        tabIndex="0",
        role="region",
        **{"aria-label": caption or "table"},
    )


def ends_table(asked: Asked, frame: "pd.DataFrame", value: str, label: str, number_format: str = "+.2f") -> html.Div:
    """Return both ends of an axis beside each other."""
    halves = []
    for end, heading in (("high", "High end"), ("low", "Low end")):
        part = frame[frame.end == end]
        headers = {"title": heading, "n_ratings": "Ratings", value: label}
        halves.append(table(part, headers, {value: number_format}, asked, caption=f"{heading}: {label}"))
    return html.Div(halves, className="pair")
