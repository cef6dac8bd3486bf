"""Build the dashboard: its pages, its callbacks, and what stands before both."""

import logging
import secrets
from collections.abc import Callable, Mapping
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any
from urllib.parse import quote

from dash import ClientsideFunction, Dash, Input, Output, State, dcc, html, no_update
from dash.development.base_component import Component
from fastapi import FastAPI, Request
from fastapi.responses import RedirectResponse, Response
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Receive, Scope, Send

from api.dashboard import PREFIX
from api.dashboard.callbacks import PATH, check_callback, replay
from api.dashboard.forms import add_forms
from api.dashboard.map_page import add_map_data, item_details, selected_items
from api.dashboard.parts import Asked, notice, read_params, table
from api.dashboard.session import CSRF_COOKIE, CURRENT, session_of, set_cookie
from api.dashboard.store import Views
from api.problems import problem
from api.state import AppState, in_thread
from recsys.errors import RecsysError, UnauthorizedError

ASSETS = Path(__file__).parent / "assets"
PAGES = {
    "": ("Overview", "overview:overview_page"),
    "map": ("Map", "map_page:map_page"),
    "factors": ("Factors", "pages:factors_page"),
    "popularity": ("Popularity", "pages:popularity_page"),
    "item": ("Item", "pages:item_page"),
    "user": ("User", "overview:user_page"),
    "compare": ("Compare", "pages:compare_page"),
    "health": ("Health", "pages:health_page"),
    "training": ("Training", "training:training_page"),
}
"""Page → its name, and the module and function that make it.

A module is imported when one of its pages is opened: all but the map's import pandas, for which the first map of a
server would have to wait."""
HEADERS = {
    # Dash starts from a script in its page; plotly compiles its WebGL shaders' code.
    "content-security-policy": "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; "
    "style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; frame-ancestors 'none'; base-uri 'self'; "
    "form-action 'self'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "same-origin",
}

OPEN = ("sign-in", "assets/dashboard.css")
"""What needs no session. Dash's scripts have megabytes, which are read and compressed for each request."""

_log = logging.getLogger(__name__)


def create_dashboard(state: AppState, root_path: str = "") -> FastAPI:
    """Return the application that answers below `/dashboard/`.

    Args:
        root_path: prefix under which a proxy offers the service.
    """
    server = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)
    base, views = root_path + PREFIX, Views(state)
    dash = Dash(
        "recsys",
        server=server,
        backend="fastapi",
        routes_pathname_prefix=PREFIX,
        requests_pathname_prefix=base,
        assets_folder=str(ASSETS),
        serve_locally=True,
        suppress_callback_exceptions=True,
        update_title=None,
        title="recsys",
        compress=False,
        add_log_handler=False,
        include_pages_meta=False,
        index_string=INDEX,
    )
    dash.backend.websocket_capability = False  # the server has no WebSocket library, and pages need none
    dash.layout = lambda: layout(base)
    add_callbacks(dash, state, views, base)
    add_forms(server, state, base)
    add_map_data(server, state, views)

    server.add_middleware(Guard, state=state, base=base, callbacks=dash.callback_map)
    return server


INDEX = """<!DOCTYPE html>
<html lang="en">
<head>
{%metas%}
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{%title%}</title>
<link rel="icon" href="data:,">
{%css%}
</head>
<body>
{%app_entry%}
{%config%}
{%scripts%}
{%renderer%}
</body>
</html>
"""


