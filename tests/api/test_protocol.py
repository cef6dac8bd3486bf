"""HTTP as it is spoken: encodings, repeated names, compressed bodies, prefixes, the pages for people."""

import gzip
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import Engine

from tests.api.asking import as_json, check_problem, ids
from tests.api.conftest import serving, url_of
from tests.conftest import add_known_model, add_known_rows

NOT_UTF8 = ["%FF", "a%FFb", "%ED%A0%80", "%C3"]


class TestEncodings:
    @pytest.mark.parametrize("text", NOT_UTF8)
    @pytest.mark.parametrize(
        ("method", "url"),
        [
            ("GET", "/v1/users/{}/recommendations"),
            ("GET", "/v1/users/{}/predictions?item_id=a"),
            ("GET", "/v1/users/{}/ratings"),
            ("GET", "/v1/items/{}"),
            ("GET", "/v1/items/{}/similar"),
            ("PUT", "/v1/items/{}"),
            ("DELETE", "/v1/users/{}"),
            ("DELETE", "/v1/users/u1/ratings/{}"),
            ("DELETE", "/v1/users/{}/ratings/a"),
        ],
    )
    def test_a_path_that_is_not_utf8_is_refused(self, reader: httpx.Client, method: str, url: str, text: str) -> None:
        """Decoded with a replacement character, two ids would be one."""
        body = {"json": {}} if method == "PUT" else {}
        problem = check_problem(reader.request(method, url.format(text), **body), 422, "not UTF-8")
        assert [error["where"].split(".")[0] for error in problem["errors"]] == ["path"]

    @pytest.mark.parametrize("query", ["title=%FF", "%FF=1"])
    def test_a_query_that_is_not_utf8_is_refused(self, reader: httpx.Client, query: str) -> None:
        check_problem(reader.get(f"/v1/items?{query}"), 422, "not UTF-8")

    @pytest.mark.parametrize(
        "url",
        [
            "/v1/users/u1/recommendations?n=1&n=2",
            "/v1/popular?by=count&by=mean",
            "/v1/items?limit=1&limit=1",
            "/v1/users/u1/ratings?limit=1&limit=2",
            "/v1/items/a/similar?cursor=x&cursor=x",
        ],
    )
    def test_a_parameter_with_one_value_is_given_once(self, reader: httpx.Client, url: str) -> None:
        name = url.partition("?")[2].split("&")[-1].partition("=")[0]
        problem = check_problem(reader.get(url), 422, "given twice")
        assert [error["where"] for error in problem["errors"]] == [f"query.{name}"]


class TestBodies:
    @pytest.mark.parametrize(
        ("url", "content"),
        [
            ("/v1/recommendations", '{"users": [{}], "n": 1, "n": 2}'),
            ("/v1/ratings", '{"ratings": [{"user_id": "u1", "item_id": "a", "rating": 1, "rating": 5}]}'),
            ("/v1/items", '{"items": [{"item_id": "a", "item_id": "b"}]}'),
        ],
    )
    def test_a_name_that_occurs_twice_is_refused(self, reader: httpx.Client, url: str, content: str) -> None:
        check_problem(reader.post(url, **as_json(content)), 422, "occurs twice in one object")

    @pytest.mark.parametrize("url", ["/v1/recommendations", "/v1/ratings"])
    def test_a_compressed_body_is_refused(self, reader: httpx.Client, url: str) -> None:
        headers = {"content-type": "application/json", "content-encoding": "gzip"}
        answer = reader.post(url, content=gzip.compress(b'{"users": [{}]}'), headers=headers)
        check_problem(answer, 415, "compressed (gzip): send it as it is")
        plain = {**headers, "content-encoding": "identity"}
        assert reader.post("/v1/recommendations", content=b'{"users": [{}]}', headers=plain).status_code == 200


