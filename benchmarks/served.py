"""A server as a process of its own: started, waited for, weighed, ended."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
_LIMIT_SECONDS = 180
"""No server takes longer to start by far."""


class ServerFailedError(Exception):
    """A server ended, or did not become ready."""


class Memory(NamedTuple):
    """Of one process, in MiB: resident, and proportional (what it shares is divided by how many share it)."""

    rss: float
    pss: float | None


@dataclass(frozen=True, slots=True)
class Served:
    """A server that answers.

    Attributes:
        start_seconds: from the start of its process to the first 200 that says it is ready.
    """

    port: int
    pid: int
    start_seconds: float

    def memory(self) -> Memory:
        """Of the largest process of the server: its worker."""
        return max(memory(pid) for pid in _family(self.pid))


@contextmanager
def recsys_served(url: str, log: Path, settings: Mapping[str, str] | None = None) -> Iterator[Served]:
    """`recsys serve` over a database, as a user would start it.

    Args:
        log: file for what it logs.
        settings: environment variables beside the database's.

    Raises:
        ServerFailedError: it does not become ready.
    """
    script = Path(sys.executable).parent / "recsys"
    port = free_port()
    environment = {**os.environ, "RECSYS_DATABASE_URL": url, **(settings or {})}
    # In the folder of the log, where no .env of the project's is.
    with served([str(script), "serve", "--port", str(port)], port, "/health/ready", log, environment) as server:
        yield server


@contextmanager
def bare_served(log: Path) -> Iterator[Served]:
    """The bare endpoint, at `/`."""
    port = free_port()
    command = [sys.executable, "-m", "benchmarks.bare", str(port)]
    with served(command, port, "/", log, {**os.environ, "PYTHONPATH": str(ROOT)}) as server:
        yield server


@contextmanager
def served(
    command: Sequence[str], port: int, ready: str, log: Path, environment: Mapping[str, str]
) -> Iterator[Served]:
    """A server, from when `ready` first answers 200 until the block ends.

    Raises:
        ServerFailedError: it does not become ready.
    """
    started = time.perf_counter()
    with log.open("w") as file:
        process = subprocess.Popen(
            command, cwd=log.parent.resolve(), env=dict(environment), stdout=file, stderr=subprocess.STDOUT
        )
    try:
        while not _answers(port, ready):
            if process.poll() is not None or time.perf_counter() - started > _LIMIT_SECONDS:
                tail = "\n".join(log.read_text().splitlines()[-15:])
                raise ServerFailedError(f"{' '.join(command)} did not become ready; see {log}:\n{tail}")
            time.sleep(0.02)
        yield Served(port, process.pid, time.perf_counter() - started)
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def memory(pid: int) -> Memory:
    """Of a process now."""
    try:
        fields = _fields(Path(f"/proc/{pid}/smaps_rollup"))
        return Memory(fields["Rss"] / 1024, fields["Pss"] / 1024)
    except (OSError, KeyError):
        return Memory(_fields(Path(f"/proc/{pid}/status"))["VmRSS"] / 1024, None)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
    return port


def _family(pid: int) -> list[int]:
    """A process and all that come from it."""
    found = [pid]
    for parent in found:
        for children in Path(f"/proc/{parent}/task").glob("*/children"):
            found += [int(child) for child in children.read_text().split()]
    return found


def _fields(path: Path) -> dict[str, int]:
    """Sizes in KiB by name, of a file such as /proc/PID/status."""
    words = (line.split() for line in path.read_text().splitlines())
    return {found[0].rstrip(":"): int(found[1]) for found in words if len(found) == 3 and found[2] == "kB"}


def _answers(port: int, path: str) -> bool:
    connection = HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == 200
    except (OSError, HTTPException):
        return False  # not listening yet
    finally:
        connection.close()
