"""Model versions: looked at, published, rolled back; none yet."""

import json
import threading

import httpx
import pytest
from sqlalchemy import Engine, select

from recsys.database import schema
from recsys.database.engine import reading
from recsys.database.models import publish
from tests.api.asking import as_json, check_problem, eventually, ids
from tests.api.conftest import serving, url_of
from tests.conftest import add_known_model, add_known_rows

NEW_LIST = ["c", "d/ä", "e", "b"]


class TestRead:
    def test_list_and_one(self, reader: httpx.Client) -> None:
        listed = reader.get("/v1/models").json()["models"]
        assert [(model["number"], model["objective"], model["live"]) for model in listed] == [
            (2, "rating", True),
            (1, "ranking", True),
        ]
        detail = reader.get("/v1/models/1").json()
        assert detail["metrics"] == {"ndcg": 0.5}
        assert detail["history"] == [{"epoch": 1, "train_loss": 2.0}]
        assert (detail["rating_min"], detail["rating_max"]) == (1.0, 5.0)
        assert {name: detail[name] for name in listed[1]} == listed[1]

    def test_unknown(self, reader: httpx.Client) -> None:
        check_problem(reader.get("/v1/models/99"), 404, "no model version 99")
        for number in ("x", "0", "-1", "1.5", str(2**63), "%00", "1" * 5000):
            check_problem(reader.get(f"/v1/models/{number}"), 422, "path.number")


class TestPublish:
    def test_the_next_list_is_from_it(self, client: httpx.Client, known_engine: Engine) -> None:
        number = add_known_model(known_engine, "ranking", sign=-1.0)
        assert ids(client.get("/v1/users/u1/recommendations"))[0] == "b"
        answer = client.post(f"/v1/models/{number}/publish", json={"reason": " better "})
        assert (answer.json()["number"], answer.json()["live"]) == (number, True)
        following = client.get("/v1/users/u1/recommendations")
        assert (following.json()["model_version"], ids(following)) == (number, NEW_LIST)
        assert client.get("/health/ready").json()["models"] == {"ranking": number, "rating": 2}
        back = client.post("/v1/models/rollback", json={"objective": "ranking", "reason": "worse"})
        assert back.json()["number"] == 1
        assert ids(client.get("/v1/users/u1/recommendations"))[0] == "b"
        with reading(known_engine) as connection:
            log = connection.execute(select(schema.audit_log).order_by(schema.audit_log.c.entry_key)).all()
        assert [(entry.action, entry.detail["reason"]) for entry in log] == [
            ("publish", "better"),
            ("rollback", "worse"),
        ]

    def test_unknown(self, reader: httpx.Client) -> None:
        check_problem(reader.post("/v1/models/99/publish", json={"reason": "x"}), 404, "no model version 99")
        check_problem(reader.post("/v1/models/x/publish", json={"reason": "x"}), 422, "path.number")

    @pytest.mark.parametrize(
        "body",
        [
            {},
            {"reason": ""},
            {"reason": " "},
            {"reason": 1},
            {"reason": "\ud800"},
            {"reason": "a\0b"},
            {"reason": "x" * 1001},
        ],
    )
    def test_wrong_bodies(self, reader: httpx.Client, body: object) -> None:
        check_problem(reader.post("/v1/models/1/publish", **as_json(json.dumps(body))), 422, "body.reason")
        check_problem(reader.post("/v1/models/rollback", **as_json(json.dumps(body))), 422, "body")


class TestRollback:
    def test_there_is_nothing_before_the_first(self, reader: httpx.Client) -> None:
        answer = reader.post("/v1/models/rollback", json={"objective": "ranking", "reason": "x"})
        assert answer.status_code in (404, 409, 422), answer.text
        assert answer.headers["content-type"] == "application/problem+json"

    def test_wrong_objective(self, reader: httpx.Client) -> None:
        answer = reader.post("/v1/models/rollback", json={"objective": "taste", "reason": "x"})
        check_problem(answer, 422, "body.objective")


