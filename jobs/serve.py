"""The HTTP service under uvicorn."""

import ipaddress
import logging
import os
import socket
import tempfile
import threading
import time
from collections.abc import Callable
from http.client import HTTPConnection, HTTPException

import uvicorn
from uvicorn.supervisors import Multiprocess

from jobs.logs import logging_config
from recsys.database.engine import connect, reading
from recsys.database.keys import KeyRing, read_keyring
from recsys.errors import DatabaseError, InputError
from recsys.settings import Settings

METRICS_FOLDER = "PROMETHEUS_MULTIPROC_DIR"

_log = logging.getLogger(__name__)


def serve(
    settings: Settings,
    host: str = "127.0.0.1",
    port: int = 8000,
    *,
    workers: int = 1,
    insecure: bool = False,
    on_ready: Callable[[], None] | None = None,
) -> None:
    """Serve until interrupted.

    Args:
        workers: processes that answer; each holds the item side of the live versions.
        insecure: allow an address that other machines can reach, though nobody is asked for a key.
        on_ready: called once, when the service can answer from a model.

    Raises:
        InputError: the address is not a loopback address, no key is in force and `insecure` was not given; or the
            address is taken.
    """
    keys = _keys(settings)
    where = f"http://{f'[{host}]' if ':' in host else host}:{port}"
    if not is_loopback(host) and not insecure:
        if not keys.by_hash:
            raise InputError(
                f"{host} can be reached from other machines, and no key is in force: make one with "
                "`recsys keys create NAME --scope read`, or say --insecure"
            )
        os.environ["RECSYS_KEY_REQUIRED"] = "true"
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        raise InputError(
            f"cannot listen on {host} port {port} ({error.strerror}): end what listens there, or choose another --port"
        ) from error
    config = uvicorn.Config(
        "api.app:create_app",
        factory=True,
        workers=workers,
        access_log=False,  # `api.middleware` logs what is worth a line, with the request's id
        log_config=logging_config(settings.log_level),
        server_header=False,
        timeout_graceful_shutdown=round(settings.drain_seconds),
    )
    if on_ready is not None:
        threading.Thread(target=_await_ready, args=(host, port, on_ready), daemon=True).start()
    _log.info("listening", extra={"url": where, "docs": "/docs", "workers": workers})
    if not keys.any_ever and not settings.key_required:
        _log.warning("open: nobody needs a key, since none was ever made; `recsys keys create` makes one")
    with listener:
        if workers == 1:
            uvicorn.Server(config).run(sockets=[listener])
        else:
            _serve_with(config, listener)


def _serve_with(config: uvicorn.Config, listener: socket.socket) -> None:
    """Several processes, which add up their metrics in a folder."""
    with tempfile.TemporaryDirectory(prefix="recsys-metrics-") as folder:
        os.environ.setdefault(METRICS_FOLDER, folder)
        Multiprocess(config, sockets=[listener]).run()


def _keys(settings: Settings) -> KeyRing:
    """The keys there are; none where the database does not answer: the service then says so itself."""
    engine = connect(settings.database_url)
    try:
        with reading(engine) as connection:
            return read_keyring(connection)
    except DatabaseError:
        return KeyRing({}, any_ever=False)
    finally:
        engine.dispose()


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
