"""Servers in processes of their own: start them, wait until they are ready, measure their memory, stop them."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import NamedTuple

from benchmarks.load import Load, drive

ROOT = Path(__file__).parents[1]
START_TIMEOUT_SECONDS = 180
"""Time after which a server that is not ready has failed; a start takes far less."""


class ServerFailedError(Exception):
    """A server stopped, or did not become ready."""


class Memory(NamedTuple):
    """Memory of one process in MiB: resident, and proportional (shared pages divided by the processes sharing them)."""

    rss: float
    pss: float | None


@dataclass(frozen=True, slots=True)
class Server:
    """A running server.

    Attributes:
        port: it listens here.
        pid: id of its main process.
        start_seconds: time from the start of its process to the first 200 of its readiness endpoint.
    """

    port: int
    pid: int
    start_seconds: float

    def memory(self) -> Memory:
        """Return the memory of the largest process of the server, its worker."""
        return max(process_memory(pid) for pid in process_tree(self.pid))

    def drive(self, requests: Iterable[bytes], n_connections: int, seconds: float) -> Load:
        """Send requests for some seconds; on a machine with other work the time of the processor says more than the
        rate."""
        before = processor_seconds(self.pid)
        load = drive(self.port, requests, n_connections=n_connections, seconds=seconds)
        load.processor_seconds = processor_seconds(self.pid) - before
        return load


@contextmanager
def serve_recsys(
    url: str, log: Path, settings: Mapping[str, str] | None = None, *, workers: int = 1
) -> Iterator[Server]:
    """Run `recsys serve` over a database, as a user would start it.

    Args:
        url: of the database.
        log: file for its log.
        settings: further environment variables.
        workers: number of processes that answer.

    Raises:
        ServerFailedError: it does not become ready.
    """
    script = Path(sys.executable).parent / "recsys"
    port = free_port()
    environment = {**os.environ, "RECSYS_DATABASE_URL": url, **(settings or {})}
    # An installation has its modules compiled, whatever the shell of the benchmark says.
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    environment.setdefault("PYTHONPYCACHEPREFIX", str(log.parent.resolve() / "compiled"))
    # It runs in the folder of the log, which has no .env file.
    command = [str(script), "serve", "--port", str(port), "--workers", str(workers)]
    with run_server(command, port, "/health/ready", log, environment) as server:
        yield server


@contextmanager
def serve_bare(log: Path) -> Iterator[Server]:
    """Run the bare service, whose endpoint is `/`."""
    port = free_port()
    command = [sys.executable, "-m", "benchmarks.bare", str(port)]
    with run_server(command, port, "/", log, {**os.environ, "PYTHONPATH": str(ROOT)}) as server:
        yield server


@contextmanager
def run_server(
    command: Sequence[str], port: int, ready: str, log: Path, environment: Mapping[str, str]
) -> Iterator[Server]:
    """Run a server until the block ends.

    Args:
        command: that starts it.
        port: it listens here.
        ready: path that answers 200 when it is ready.
        log: file for its output.
        environment: of its process.

    Raises:
        ServerFailedError: it does not become ready.
    """
    started = time.perf_counter()
    with log.open("w") as file:
        process = subprocess.Popen(
            command, cwd=log.parent.resolve(), env=dict(environment), stdout=file, stderr=subprocess.STDOUT
        )
    try:
        while not is_ready(port, ready):
            if process.poll() is not None or time.perf_counter() - started > START_TIMEOUT_SECONDS:
                tail = "\n".join(log.read_text().splitlines()[-15:])
                raise ServerFailedError(f"{' '.join(command)} did not become ready; see {log}:\n{tail}")
            time.sleep(0.02)
        yield Server(port, process.pid, time.perf_counter() - started)
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def processor_seconds(pid: int) -> float:
    """Return the time that a process and its descendants have taken of the processor."""
    ticks = 0
    for each in process_tree(pid):
        with suppress(OSError):  # one that has ended meanwhile
            fields = Path(f"/proc/{each}/stat").read_text().rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def process_memory(pid: int) -> Memory:
    """Return the memory of a process."""
    try:
        fields = proc_sizes(Path(f"/proc/{pid}/smaps_rollup"))
        return Memory(fields["Rss"] / 1024, fields["Pss"] / 1024)
    except (OSError, KeyError):
        return Memory(proc_sizes(Path(f"/proc/{pid}/status"))["VmRSS"] / 1024, None)


def free_port() -> int:
    """Return a port that is free at the moment."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
    return port


def process_tree(pid: int) -> list[int]:
    """Return the ids of a process and of all its descendants."""
    found = [pid]
    for parent in found:
        for children in Path(f"/proc/{parent}/task").glob("*/children"):
            with suppress(OSError):  # a thread that has ended meanwhile
                found += [int(child) for child in children.read_text().split()]
    return found


def proc_sizes(path: Path) -> dict[str, int]:
    """Read the sizes in KiB of a file such as /proc/PID/status: name → size."""
    words = (line.split() for line in path.read_text().splitlines())
    return {found[0].rstrip(":"): int(found[1]) for found in words if len(found) == 3 and found[2] == "kB"}


def is_ready(port: int, path: str) -> bool:
    """Return whether a path answers 200."""
    connection = HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == 200
    except (OSError, HTTPException):
        return False  # not listening yet
    finally:
        connection.close()
