"""Each endpoint over a real socket, on both databases: known answers, wrong requests, current state."""

import json
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from sqlalchemy import Engine, text

from recsys.data.database import connect, writing
from recsys.registry import publish
from tests.api.conftest import serving
from tests.conftest import add_known_model, add_known_rows


def ids(answer: httpx.Response) -> list[str]:
    assert answer.status_code == 200, answer.text
    return [item["item_id"] for item in answer.json()["items"]]


def check_problem(answer: httpx.Response, status: int, said: str) -> dict[str, object]:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    body: dict[str, object] = answer.json()
    assert set(body) == {"type", "title", "status", "detail", "errors"}
    assert body["status"] == status
    assert said in str(body["detail"])
    return body


class TestRecommendations:
    def test_the_list(self, client: httpx.Client) -> None:
        answer = client.get("/v1/users/u1/recommendations", params={"n": 2})
        assert answer.json() == {
            "model_version": 1,
            "source": "model",
            "items": [
                {"item_id": "b", "title": "Brazil (1985)", "score": 2.0},
                {"item_id": "c", "title": "Casablanca (1942)", "score": 0.5},
            ],
        }

    def test_seen_items_can_be_asked_for(self, client: httpx.Client) -> None:
        assert ids(client.get("/v1/users/u1/recommendations", params={"n": 1, "exclude_seen": False})) == ["a"]

    def test_ids_with_slashes_spaces_and_umlauts(self, client: httpx.Client) -> None:
        answer = client.get("/v1/users/s%2F1%20%C3%BC/recommendations")
        assert answer.json()["source"] == "model"
        assert ids(answer) == ["c", "a", "d/ä", "e"]
        assert client.get("/v1/users/s/1%20%C3%BC/recommendations").status_code == 404

    @pytest.mark.parametrize("user_id", ["nobody", "%F0%9F%98%80", "a%00b", "x" * 10_000, "%FF", "%2F"])
    def test_an_unknown_user_gets_popularity(self, client: httpx.Client, user_id: str) -> None:
        answer = client.get(f"/v1/users/{user_id}/recommendations", params={"n": 2})
        assert answer.json()["source"] == "popularity"
        assert ids(answer) == ["a", "c"]

    @pytest.mark.parametrize(
        ("query", "where"),
        [
            ({"n": 0}, "query.n"),
            ({"n": 1001}, "query.n"),
            ({"n": "ten"}, "query.n"),
            ({"exclude_seen": "2"}, "query.exclude_seen"),
        ],
    )
    def test_wrong_parameters(self, client: httpx.Client, query: dict[str, str], where: str) -> None:
        body = check_problem(client.get("/v1/users/u1/recommendations", params=query), 422, where)
        assert [error["where"] for error in body["errors"]] == [where]


class TestSimilar:
    def test_the_list(self, client: httpx.Client) -> None:
        answer = client.get("/v1/items/a/similar", params={"n": 2})
        assert answer.json()["items"][1] == {"item_id": "e", "title": None, "score": 0.707107}
        assert (answer.json()["model_version"], answer.json()["source"]) == (1, "model")

    def test_an_id_with_a_slash(self, client: httpx.Client) -> None:
        assert ids(client.get("/v1/items/d%2F%C3%A4/similar", params={"n": 1})) == ["c"]

    def test_an_unknown_item(self, client: httpx.Client) -> None:
        check_problem(client.get("/v1/items/zzz/similar"), 404, "there is no item 'zzz'")


class TestPopular:
    def test_defaults_to_bias_with_ten_ratings(self, client: httpx.Client) -> None:
        assert client.get("/v1/popular").json() == {"model_version": 2, "source": "popularity", "items": []}

    @pytest.mark.parametrize(
        ("query", "expected"),
        [
            ({"by": "bias", "min_ratings": 0, "n": 2}, ["c", "a"]),
            ({"by": "bias", "min_ratings": 0, "n": 2, "order": "asc"}, ["e", "b"]),
            ({"by": "count", "n": 2}, ["a", "c"]),
            ({"by": "mean", "min_ratings": 2}, ["a", "c"]),
        ],
    )
    def test_orders(self, client: httpx.Client, query: dict[str, str], expected: list[str]) -> None:
        assert ids(client.get("/v1/popular", params=query)) == expected

    @pytest.mark.parametrize("query", [{"by": "taste"}, {"order": "up"}, {"min_ratings": -1}, {"n": 0}])
    def test_wrong_parameters(self, client: httpx.Client, query: dict[str, str]) -> None:
        check_problem(client.get("/v1/popular", params=query), 422, f"query.{next(iter(query))}")