class TestRatingsOfAUser:
    def test_pages(self, reader: httpx.Client) -> None:
        url = "/v1/users/u2/ratings"
        whole = reader.get(url).json()
        assert [row["item_id"] for row in whole["ratings"]] == ["c", "a"]
        assert whole["next_cursor"] is None
        first = reader.get(url, params={"limit": 1}).json()
        second = reader.get(url, params={"limit": 1, "cursor": first["next_cursor"]}).json()
        assert first["ratings"] + second["ratings"] == whole["ratings"]
        assert second["next_cursor"] is None
        assert reader.get("/v1/users/nobody/ratings").json()["ratings"] == []

    def test_ratings_without_a_time_come_last(self, client: httpx.Client, known_engine: Engine) -> None:
        from sqlalchemy import update

        from recsys.database import schema
        from recsys.database.engine import writing

        with writing(known_engine) as connection:
            connection.execute(update(schema.ratings).values(rated_at=None))
        pages, query = [], {"limit": 1}
        for _ in range(2):
            page = client.get("/v1/users/u3/ratings", params=query).json()
            pages += [row["item_id"] for row in page["ratings"]]
            query["cursor"] = page["next_cursor"]
        assert (sorted(pages), query["cursor"]) == (["a", "c"], None)

    @pytest.mark.parametrize(
        "query",
        [{"limit": 0}, {"limit": 1001}, {"cursor": "x"}, {"cursor": "W251bGwsbnVsbF0="}, {"cursor": "WzFlOTksMV0="}],
    )
    def test_wrong(self, reader: httpx.Client, query: dict[str, Any]) -> None:
        check_problem(reader.get("/v1/users/u1/ratings", params=query), 422, next(iter(query)))


class TestCategories:
    def test_with_the_number_of_items_that_are_not_hidden(self, reader: httpx.Client) -> None:
        answer = reader.get("/v1/categories").json()
        assert answer == {
            "categories": [
                {"name": "Drama", "n_items": 1},
                {"name": "Horror", "n_items": 1},
                {"name": "Sci-Fi", "n_items": 3},
            ]
        }

    def test_of_hidden_items_alone(self, client: httpx.Client) -> None:
        assert client.put("/v1/items/c", json={"hidden": True}).status_code == 200
        names = [each["name"] for each in client.get("/v1/categories").json()["categories"]]
        assert names == ["Horror", "Sci-Fi"]


class TestManyItems:
    def test_good_rows_are_stored_and_bad_ones_named(self, client: httpx.Client) -> None:
        rows: list[Any] = [
            {"item_id": "x/1", "title": "One", "categories": ["New", "New"], "year": 2000},
            {"item_id": "a", "attributes": {"colour": "red"}},
            {"item_id": "b", "title": 7},
            {"item_id": "b", "hidden": True},
            "no object",
            {"title": "no id"},
            {"item_id": " "},
            {"item_id": "x/1", "attributes": {"price": 1}},
            {"item_id": "c"},
            {"item_id": "e", "name": "x"},
        ]
        answer = client.post("/v1/items", json={"items": rows})
        assert answer.status_code == 200, answer.text
        report = answer.json()
        counts = {name: report[name] for name in ("inserted", "updated", "unchanged", "rejected")}
        assert counts == {"inserted": 1, "updated": 2, "unchanged": 2, "rejected": 5}
        assert [error["index"] for error in report["errors"]] == [2, 4, 5, 6, 9]
        assert report["errors"][0]["message"].startswith("title: ")
        assert "item_id" in report["errors"][2]["message"]
        stored = client.get("/v1/items/x%2F1").json()
        assert (stored["title"], stored["categories"], stored["year"]) == ("One", ["New"], 2000)
        assert stored["attributes"] == {"price": 1}
        assert client.get("/v1/items/a").json()["year"] == 1979  # kept beside the new attributes
        assert "b" not in ids(client.get("/v1/users/u1/recommendations"))
        assert client.get("/v1/items/b").json()["title"] == "Brazil (1985)"
        again = client.post("/v1/items", json={"items": [rows[1], rows[3]]}).json()
        assert (again["updated"], again["unchanged"]) == (0, 2)

    @pytest.mark.parametrize(
        ("body", "where"),
        [
            ({"items": []}, "body.items"),
            ({"items": [{"item_id": "a"}] * 1001}, "body.items"),
            ({"items": {}}, "body.items"),
            ({}, "body.items"),
            ({"items": [{"item_id": 7}]}, "body.items.0"),
            ({"items": [{"item_id": "a", "title": "\0"}]}, "body.items.0"),
        ],
    )
    def test_wrong_bodies(self, reader: httpx.Client, body: object, where: str) -> None:
        problem = check_problem(reader.post("/v1/items", json=body), 422, "")
        assert [error["where"] for error in problem["errors"]] == [where]

    def test_a_thousand_at_once(self, client: httpx.Client) -> None:
        rows = [{"item_id": f"n{i}", "title": f"New {i}", "categories": ["New"]} for i in range(1000)]
        assert client.post("/v1/items", json={"items": rows}).json()["inserted"] == 1000
        changed = [{**row, "hidden": i % 2 == 0} for i, row in enumerate(rows)]
        assert client.post("/v1/items", json={"items": changed}).json()["updated"] == 500
        categories = {each["name"]: each["n_items"] for each in client.get("/v1/categories").json()["categories"]}
        assert categories["New"] == 500


