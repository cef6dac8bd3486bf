"""Ratings: posted, respected at once, read back, taken back; users erased."""

import base64
import json
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from sqlalchemy import Engine, select

from recsys.database import schema
from recsys.database.engine import reading, writing
from tests.api.asking import as_json, check_problem, ids
from tests.api.conftest import serving, url_of


def posted(user_id: str, item_id: str, rating: object = 3, **also: object) -> dict[str, Any]:
    return {"ratings": [{"user_id": user_id, "item_id": item_id, "rating": rating, **also}]}


class TestPost:
    def test_a_rating_is_respected_by_the_very_next_list(self, client: httpx.Client) -> None:
        assert ids(client.get("/v1/users/u1/recommendations"))[0] == "b"
        answer = client.post("/v1/ratings", json=posted("u1", "b", 3.5))
        assert answer.json() == {"inserted": 1, "updated": 0, "unchanged": 0, "rejected": 0, "errors": []}
        following = client.get("/v1/users/u1/recommendations")
        assert following.json()["source"] == "fold_in"
        assert sorted(ids(following)) == ["c", "d/ä", "e"]
        given = client.get("/v1/users/u1/ratings").json()
        assert given["user_id"] == "u1"
        assert [(row["item_id"], row["rating"]) for row in given["ratings"]] == [("b", 3.5), ("a", 5.0)]

    def test_every_list_in_turn(self, client: httpx.Client) -> None:
        """Each rating takes its item off the next list, for somebody who was nobody before."""
        for item_id in ("c", "a", "e", "b"):
            assert item_id in ids(client.get("/v1/users/n%C3%BC/recommendations"))
            client.post("/v1/ratings", json=posted("nü", item_id, 4))
            answer = client.get("/v1/users/n%C3%BC/recommendations")
            assert item_id not in ids(answer)
            assert answer.json()["source"] == "fold_in"
            batch = client.post("/v1/recommendations", json={"users": [{"user_id": "nü"}]}).json()["lists"][0]
            assert batch["items"] == answer.json()["items"]

    def test_posting_again_changes_nothing(self, client: httpx.Client) -> None:
        body = posted("someone new", "a", 2)
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
            {"user_id": "u9", "item_id": "b", "rating": 1e7},
            {"user_id": " ", "item_id": "b", "rating": 3},
            {"user_id": "u9", "item_id": "c", "rating": 3, "rated_at": "2999-01-01T00:00:00Z"},
            {"user_id": "u9", "item_id": "a\0", "rating": 3},
            {"user_id": "\ud800", "item_id": "a", "rating": 3},
            {"user_id": "u9", "item_id": "b", "rating": 3, "rated_at": "0001-01-01T00:00:00+14:00"},
            {"user_id": "x" * 10_000, "item_id": "b", "rating": 3},
            {"user_id": "u9", "item_id": "x" * 10_000, "rating": 3},
            {"user_id": "u9", "item_id": "b", "rating": None},
            "no row",
            {"user_id": 7, "item_id": "b", "rating": 3},
            {"user_id": "u9", "item_id": "b", "rating": 3, "event": "view"},
            {"user_id": "u9", "item_id": "b", "weight": 0},
            {"user_id": "u9", "item_id": "b", "rating": 1e300},
        ]
        report = client.post("/v1/ratings", **as_json(json.dumps({"ratings": rows}))).json()
        assert (report["inserted"], report["rejected"]) == (1, 15), report
        assert [error["index"] for error in report["errors"]] == [0, *range(2, 16)]
        assert "create it with PUT /v1/items/zzz" in report["errors"][0]["message"]
        assert report["errors"][1]["message"] == "rating 1e+07 is outside the scale: expected -1e+06 to 1e+06"
        assert [row["item_id"] for row in client.get("/v1/users/u9/ratings").json()["ratings"]] == ["a"]

    def test_two_of_the_same_pair(self, client: httpx.Client) -> None:
        rows = posted("u9", "a", 2)["ratings"] + posted("u9", "a", 4)["ratings"] + posted("u9", "b", 1)["ratings"]
        report = client.post("/v1/ratings", json={"ratings": rows}).json()
        assert (report["inserted"], report["unchanged"]) == (2, 1)
        given = {row["item_id"]: row["rating"] for row in client.get("/v1/users/u9/ratings").json()["ratings"]}
        assert given == {"a": 4.0, "b": 1.0}

    def test_a_thousand(self, client: httpx.Client) -> None:
        rows = [posted(f"u {u}/{u}", "abce"[u % 4])["ratings"][0] for u in range(1000)]
        assert client.post("/v1/ratings", json={"ratings": rows}).json()["inserted"] == 1000
        assert client.post("/v1/ratings", json={"ratings": rows}).json()["unchanged"] == 1000

    def test_all_bad_is_refused(self, reader: httpx.Client) -> None:
        rows = posted("u1", "zzz")["ratings"] + posted("u1", "a", "six")["ratings"]
        body = check_problem(reader.post("/v1/ratings", json={"ratings": rows}), 422, "there is no item 'zzz'")
        assert [error["where"] for error in body["errors"]] == ["body.ratings.0", "body.ratings.1"]

    @pytest.mark.parametrize(
        "body",
        [
            {},
            [],
            {"ratings": []},
            {"ratings": {}},
            {"ratings": [{"user_id": "u1", "item_id": "a"}]},
            posted("u1", "a", "five"),
            posted("u1", "a", "4"),
            posted("u1", "a", True),
            posted("u1", "a", None),
            posted("u1", "a", 5, rated_at="yesterday"),
            posted("u1", "a", 5, rated_at="99999-01-01"),
            {"ratings": [{"user_id": 7, "item_id": "a", "rating": 5}]},
            {"ratings": posted("u1", "a", 5)["ratings"] * 1001},
            posted("u1", "a", 5, stars=5),
        ],
    )
    def test_wrong_bodies(self, reader: httpx.Client, body: object) -> None:
        problem = check_problem(reader.post("/v1/ratings", json=body), 422, "")
        assert problem["errors"][0]["where"].startswith("body")

    @pytest.mark.parametrize(
        "content",
        [
            b"",
            b"{",
            b"\xff",
            b'{"ratings": [{"user_id": "u1", "item_id": "a", "rating": NaN}]}',
            b'{"ratings": [{"user_id": "u1", "item_id": "a", "rating": 1e999}]}',
            b"[" * 100_000,
            b'{"ratings": 1' + b"0" * 5000 + b"}",
        ],
    )
    def test_wrong_json(self, reader: httpx.Client, content: bytes) -> None:
        problem = check_problem(reader.post("/v1/ratings", **as_json(content)), 422, "")
        assert problem["errors"][0]["where"].startswith("body")

    @pytest.mark.parametrize(
        "at", [1_600_000_000, 1_600_000_000_000, "2020-09-13T12:26:40Z", "2020-09-13T14:26:40+02:00"]
    )
    def test_times_are_iso_8601_or_unix_seconds_or_milliseconds(self, client: httpx.Client, at: object) -> None:
        assert client.post("/v1/ratings", json=posted("u9", "a", 3, rated_at=at)).json()["inserted"] == 1
        [row] = client.get("/v1/users/u9/ratings").json()["ratings"]
        assert row["rated_at"] == "2020-09-13T12:26:40Z"

    def test_the_first_rating_beyond_what_was_seen_is_kept(self, client: httpx.Client) -> None:
        """Only a configured scale refuses a rating; the range of the ratings so far does not."""
        assert client.post("/v1/ratings", json=posted("u9", "a", 0.5)).json()["inserted"] == 1

    def test_an_event_counts_once_and_the_next_list_respects_it(self, client: httpx.Client) -> None:
        rows = [
            {"user_id": "u9", "item_id": "a", "event": "view", "rated_at": 1_600_000_000},
            {"user_id": "u9", "item_id": "a", "weight": 2.5, "rated_at": 1_600_000_001},
        ]
        assert client.post("/v1/ratings", json={"ratings": rows}).json()["inserted"] == 2
        assert client.post("/v1/ratings", json={"ratings": rows}).json()["unchanged"] == 2
        [row] = client.get("/v1/users/u9/ratings").json()["ratings"]
        assert (row["rating"], row["weight"]) == (None, 3.5)
        answer = client.get("/v1/users/u9/recommendations")
        assert answer.json()["source"] == "fold_in"
        assert "a" not in ids(answer)