class Guard:
    """Stands before every request of the dashboard: who asks, and headers that keep the page to its own files."""

    def __init__(self, app: ASGIApp, state: AppState, base: str, callbacks: Mapping[str, Any]) -> None:
        self._app, self._state, self._base, self._callbacks = app, state, base, callbacks

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_with_headers(message: Any) -> None:
            if message["type"] == "http.response.start":
                headers = [(name.encode(), value.encode()) for name, value in HEADERS.items()]
                if scope["path"].endswith(".js") and b"cache-control" not in dict(message.get("headers", ())):
                    headers.append((b"cache-control", b"max-age=3600"))
                message = {**message, "headers": [*message.get("headers", ()), *headers]}
            await send(message)

        request, path = Request(scope, receive), scope["path"].removeprefix(PREFIX)
        if path in OPEN:
            await self._app(scope, receive, send_with_headers)
            return
        try:
            session = session_of(request, self._state)
        except UnauthorizedError as error:
            answer: Response = problem(401, error.title, str(error))
            if request.method == "GET" and not path.startswith("_dash"):
                asked = path + ("?" + request.url.query if request.url.query else "")
                answer = RedirectResponse(self._base + "sign-in" + (f"?next={quote(asked)}" if asked else ""), 303)
            await answer(scope, receive, send_with_headers)
            return
        except RecsysError as error:
            await problem(error.status, error.title, error.public)(scope, receive, send_with_headers)
            return
        if path == PATH and request.method == "POST":
            try:
                body = await request.body()
                check_callback(body, self._callbacks)
            except ClientDisconnect:
                return
            except RecsysError as error:
                await problem(error.status, error.title, error.public)(scope, receive, send_with_headers)
                return
            receive = replay(body, receive)
        scope["actor"] = session.actor
        token = ""
        if not session.csrf and request.method == "GET" and path in PAGES:
            token = secrets.token_urlsafe(24)
            session = replace(session, csrf=token)
        CURRENT.set(session)
        if request.method == "GET" and path in PAGES:
            scope = {**scope, "path": PREFIX}  # one document for all pages: it reads the page from its address

        async def send_with_token(message: Any) -> None:
            if token and message["type"] == "http.response.start":
                answer = Response()
                set_cookie(answer, request, CSRF_COOKIE, token, self._base)
                message = {
                    **message,
                    "headers": [*message["headers"], (b"set-cookie", answer.headers["set-cookie"].encode())],
                }
            await send_with_headers(message)

        await self._app(scope, receive, send_with_token)


def layout(base: str) -> Component:
    """Return the frame of every page: navigation, and the place of the page."""
    links = [dcc.Link(name, href=base + page, className="page") for page, (name, _) in PAGES.items()]
    session = CURRENT.get(None)
    more: list[Component] = [html.Button("Light or dark", id="theme", type="button")]
    if session is not None and session.signed_in:
        more.append(
            html.Form(
                [
                    dcc.Input(type="hidden", name="csrf", value=session.csrf, id="csrf-out"),
                    html.Button(f"Sign out {session.actor}", type="submit"),
                ],
                action=base + "sign-out",
                method="post",
            )
        )
    return html.Div(
        [
            dcc.Location(id="url", refresh=False),
            dcc.Store(id="address"),
            dcc.Store(id="ignored"),
            dcc.Store(id="focused"),
            html.A("Skip to the page", href="#page", className="skip"),
            html.Header([html.Span("recsys", className="brand"), html.Nav(links, **{"aria-label": "Pages"}), *more]),
            html.Main([html.H1(id="title"), html.Div(id="page", tabIndex="-1", **{"aria-live": "polite"})]),
        ]
    )