@pytest.fixture(scope="module")
def prefixed(tmp_path_factory: pytest.TempPathFactory, migrated_sqlite: Path) -> Iterator[httpx.Client]:
    """A service with the prefix /shop/recsys."""
    from recsys.database.engine import connect
    from recsys.database.models import publish

    path = tmp_path_factory.mktemp("prefixed") / "prefixed.db"
    path.write_bytes(migrated_sqlite.read_bytes())
    engine = connect(f"sqlite:///{path}")
    add_known_rows(engine)
    publish(engine, add_known_model(engine, "ranking"), "known")
    engine.dispose()
    with serving(url_of(engine), root_path="/shop/recsys") as client:
        yield client


class TestPrefix:
    @pytest.mark.parametrize("prefix", ["", "/shop/recsys"])
    def test_the_proxy_may_keep_it_or_take_it_away(self, prefixed: httpx.Client, prefix: str) -> None:
        assert ids(prefixed.get(f"{prefix}/v1/users/u1/recommendations"))[0] == "b"
        assert prefixed.get(f"{prefix}/health/ready").status_code == 200
        assert prefixed.get(f"{prefix}/v1/items/d%2F%C3%A4").json()["item_id"] == "d/ä"
        assert "swagger-ui" in prefixed.get(f"{prefix}/docs").text
        assert prefixed.get(f"{prefix}/docs/swagger-ui.css").status_code == 200
        assert prefixed.get(f"{prefix}/openapi.json").json()["servers"] == [{"url": "/shop/recsys"}]
        assert prefixed.get(f"{prefix}/").json()["name"] == "recsys"
        assert prefixed.get(prefix or "/").status_code == 200
        check_problem(prefixed.get(f"{prefix}/v1/nothing"), 404, "/docs")

    def test_another_prefix_is_unknown(self, prefixed: httpx.Client) -> None:
        assert prefixed.get("/shop/recsysv1/popular").status_code == 404


class TestPages:
    def test_the_root_says_where_things_are(self, reader: httpx.Client) -> None:
        answer = reader.get("/").json()
        for address in answer["links"].values():
            assert reader.get(f"/{address}").status_code == 200, address
        page = reader.get("/", headers={"accept": "text/html,*/*"})
        assert page.headers["content-type"].startswith("text/html")
        assert 'href="docs"' in page.text
        assert reader.head("/").status_code == 200

    def test_the_files_of_the_docs(self, reader: httpx.Client) -> None:
        for file, kind in (("swagger-ui.css", "text/css"), ("swagger-ui-bundle.js", "text/javascript")):
            answer = reader.get(f"/docs/{file}")
            assert answer.status_code == 200
            assert answer.headers["content-type"].startswith(kind)
            assert len(answer.content) > 100_000
        check_problem(reader.get("/docs/other.js"), 404, "/docs")
        check_problem(reader.get("/docs/..%2f__init__.py"), 404, "/docs")
        assert reader.get("/redoc").status_code == 404

    @pytest.mark.browser
    def test_the_docs_need_no_network(self, prefixed: httpx.Client, browser: Any) -> None:
        """Every request of the page goes to the service itself, behind the prefix too."""
        page = browser.new_page(viewport={"width": 1200, "height": 900})
        requested, errors = [], []
        page.on("request", lambda request: requested.append(request.url))
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
        base = f"{prefixed.base_url}".rstrip("/")
        page.goto(f"{base}/shop/recsys/docs")
        page.wait_for_selector(".opblock", timeout=20_000)
        assert page.locator(".opblock").count() >= 20
        assert "recsys" in page.locator(".title").first.inner_text()
        assert all(url.startswith((f"{base}/shop/recsys/", "data:")) for url in requested)
        assert errors == []
        page.locator(".opblock-summary", has_text="/v1/popular").first.click()
        page.locator(".try-out__btn").first.click()
        page.locator(".execute").first.click()
        page.wait_for_selector(".live-responses-table tbody .response-col_status", timeout=20_000)
        assert "200" in page.locator(".live-responses-table tbody .response-col_status").first.inner_text()
        page.close()