class TestUserRatings:
    def test_the_latest_first(self, reader: httpx.Client) -> None:
        given = reader.get("/v1/users/u2/ratings").json()
        assert [(row["item_id"], row["rating"], row["rated_at"]) for row in given["ratings"]] == [
            ("c", 4.0, "1970-01-01T00:00:03Z"),
            ("a", 4.0, "1970-01-01T00:00:02Z"),
        ]

    @pytest.mark.parametrize("user_id", ["nobody", "a%00", "x" * 10_000])
    def test_a_user_nobody_knows_has_none(self, reader: httpx.Client, user_id: str) -> None:
        answer = reader.get(f"/v1/users/{user_id}/ratings")
        assert (answer.status_code, answer.json()["ratings"]) == (200, [])


class TestDeleteRating:
    def test_the_next_list_is_made_without_it(self, client: httpx.Client) -> None:
        assert "a" not in ids(client.get("/v1/users/u2/recommendations"))
        answer = client.delete("/v1/users/u2/ratings/a")
        assert (answer.status_code, answer.content) == (204, b"")
        following = client.get("/v1/users/u2/recommendations")
        assert following.json()["source"] == "fold_in"
        assert "a" in ids(following)
        assert [row["item_id"] for row in client.get("/v1/users/u2/ratings").json()["ratings"]] == ["c"]
        check_problem(client.delete("/v1/users/u2/ratings/a"), 404, "has no rating of item 'a'")
        client.delete("/v1/users/u2/ratings/c")
        assert client.get("/v1/users/u2/recommendations").json()["source"] == "popularity"

    @pytest.mark.parametrize(
        "path", ["u1/ratings/b", "u1/ratings/zzz", "nobody/ratings/a", "a%00/ratings/a", "u1/ratings/%00"]
    )
    def test_nothing_to_take_back(self, reader: httpx.Client, path: str) -> None:
        check_problem(reader.delete(f"/v1/users/{path}"), 404, "has no rating of item")


