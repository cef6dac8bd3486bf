"""Ids in paths: segments are matched before they are decoded, so `a%2Fb` is one id."""

from typing import Annotated
from urllib.parse import unquote

from fastapi import Path
from pydantic import BeforeValidator
from starlette.types import ASGIApp, Receive, Scope, Send


class MatchBeforeDecoding:
    """Routes on the path as it was sent; the path parameters below decode their own segment."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        raw_path = scope.get("raw_path")
        if raw_path:
            scope = {**scope, "path": raw_path.split(b"?", 1)[0].decode("latin-1")}
        await self._app(scope, receive, send)


UserId = Annotated[str, BeforeValidator(unquote), Path(description="External id of a user.", examples=["196"])]
ItemId = Annotated[str, BeforeValidator(unquote), Path(description="External id of an item.", examples=["50"])]
