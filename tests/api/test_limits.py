"""Limits of the rate of requests: of a key, of a token's user, of an address."""

import httpx
import pytest
from sqlalchemy import Engine

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


def test_workers_share_a_limit() -> None:
    limits = RateLimits("10/minute", n_workers=4)
    for _ in range(2):
        limits.count("key 1")
    with pytest.raises(TooManyError, match="more than 2 requests in 60 seconds"):
        limits.count("key 1")


def test_without_a_limit_answers_have_no_headers(reader: httpx.Client) -> None:
    assert "ratelimit" not in reader.get("/v1/popular").headers


def test_a_limit_that_is_none_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for text in ("fast", "0/minute", "5", "5/0 seconds"):
        monkeypatch.setenv("RECSYS_RATE_LIMIT", text)
        with pytest.raises(InputError, match="RECSYS_RATE_LIMIT"):
            load_settings()
