"""Headers that keep browsers from misusing answers, names of the service, and web pages of other origins."""

import httpx
import pytest
from sqlalchemy import Engine

from api.hosts import HostRule
from recsys.database.keys import create_key
from recsys.errors import InputError
from recsys.settings import load_settings
from tests.api.asking import check_problem, eventually
from tests.api.conftest import serving, url_of

pytestmark = pytest.mark.parametrize("engine", ["sqlite"], indirect=True)

SCOPE = {"server": ("127.0.0.1", 8000)}


def test_every_answer_has_the_security_headers(client: httpx.Client) -> None:
    for url, status in [
        ("/v1/users/u1/recommendations", 200),
        ("/v1/items/a/similar", 200),
        ("/v1/models", 200),
        ("/v1/items/none", 404),
        ("/v1/popular?n=0", 422),
        ("/nothing", 404),
        ("/", 200),
        ("/docs", 200),
        ("/docs/start.js", 200),
        ("/openapi.json", 200),
        ("/metrics", 200),
        ("/health/ready", 200),
    ]:
        answer = client.get(url)
        assert answer.status_code == status, url
        assert answer.headers["x-content-type-options"] == "nosniff", url
        assert answer.headers["referrer-policy"] == "no-referrer", url
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy, url
        assert "frame-ancestors 'none'" in policy, url
        for name in ("content-security-policy", "cache-control", "x-content-type-options"):
            assert len(answer.headers.get_list(name)) == 1, (url, name)


def test_lists_that_many_share_are_kept_and_asked_about_and_those_of_users_are_not_kept(client: httpx.Client) -> None:
    assert client.get("/v1/users/u1/recommendations").headers["cache-control"] == "no-store"
    for url in ("/v1/popular", "/v1/items/a/similar"):
        first = client.get(url)
        assert first.headers["cache-control"] == "private, no-cache"
        again = client.get(url, headers={"if-none-match": first.headers["etag"]})
        assert (again.status_code, again.headers["cache-control"]) == (304, "private, no-cache")


def test_a_web_page_cannot_reach_an_open_service_under_a_name_of_its_own(known_engine: Engine) -> None:
    evil = {"host": "evil.example:8000"}
    with serving(url_of(known_engine)) as client:
        for name in ("localhost:8000", "127.0.0.1", "[::1]:80", "LOCALHOST."):
            assert client.get("/v1/popular", headers={"host": name}).status_code == 200, name
        for url in ("/v1/popular", "/dashboard/", "/", "/openapi.json"):
            check_problem(client.get(url, headers=evil), 421, "RECSYS_ALLOWED_HOSTS")
        check_problem(client.delete("/v1/users/u1", headers=evil), 421, "RECSYS_ALLOWED_HOSTS")
        assert client.get("/health/live", headers=evil).status_code == 200
        # With keys a page has none to send, and a proxy may pass its own name on.
        _, key = create_key(known_engine, "ops", ["read"], actor="test")
        eventually(lambda: client.get("/v1/popular", headers=evil).status_code == 401)
        assert client.get("/v1/popular", headers={**evil, "authorization": f"Bearer {key}"}).status_code == 200
    with serving(url_of(known_engine), allowed_hosts="recs.example.com") as client:
        headers = {"authorization": f"Bearer {key}"}
        assert client.get("/v1/popular", headers={**headers, "host": "recs.example.com:443"}).status_code == 200
        assert client.get("/v1/popular", headers=headers).status_code == 200
        check_problem(client.get("/v1/popular", headers={**headers, **evil}), 421, "RECSYS_ALLOWED_HOSTS")


def test_names_are_remembered_only_if_they_are_allowed(engine: Engine) -> None:
    is_open = True
    rule = HostRule((), lambda: is_open)
    assert not rule.allows(SCOPE, b"evil.example")
    is_open = False
    assert rule.allows(SCOPE, b"evil.example")
    is_open = True
    assert not rule.allows(SCOPE, b"evil.example")
    assert not rule.allows(SCOPE, b"")
    assert rule.allows({"server": ("10.0.0.7", 80)}, b"evil.example")
    assert rule.allows(SCOPE, b"localhost:1")


def test_names_of_this_machine_and_names_with_a_port_are_names(engine: Engine) -> None:
    rule = HostRule((), lambda: True)
    for name in (b"127.0.0.2:8000", b"[0:0:0:0:0:0:0:1]:8000", b"shop.localhost:8000"):
        assert rule.allows({"server": ("127.0.0.2", 8000)}, name), name
    assert not rule.allows(SCOPE, b"localhost.evil.example")
    assert not rule.allows(SCOPE, b"10.0.0.7")
    rule = HostRule(("Recs.example.com:8443", "fd00::7", "[fd00::8]"), lambda: False)
    for name in (b"recs.example.com:8443", b"recs.example.com", b"[fd00::7]:8000", b"[fd00::8]"):
        assert rule.allows({"server": ("10.0.0.7", 80)}, name), name
    assert not rule.allows({"server": ("10.0.0.7", 80)}, b"evil.example")


def test_scripts_of_other_origins_may_call_only_if_a_setting_names_them(known_engine: Engine) -> None:
    shop = {"origin": "https://shop.example.com"}
    with serving(url_of(known_engine)) as client:
        assert "access-control-allow-origin" not in client.get("/v1/popular", headers=shop).headers
    with serving(url_of(known_engine), cors_origins="https://shop.example.com,http://localhost:3000") as client:
        for url in ("/v1/popular", "/v1/users/u1/recommendations", "/v1/models"):
            assert client.get(url, headers=shop).headers["access-control-allow-origin"] == shop["origin"]
        refused = client.get("/v1/popular", headers={**shop, "host": "evil.example"})
        assert (refused.status_code, refused.headers["access-control-allow-origin"]) == (421, shop["origin"])
        other = client.get("/v1/popular", headers={"origin": "https://evil.example"})
        assert "access-control-allow-origin" not in other.headers
        asked = {"access-control-request-method": "POST", "access-control-request-headers": "authorization"}
        assert client.options("/v1/ratings", headers={**shop, **asked}).status_code == 200
        assert client.options("/v1/ratings", headers={"origin": "https://evil.example", **asked}).status_code == 400


@pytest.mark.parametrize(
    ("name", "value"), [("RECSYS_CORS_ORIGINS", "*"), ("RECSYS_CORS_ORIGINS", "shop"), ("RECSYS_ALLOWED_HOSTS", "a/b")]
)
def test_settings_that_mean_nothing_are_refused(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(InputError, match=name):
        load_settings()
