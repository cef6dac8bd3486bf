"""The event loop of a server process: uvloop's, which accepts waiting connections many at a time.

libuv accepts one connection in each turn of the loop. A turn answers hundreds of requests under load, so new
connections waited for seconds: of 2,000 that came at once, 1,700 were not accepted within ten seconds.
"""

import asyncio
import socket
from collections.abc import Callable
from typing import Any

import uvloop

MAX_ACCEPTED = 256
"""Most connections that are accepted in one turn."""


class Loop(uvloop.Loop):
    """uvloop's event loop, whose servers over a given socket accept many connections in one turn."""

    async def create_server(
        self, protocol_factory: Callable[[], asyncio.BaseProtocol], *arguments: Any, **options: Any
    ) -> Any:
        server = await super().create_server(protocol_factory, *arguments, **options)
        listener = options.get("sock")
        if listener is None or options.get("ssl") is not None:
            return server
        return AcceptingServer(self, server, protocol_factory, listener)


class AcceptingServer:
    """A server that also accepts by itself; everything else is the server's own.

    Args:
        loop: of the server.
        server: of uvloop.
        protocol_factory: makes the protocol of each connection.
        listener: the socket that the server listens on.
    """

    def __init__(
        self,
        loop: Loop,
        server: asyncio.AbstractServer,
        protocol_factory: Callable[[], asyncio.BaseProtocol],
        listener: socket.socket,
    ) -> None:
        self._loop, self._server, self._protocol_factory = loop, server, protocol_factory
        self._listener = listener.dup()  # the loop takes one reader for each descriptor, and the server is one
        self._listener.setblocking(False)
        self._tasks: set[asyncio.Task[Any]] = set()
        loop.add_reader(self._listener, self._accept)

    def close(self) -> None:
        """Accept no more connections."""
        if self._listener.fileno() >= 0:
            self._loop.remove_reader(self._listener)
            self._listener.close()
        self._server.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._server, name)

    def _accept(self) -> None:
        for _ in range(MAX_ACCEPTED):
            try:
                connection, _address = self._listener.accept()
            except OSError:  # none waits, another worker took it, or this process has no descriptor left
                return
            connection.setblocking(False)
            task = self._loop.create_task(self._loop.connect_accepted_socket(self._protocol_factory, connection))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
