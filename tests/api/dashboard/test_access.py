"""Access to the dashboard and its forms by scope, and the cost to a server whose dashboard is not opened."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator

import httpx
import pytest
from sqlalchemy import Engine

from api.dashboard.app import PAGES
from recsys.database.engine import reading
from recsys.database.keys import create_key, revoke_key
from recsys.database.models import live_numbers
from recsys.database.publications import read_publications
from tests.api.asking import eventually
from tests.api.conftest import serving, url_of
from tests.conftest import add_known_model, add_known_rows, publish


@pytest.fixture
def engine(sqlite_engine: Engine) -> Engine:
    """The known rows, with ranking versions 1 (live) and 2."""
    add_known_rows(sqlite_engine)
    publish(sqlite_engine, add_known_model(sqlite_engine, "ranking"), "known")
    add_known_model(sqlite_engine, "ranking", sign=-1.0)
    return sqlite_engine


@pytest.fixture
def client(engine: Engine) -> Iterator[httpx.Client]:
    with serving(url_of(engine)) as made:
        yield made


def signed_in(client: httpx.Client, key: str) -> httpx.Response:
    return client.post("/dashboard/sign-in", data={"key": key})


class TestOpenService:
    def test_the_page_comes_with_its_own_files_only(self, client: httpx.Client) -> None:
        page = client.get("/dashboard/")
        assert page.status_code == 200
        assert "default-src 'self'" in page.headers["content-security-policy"]
        addresses = re.findall(r'(?:src|href)="([^"]+)"', page.text)
        assert len(addresses) > 5
        assert all(address.startswith(("/dashboard/", "data:")) for address in addresses)
        assert client.get("/dashboard").status_code == 307
        assert all(client.get(f"/dashboard/{page}?item=1").status_code == 200 for page in PAGES)
        assert client.get("/dashboard/nothing").status_code == 404

    def test_a_change_needs_the_token_of_the_page(self, client: httpx.Client, engine: Engine) -> None:
        form = {"number": "2", "reason": "looks better"}
        assert client.post("/dashboard/publish", data=form).status_code == 403
        client.get("/dashboard/")
        token = client.cookies["recsys_csrf"]
        foreign = {"origin": "https://elsewhere.example"}
        assert client.post("/dashboard/publish", data={**form, "csrf": token}, headers=foreign).status_code == 403
        assert client.post("/dashboard/publish", data={**form, "csrf": "x"}).status_code == 403
        done = client.post("/dashboard/publish", data={**form, "csrf": token})
        assert (done.status_code, done.headers["location"]) == (303, "/dashboard/?done=Version%202%20is%20live.")
        with reading(engine) as connection:
            assert live_numbers(connection)["ranking"] == 2
            assert read_publications(connection)[0].reason == "looks better"
        back = client.post("/dashboard/rollback", data={"objective": "ranking", "reason": "no", "csrf": token})
        assert "Version%201%20is%20live%20again" in back.headers["location"]

    def test_a_change_needs_a_reason(self, client: httpx.Client, engine: Engine) -> None:
        client.get("/dashboard/")
        form = {"number": "2", "reason": "  ", "csrf": client.cookies["recsys_csrf"]}
        assert "give%20a%20reason" in client.post("/dashboard/publish", data=form).headers["location"]
        with reading(engine) as connection:
            assert live_numbers(connection)["ranking"] == 1


OUTPUTS = [{"id": "details", "property": "children"}, {"id": "focus", "property": "data"}]
SHOW_ITEM = {
    "output": "..details.children...focus.data..",
    "outputs": OUTPUTS,
    "inputs": [
        {"id": "url", "property": "search", "value": "?item=a"},
        {"id": "map", "property": "id", "value": "map"},
    ],
    "state": [
        {"id": "focus", "property": "data", "value": None},
        {"id": "url", "property": "pathname", "value": "/dashboard/map"},
    ],
    "changedPropIds": ["url.search"],
}
"""What the page sends when an item was chosen on the map."""


def with_value(at: int, value: object) -> dict[str, object]:
    inputs = [dict(each) for each in SHOW_ITEM["inputs"]]  # type: ignore[attr-defined]
    inputs[at]["value"] = value
    return {**SHOW_ITEM, "inputs": inputs}


class TestCallbacks:
    def test_a_callback_is_answered(self, client: httpx.Client) -> None:
        answer = client.post("/dashboard/_dash-update-component", json=SHOW_ITEM)
        assert answer.status_code == 200
        assert answer.json()["response"]["focus"]["data"]["item"] == "a"

    @pytest.mark.parametrize(
        "body",
        [
            b"",
            b"{",
            b"[]",
            b"null",
            b"\xff",
            b"{}",
            json.dumps({**SHOW_ITEM, "output": "nothing.children"}).encode(),
            json.dumps({**SHOW_ITEM, "output": "address.data"}).encode(),
            json.dumps({**SHOW_ITEM, "outputs": OUTPUTS[:1]}).encode(),
            json.dumps({**SHOW_ITEM, "outputs": OUTPUTS[0]}).encode(),
            json.dumps({**SHOW_ITEM, "outputs": "x"}).encode(),
            json.dumps({**SHOW_ITEM, "inputs": []}).encode(),
            json.dumps({**SHOW_ITEM, "inputs": [{"id": {"graph": "x"}, "property": "id"}]}).encode(),
            json.dumps({**SHOW_ITEM, "state": None}).encode(),
            json.dumps({**SHOW_ITEM, "changedPropIds": [1]}).encode(),
            json.dumps(with_value(0, ["?item=a"])).encode(),
            json.dumps(with_value(0, {"item": 1})).encode(),
            json.dumps(with_value(1, 7)).encode(),
        ],
    )
    def test_a_malformed_one_is_refused(self, client: httpx.Client, body: bytes) -> None:
        headers = {"content-type": "application/json"}
        answer = client.post("/dashboard/_dash-update-component", content=body, headers=headers)
        assert answer.status_code == 422
        assert "reload the page" in answer.json()["detail"]

    @pytest.mark.parametrize(
        "search", ["?item=%ff", "?version=999999999999999999999", "?item=\0", "?x=" + "y" * 9000, "="]
    )
    def test_whatever_an_address_holds_there_is_an_answer(self, client: httpx.Client, search: str) -> None:
        answer = client.post("/dashboard/_dash-update-component?job=1&cacheKey=x", json=with_value(0, search))
        assert answer.status_code == 200


class TestKeys:
    def test_without_a_session_pages_lead_to_the_sign_in_and_data_is_refused(self, engine: Engine) -> None:
        create_key(engine, "analyst", ["read"], actor="test")
        with serving(url_of(engine)) as client:
            page = client.get("/dashboard/map?item=a%26b")
            where = "/dashboard/sign-in?next=map%3Fitem%3Da%2526b"
            assert (page.status_code, page.headers["location"]) == (303, where)
            assert client.get("/dashboard/_dash-layout").status_code == 401
            assert client.post("/dashboard/_dash-update-component", json={}).status_code == 401
            assert "API key" in client.get("/dashboard/sign-in").text

    def test_read_sees_and_may_not_change(self, engine: Engine) -> None:
        _, text = create_key(engine, "analyst", ["read"], actor="test")
        with serving(url_of(engine)) as client:
            wrong = signed_in(client, "recsys_wrong")
            assert wrong.status_code == 401
            assert "unknown, expired or revoked" in wrong.text
            answer = signed_in(client, text)
            assert answer.status_code == 303
            for cookie in answer.headers.get_list("set-cookie"):
                assert "HttpOnly" in cookie
                assert "SameSite=strict" in cookie
                assert text not in cookie
            assert client.get("/dashboard/").status_code == 200
            form = {"number": "2", "reason": "x", "csrf": client.cookies["recsys_csrf"]}
            assert client.post("/dashboard/publish", data=form).status_code == 403
            assert client.post("/dashboard/sign-out", data={"csrf": form["csrf"]}).status_code == 303
            assert client.get("/dashboard/").status_code == 303
            session = answer.headers.get_list("set-cookie")[0].partition("=")[2].partition(";")[0]
            for forged in (
                session[:-1] + ("0" if session[-1] != "0" else "1"),
                session.replace(".", ".9", 1),
                "1.2.3",
                "",
            ):
                assert client.get("/dashboard/", headers={"cookie": f"recsys_session={forged}"}).status_code == 303

    def test_write_alone_sees_nothing_and_admin_changes(self, engine: Engine) -> None:
        _, writer = create_key(engine, "shop", ["write"], actor="test")
        _, admin = create_key(engine, "boss", ["admin"], actor="test")
        with serving(url_of(engine)) as client:
            assert signed_in(client, writer).status_code == 403
            signed_in(client, admin)
            form = {"number": "2", "reason": "asked for", "csrf": client.cookies["recsys_csrf"]}
            assert "is%20live" in client.post("/dashboard/publish", data=form).headers["location"]

    @pytest.mark.parametrize(
        ("asked", "opened"), [("map?item=a%26b", "map?item=a%26b"), ("", ""), ("//elsewhere.example/", "")]
    )
    def test_a_sign_in_leads_to_the_page_that_was_asked_for(self, engine: Engine, asked: str, opened: str) -> None:
        _, text = create_key(engine, "analyst", ["read"], actor="test")
        with serving(url_of(engine)) as client:
            answer = client.post("/dashboard/sign-in", params={"next": asked}, data={"key": text})
            assert answer.headers["location"] == f"/dashboard/{opened}"

    def test_a_revoked_key_ends_its_session(self, engine: Engine) -> None:
        key, text = create_key(engine, "analyst", ["read"], actor="test")
        with serving(url_of(engine)) as client:
            signed_in(client, text)
            assert client.get("/dashboard/").status_code == 200
            revoke_key(engine, str(key.number), actor="test")
            for _ in range(100):
                if client.get("/dashboard/").status_code == 303:
                    break
            assert client.get("/dashboard/").status_code == 303


class TestCost:
    def test_a_started_service_has_not_imported_the_dashboard_nor_the_map_pandas(self) -> None:
        code = (
            "import sys; from api.app import create_app; create_app();"
            "heavy = ('dash', 'plotly', 'pandas', 'api.dashboard.app');"
            "print([name for name in heavy if name in sys.modules]);"
            "import api.dashboard.app; from recsys.analysis.map_points import map_points;"
            "from tests.analysis.planted import view; map_points(view().with_plane()); view().prepare_nearest();"
            "print([name for name in heavy if name in sys.modules])"
        )
        printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
        assert printed.splitlines() == ["[]", "['dash', 'plotly', 'api.dashboard.app']"]

    def test_it_can_be_switched_off(self, engine: Engine) -> None:
        with serving(url_of(engine), dashboard=False) as client:
            assert client.get("/dashboard/").status_code == 404


def test_made_up_cookies_numbers_and_files_are_refused(client: httpx.Client, engine: Engine) -> None:
    _, key = create_key(engine, "ops", ["admin"], actor="test")
    eventually(lambda: client.get("/v1/popular").status_code == 401)
    for cookie in ("9" * 5000 + ".9999999999.x", "1." + "9" * 5000 + ".x", "1.9999999999.x", "..", "1.1"):
        answer = client.get("/dashboard/", headers={"cookie": f"recsys_session={cookie}"})
        assert (answer.status_code, answer.headers["location"]) == (303, "/dashboard/sign-in")
    script, files = "/dashboard/_dash-component-suites/plotly/package_data/plotly.min.js", "/dashboard/assets/"
    for path in (script, f"{files}map.js", "/dashboard/_dash-layout"):  # megabytes, and what only a session needs
        assert client.get(path, follow_redirects=False).status_code in (303, 401)
    assert client.get(f"{files}dashboard.css").status_code == 200
    signed_in(client, key)
    assert client.get(script).status_code == client.get(f"{files}map.js").status_code == 200
    for path in ("dash/nothing.js", "nothing/x.js"):
        assert client.get(f"/dashboard/_dash-component-suites/{path}").status_code == 404
    for number in ("x", "", "-1", "1.5", "9" * 30, "9" * 5000):
        form = {"csrf": client.cookies["recsys_csrf"], "number": number, "reason": "x"}
        answer = client.post("/dashboard/publish", data=form)
        assert (answer.status_code, "Nothing%20was%20changed" in answer.headers["location"]) == (303, True)