class TestErase:
    def test_everywhere(self, client: httpx.Client, known_engine: Engine) -> None:
        assert client.get("/v1/users/u1/recommendations").json()["source"] == "model"
        answer = client.delete("/v1/users/u1")
        assert answer.status_code == 200
        receipt = answer.json()
        assert (receipt["ratings"], receipt["versions"], receipt["vectors"]) == (1, [1, 2], 2)
        assert "u1" not in answer.text
        assert client.get("/v1/users/u1/recommendations").json()["source"] == "popularity"
        assert client.get("/v1/users/u1/ratings").json()["ratings"] == []
        check_problem(client.delete("/v1/users/u1"), 404, "there is no user 'u1'")
        batch = client.post("/v1/recommendations", json={"users": [{"user_id": "u1"}]}).json()
        assert batch["lists"][0]["source"] == "popularity"
        with reading(known_engine) as connection:
            (entry,) = connection.execute(select(schema.audit_log)).all()
        assert (entry.actor, entry.action) == ("anonymous", "erase user")
        # Somebody new of this id has nothing of the other.
        client.post("/v1/ratings", json=posted("u1", "c"))
        assert [row["item_id"] for row in client.get("/v1/users/u1/ratings").json()["ratings"]] == ["c"]
        assert client.get("/v1/users/u1/recommendations").json()["source"] == "fold_in"

    @pytest.mark.parametrize("user_id", ["nobody", "a%00", "x" * 10_000])
    def test_nobody(self, reader: httpx.Client, user_id: str) -> None:
        check_problem(reader.delete(f"/v1/users/{user_id}"), 404, "there is no user")


@pytest.mark.parametrize("engine", ["sqlite"], indirect=True)
def test_a_writer_that_holds_the_database_keeps_no_reader_waiting(
    known_engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("api.app.WRITE_SECONDS", 1.0)
    body = posted("u1", "b")
    with serving(url_of(known_engine)) as client:
        url = str(client.base_url)
        with writing(known_engine), ThreadPoolExecutor(45) as pool:  # nobody else can write now
            posts = [pool.submit(httpx.post, f"{url}/v1/ratings", json=body, timeout=30) for _ in range(45)]
            time.sleep(0.5)
            started = time.monotonic()
            assert ids(client.get("/v1/users/u1/recommendations"))
            assert time.monotonic() - started < 2
            for post in posts:
                check_problem(post.result(), 503, "again")
        assert client.post("/v1/ratings", json=body).status_code == 200


def test_a_cursor_that_was_made_up_is_refused(reader: httpx.Client) -> None:
    for made in ([[], 6], [{}, 6], [False, 6], [True, 6], ["", 6], [1.5, 6], [0, None], [2**63, 6], [0], 7, None):
        cursor = base64.urlsafe_b64encode(json.dumps(made).encode()).decode()
        check_problem(reader.get("/v1/users/u2/ratings", params={"cursor": cursor}), 422, "next_cursor")