class TestItems:
    def test_by_title_and_by_id(self, client: httpx.Client) -> None:
        page = client.get("/v1/items", params={"title": "alien"}).json()
        alien = {
            "item_id": "a",
            "title": "Alien (1979)",
            "categories": ["Horror", "Sci-Fi"],
            "year": 1979,
            "attributes": {},
            "hidden": False,
            "n_ratings": 3,
            "mean_rating": 4.0,
        }
        assert page == {"items": [alien], "next_cursor": None}
        assert client.get("/v1/items/a").json() == alien
        assert client.get("/v1/items/d%2F%C3%A4").json()["item_id"] == "d/ä"

    def test_pages(self, client: httpx.Client) -> None:
        first = client.get("/v1/items", params={"limit": 4}).json()
        second = client.get("/v1/items", params={"limit": 4, "cursor": first["next_cursor"]}).json()
        assert [item["item_id"] for item in first["items"] + second["items"]] == ["e", "a", "b", "c", "d/ä", "new"]
        assert second["next_cursor"] is None

    def test_unknown(self, client: httpx.Client) -> None:
        check_problem(client.get("/v1/items/zzz"), 404, "search by title")
        check_problem(client.get("/v1/items", params={"cursor": "zzz"}), 422, "cursor 'zzz'")


class TestRatings:
    def test_a_rating_is_respected_by_the_very_next_list(self, client: httpx.Client) -> None:
        assert ids(client.get("/v1/users/u1/recommendations"))[0] == "b"
        posted = client.post("/v1/ratings", json={"ratings": [{"user_id": "u1", "item_id": "b", "rating": 3.5}]})
        assert posted.json() == {"inserted": 1, "updated": 0, "unchanged": 0, "rejected": 0, "errors": []}
        following = client.get("/v1/users/u1/recommendations")
        assert following.json()["source"] == "fold_in"
        assert sorted(ids(following)) == ["c", "d/ä", "e"]
        given = client.get("/v1/users/u1/ratings").json()
        assert given["user_id"] == "u1"
        assert [(row["item_id"], row["rating"]) for row in given["ratings"]] == [("b", 3.5), ("a", 5.0)]

    def test_posting_again_changes_nothing(self, client: httpx.Client) -> None:
        body = {"ratings": [{"user_id": "someone new", "item_id": "a", "rating": 2}]}
        assert client.post("/v1/ratings", json=body).json()["inserted"] == 1
        assert client.post("/v1/ratings", json=body).json()["unchanged"] == 1
        body["ratings"][0]["rating"] = 3
        assert client.post("/v1/ratings", json=body).json()["updated"] == 1
        body["ratings"][0] |= {"rating": 4, "rated_at": "2001-01-01T00:00:00Z"}
        assert client.post("/v1/ratings", json=body).json()["unchanged"] == 1  # older than what is stored

    def test_bad_rows_are_named_and_good_ones_kept(self, client: httpx.Client) -> None:
        rows = [
            {"user_id": "u9", "item_id": "zzz", "rating": 3},
            {"user_id": "u9", "item_id": "a", "rating": 3},
            {"user_id": "u9", "item_id": "b", "rating": 5.5},
            {"user_id": " ", "item_id": "b", "rating": 3},
            {"user_id": "u9", "item_id": "c", "rating": 3, "rated_at": "2999-01-01T00:00:00Z"},
            {"user_id": "u9", "item_id": "a\0", "rating": 3},
            {"user_id": "\ud800", "item_id": "a", "rating": 3},
            {"user_id": "u9", "item_id": "b", "rating": 3, "rated_at": "0001-01-01T00:00:00+14:00"},
        ]
        as_json = {"content-type": "application/json"}  # httpx would not encode half a surrogate pair itself
        report = client.post("/v1/ratings", content=json.dumps({"ratings": rows}), headers=as_json).json()
        assert (report["inserted"], report["rejected"]) == (1, 7), report
        assert [error["index"] for error in report["errors"]] == [0, 2, 3, 4, 5, 6, 7]
        assert report["errors"][1]["message"] == "rating 5.5 is outside the scale: expected 1 to 5"
        assert [row["item_id"] for row in client.get("/v1/users/u9/ratings").json()["ratings"]] == ["a"]

    def test_all_bad_is_refused(self, client: httpx.Client) -> None:
        answer = client.post("/v1/ratings", json={"ratings": [{"user_id": "u1", "item_id": "zzz", "rating": 3}]})
        check_problem(answer, 422, "there is no item 'zzz'")

    @pytest.mark.parametrize(
        "body",
        [
            {},
            {"ratings": []},
            {"ratings": [{"user_id": "u1", "item_id": "a"}]},
            {"ratings": [{"user_id": "u1", "item_id": "a", "rating": "five"}]},
            {"ratings": [{"user_id": "u1", "item_id": "a", "rating": "4"}]},
            {"ratings": [{"user_id": "u1", "item_id": "a", "rating": True}]},
            {"ratings": [{"user_id": "u1", "item_id": "a", "rating": None}]},
            {"ratings": [{"user_id": 7, "item_id": "a", "rating": 5}]},
            {"ratings": [{"user_id": "u1", "item_id": "a", "rating": 5}] * 1001},
            {"ratings": [{"user_id": "u1", "item_id": "a", "rating": 5, "stars": 5}]},
        ],
    )
    def test_wrong_bodies(self, client: httpx.Client, body: dict[str, object]) -> None:
        check_problem(client.post("/v1/ratings", json=body), 422, "body")

    @pytest.mark.parametrize(
        "content", [b"", b"{", b'{"ratings": [{"user_id": "u1", "item_id": "a", "rating": NaN}]}', b"\xff"]
    )
    def test_wrong_json(self, client: httpx.Client, content: bytes) -> None:
        answer = client.post("/v1/ratings", content=content, headers={"content-type": "application/json"})
        assert answer.status_code in (400, 422)
        assert answer.headers["content-type"] == "application/problem+json"

    def test_a_user_nobody_knows_has_none(self, client: httpx.Client) -> None:
        assert client.get("/v1/users/nobody/ratings").json() == {"user_id": "nobody", "ratings": []}