def test_a_new_live_version_is_picked_up(client: httpx.Client, known_engine: Engine) -> None:
    number = add_known_model(known_engine, "ranking", sign=-1.0)
    publish(known_engine, number, "test")
    eventually(lambda: client.get("/v1/users/u1/recommendations").json()["model_version"] == number)
    assert ids(client.get("/v1/users/u1/recommendations")) == NEW_LIST


def test_promise_1_no_answer_mixes_two_versions_and_none_fails(known_engine: Engine) -> None:
    """Lists, single and in batches, while versions are published and rolled back."""
    number = add_known_model(known_engine, "ranking", sign=-1.0)
    expected = {1: ["b", "c", "e", "d/ä"], number: NEW_LIST}
    stop, seen, wrong = threading.Event(), set(), []

    def ask(url: str, in_batch: bool) -> None:
        with httpx.Client(base_url=url, timeout=10, verify=False) as client:
            while not stop.is_set():
                if in_batch:
                    body = {"users": [{"user_id": "u1"}, {"user_id": "u1"}]}
                    answer = client.post("/v1/recommendations", json=body)
                    lists = answer.json().get("lists", [{}])
                else:
                    answer = client.get("/v1/users/u1/recommendations")
                    lists = [answer.json()]
                version = answer.json().get("model_version")
                seen.add(version)
                for one in lists:
                    if [item["item_id"] for item in one.get("items", ())] != expected.get(version):
                        wrong.append(answer.text)

    with serving(url_of(known_engine)) as client:
        threads = [threading.Thread(target=ask, args=(str(client.base_url), turn % 2 == 1)) for turn in range(4)]
        for thread in threads:
            thread.start()
        for turn in range(10):
            chosen = [number, 1][turn % 2]
            assert client.post(f"/v1/models/{chosen}/publish", json={"reason": "test"}).status_code == 200
        stop.set()
        for thread in threads:
            thread.join()
    assert wrong == []
    assert seen == set(expected)


def test_no_model_yet(engine: Engine) -> None:
    add_known_rows(engine)
    with serving(url_of(engine)) as client:
        one = client.get("/v1/users/u1/recommendations", params={"n": 1}).json()
        assert (one["model_version"], one["source"], one["items"][0]["item_id"]) == (None, "popularity", "c")
        assert "no ranking model is live: run `recsys train --objective ranking`" in one["fallback"]
        many = client.post("/v1/recommendations", json={"users": [{"user_id": "u1"}], "n": 1}).json()
        assert many["model_version"] is None
        assert [(x["source"], x["items"], x["fallback"]) for x in many["lists"]] == [
            ("popularity", one["items"], one["fallback"])
        ]
        by_name = client.get("/v1/users/u1/recommendations", params={"model": "ranking"})
        check_problem(by_name, 503, "recsys train --objective ranking")
        check_problem(client.get("/v1/items/a/similar"), 503, "recsys train")
        check_problem(client.get("/v1/users/u1/predictions", params={"item_id": "a"}), 503, "--objective rating")
        assert "recsys train --objective rating" in client.get("/v1/popular").json()["fallback"]
        check_problem(client.get("/health/ready"), 503, "recsys nightly")
        popular = client.get("/v1/popular", params={"by": "count", "n": 1}).json()
        assert (popular["model_version"], popular["items"][0]["item_id"]) == (None, "a")
        assert client.get("/v1/models").json() == {"models": []}
        rating = {"user_id": "u1", "item_id": "b", "rating": 3}
        assert client.post("/v1/ratings", json={"ratings": [rating]}).json()["inserted"] == 1
        assert client.put("/v1/items/q", json={}).status_code == 201


def test_no_tables_yet(empty_engine: Engine) -> None:
    with serving(url_of(empty_engine)) as client:
        assert client.get("/health/live").status_code == 200
        check_problem(client.get("/health/ready"), 503, "recsys init")
        check_problem(client.get("/v1/popular"), 503, "recsys init")
        check_problem(client.get("/v1/models"), 503, "recsys init")
