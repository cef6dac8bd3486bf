"""Items: searched, read one by one, made and changed."""

import json
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest
from sqlalchemy import Engine

from recsys.database.models import publish
from recsys.factors import FeatureEmbeddings
from tests.api.asking import as_json, check_problem, eventually, ids
from tests.api.conftest import Many, serving, url_of
from tests.conftest import add_known_model, add_known_rows

ALIEN = {
    "item_id": "a",
    "title": "Alien (1979)",
    "categories": ["Horror", "Sci-Fi"],
    "year": 1979,
    "attributes": {},
    "hidden": False,
    "n_ratings": 3,
    "mean_rating": 4.0,
}


class TestSearch:
    def test_by_title(self, reader: httpx.Client) -> None:
        assert reader.get("/v1/items", params={"title": "alien"}).json() == {"items": [ALIEN], "next_cursor": None}
        assert ids(reader.get("/v1/items", params={"title": "1991 DELICAT"})) == ["d/ä"]

    @pytest.mark.parametrize("title", ["nothing", "hidden", "alien brazil", "😀", "%", "a" * 10_000])
    def test_nothing_found(self, reader: httpx.Client, title: str) -> None:
        assert reader.get("/v1/items", params={"title": title}).json() == {"items": [], "next_cursor": None}

    def test_white_space_finds_all(self, reader: httpx.Client) -> None:
        assert len(ids(reader.get("/v1/items", params={"title": " \n\t"}))) == 6

    def test_pages(self, reader: httpx.Client) -> None:
        first = reader.get("/v1/items", params={"limit": 4}).json()
        second = reader.get("/v1/items", params={"limit": 4, "cursor": first["next_cursor"]}).json()
        assert [item["item_id"] for item in first["items"] + second["items"]] == ["e", "a", "b", "c", "d/ä", "new"]
        assert second["next_cursor"] is None

    @pytest.mark.parametrize("limit", [1, 7, 1000])
    def test_pages_neither_repeat_nor_skip(self, many: Many, limit: int) -> None:
        seen: list[str] = []
        query: dict[str, Any] = {"limit": limit, "title": "title"}
        while True:
            page = many.client.get("/v1/items", params=query).json()
            assert len(page["items"]) <= limit
            seen += [item["item_id"] for item in page["items"]]
            if page["next_cursor"] is None:
                break
            query["cursor"] = page["next_cursor"]
        shown = [item_id for item_id, hidden in zip(many.item_ids, many.hidden, strict=True) if not hidden]
        assert len(seen) == len(set(seen))
        assert sorted(seen) == sorted(shown)

    @pytest.mark.parametrize(
        "query",
        [
            {"limit": 0},
            {"limit": 1001},
            {"limit": "x"},
            {"title": "a" * 10_001},
            {"cursor": "zzz"},
            {"cursor": "ü"},
            {"cursor": "bnVsbA=="},
            {"cursor": "WzEsMl0="},
            {"page": 1},
        ],
    )
    def test_wrong_parameters(self, reader: httpx.Client, query: dict[str, Any]) -> None:
        check_problem(reader.get("/v1/items", params=query), 422, next(iter(query)))


class TestOne:
    def test_by_id(self, reader: httpx.Client) -> None:
        assert reader.get("/v1/items/a").json() == ALIEN
        assert reader.get("/v1/items/d%2F%C3%A4").json()["item_id"] == "d/ä"
        unrated = reader.get("/v1/items/hidden").json()
        assert (unrated["hidden"], unrated["n_ratings"], unrated["mean_rating"]) == (True, 0, None)

    @pytest.mark.parametrize("item_id", ["zzz", "%F0%9F%98%80", "a%00", "x" * 10_000, "A", "a%20"])
    def test_unknown(self, reader: httpx.Client, item_id: str) -> None:
        check_problem(reader.get(f"/v1/items/{item_id}"), 404, "search by title")


