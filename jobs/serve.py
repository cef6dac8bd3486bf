"""Run the HTTP service under uvicorn."""

import gc
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
from sqlalchemy import make_url
from uvicorn.supervisors import Multiprocess

from jobs.logs import logging_config
from jobs.machine import n_processors
from recsys.database.engine import connect, reading
from recsys.database.keys import KeyRing, read_keyring
from recsys.errors import DatabaseError, InputError
from recsys.settings import RATE_COUNTS, Settings, load_settings

METRICS_FOLDER = "PROMETHEUS_MULTIPROC_DIR"
KEY_REQUIRED = "RECSYS_KEY_REQUIRED"
ROOT_PATH = "RECSYS_ROOT_PATH"
DASHBOARD = "RECSYS_DASHBOARD"
SEARCH_THREADS = "RECSYS_SEARCH_THREADS"

SEND_BUFFER_BYTES = 128 << 10
"""What the system holds of the answers of a connection; it takes twice as much for its own use."""

SILENT_SECONDS = 30
"""Time after which a worker that says nothing is killed and replaced. One that starts says nothing until its modules
are loaded, which takes many seconds on a busy machine: with uvicorn's five it was killed again and again."""

_log = logging.getLogger(__name__)


class Supervisor(Multiprocess):
    """Starts workers and replaces those that have ended or say nothing for `SILENT_SECONDS`."""

    def keep_subprocess_alive(self) -> None:
        """Replace workers, those that have ended at once."""
        for process in self.processes:
            # The worker's end of the pipe. While this process held it too, a worker that died before it answered, as
            # at its start, was waited for in silence, and so were all others.
            process.child_conn.close()
        super().keep_subprocess_alive()


def serve(
    settings: Settings,
    host: str = "127.0.0.1",
    port: int = 8000,
    *,
    workers: int = 1,
    insecure: bool = False,
    root_path: str | None = None,
    dashboard: bool = True,
    on_ready: Callable[[], None] | None = None,
) -> None:
    """Serve until interrupted.

    Args:
        workers: number of processes that answer; each holds the item side of the live versions.
        insecure: allow an address that other machines can reach without any key.
        root_path: prefix of all paths behind a reverse proxy; `None`: as the settings say.
        dashboard: whether to offer the dashboard, where its packages are installed and the settings do not say no.
        on_ready: called once, when the service can answer from a model.

    Raises:
        InputError: the address is not a loopback address, no key is active and `insecure` was not given; or another
            process listens on the address.
    """
    config = uvicorn.Config(
        "api.app:create_app",
        factory=True,
        http="api.door:DoorProtocol",
        loop="api.loop:Loop",
        workers=workers,
        access_log=False,  # `api.middleware` logs requests, with their ids
        log_config=logging_config(settings.log_level),
        server_header=False,
        timeout_keep_alive=round(settings.keep_alive_seconds),
        timeout_graceful_shutdown=round(settings.drain_seconds),
        timeout_worker_healthcheck=SILENT_SECONDS,
    )
    if root_path is not None:
        os.environ[ROOT_PATH] = root_path
        load_settings()  # checks it before a server process does
    if not dashboard:
        os.environ[DASHBOARD] = "false"
    if not settings.search_threads:
        os.environ[SEARCH_THREADS] = "2" if n_processors() >= 2 * workers else "1"
    require_keys(settings, host, insecure=insecure)
    listener = listen(host, port)
    if on_ready is not None:
        threading.Thread(target=await_ready, args=(host, port, on_ready), daemon=True).start()
    where = f"http://{f'[{host}]' if ':' in host else host}:{port}"
    database = make_url(settings.database_url).render_as_string(hide_password=True)
    _log.info("listening", extra={"url": where, "docs": "/docs", "workers": workers, "database": database})
    with listener:
        if workers == 1:
            gc.disable()  # until the application has started, which enables it again: see `api.process`
            uvicorn.Server(config).run(sockets=[listener])
            return
        # Several processes add up their metrics in a folder, and count requests in a file.
        with tempfile.TemporaryDirectory(prefix="recsys-metrics-") as folder:
            os.environ.setdefault(METRICS_FOLDER, folder)
            os.environ[RATE_COUNTS] = os.path.join(folder, "rates")  # the first process that needs it creates it
            Supervisor(config, sockets=[listener]).run()


def require_keys(settings: Settings, host: str, *, insecure: bool) -> None:
    """Decide whether requests need a key, and pass that to the server processes by their environment.

    Requests need one if a key exists or the address can be reached from other machines. Whether a key exists is not
    known while the database cannot be reached: the server then refuses every request until it has read the keys.

    Raises:
        InputError: the address can be reached from other machines, no key is active and `insecure` was not given.
    """
    is_public = not is_loopback(host) and not insecure
    try:
        keys = read_keys(settings)
    except DatabaseError as error:
        _log.warning(
            "the database cannot be reached: requests are refused until the keys are read", extra={"reason": str(error)}
        )
        if is_public:
            os.environ[KEY_REQUIRED] = "true"
        return
    if is_public and not keys.by_hash:
        raise InputError(
            f"other machines can reach {host}, and no key is active: create one with "
            "`recsys keys create NAME --scope read`, or give --insecure"
        )
    if is_public or keys.any_ever:
        os.environ[KEY_REQUIRED] = "true"
    elif not settings.key_required:
        _log.warning("open: requests need no key, since none was ever created; `recsys keys create` creates one")


def read_keys(settings: Settings) -> KeyRing:
    """Read the keys.

    Raises:
        DatabaseError: the database cannot be reached, or has no tables.
    """
    engine = connect(settings.database_url, create=False)
    try:
        with reading(engine) as connection:
            return read_keyring(connection)
    finally:
        engine.dispose()


def listen(host: str, port: int) -> socket.socket:
    """Open the socket that the server processes share.

    Raises:
        InputError: another process listens on the address.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family, backlog=2048)
        # The system would hold up to 4 MB of an answer for each client that does not read.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
        return listener
    except OSError as error:
        raise InputError(
            f"cannot listen on {host} port {port} ({error.strerror}): stop the process that listens there, or choose "
            "another --port"
        ) from error


def is_loopback(host: str) -> bool:
    """Return whether only this machine can reach the address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def await_ready(host: str, port: int, on_ready: Callable[[], None]) -> None:
    """Call `on_ready` when the service answers that it is ready."""
    while not is_ready(host, port):
        time.sleep(0.1)
    on_ready()


def is_ready(host: str, port: int) -> bool:
    """Return whether the service answers that it is ready."""
    connection = HTTPConnection(host, port, timeout=1)
    try:
        connection.request("GET", "/health/ready")
        return connection.getresponse().status == 200
    except (OSError, HTTPException):
        return False  # it does not answer yet
    finally:
        connection.close()
