"""`recsys serve` as an operator runs it: several workers, keys, and an end that loses no request."""

import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import psutil
import pytest
from sqlalchemy import Engine

from jobs import serve
from recsys.database.engine import writing
from recsys.database.keys import create_key, revoke_key
from recsys.settings import Settings
from tests.conftest import wait_until
from tests.jobs.cli.test_main import Recsys, free_port

Served = Callable[..., "contextmanager[tuple[httpx.Client, subprocess.Popen[str]]]"]


def serving(engine: Engine, folder: Path) -> Served:
    recsys = Recsys(folder, engine.url.render_as_string(hide_password=False))

    @contextmanager
    def served(*arguments: str, **settings: str) -> Iterator[tuple[httpx.Client, subprocess.Popen[str]]]:
        port = free_port()
        with (
            (folder / "log").open("w") as log,
            subprocess.Popen(
                recsys.command("serve", "--port", str(port), *arguments),
                cwd=folder,
                env={**recsys.environment, **settings},
                stderr=log,
                text=True,
            ) as process,
            httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=10, verify=False) as client,
        ):
            try:
                wait_until(lambda: answers(client))
                yield client, process
            finally:
                process.terminate()
                process.wait(30)

    return served


@pytest.fixture
def served(known_engine: Engine, tmp_path: Path) -> Served:
    return serving(known_engine, tmp_path)


def workers_of(pid: int) -> list[psutil.Process]:
    """Return the workers of a server that live."""
    found = []
    for child in psutil.Process(pid).children():
        with suppress(psutil.Error):  # it has just ended
            if "spawn_main" in str(child.cmdline()):
                found.append(child)
    return found


def answers(client: httpx.Client) -> bool:
    try:
        return client.get("/health/live").status_code == 200
    except httpx.TransportError:
        return False


def log_lines(folder: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (folder / "log").read_text().splitlines() if line.startswith("{")]


@pytest.mark.parametrize("engine", ["sqlite"], indirect=True)
def test_several_workers_know_of_each_others_ratings_and_add_up_their_numbers(served: Served, tmp_path: Path) -> None:
    with served("--workers", "2", RECSYS_RATE_LIMIT="10000/hour") as (client, process):
        wait_until(lambda: client.get("/health/ready").status_code == 200)
        url = str(client.base_url)
        once = httpx.Client(
            headers={"connection": "close"}, verify=False
        )  # a connection for each, so that both workers are asked
        for _ in range(30):
            assert once.get(f"{url}/v1/users/u1/recommendations").status_code == 200
        rating = {"user_id": "u1", "item_id": "b", "rating": 4}
        assert client.post("/v1/ratings", json={"ratings": [rating]}).json()["inserted"] == 1
        posted = time.monotonic()
        time.sleep(1)
        for _ in range(30):
            items = once.get(f"{url}/v1/users/u1/recommendations").json()["items"]
            assert "b" not in [item["item_id"] for item in items]
        assert time.monotonic() - posted < 10
        counted = [
            float(line.rsplit(" ", 1)[1])
            for line in client.get("/metrics").text.splitlines()
            if line.startswith("recsys_requests_total") and "recommendations" in line
        ]
        assert counted == [60.0]
        # With the post and the metrics, whichever worker took them.
        answer = once.get(f"{url}/v1/popular")
        assert answer.headers["ratelimit"].startswith(f'"requests";r={10_000 - 63};')
        once.close()
        # A worker that is killed is replaced, and leaves nothing in the metrics; with their parent all workers end.
        workers = workers_of(process.pid)
        folder = Path(workers[1].environ()["PROMETHEUS_MULTIPROC_DIR"])
        of_killed = f"gauge_live*_{workers[0].pid}.db"
        assert list(folder.glob(of_killed))
        workers[0].kill()
        wait_until(lambda: workers[0].pid not in psutil.pids())
        wait_until(lambda: len(workers_of(process.pid)) == 2)
        [successor] = [each for each in workers_of(process.pid) if each not in workers]
        successor.suspend()
        time.sleep(1)  # so that it is asked meanwhile whether it is alive, and does not answer
        successor.kill()  # replaced at once too
        wait_until(lambda: successor.pid not in psutil.pids(), 10)
        wait_until(lambda: len(workers_of(process.pid)) == 2, 10)
        wait_until(lambda: answers(client))
        assert "recsys_user_cache_users" in client.get("/metrics").text
        assert not list(folder.glob(of_killed))
        process.kill()
        psutil.wait_procs(workers, 10)
        assert not any(each.is_running() for each in workers)
    requests = [line for line in log_lines(tmp_path) if line["logger"] == "recsys.requests"]
    assert [(line["method"], line["status"]) for line in requests] == [("POST", 200)]
    assert requests[0]["request_id"]


