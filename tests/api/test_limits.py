"""Limits of the rate of requests: of a key, of a token's user, of an address."""

import os
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest
from sqlalchemy import Engine

from api.counts import SharedCounts
from api.limits import RateLimits
from recsys.database.keys import create_key, hash_of
from recsys.database.tokens import sign
from recsys.errors import InputError, TooManyError
from recsys.settings import load_settings
from tests.api.asking import check_problem
from tests.api.conftest import serving, url_of


def ask(client: httpx.Client, key: str) -> httpx.Response:
    return client.get("/v1/users/u1/recommendations", headers={"authorization": f"Bearer {key}"})


@pytest.mark.parametrize("engine", ["sqlite"], indirect=True)
def test_each_key_user_and_address_has_its_own(known_engine: Engine) -> None:
    number, shop = create_key(known_engine, "shop", ["read"], actor="test")
    _, other = create_key(known_engine, "other", ["write"], actor="test")
    token = sign(number.number, hash_of(shop), "u1", 60)
    with serving(url_of(known_engine), rate_limit="3/hour") as client:
        for left in (2, 1, 0):
            answer = ask(client, shop)
            assert answer.status_code == 200
            assert answer.headers["ratelimit-policy"] == '"requests";q=3;w=3600'
            assert answer.headers["ratelimit"].startswith(f'"requests";r={left};t=3')
        refused = ask(client, shop)
        assert (refused.status_code, refused.json()["title"]) == (429, "Too many requests of one client")
        assert 3590 <= int(refused.headers["retry-after"]) <= 3600
        assert refused.headers["ratelimit"].startswith('"requests";r=0;')
        assert ask(client, token).status_code == 200
        check_problem(ask(client, other), 403, "needs lists:read")
        for _ in range(3):
            check_problem(ask(client, "wrong"), 401, "key")
        assert ask(client, "wrong").status_code == 429
        assert client.get("/health/ready").status_code == 200


@pytest.mark.parametrize("engine", ["sqlite"], indirect=True)
def test_an_open_service_counts_addresses(known_engine: Engine) -> None:
    with serving(url_of(known_engine), rate_limit="1/hour") as client:
        assert client.get("/v1/popular").status_code == 200
        assert client.get("/v1/popular").status_code == 429


COUNTING = """
import sys
from api import counts as module
from api.counts import SharedCounts
module.LOCK_SECONDS = 10
counts = SharedCounts(sys.argv[1])
for n in range(int(sys.argv[2])):
    counts.add(f"key {n % 3}", 3600)
"""


def test_workers_share_a_limit(tmp_path: Path) -> None:
    file = str(tmp_path / "folder" / "rates")  # the folder is gone, as an old temporary one
    arguments = [sys.executable, "-c", COUNTING, file, "3000"]
    running = [subprocess.Popen(arguments, cwd=Path(__file__).parents[2]) for _ in range(2)]
    assert [process.wait(60) for process in running] == [0, 0]
    counts = SharedCounts(file)
    assert [counts.get(f"key {n}") for n in range(4)] == [2000, 2000, 2000, 0]
    limits = RateLimits("2001/hour", counts)
    limits.count("key 1")
    with pytest.raises(TooManyError, match="more than 2001 requests in 3600 seconds"):
        limits.count("key 1")
    assert os.stat(file).st_mode & 0o77 == 0
    assert os.listdir(tmp_path / "folder") == ["rates"]


def test_a_process_that_was_stopped_while_it_counted_holds_up_no_other(tmp_path: Path) -> None:
    file = str(tmp_path / "rates")
    counts = SharedCounts(file)
    holding = (
        "import fcntl, sys; f = open(sys.argv[1], 'r+b'); fcntl.lockf(f, fcntl.LOCK_EX); print(flush=True); input()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", holding, file], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as stopped:
        assert stopped.stdout is not None
        stopped.stdout.readline()
        started = time.monotonic()
        assert [counts.add("key", 60)[0] for _ in range(5)] == [1, 2, 3, 4, 5]
        assert time.monotonic() - started < 0.5
        stopped.kill()
    assert counts.add("key", 60)[0] == 6


def test_a_window_begins_anew_when_it_has_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    counts, now = SharedCounts(), 1_000_000.0
    monkeypatch.setattr("api.counts.time.time", lambda: now)
    assert [counts.add("key", 60) for _ in range(2)] == [(1, now + 60), (2, now + 60)]
    now += 59.5
    assert counts.add("key", 60) == (3, now + 0.5)
    now += 0.5
    assert (counts.get("key"), counts.get_expiry("key"), counts.add("key", 60)) == (0, now, (1, now + 60))
    now -= 3600  # the clock was set back: a window of the future would last for an hour
    assert counts.add("key", 60) == (1, now + 60)
    counts.clear("key")
    assert counts.get("key") == 0


def test_counts_are_bounded_and_who_sends_much_stays_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("api.counts.N_SETS", 4)
    counts = SharedCounts()
    for _ in range(50):
        counts.add("much", 3600)
    for n in range(1000):
        counts.add(f"address {n}", 3600)
    assert counts.get("much") == 50


def test_without_a_limit_answers_have_no_headers(reader: httpx.Client) -> None:
    assert "ratelimit" not in reader.get("/v1/popular").headers


def test_a_limit_that_is_none_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for text in ("fast", "0/minute", "5", "5/0 seconds"):
        monkeypatch.setenv("RECSYS_RATE_LIMIT", text)
        with pytest.raises(InputError, match="RECSYS_RATE_LIMIT"):
            load_settings()
