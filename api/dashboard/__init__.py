"""The dashboard under `/dashboard/`: an application of its own that is built when the first request arrives.

So a server starts as fast and stays as small as one without the dashboard until an analyst opens it.
"""

import asyncio
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from starlette.requests import Request
from starlette.responses import RedirectResponse
from starlette.routing import BaseRoute, Match
from starlette.types import ASGIApp, Receive, Scope, Send

from api.state import AppState, in_thread, state_of

if TYPE_CHECKING:
    from fastapi import FastAPI

PREFIX = "/dashboard/"


def is_installed() -> bool:
    """Return whether the packages of the dashboard are installed, without importing them."""
    return find_spec("dash") is not None and find_spec("plotly") is not None


class DashboardRoute(BaseRoute):
    """Passes every request below `/dashboard/` to the dashboard, which it builds first."""

    path = PREFIX + "{page}"

    def __init__(self, root_path: str = "") -> None:
        """
        Args:
            root_path: prefix under which a proxy offers the service.
        """
        self._root_path = root_path
        self._app: ASGIApp | None = None
        self._lock = asyncio.Lock()

    def matches(self, scope: Scope) -> tuple[Match, dict[str, Any]]:
        path = scope.get("path", "")
        if scope["type"] == "http" and (path == PREFIX[:-1] or path.startswith(PREFIX)):
            return Match.FULL, {"route": self}
        return Match.NONE, {}

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == PREFIX[:-1]:
            await RedirectResponse(self._root_path + PREFIX)(scope, receive, send)
            return
        state = state_of(Request(scope))
        async with self._lock:  # the first request builds it, others wait
            if self._app is None:
                self._app = await in_thread(state, build, state, self._root_path)
            app = self._app
        await app(scope, receive, send)


def build(state: AppState, root_path: str) -> "FastAPI":
    """Return the application of the dashboard."""
    from api.dashboard.app import create_dashboard  # Dash and plotly take a second to import

    return create_dashboard(state, root_path)
