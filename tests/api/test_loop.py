"""The event loop of a server accepts connections that wait, and none after its server is closed."""

import asyncio
import socket
from typing import cast

import pytest

from api.loop import Loop


class Echo(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)


def test_all_connections_that_wait_are_accepted_in_a_turn_or_two() -> None:
    loop, n_made = Loop(), 0

    class Counted(Echo):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            nonlocal n_made
            n_made += 1
            super().connection_made(transport)

    async def run() -> int:
        listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        address = listener.getsockname()
        clients = [socket.create_connection(address) for _ in range(100)]
        server = await asyncio.get_running_loop().create_server(Counted, sock=listener)
        for _ in range(10):
            await asyncio.sleep(0)
        n_at_once = n_made
        for client in clients:
            client.setblocking(False)
            await asyncio.get_running_loop().sock_sendall(client, b"hello")
            assert await asyncio.get_running_loop().sock_recv(client, 100) == b"hello"
            client.close()
        server.close()
        await server.wait_closed()
        listener.close()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(address)
        return n_at_once

    try:
        assert loop.run_until_complete(run()) > 50
    finally:
        loop.close()