@pytest.mark.long
@pytest.mark.parametrize("engine", ["sqlite"], indirect=True)
def test_workers_that_start_slowly_are_left_to_start(served: Served, tmp_path: Path) -> None:
    slow = tmp_path / "slow"
    slow.mkdir()
    is_worker = "b'spawn_main' in open('/proc/self/cmdline', 'rb').read()"
    (slow / "sitecustomize.py").write_text(f"import time\nif {is_worker}:\n    time.sleep(12)\n")
    path = os.pathsep.join([str(slow), os.environ.get("PYTHONPATH", "")])
    with served("--workers", "2", PYTHONPATH=path) as (client, _):
        wait_until(lambda: client.get("/health/ready").status_code == 200)
    assert not [line for line in log_lines(tmp_path) if "died" in str(line["message"])]


@pytest.mark.parametrize("engine", ["sqlite"], indirect=True)
def test_who_is_told_to_end_finishes_what_has_begun(served: Served, known_engine: Engine) -> None:
    with served() as (client, process):
        answer: list[httpx.Response] = []
        body = {"ratings": [{"user_id": "u1", "item_id": "b", "rating": 4}]}
        with writing(known_engine):  # the post waits for this writer
            post = threading.Thread(target=lambda: answer.append(client.post("/v1/ratings", json=body)))
            post.start()
            time.sleep(0.5)
            process.send_signal(signal.SIGTERM)
            time.sleep(0.5)
            assert process.poll() is None
        post.join(10)
        assert answer[0].json()["inserted"] == 1
        process.wait(10)


@pytest.mark.parametrize("engine", ["sqlite"], indirect=True)
def test_load_balancers_are_told_before_the_door_closes(served: Served) -> None:
    with served(RECSYS_NOTICE_SECONDS="2") as (client, process):
        wait_until(lambda: client.get("/health/ready").status_code == 200)
        process.send_signal(signal.SIGTERM)
        wait_until(lambda: client.get("/health/ready").status_code == 503)
        answer = client.get("/v1/users/u1/recommendations")
        assert (answer.status_code, answer.headers["connection"]) == (200, "close")
        process.wait(20)


def test_keys(served: Served, known_engine: Engine, tmp_path: Path) -> None:
    recsys = Recsys(tmp_path, known_engine.url.render_as_string(hide_password=False))
    refused = recsys("serve", "--host", "0.0.0.0", "--port", str(free_port()), code=1)
    assert "recsys keys create" in refused
    assert "--insecure" in refused
    with served("--host", "127.0.0.1") as (client, _):
        assert client.get("/v1/popular?by=count").status_code == 200
        made, key = create_key(known_engine, "shop", ["read"], actor="test")
        wait_until(lambda: client.get("/v1/popular?by=count").status_code == 401, 2)
        bearer = {"Authorization": f"Bearer {key}"}
        assert client.get("/v1/popular?by=count", headers=bearer).status_code == 200
        assert client.post("/v1/ratings", json={"ratings": []}, headers=bearer).status_code == 403
        assert client.get("/health/live").status_code == 200
        revoke_key(known_engine, str(made.number), actor="test")
        wait_until(lambda: client.get("/v1/popular?by=count", headers=bearer).status_code == 401, 2)
    assert any("requests need no key" in str(line["message"]) for line in log_lines(tmp_path))
    assert key not in (tmp_path / "log").read_text()
    # Revoked keys do not open the service to everybody again.
    assert "no key is active" in recsys("serve", "--host", "0.0.0.0", "--port", str(free_port()), code=1)


@pytest.mark.parametrize("engine", ["sqlite"], indirect=True)
def test_promise_9_with_the_database_down_a_public_address_starts_closed_and_says_so(
    served: Served, known_engine: Engine, tmp_path: Path
) -> None:
    path = Path(str(known_engine.url.database))
    known_engine.dispose()
    away = path.rename(path.with_suffix(".away"))
    with served("--host", "0.0.0.0") as (client, _):
        assert client.get("/v1/popular?by=count").status_code == 503
        assert client.delete("/v1/users/u1").status_code == 503
        assert not path.exists()
        away.rename(path)
        wait_until(lambda: client.get("/v1/popular?by=count").status_code == 401)  # closed, though no key exists
        assert client.delete("/v1/users/u1").status_code == 401
    messages = [str(line["message"]) for line in log_lines(tmp_path)]
    assert any("the database cannot be reached" in message for message in messages)
    assert not any("keys create" in message for message in messages)


@pytest.mark.parametrize(
    ("given", "workers", "processors", "expected"), [(0, 1, 2, "2"), (0, 2, 3, "1"), (0, 1, 1, "1"), (1, 1, 8, None)]
)
def test_processors_to_spare_search_lists(
    monkeypatch: pytest.MonkeyPatch, given: int, workers: int, processors: int, expected: str | None
) -> None:
    started = []
    monkeypatch.setenv(serve.SEARCH_THREADS, "unset")
    monkeypatch.delenv(serve.SEARCH_THREADS)
    monkeypatch.setattr(serve, "n_processors", lambda: processors)
    monkeypatch.setattr(serve, "require_keys", lambda *_, **__: started.append(os.environ.get(serve.SEARCH_THREADS)))
    monkeypatch.setattr(serve, "listen", lambda *_: pytest.fail("stop"))
    with pytest.raises(pytest.fail.Exception):
        serve.serve(Settings(search_threads=given), port=0, workers=workers)
    assert started == [expected]
