"""Lists and predictions: known answers, everything filtered away, wrong requests, and brute force."""

import json
import math
import threading
from typing import Any
from urllib.parse import quote

import httpx
import numpy as np
import pytest
from sqlalchemy import Engine

from recsys.scoring.search import TopN
from recsys.serving.searches import RankedItems, Search
from tests.api.asking import as_json, check_problem, ids
from tests.api.conftest import Many, serving, url_of

ODD_IDS = ["nobody", "%F0%9F%98%80", "a%00b", "x" * 10_000, "%2F", "%20", "..%2F.."]


def pairs(of: dict[str, Any]) -> list[tuple[str, float]]:
    return [(item["item_id"], item["score"]) for item in of["items"]]


class TestRecommendations:
    URL = "/v1/users/u1/recommendations"

    def test_the_list(self, reader: httpx.Client) -> None:
        answer = reader.get(self.URL, params={"n": 2})
        assert answer.headers["content-type"] == "application/json"
        cursor = answer.json()["next_cursor"]
        assert ids(reader.get(self.URL, params={"cursor": cursor})) == ["e", "d/ä"]
        assert answer.json() == {
            "model_version": 1,
            "source": "model",
            "score_kind": "logit",
            "next_cursor": cursor,
            "items": [
                {"item_id": "b", "title": "Brazil (1985)", "score": 2.0},
                {"item_id": "c", "title": "Casablanca (1942)", "score": 0.5},
            ],
        }

    def test_ties_are_in_the_order_of_the_catalogue(self, reader: httpx.Client) -> None:
        answers = {reader.get(self.URL).text for _ in range(5)}
        assert len(answers) == 1
        assert [item["item_id"] for item in json.loads(answers.pop())["items"]] == ["b", "c", "e", "d/ä"]

    @pytest.mark.parametrize(
        ("query", "expected"),
        [
            ({"exclude_seen": False, "n": 1}, ["a"]),
            ({"exclude": ["b", "zzz", ""]}, ["c", "e", "d/ä"]),
            ({"category": "Sci-Fi"}, ["b"]),
            ({"category": ["Sci-Fi", "Drama"]}, ["b", "c"]),
            ({"category": "nothing"}, []),
            ({"min_ratings": 2}, ["c"]),
            ({"min_ratings": 1_000_000_000}, []),
            ({"exclude": ["b", "c", "d/ä", "e"]}, []),
            ({"model": "rating", "n": 2}, ["b", "c"]),
            ({"exclude_seen": False, "diversity": 1, "n": 5}, ["a", "c", "e", "b", "d/ä"]),
            ({"model": "2", "n": 1000}, ["b", "c", "e", "d/ä"]),
        ],
    )
    def test_filters(self, reader: httpx.Client, query: dict[str, Any], expected: list[str]) -> None:
        assert ids(reader.get(self.URL, params=query)) == expected

    def test_many_items_are_re_ranked_in_a_thread(self, reader: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
        finish, threads = Search.finish, []

        def noting(search: Search, best: TopN) -> RankedItems:
            threads.append(threading.current_thread().name.partition("_")[0])
            return finish(search, best)

        monkeypatch.setattr(Search, "finish", noting)
        # With the items that the user rated, so that the list is searched and not taken from the user's best items.
        for query in ({"n": 10, "diversity": 0.2}, {"n": 1000}, {"n": 1000, "diversity": 0.2}):
            assert len(ids(reader.get(self.URL, params={**query, "exclude_seen": "false"}))) == 5
        assert [name == "work" for name in threads] == [False, False, True]

    def test_an_id_with_slashes_spaces_and_umlauts(self, reader: httpx.Client) -> None:
        answer = reader.get("/v1/users/s%2F1%20%C3%BC/recommendations")
        assert answer.json()["source"] == "model"
        assert ids(answer) == ["c", "a", "d/ä", "e"]
        check_problem(reader.get("/v1/users/s/1%20%C3%BC/recommendations"), 404, "/docs")

    @pytest.mark.parametrize("user_id", ODD_IDS)
    def test_an_unknown_user_gets_popularity(self, reader: httpx.Client, user_id: str) -> None:
        answer = reader.get(f"/v1/users/{user_id}/recommendations", params={"n": 2})
        assert answer.json()["source"] == "popularity"
        assert answer.json()["model_version"] == 1
        assert ids(answer) == ["a", "c"]

    @pytest.mark.parametrize(
        ("query", "where"),
        [
            ({"n": 0}, "query.n"),
            ({"n": -1}, "query.n"),
            ({"n": 1001}, "query.n"),
            ({"n": "ten"}, "query.n"),
            ({"n": ""}, "query.n"),
            ({"exclude_seen": "2"}, "query.exclude_seen"),
            ({"min_ratings": -1}, "query.min_ratings"),
            ({"model": "latest"}, "query.model"),
            ({"model": "0"}, "query.model"),
            ({"stars": "5"}, "query.stars"),
            ({"exclude": ["x"] * 1001}, "query.exclude"),
            ({"category": ["x"] * 101}, "query.category"),
        ],
    )
    def test_wrong_parameters(self, reader: httpx.Client, query: dict[str, Any], where: str) -> None:
        body = check_problem(reader.get(self.URL, params=query), 422, where)
        assert [error["where"] for error in body["errors"]] == [where]

    def test_a_version_that_is_not_live(self, reader: httpx.Client) -> None:
        check_problem(reader.get(self.URL, params={"model": "99"}), 404, "model version 99 is not live")

    @pytest.mark.parametrize("user_id", ["u1", "u2", "s%2F1%20%C3%BC", "u3"])
    @pytest.mark.parametrize("model", ["ranking", "rating"])
    def test_the_parts_of_an_explanation_sum_to_the_score(self, reader: httpx.Client, user_id: str, model: str) -> None:
        query = {"explain": True, "exclude_seen": False, "model": model}
        answer = reader.get(f"/v1/users/{user_id}/recommendations", params=query).json()
        assert len(answer["items"]) == 5
        for item in answer["items"]:
            said = item["explanation"]
            parts = ("global_bias", "user_bias", "item_bias", "dot_product", "layers")
            assert sum(said[part] for part in parts) == pytest.approx(item["score"], abs=1e-6)
            if answer["source"] == "fold_in":  # nothing but their ratings is known of them
                assert said["all_contributions"] == pytest.approx(said["dot_product"], abs=1e-4)
            values = [contribution["contribution"] for contribution in said["contributions"]]
            assert values == sorted(values, reverse=True)
            assert sum(values) == pytest.approx(said["all_contributions"], abs=1e-4)  # all ratings are named here
        plain = reader.get(f"/v1/users/{user_id}/recommendations", params={**query, "explain": False}).json()
        assert pairs(plain) == pairs(answer)

    def test_popularity_says_why(self, reader: httpx.Client) -> None:
        answer = reader.get("/v1/users/nobody/recommendations", params={"explain": True, "n": 1}).json()
        assert "the user is unknown" in answer["fallback"]
        assert reader.get("/v1/users/nobody/recommendations").json()["fallback"] == answer["fallback"]
        assert "fallback" not in reader.get("/v1/users/u1/recommendations").json()


class TestBatch:
    URL = "/v1/recommendations"

    def test_users_and_visitors(self, reader: httpx.Client) -> None:
        asked = {
            "users": [
                {"user_id": "u1"},
                {"ratings": [{"item_id": "a", "rating": 5}, {"item_id": "zzz", "rating": 1}]},
                {},
                {"user_id": "nobody", "ratings": []},
                {"user_id": "u1", "ratings": [{"item_id": "b", "rating": 5}]},
            ],
            "n": 3,
        }
        answer = reader.post(self.URL, json=asked).json()
        assert answer["model_version"] == 1
        lists = answer["lists"]
        assert [(one["user_id"], one["source"]) for one in lists] == [
            ("u1", "model"),
            (None, "fold_in"),
            (None, "popularity"),
            ("nobody", "popularity"),
            ("u1", "fold_in"),
        ]
        assert pairs(lists[0]) == [("b", 2.0), ("c", 0.5), ("e", 0.5)]
        assert next(item["item_id"] for item in lists[1]["items"]) == "b"
        assert "a" not in [item["item_id"] for item in lists[1]["items"]]
        assert pairs(lists[2]) == pairs(lists[3]) == [("a", 3.0), ("c", 2.0), ("b", 1.0)]
        assert {item["item_id"] for item in lists[4]["items"]} == {"c", "d/ä", "e"}

    def test_what_a_visitor_brings_is_not_kept(self, reader: httpx.Client) -> None:
        before = reader.get("/v1/users/u1/recommendations").text
        reader.post(self.URL, json={"users": [{"user_id": "u1", "ratings": [{"item_id": "b", "rating": 5}]}]})
        assert reader.get("/v1/users/u1/recommendations").text == before

    def test_ratings_and_events_of_a_visitor(self, known_engine: Engine) -> None:
        """As posted ones: only a configured scale refuses a rating, and events are relevant ratings."""
        rows: list[dict[str, Any]] = [
            {"rating": 5},
            {"rating": 6},
            {"event": "cart"},
            {"weight": 3},
            {"event": "view"},
        ]
        users = [{"ratings": [{"item_id": "a", **row}]} for row in rows]
        asked = {"users": users, "fields": ["prediction"], "explain": True}
        with serving(url_of(known_engine), event_weights="cart=3") as client:
            lists = client.post(self.URL, json=asked).json()["lists"]
            assert [one["source"] for one in lists] == ["fold_in"] * 5
            assert [{item for item, _ in pairs(one)} for one in lists] == [{"b", "c", "e", "d/ä"}] * 5
            because = [one["items"][0]["explanation"]["contributions"] for one in lists]
            cart, view = (4 + math.log1p(weight) / math.log1p(100) for weight in (3, 1))
            assert [row["rating"] for (row,) in because] == pytest.approx([5, 6, cart, cart, view])
            predictions = [[item["prediction"] for item in one["items"]] for one in lists]
            assert predictions[2] == predictions[3] == predictions[4] != predictions[0]
            # An event counts beside what is stored, where no rating says more.
            sent = [{"item_id": "b", "event": "cart"}]
            users = [{"user_id": "u1"}, {"user_id": "u1", "ratings": sent}]
            plain, more = client.post(self.URL, json={"users": users}).json()["lists"]
            assert [item for item, _ in pairs(plain)] == ["b", "c", "e", "d/ä"]
            assert {item for item, _ in pairs(more)} == {"c", "e", "d/ä"}
        with serving(url_of(known_engine), rating_max=5) as client:
            problem = check_problem(client.post(self.URL, json=asked), 422, "body.users.1.ratings.0")
            assert "rating 6 is outside the scale" in problem["detail"]

    @pytest.mark.parametrize(
        "asked",
        [
            {"candidates": []},
            {"candidates": ["zzz", ""]},
            {"candidates": ["hidden"]},
            {"category": ["nothing"]},
            {"min_ratings": 1000},
            {"exclude": ["a", "b", "c", "d/ä", "e", "new"]},
        ],
    )
    def test_everything_filtered_away_is_an_empty_list(self, reader: httpx.Client, asked: dict[str, Any]) -> None:
        users: list[Any] = [{"user_id": "u1"}, {"user_id": "nobody"}, {"ratings": [{"item_id": "a", "rating": 5}]}]
        answer = reader.post(self.URL, json={"users": users, **asked})
        assert answer.status_code == 200, answer.text
        assert [one["items"] for one in answer.json()["lists"]] == [[], [], []]

    def test_hidden_items_are_no_candidates(self, reader: httpx.Client) -> None:
        asked = {"users": [{"user_id": "u1"}, {}], "candidates": ["hidden", "e", "d/ä"], "exclude_seen": False}
        lists = reader.post(self.URL, json=asked).json()["lists"]
        assert [[item["item_id"] for item in one["items"]] for one in lists] == [["e", "d/ä"], ["d/ä", "e"]]

    @pytest.mark.parametrize(
        ("body", "where"),
        [
            ({}, "body.users"),
            ({"users": []}, "body.users"),
            ({"users": [{}] * 1001}, "body.users"),
            ({"users": [{}], "n": 0}, "body.n"),
            ({"users": [{}], "n": 1001}, "body.n"),
            ({"users": [{}], "n": True}, "body.n"),
            ({"users": [{}], "diversity": False}, "body.diversity"),
            ({"users": [{}], "diversity": "0.2"}, "body.diversity"),
            ({"users": [{"user_id": 7}]}, "body.users.0.user_id"),
            ({"users": [{}, {"name": "x"}]}, "body.users.1.name"),
            ({"users": [{"ratings": [{"item_id": "a"}]}]}, "body.users.0.ratings.0"),
            ({"users": [{"ratings": [{"item_id": "a", "rating": 3, "event": "view"}]}]}, "body.users.0.ratings.0"),
            ({"users": [{"ratings": [{"item_id": "a", "rating": "5"}]}]}, "body.users.0.ratings.0.rating"),
            ({"users": [{"ratings": [{"item_id": "a", "rating": 3}] * 1001}]}, "body.users.0.ratings"),
            ({"users": [{}], "candidates": "a"}, "body.candidates"),
            ({"users": [{}], "category": ["x"] * 101}, "body.category"),
            ([], "body"),
            (None, "body"),
            ("users", "body"),
        ],
    )
    def test_wrong_bodies(self, reader: httpx.Client, body: object, where: str) -> None:
        check_problem(reader.post(self.URL, **as_json(json.dumps(body))), 422, where)

    @pytest.mark.parametrize(
        ("n_users", "n", "explain", "limit"),
        [(1000, 101, False, "100,000 items"), (200, 501, False, "100,000 items"), (1000, 6, True, "5,000 explained")],
    )
    def test_the_work_of_one_request_is_bounded(
        self, reader: httpx.Client, n_users: int, n: int, explain: bool, limit: str
    ) -> None:
        body = {"users": [{"user_id": "u1"}] * n_users, "n": n, "explain": explain}
        problem = check_problem(reader.post(self.URL, json=body), 422, limit)
        assert [error["where"] for error in problem["errors"]] == ["body"]
        answer = reader.post(self.URL, json={**body, "n": n - 1})
        assert len(answer.json()["lists"]) == n_users

    @pytest.mark.parametrize("explain", [False, True])
    def test_half_a_surrogate_pair_is_no_id(self, reader: httpx.Client, explain: bool) -> None:
        body = {"users": [{"user_id": "\ud800"}], "explain": explain}
        check_problem(reader.post(self.URL, **as_json(json.dumps(body))), 422, "body.users.0.user_id")
        odd = {"users": [{"user_id": "u1"}], "candidates": ["\udfff", "b"], "exclude": ["\ud800"], "category": []}
        assert reader.post(self.URL, **as_json(json.dumps(odd))).json()["lists"][0]["items"][0]["item_id"] == "b"

    @pytest.mark.parametrize("user_id", ["", "a\0b", "😀", "x" * 10_000])
    def test_odd_ids_are_unknown_ones(self, reader: httpx.Client, user_id: str) -> None:
        (one,) = reader.post(self.URL, json={"users": [{"user_id": user_id}], "explain": True}).json()["lists"]
        assert (one["user_id"], one["source"]) == (user_id, "popularity")

    def test_explanations_are_those_of_single_lists(self, reader: httpx.Client) -> None:
        users = [{"user_id": user_id} for user_id in ("u1", "u3", "nobody")]
        lists = reader.post(self.URL, json={"users": users, "explain": True, "n": 4}).json()["lists"]
        for one in lists:
            query = {"explain": True, "n": 4}
            single = reader.get(f"/v1/users/{one['user_id']}/recommendations", params=query).json()
            assert (one["items"], one.get("fallback")) == (single["items"], single.get("fallback"))


class TestBruteForce:
    """Some hundred items with ties everywhere, over both databases."""

    @pytest.mark.parametrize("objective", ["ranking", "rating"])
    def test_the_list_of_every_user(self, many: Many, objective: Any) -> None:
        for user, user_id in enumerate(many.user_ids):
            query = {"n": 20, "model": objective}
            answer = many.client.get(f"/v1/users/{quote(user_id, '')}/recommendations", params=query).json()
            assert answer["source"] == "model"
            assert pairs(answer) == many.expected(user, n=20, objective=objective)

    @pytest.mark.parametrize("n", [1, 10, 1000])
    @pytest.mark.parametrize("exclude_seen", [True, False])
    @pytest.mark.parametrize("share", [0.0, 0.01, 0.5])
    @pytest.mark.parametrize("category", [[], ["Comedy", "Film noir"]])
    @pytest.mark.parametrize("min_ratings", [0, 3])
    def test_filters_together(
        self, many: Many, n: int, exclude_seen: bool, share: float, category: list[str], min_ratings: int
    ) -> None:
        """Even where most of the catalogue is filtered away, and nothing where nothing is left."""
        random = np.random.default_rng(n)
        n_items = len(many.item_ids)
        candidates = set(np.flatnonzero(random.random(n_items) < share).tolist())
        exclude = set(np.flatnonzero(random.random(n_items) < 0.2).tolist())

        def keep(place: int) -> bool:
            return (
                place in candidates
                and place not in exclude
                and many.counts[place] >= min_ratings
                and (not category or bool(many.categories[place] & set(category)))
            )

        users = range(0, len(many.user_ids), 7)
        body = {
            "users": [{"user_id": many.user_ids[user]} for user in users],
            "candidates": [many.item_ids[place] for place in candidates],
            "exclude": [many.item_ids[place] for place in exclude],
            "category": category,
            "min_ratings": min_ratings,
            "exclude_seen": exclude_seen,
            "n": n,
        }
        lists = many.client.post("/v1/recommendations", json=body).json()["lists"]
        for user, one in zip(users, lists, strict=True):
            assert pairs(one) == many.expected(user, keep, n, exclude_seen=exclude_seen)

    @pytest.mark.parametrize(
        "asked",
        [
            {},
            {"n": 1},
            {"n": 1000, "exclude_seen": False},
            {"category": ["Drama"], "min_ratings": 2},
            {"exclude": ["item 3/é", "item 4/é"], "model": "rating"},
        ],
    )
    def test_a_batch_is_the_single_lists(self, many: Many, asked: dict[str, Any]) -> None:
        user_ids = [*many.user_ids, "nobody", many.user_ids[0]]
        body = {"users": [{"user_id": user_id} for user_id in user_ids], **asked}
        answer = many.client.post("/v1/recommendations", json=body).json()
        for user_id, one in zip(user_ids, answer["lists"], strict=True):
            url = f"/v1/users/{quote(user_id, '')}/recommendations"
            single = many.client.get(url, params=asked).json()
            assert (one["user_id"], answer["model_version"]) == (user_id, single["model_version"])
            assert (one["source"], one["items"]) == (single["source"], single["items"])

    def test_similar_items(self, many: Many) -> None:
        _, q, _ = many.rows["ranking"]
        lengths = np.linalg.norm(q.astype(float), axis=1)
        place = int(np.argmax(lengths > 1))
        cosines = np.round((q @ q[place]) / np.where(lengths > 0, lengths * lengths[place], np.inf), 6)
        shown = [at for at in range(len(q)) if not many.hidden[at] and at != place]
        shown.sort(key=lambda at: (many.counts[at] < 10, -cosines[at], at))
        answer = many.client.get(f"/v1/items/{quote(many.item_ids[place], '')}/similar", params={"n": 30}).json()
        assert [item["score"] for item in answer["items"]] == pytest.approx(cosines[shown[:30]].tolist(), abs=2e-6)
        few = many.client.get(f"/v1/items/{quote(many.item_ids[place], '')}/similar", params={"n": 5}).json()
        assert few["items"] == answer["items"][:5]

    def test_popular_by_count(self, many: Many) -> None:
        shown = [at for at in range(len(many.counts)) if not many.hidden[at]]
        for order, sign in (("desc", -1), ("asc", 1)):
            expected = sorted(shown, key=lambda at: (sign * many.counts[at], at))[:50]
            answer = many.client.get("/v1/popular", params={"by": "count", "n": 50, "order": order})
            assert ids(answer) == [many.item_ids[at] for at in expected]


class TestSimilar:
    def test_the_list(self, reader: httpx.Client) -> None:
        answer = reader.get("/v1/items/a/similar", params={"n": 2}).json()
        assert (answer["model_version"], answer["source"]) == (1, "model")
        assert answer["items"][1] == {"item_id": "e", "title": None, "score": 0.707107}

    def test_filters(self, reader: httpx.Client) -> None:
        assert ids(reader.get("/v1/items/a/similar", params={"category": ["Drama", "x"]})) == ["c"]
        assert ids(reader.get("/v1/items/a/similar", params={"category": "nothing"})) == []

    def test_an_id_with_a_slash(self, reader: httpx.Client) -> None:
        assert ids(reader.get("/v1/items/d%2F%C3%A4/similar", params={"n": 1})) == ["c"]

    @pytest.mark.parametrize("item_id", ODD_IDS)
    def test_an_unknown_item(self, reader: httpx.Client, item_id: str) -> None:
        check_problem(reader.get(f"/v1/items/{item_id}/similar"), 404, "there is no item")

    def test_an_item_the_version_does_not_know(self, reader: httpx.Client) -> None:
        check_problem(reader.get("/v1/items/new/similar"), 404, "has no ratings in model version 1")

    @pytest.mark.parametrize("query", [{"n": 0}, {"n": 1001}, {"by": "count"}, {"cursor": "?"}])
    def test_wrong_parameters(self, reader: httpx.Client, query: dict[str, Any]) -> None:
        check_problem(reader.get("/v1/items/a/similar", params=query), 422, next(iter(query)))


class TestPopular:
    def test_defaults_to_bias_with_ten_ratings(self, reader: httpx.Client) -> None:
        empty = {"model_version": 2, "source": "popularity", "score_kind": "bias", "items": [], "next_cursor": None}
        assert reader.get("/v1/popular").json() == empty

    @pytest.mark.parametrize(
        ("query", "expected"),
        [
            ({"by": "bias", "min_ratings": 0, "n": 2}, ["c", "a"]),
            ({"by": "bias", "min_ratings": 0, "n": 2, "order": "asc"}, ["e", "b"]),
            ({"by": "count", "n": 2}, ["a", "c"]),
            ({"by": "count", "category": "Drama"}, ["c"]),
            ({"by": "count", "category": "nothing"}, []),
            ({"by": "count", "min_ratings": 4}, []),
            ({"by": "mean", "min_ratings": 2}, ["a", "c"]),
        ],
    )
    def test_orders(self, reader: httpx.Client, query: dict[str, Any], expected: list[str]) -> None:
        assert ids(reader.get("/v1/popular", params=query)) == expected

    @pytest.mark.parametrize("query", [{"by": "taste"}, {"order": "up"}, {"min_ratings": -1}, {"n": 0}])
    def test_wrong_parameters(self, reader: httpx.Client, query: dict[str, Any]) -> None:
        check_problem(reader.get("/v1/popular", params=query), 422, f"query.{next(iter(query))}")


class TestPredictions:
    def test_by_the_formula(self, reader: httpx.Client) -> None:
        answer = reader.get("/v1/users/u1/predictions", params={"item_id": ["a", "e", "new"]}).json()
        assert (answer["model_version"], answer["source"]) == (2, "model")
        expected = [0.5 + 5 / (1 + np.exp(-z)) for z in (3.1, 0.5, 0.0)]
        assert [item["prediction"] for item in answer["items"]] == pytest.approx(expected, abs=1e-6)
        assert [(item["item_id"], item["title"]) for item in answer["items"]] == [
            ("a", "Alien (1979)"),
            ("e", None),
            ("new", "Newcomer (2024)"),
        ]

    def test_of_everybody(self, many: Many) -> None:
        p, q, bias = many.rows["rating"]
        places = [0, 5, 9, 399]
        for user in range(0, len(many.user_ids), 11):
            query = {"item_id": [many.item_ids[place] for place in places]}
            url = f"/v1/users/{quote(many.user_ids[user], '')}/predictions"
            answer = many.client.get(url, params=query).json()
            z = q[places].astype(float) @ p[user] + bias[places]
            found = [item["prediction"] for item in answer["items"]]
            assert found == pytest.approx((0.5 + 5 / (1 + np.exp(-z))).tolist(), abs=1e-6)

    def test_of_nobody_and_of_somebody_new(self, reader: httpx.Client) -> None:
        answer = reader.get("/v1/users/nobody/predictions", params={"item_id": ["c", "c"]}).json()
        assert answer["source"] == "popularity"
        usual = round(0.5 + 5 / (1 + np.exp(-0.5)), 6)
        assert [item["prediction"] for item in answer["items"]] == [usual, usual]
        assert reader.get("/v1/users/u3/predictions", params={"item_id": "a"}).json()["source"] == "fold_in"

    def test_wrong(self, reader: httpx.Client) -> None:
        check_problem(reader.get("/v1/users/u1/predictions"), 422, "query.item_id")
        query = {"item_id": ["a"] * 1001}
        check_problem(reader.get("/v1/users/u1/predictions", params=query), 422, "query.item_id")

    def test_unknown_items_are_named_beside_the_answers(self, reader: httpx.Client) -> None:
        answer = reader.get("/v1/users/u1/predictions", params={"item_id": ["zzz", "a", "", "zzz"]}).json()
        assert ([item["item_id"] for item in answer["items"]], answer["unknown"]) == (["a"], ["zzz", ""])
        none = reader.get("/v1/users/u1/predictions", params={"item_id": "zzz"}).json()
        assert (none["items"], none["unknown"]) == ([], ["zzz"])


def test_diversity_has_no_effect_on_a_list_by_popularity_and_the_answer_says_so(reader: httpx.Client) -> None:
    asked = {"diversity": 0.5}
    answer = reader.get("/v1/users/nobody/recommendations", params=asked).json()
    assert answer["source"] == "popularity"
    named = {"where": "diversity", "value": "0.5", "reason": "a list by popularity is in the order of popularity"}
    assert answer["ignored"] == [named]
    assert "ignored" not in reader.get("/v1/users/u1/recommendations", params=asked).json()
    users = [{"user_id": "u1"}, {"user_id": "nobody"}]
    assert reader.post("/v1/recommendations", json={"users": users, **asked}).json()["ignored"] == [named]