class TestModels:
    def test_list_and_one(self, client: httpx.Client) -> None:
        listed = client.get("/v1/models").json()["models"]
        assert [(model["number"], model["objective"], model["live"]) for model in listed] == [
            (2, "rating", True),
            (1, "ranking", True),
        ]
        detail = client.get("/v1/models/1").json()
        assert detail["metrics"] == {"ndcg": 0.5}
        assert detail["history"] == [{"epoch": 1, "train_loss": 2.0}]
        assert (detail["rating_min"], detail["rating_max"]) == (1.0, 5.0)

    def test_unknown(self, client: httpx.Client) -> None:
        check_problem(client.get("/v1/models/99"), 404, "no model version 99")
        check_problem(client.get("/v1/models/x"), 422, "path.number")
        check_problem(client.get(f"/v1/models/{2**63}"), 422, "path.number")


class TestService:
    def test_health(self, client: httpx.Client) -> None:
        assert client.get("/health/live").json() == {"status": "ok"}
        ready = {"status": "ready", "models": {"ranking": 1, "rating": 2}, "problem": None}
        assert client.get("/health/ready").json() == ready

    def test_unknown_paths_and_methods_are_problems_too(self, client: httpx.Client) -> None:
        check_problem(client.get("/v1/nothing"), 404, "/v1/nothing")
        check_problem(client.put("/v1/popular"), 405, "PUT /v1/popular")

    def test_openapi_describes_every_endpoint_with_examples(self, client: httpx.Client) -> None:
        document = client.get("/openapi.json").json()
        assert set(document["paths"]) == {
            "/v1/users/{user_id}/recommendations",
            "/v1/users/{user_id}",
            "/v1/users/{user_id}/predictions",
            "/v1/users/{user_id}/ratings",
            "/v1/users/{user_id}/ratings/{item_id}",
            "/v1/recommendations",
            "/v1/items/{item_id}/similar",
            "/v1/items/{item_id}",
            "/v1/items",
            "/v1/popular",
            "/v1/ratings",
            "/v1/models",
            "/v1/models/{number}",
            "/v1/models/{number}/publish",
            "/v1/models/rollback",
            "/health/live",
            "/health/ready",
        }
        assert document["components"]["schemas"]["ListedItem"]["properties"]["title"]["examples"] == [
            "Star Wars (1977)"
        ]
        for path in document["paths"].values():
            for operation in path.values():
                assert operation["description"]
                for status, response in operation["responses"].items():
                    assert status < "400" or set(response["content"]) == {"application/problem+json"}

    def test_a_new_live_version_is_picked_up(self, client: httpx.Client, known_engine: Engine) -> None:
        number = add_known_model(known_engine, "ranking", sign=-1.0)
        assert ids(client.get("/v1/users/u1/recommendations"))[0] == "b"
        publish(known_engine, number, "test")
        deadline = time.monotonic() + 5
        while (answer := client.get("/v1/users/u1/recommendations").json())["model_version"] != number:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        assert [item["item_id"] for item in answer["items"]] == ["c", "d/ä", "e", "b"]