class TestPut:
    def test_make_change_and_leave_alone(self, client: httpx.Client) -> None:
        url = "/v1/items/n%2F1%20%F0%9F%98%80"
        made = client.put(url, json={"title": "Nüw", "categories": ["X", "X"], "attributes": {"k": [" v"]}})
        assert made.status_code == 201
        known = {
            "item_id": "n/1 😀",
            "title": "Nüw",
            "categories": ["X"],
            "year": None,
            "attributes": {"k": [" v"]},
            "hidden": False,
            "n_ratings": 0,
            "mean_rating": None,
        }
        assert made.json() == known
        again = client.put(url, json={})
        assert (again.status_code, again.json()) == (200, known)
        changed = client.put(url, json={"title": None, "hidden": True})
        assert changed.json() == known | {"title": None, "hidden": True}
        assert client.get(url).json() == changed.json()
        assert ids(client.get("/v1/items", params={"title": "nuw"})) == []

    def test_the_year_is_one_of_the_attributes_and_stays_beside_the_others(self, client: httpx.Client) -> None:
        def put(item_id: str = "a", **given: object) -> tuple[object, object]:
            answer = client.put(f"/v1/items/{item_id}", json=given)
            assert answer.status_code in (200, 201), answer.text
            assert client.get(f"/v1/items/{item_id}").json() == answer.json()
            return answer.json()["year"], answer.json()["attributes"]

        assert put(year=1980) == (1980, {})
        assert put(attributes={"colour": "red"}) == (1980, {"colour": "red"})
        assert put(year=1981) == (1981, {"colour": "red"})
        assert put(title="x") == (1981, {"colour": "red"})
        assert put(year=None) == (None, {"colour": "red"})
        assert put(attributes={"colour": "blue"}, year=7) == (7, {"colour": "blue"})
        assert put("fresh", year=2001, attributes={"k": 1}) == (2001, {"k": 1})
        assert put("fresh2", year=2001) == (2001, {})
        assert put("fresh3", attributes={"k": True}) == (None, {"k": True})

    def test_a_hidden_item_is_in_no_list_from_now_on(self, client: httpx.Client) -> None:
        lists = ["/v1/users/u1/recommendations", "/v1/users/nobody/recommendations", "/v1/items/a/similar", "/v1/items"]
        lists += ["/v1/popular?by=count", "/v1/popular?by=bias&min_ratings=0"]
        assert all("b" in ids(client.get(url)) for url in lists)
        assert client.put("/v1/items/b", json={"hidden": True}).status_code == 200
        assert not any("b" in ids(client.get(url)) for url in lists)
        client.put("/v1/items/b", json={"hidden": False})
        assert all("b" in ids(client.get(url)) for url in lists)

    @pytest.mark.parametrize(
        "body",
        [
            [],
            {"title": 7},
            {"title": "x" * 1001},
            {"categories": "Drama"},
            {"categories": [""]},
            {"categories": ["x"] * 101},
            {"categories": None},
            {"year": 1.5},
            {"year": 100_000},
            {"hidden": None},
            {"attributes": {"a": None}},
            {"attributes": {"a": {"b": 1}}},
            {"attributes": {"a": float("nan")}},
            {"attributes": {"a": float("inf")}},
            {"item_id": "b"},
            {"title": "a\0b"},
            {"categories": ["\ud800"]},
            {"attributes": {"\0": 1}},
            {"attributes": {"a": ["\ud800"]}},
        ],
    )
    def test_wrong_bodies(self, reader: httpx.Client, body: object) -> None:
        for item_id in ("a", "fresh"):
            check_problem(reader.put(f"/v1/items/{item_id}", **as_json(json.dumps(body))), 422, "")
        assert reader.get("/v1/items/a").json() == ALIEN
        assert reader.get("/v1/items/fresh").status_code == 404

    @pytest.mark.parametrize(
        "attributes",
        [
            {f"name {i}": i for i in range(101)},
            {"n" * 201: 1},
            {"a": "x" * 10_001},
            {"a": ["x"] * 1001},
            {f"name {i}": "x" * 9_000 for i in range(8)},
            {f"name {i}": ["ü" * 500] * 90 for i in range(42)},  # 3.9 MB in 4 MiB of body
        ],
    )
    def test_attributes_are_bounded(self, reader: httpx.Client, attributes: dict[str, object]) -> None:
        body = json.dumps({"attributes": attributes}, ensure_ascii=False)
        check_problem(reader.put("/v1/items/a", **as_json(body)), 422, "body.attributes")
        assert reader.get("/v1/items/a").json() == ALIEN

    def test_as_large_attributes_as_may_be(self, client: httpx.Client) -> None:
        attributes = {f"name {i}": "x" * 9_000 for i in range(7)}
        assert client.put("/v1/items/a", json={"attributes": attributes}).json()["attributes"] == attributes
        too_large = {**attributes, "one more": "x" * 2_500}
        answer = client.put("/v1/items/a", json={"attributes": too_large})
        check_problem(answer, 422, "bytes as JSON: expected at most 65,536")
        assert "Value error" not in answer.text

    @pytest.mark.parametrize("item_id", ["%20", "a%00", "x" * 10_000, "%0A"])
    def test_ids_that_cannot_be_kept(self, reader: httpx.Client, item_id: str) -> None:
        check_problem(reader.put(f"/v1/items/{item_id}", json={}), 422, "item_id")


