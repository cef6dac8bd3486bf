"""The HTTP service under uvicorn."""

import ipaddress
import logging
import socket
import threading
import time
from collections.abc import Callable
from http.client import HTTPConnection, HTTPException

import uvicorn

from jobs.logs import logging_config
from recsys.errors import InputError
from recsys.settings import Settings


def serve(
    settings: Settings,
    host: str = "127.0.0.1",
    port: int = 8000,
    *,
    insecure: bool = False,
    on_ready: Callable[[], None] | None = None,
) -> None:
    """Serve until interrupted.

    Args:
        insecure: allow an address that other machines can reach, though nobody is asked for a key.
        on_ready: called once, when the service can answer from a model.

    Raises:
        InputError: the address is not a loopback address and `insecure` was not given; or it is taken.
    """
    if not insecure and not is_loopback(host):
        raise InputError(
            f"{host} can be reached from other machines and the service asks nobody for a key: "
            "use 127.0.0.1 behind a proxy that does, or say --insecure"
        )
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        raise InputError(
            f"cannot listen on {host} port {port} ({error.strerror}): end what listens there, or choose another --port"
        ) from error
    config = uvicorn.Config(
        "api.app:create_app", factory=True, log_config=logging_config(settings.log_level), server_header=False
    )
    if on_ready is not None:
        threading.Thread(target=_await_ready, args=(host, port, on_ready), daemon=True).start()
    where = f"[{host}]" if ":" in host else host
    logging.getLogger(__name__).info("listening", extra={"url": f"http://{where}:{port}", "docs": "/docs"})
    with listener:
        uvicorn.Server(config).run(sockets=[listener])


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach the address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _await_ready(host: str, port: int, on_ready: Callable[[], None]) -> None:
    while not _is_ready(host, port):
        time.sleep(0.1)
    on_ready()


def _is_ready(host: str, port: int) -> bool:
    connection = HTTPConnection(host, port, timeout=1)
    try:
        connection.request("GET", "/health/ready")
        return connection.getresponse().status == 200
    except (OSError, HTTPException):
        return False  # not answering yet
    finally:
        connection.close()