@pytest.mark.parametrize("engine", ["sqlite"], indirect=True)
def test_a_writer_that_holds_the_database_keeps_no_reader_waiting(known_engine: Engine) -> None:
    body = {"ratings": [{"user_id": "u1", "item_id": "b", "rating": 3}]}
    with serving(known_engine.url.render_as_string(hide_password=False)) as client:
        url = str(client.base_url)
        with writing(known_engine), ThreadPoolExecutor(45) as pool:  # nobody else can write now
            posts = [pool.submit(httpx.post, f"{url}/v1/ratings", json=body, timeout=30) for _ in range(45)]
            time.sleep(0.5)
            started = time.monotonic()
            assert ids(client.get("/v1/users/u1/recommendations"))
            assert time.monotonic() - started < 4
            for post in posts:
                answer = post.result()
                check_problem(answer, 503, "again")
                assert answer.headers["retry-after"] == "2"
        assert client.post("/v1/ratings", json=body).status_code == 200


def test_no_model_yet(engine: Engine) -> None:
    add_known_rows(engine)
    with serving(engine.url.render_as_string(hide_password=False)) as client:
        check_problem(client.get("/v1/users/u1/recommendations"), 503, "recsys train --objective ranking")
        check_problem(client.get("/v1/items/a/similar"), 503, "recsys train")
        check_problem(client.get("/v1/popular"), 503, "recsys train --objective rating")
        check_problem(client.get("/health/ready"), 503, "recsys nightly")
        popular = client.get("/v1/popular", params={"by": "count", "n": 1}).json()
        assert (popular["model_version"], popular["items"][0]["item_id"]) == (None, "a")


def test_no_tables_yet(empty_engine: Engine) -> None:
    with serving(empty_engine.url.render_as_string(hide_password=False)) as client:
        assert client.get("/health/live").status_code == 200
        check_problem(client.get("/health/ready"), 503, "recsys init")
        check_problem(client.get("/v1/popular"), 503, "recsys init")


@pytest.mark.parametrize("engine", ["sqlite"], indirect=True)
def test_promise_6_a_file_that_was_removed_is_noticed(known_engine: Engine) -> None:
    path = Path(str(known_engine.url.database))
    with serving(f"sqlite:///{path}") as client:
        assert client.get("/health/ready").json()["status"] == "ready"
        path.rename(path.with_suffix(".away"))
        deadline = time.monotonic() + 5
        while (ready := client.get("/health/ready").json())["status"] != "degraded":
            assert time.monotonic() < deadline
            time.sleep(0.02)
        assert f"{path} is not there" in ready["problem"]
        assert ids(client.get("/v1/items/a/similar", params={"n": 1})) == ["b"]


@pytest.mark.postgres
def test_promise_6_with_the_database_gone_the_model_in_memory_still_answers(
    postgres_engine: Engine, postgres_url: str
) -> None:
    engine = postgres_engine
    add_known_rows(engine)
    publish(engine, add_known_model(engine, "ranking"), "test")
    name = engine.url.database
    with serving(engine.url.render_as_string(hide_password=False)) as client:
        assert client.get("/health/ready").json()["status"] == "ready"
        engine.dispose()
        admin = connect(postgres_url).execution_options(isolation_level="AUTOCOMMIT")
        with admin.connect() as connection:
            connection.execute(text(f"ALTER DATABASE {name} WITH ALLOW_CONNECTIONS false"))
            connection.execute(
                text("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = :name"), {"name": name}
            )
        admin.dispose()
        deadline = time.monotonic() + 10
        while (ready := client.get("/health/ready").json())["status"] != "degraded":
            assert time.monotonic() < deadline
            time.sleep(0.02)
        assert str(name) in ready["problem"]
        assert ids(client.get("/v1/items/a/similar", params={"n": 1})) == ["b"]
        assert client.get("/v1/users/u1/recommendations").json()["source"] == "popularity"
        rating = {"user_id": "u", "item_id": "a", "rating": 3}
        check_problem(client.post("/v1/ratings", json={"ratings": [rating]}), 503, str(name))