class TestColdStart:
    """A version with rows of categories lists a new item at once."""

    @pytest.fixture
    def cold(self, engine: Engine) -> Iterator[httpx.Client]:
        add_known_rows(engine)
        features = FeatureEmbeddings(
            names=("category: Drama", "category: Sci-Fi"),
            base=np.zeros(2, np.float32),
            vectors=np.array([[0, 4], [4, 0]], np.float32),
            bias=np.array([0.25, 0.5], np.float32),
        )
        publish(engine, add_known_model(engine, "ranking", item_features=features), "test")
        with serving(url_of(engine)) as client:
            yield client

    def test_a_new_item_is_listed_by_its_categories(self, cold: httpx.Client) -> None:
        url = "/v1/users/u1/recommendations"
        assert ids(cold.get(url))[0] == "new"  # (4, 0), never rated: Sci-Fi
        cold.put("/v1/items/n1", json={"categories": ["Sci-Fi", "Drama"], "title": "One"})
        first, second = cold.get(url, params={"n": 2, "explain": True}).json()["items"]
        assert (first["item_id"], first["title"], first["score"]) == ("n1", "One", 4.75)
        assert (second["item_id"], second["score"]) == ("new", 4.5)
        assert first["explanation"]["item_bias"] == 0.75
        assert "n1" in ids(cold.get("/v1/items/new/similar"))
        assert ids(cold.get("/v1/items/n1/similar", params={"n": 1})) == ["e"]

    def test_one_of_unknown_categories_waits_for_a_training(self, cold: httpx.Client) -> None:
        cold.put("/v1/items/n2", json={"categories": ["Western"]})
        assert "n2" not in ids(cold.get("/v1/users/u1/recommendations", params={"n": 1000}))
        assert "n2" in ids(cold.get("/v1/users/nobody/recommendations", params={"n": 1000}))
        check_problem(cold.get("/v1/items/n2/similar"), 404, "has no ratings in model version")
        cold.put("/v1/items/n2", json={"categories": ["Western", "Drama"]})
        assert "n2" in ids(cold.get("/v1/users/u1/recommendations", params={"n": 1000}))

    def test_its_first_rating_takes_it_off_that_users_list(self, cold: httpx.Client) -> None:
        cold.put("/v1/items/n3", json={"categories": ["Sci-Fi"]})
        body = {"ratings": [{"user_id": "u1", "item_id": "n3", "rating": 5}]}
        assert cold.post("/v1/ratings", json=body).json()["inserted"] == 1
        assert "n3" not in ids(cold.get("/v1/users/u1/recommendations"))
        assert "n3" in ids(cold.get("/v1/users/u2/recommendations"))
        eventually(lambda: cold.get("/v1/users/u1/ratings").json()["ratings"][0]["item_id"] == "n3")
