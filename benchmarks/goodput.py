"""Measure goodput under overload: answers in a second at 16, 256 and 2,000 connections, and how long they took.

    python -m benchmarks.goodput [--connections 16,256,2000] [--rounds 3] [--fresh] [--json FILE]

Each connection sends its next request as soon as it has an answer, also after a refusal (503), so all of them want more
than the service can give. The client is one process over epoll that parses nothing but the status: it takes about 5 µs
for each answer, and has a core of its own where there are two. Medians over rounds, which alternate.
"""

import argparse
import json
import os
import select
import socket
import sys
import time
from array import array
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from urllib.parse import quote

import numpy as np

from benchmarks.load import content_length
from benchmarks.report import describe_machine
from benchmarks.served import ROOT, process_tree, serve_recsys
from benchmarks.serving_data import SMALL, read_request_pool, sqlite_database

WARM_SECONDS = 2.0
STEP_CONNECTIONS = 100
"""Connections that are opened in one go; all are open before the measurement begins."""


@dataclass
class Flood:
    """What came back in one measurement.

    Attributes:
        statuses: number of answers of each status; 0 where the connection ended.
        latencies_ms: from sending a request to the end of its answer, of those with 200.
        cpu: processor time of server and client in seconds for each second.
    """

    n_connections: int
    seconds: float = 0.0
    statuses: Counter[int] = field(default_factory=Counter)
    latencies_ms: "array[float]" = field(default_factory=lambda: array("d"))
    cpu: tuple[float, float] = (0.0, 0.0)

    @property
    def goodput(self) -> float:
        """Answers with 200 in a second."""
        return self.statuses[200] / self.seconds

    def percentile(self, percent: float) -> float:
        """Return a percentile of the latencies of accepted requests, in ms."""
        return float(np.percentile(self.latencies_ms, percent)) if self.latencies_ms else float("nan")


def flood(port: int, requests: Sequence[bytes], n_connections: int, seconds: float, server: int) -> Flood:
    """Send requests over connections that never wait, and measure after a while.

    Args:
        requests: sent in turn.
        server: id of its main process.
    """
    poll, connections = select.epoll(), {}
    sent_at: dict[int, float] = {}
    partial: dict[int, bytes] = {}
    result, n_sent = Flood(n_connections), 0

    def connect() -> None:
        connection = socket.create_connection(("127.0.0.1", port))
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.setblocking(False)
        connections[connection.fileno()] = connection
        poll.register(connection.fileno(), select.EPOLLIN)
        send(connection)

    def send(connection: socket.socket) -> None:
        nonlocal n_sent
        sent_at[connection.fileno()] = time.perf_counter()
        connection.send(requests[n_sent % len(requests)])
        n_sent += 1

    started = measured_from = time.perf_counter()
    is_measured, cpu_from = False, (0.0, 0.0)
    while True:
        now = time.perf_counter()
        for _ in range(min(STEP_CONNECTIONS, n_connections - len(connections))):
            connect()
        if len(connections) < n_connections:
            started = now
        if not is_measured and now - started > WARM_SECONDS:
            is_measured, measured_from = True, now
            cpu_from = cpu_of(server), time.process_time()
        if is_measured and now - measured_from > seconds:
            break
        for number, _ in poll.poll(0.05):
            connection = connections[number]
            try:
                data = connection.recv(65536)
            except OSError:
                data = b""
            now = time.perf_counter()
            if not data:
                poll.unregister(number)
                connection.close()
                del connections[number]
                partial.pop(number, None)
                if is_measured:
                    result.statuses[0] += 1
                connect()
                continue
            if number in partial:
                data = partial.pop(number) + data
            head = data.find(b"\r\n\r\n")
            if head < 0 or len(data) < head + 4 + (content_length(data[:head]) or 0):
                partial[number] = data
                continue
            status = int(data[9:12])
            if is_measured:
                result.statuses[status] += 1
                if status == 200:
                    result.latencies_ms.append((now - sent_at[number]) * 1000)
            send(connection)
    result.seconds = time.perf_counter() - measured_from
    result.cpu = (
        (cpu_of(server) - cpu_from[0]) / result.seconds,
        (time.process_time() - cpu_from[1]) / result.seconds,
    )
    for connection in connections.values():
        connection.close()
    poll.close()
    return result


def cpu_of(pid: int) -> float:
    """Return the processor time that a process and its descendants have taken, in seconds."""
    ticks = 0
    for each in process_tree(pid):
        fields = Path(f"/proc/{each}/stat").read_text().rsplit(")", 1)[1].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the measurement of the command line and print its results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--connections", default="16,256,2000")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=6.0, help="of each measurement")
    parser.add_argument("--fresh", action="store_true", help="lists that are searched anew each time, not kept ones")
    parser.add_argument("--cache", type=Path, default=ROOT / ".bench", help="folder for the database")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures to this file")
    options = parser.parse_args(arguments)
    options.cache.mkdir(parents=True, exist_ok=True)
    url = sqlite_database(SMALL, options.cache)
    users = np.random.default_rng(0).choice(read_request_pool(url).user_ids, 1000, replace=False)
    query = "?exclude=none" if options.fresh else ""
    paths = [f"/v1/users/{quote(str(user), safe='')}/recommendations{query}" for user in users]
    requests = [f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode() for path in paths]
    sizes = [int(each) for each in options.connections.split(",")]
    found: dict[int, list[Flood]] = {size: [] for size in sizes}
    with serve_recsys(url, options.cache / "goodput.log") as server:
        flood(server.port, requests, 16, 1.0, server.pid)
        for n in range(options.rounds):
            for size in sizes[:: 1 if n % 2 == 0 else -1]:
                found[size].append(flood(server.port, requests, size, options.seconds, server.pid))
    medians = {size: median(one.goodput for one in floods) for size, floods in found.items()}
    best = max(medians.values())
    sys.stdout.write(f"{describe_machine()}; {options.rounds} rounds of {options.seconds:g} s\n")
    records = []
    for size, floods in found.items():
        p50, p99 = (median(one.percentile(percent) for one in floods) for percent in (50, 99))
        refused = median((one.statuses.total() - one.statuses[200]) / one.seconds for one in floods)
        statuses = sum((one.statuses for one in floods), Counter())
        server_cpu, client_cpu = (median(one.cpu[part] for one in floods) for part in (0, 1))
        records.append(
            {
                "connections": size,
                "goodput": round(medians[size], 1),
                "of_best": round(medians[size] / best, 3),
                "p50_ms": round(p50, 1),
                "p99_ms": round(p99, 1),
                "refused_per_second": round(refused, 1),
                "server_cpu": round(server_cpu, 2),
                "client_cpu": round(client_cpu, 2),
                "statuses": {str(status): n for status, n in sorted(statuses.items())},
                "rounds": [round(one.goodput, 1) for one in floods],
            }
        )
        sys.stdout.write(" ".join(f"{name} {value}" for name, value in records[-1].items()) + "\n")
    if options.json:
        options.json.write_text(json.dumps({"machine": describe_machine(), "sizes": records}, indent=1) + "\n")


if __name__ == "__main__":
    main()
