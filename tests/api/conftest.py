"""The service on real uvicorn, over a real socket."""

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import httpx
import pytest
import uvicorn
from sqlalchemy import Engine

from api.app import create_app
from recsys.settings import Settings

Serve = Callable[[str], "contextmanager[httpx.Client]"]


@contextmanager
def serving(database_url: str) -> Iterator[httpx.Client]:
    """A server on a free port for a database, and a client for it."""
    settings = Settings(database_url=database_url, refresh_seconds=0.05)
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(create_app(settings), log_config=None, lifespan="on"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        while not server.started:
            time.sleep(0.01)
        port = listener.getsockname()[1]
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=10) as client:
            yield client
    finally:
        server.should_exit = True
        thread.join()


@pytest.fixture
def client(known_engine: Engine) -> Iterator[httpx.Client]:
    """A client of a service over the known rows and models."""
    with serving(known_engine.url.render_as_string(hide_password=False)) as made:
        yield made