def add_callbacks(dash: Dash, state: AppState, views: Views, base: str) -> None:
    """Add what happens on a page. The work is done in threads, since callbacks run on the event loop."""

    async def asked_for(pathname: str | None, search: str | None) -> Asked:
        page = (pathname or "").removeprefix(base).strip("/")
        known = await in_thread(state, views.versions)
        return Asked(state, views, CURRENT.get(), page, read_params(search), base, known)

    @dash.callback(
        Output("page", "children"),
        Output("title", "children"),
        Input("address", "data"),
        State("url", "pathname"),
        State("url", "search"),
    )
    async def show(address: str | None, pathname: str | None, search: str | None) -> Any:
        if address is None:  # the browser has not looked at its address yet
            return no_update, no_update
        page = (pathname or "").removeprefix(base).strip("/")
        name = PAGES[page][0] if page in PAGES else "Not found"
        try:
            asked = await asked_for(pathname, search)
            content = await in_thread(state, make_page, asked)
        except RecsysError as error:
            content = [notice(error.public), html.P(dcc.Link("Overview", href=base))]
        except Exception:
            _log.exception("a page of the dashboard failed", extra={"page": page})
            content = [notice("The page could not be made: the server's log has the error.")]
        return content, name

    @dash.callback(
        Output("details", "children"),
        Output("focus", "data"),
        Input("url", "search"),
        Input("map", "id"),
        State("focus", "data"),
        State("url", "pathname"),
    )
    async def show_item(search: str | None, _map: object, focus: dict[str, object] | None, pathname: str | None) -> Any:
        if focus is not None and focus.get("item") == read_params(search).get("item"):
            return no_update, no_update  # the page came with it
        asked = await asked_for(pathname, search)
        try:
            return await in_thread(state, item_details, asked)
        except RecsysError as error:
            return [notice(error.public)], {"item": None}

    @dash.callback(
        Output("found", "children"), Input("query", "data"), State("url", "search"), State("url", "pathname")
    )
    async def find(text: str | None, search: str | None, pathname: str | None) -> Any:
        if not (text or "").strip():
            return []
        asked = await asked_for(pathname, search)
        return await in_thread(state, found_items, asked, text)

    @dash.callback(
        Output("selection", "children"),
        Output("download", "className"),
        Input("selected", "data"),
        State("url", "search"),
        State("url", "pathname"),
        prevent_initial_call=True,
    )
    async def select_items(chosen: dict[str, Any] | None, search: str | None, pathname: str | None) -> Any:
        if not chosen or not chosen["idx"]:
            return [], "hidden"
        asked = await asked_for(pathname, search)
        frame = await in_thread(state, lambda: selected_items(asked.view, chosen["idx"]))
        headers = {"title": "Item", "item_id": "Id", "categories": "Categories", "n_ratings": "Ratings", "bias": "Bias"}
        caption = f"{chosen['n']:,} selected items"
        if chosen["n"] > len(frame):
            caption += f"; the {len(frame):,} most rated are kept"
        if len(frame) > 100:
            caption += ", the first 100"
        rows = table(frame.head(100), headers, {"bias": "+.2f"}, asked, caption)
        return [html.Section([html.H2(caption), rows], className="card")], ""

    @dash.callback(
        Output("csv", "data"),
        Input("download", "n_clicks"),
        State("selected", "data"),
        State("url", "search"),
        State("url", "pathname"),
        prevent_initial_call=True,
    )
    async def download(_clicks: int, chosen: dict[str, Any] | None, search: str | None, pathname: str | None) -> Any:
        asked = await asked_for(pathname, search)
        frame = await in_thread(state, lambda: selected_items(asked.view, chosen["idx"] if chosen else []))
        frame["categories"] = ["|".join(categories) for categories in frame.categories]
        return {"content": frame.to_csv(index=False), "filename": "items.csv", "type": "text/csv"}

    # The address without the item that the map marks: the page is not made again for it.
    dash.clientside_callback(
        ClientsideFunction("recsys", "address"),
        Output("address", "data"),
        Input("url", "pathname"),
        Input("url", "search"),
        State("address", "data"),
    )
    # Also for the item that a page comes with.
    dash.clientside_callback(ClientsideFunction("recsys", "focused"), Output("focused", "data"), Input("focus", "data"))
    for function, value in (
        ("opened", Input({"graph": "bias"}, "clickData")),
        ("opened_user", Input({"graph": "users"}, "clickData")),
        ("asked_user", Input("user", "value")),
    ):
        output = Output("ignored", "data", allow_duplicate=True)
        dash.clientside_callback(ClientsideFunction("recsys", function), output, value, prevent_initial_call=True)


def make_page(asked: Asked) -> list[Component]:
    """Return the content of the page that was asked for."""
    if asked.page not in PAGES:
        return not_found_page(asked)
    module, _, function = PAGES[asked.page][1].partition(":")
    make: Callable[[Asked], list[Component]] = getattr(import_module(f"api.dashboard.{module}"), function)
    return make(asked)


def found_items(asked: Asked, text: str) -> list[Component]:
    """Return links to the items whose title has all words of a text."""
    try:
        view = asked.view
    except RecsysError as error:
        return [notice(error.public)]
    idx = view.search(text, 12).tolist()
    if not idx:
        return [notice(f"No item has “{text[:80]}” in its title.")]
    page = "map" if asked.page == "map" else "item"
    kept = {name: asked.params[name] for name in ("colour", "projection") if name in asked.params and page == "map"}
    links = [dcc.Link(view.items.name(at), href=asked.link(page, item=view.items.item_ids[at], **kept)) for at in idx]
    return [html.Ul([html.Li(link) for link in links], className="found card")]


def not_found_page(asked: Asked) -> list[Component]:
    """Return what stands on a page that does not exist."""
    return [notice(f"There is no page “{asked.page[:80]}”."), html.P(dcc.Link("Overview", href=asked.base))]
