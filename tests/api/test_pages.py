"""Pages of lists: cursors, what changes between two pages, and what a request names without effect."""

from typing import Any
from urllib.parse import quote

import httpx
import pytest
from sqlalchemy import Engine, delete, update

from recsys.database import schema
from recsys.database.counts import recount
from recsys.database.engine import writing
from recsys.database.models import publish
from recsys.serving import pages
from tests.api.asking import check_problem, eventually, ids
from tests.api.conftest import Many, serving, url_of
from tests.conftest import add_known_model


def take_down_rating(engine: Engine) -> None:
    """Leave the ranking version alone live."""
    with writing(engine) as connection:
        connection.execute(delete(schema.live_models).where(schema.live_models.c.objective == "rating"))


def all_pages(client: httpx.Client, url: str, query: dict[str, Any], n: int) -> list[list[str]]:
    """The ids of each page of a list, to its end."""
    found: list[list[str]] = []
    cursor = None
    while True:
        given = {**query, "n": n} if cursor is None else {**query, "n": n, "cursor": cursor}
        answer = client.get(url, params=given)
        found.append(ids(answer))
        cursor = answer.json()["next_cursor"]
        if cursor is None:
            return found
        assert len(found[-1]) == n


class TestCursors:
    @pytest.mark.parametrize(("n", "max_shown"), [(20, pages.MAX_SHOWN), (100, pages.MAX_SHOWN), (13, 20), (100, 20)])
    def test_the_pages_are_the_whole_list(
        self, many: Many, monkeypatch: pytest.MonkeyPatch, n: int, max_shown: int
    ) -> None:
        """Beyond the items that a cursor carries, too: then it continues after the last item."""
        monkeypatch.setattr(pages, "MAX_SHOWN", max_shown)
        user = f"/v1/users/{quote(many.user_ids[3], '')}/recommendations"
        asked: list[tuple[str, dict[str, Any]]] = [
            (user, {}),
            (user, {"category": ["Comedy", "Drama"], "exclude": many.item_ids[5], "model": "rating"}),
            ("/v1/users/nobody/recommendations", {"not_category": "Action"}),
            (f"/v1/items/{quote(many.item_ids[5], '')}/similar", {"exclude_seen_by": many.user_ids[3]}),
            *(
                ("/v1/popular", {"by": by, "order": order, "min_ratings": 2})
                for by in ("bias", "count", "mean", "trending")
                for order in ("desc", "asc")
            ),
        ]
        for url, query in asked:
            whole = ids(many.client.get(url, params={**query, "n": 1000}))
            found = all_pages(many.client, url, query, n)
            assert [item_id for page in found for item_id in page] == whole, (url, query)
            assert all(found) or not whole

    def test_what_changes_in_between_is_respected_and_nothing_repeats(self, client: httpx.Client) -> None:
        url = "/v1/users/s%2F1%20%C3%BC/recommendations"
        first = client.get(url, params={"n": 1})
        assert ids(first) == ["c"]
        query = {"n": 1, "cursor": first.json()["next_cursor"]}
        assert ids(client.get(url, params=query)) == ["a"]
        rating = {"user_id": "s/1 ü", "item_id": "a", "rating": 5}
        assert client.post("/v1/ratings", json={"ratings": [rating]}).json()["inserted"] == 1
        assert client.put("/v1/items/e", json={"hidden": True}).status_code == 200
        answer = client.get(url, params={**query, "n": 10})
        assert ids(answer) == ["d/ä"]  # b and a are rated, c was listed, e is hidden
        assert answer.json()["next_cursor"] is None
        assert "notice" not in answer.json()

    def test_a_new_version_goes_on_without_repeating(self, known_engine: Engine) -> None:
        with serving(url_of(known_engine)) as client:
            url = "/v1/users/u1/recommendations"
            first = client.get(url, params={"n": 2}).json()
            publish(known_engine, add_known_model(known_engine, "ranking", sign=-1.0), "test")
            eventually(lambda: client.get(url).json()["model_version"] == 3)
            answer = client.get(url, params={"cursor": first["next_cursor"]})
            assert ids(client.get(url)) == ["c", "d/ä", "e", "b"]
            assert ids(answer) == ["d/ä", "e"]
            assert "another model version went live" in answer.json()["notice"]

    def test_after_many_items_the_answer_says_how_it_continues(
        self, reader: httpx.Client, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(pages, "MAX_SHOWN", 1)
        url = "/v1/users/u1/recommendations"
        first = reader.get(url, params={"n": 2}).json()
        second = reader.get(url, params={"cursor": first["next_cursor"]}).json()
        assert [item["item_id"] for item in second["items"]] == ["e", "d/ä"]
        assert "the list continues after the last one" in second["notice"]

    def test_an_empty_cursor_is_the_first_page(self, reader: httpx.Client) -> None:
        for url in ("/v1/users/u1/recommendations", "/v1/popular", "/v1/items", "/v1/users/u1/ratings"):
            assert reader.get(url, params={"cursor": ""}).json() == reader.get(url).json()

    @pytest.mark.parametrize("cursor", ["x", "ü", "AAAA", "A" * 20_000, "cgEAAAAAAAAAAgAA", "%00"])
    def test_wrong_cursors(self, reader: httpx.Client, cursor: str) -> None:
        for url in ("/v1/users/u1/recommendations", "/v1/items/a/similar", "/v1/popular?by=count"):
            check_problem(reader.get(url, params={"cursor": cursor}), 422, "next_cursor of such a list")

    def test_a_cursor_of_another_list_is_refused(self, reader: httpx.Client) -> None:
        cursor = reader.get("/v1/users/u1/recommendations", params={"n": 1}).json()["next_cursor"]
        check_problem(reader.get("/v1/items/a/similar", params={"cursor": cursor}), 422, "next_cursor of such a list")


class TestFilters:
    def test_by_metadata(self, client: httpx.Client) -> None:
        colours = {"a": ["red"], "b": "blue", "c": "red"}
        for price, (item_id, colour) in enumerate(colours.items(), start=1):
            body = {"attributes": {"colour": colour, "price": price * 10}}
            assert client.put(f"/v1/items/{item_id}", json=body).status_code == 200
        lists = ["/v1/users/nobody/recommendations", "/v1/popular?by=count"]
        for query, expected in [
            ({"attribute": "colour=red"}, ["a", "c"]),
            ({"attribute": ["colour=red", "price>10"]}, ["c"]),
            ({"attribute": ["price>=10", "price<30"]}, ["a", "b"]),
            ({"year_from": 1980}, ["b", "d/ä", "new"]),
            ({"year_from": 1979, "year_to": 1985, "not_category": "Horror"}, ["b"]),
            ({"not_category": ["Drama", "Sci-Fi"]}, ["d/ä", "e"]),
            ({"category": ["Sci-Fi", "Drama"], "attribute": "price=30"}, ["c"]),
            ({"attribute": "colour=green"}, []),
        ]:
            for url in lists:
                answer = client.get(url, params={**httpx.QueryParams(url.partition("?")[2]), **query})
                assert ids(answer) == expected, (url, query)
                assert "ignored" not in answer.json()
            users: list[dict[str, str]] = [{"user_id": "nobody"}]
            asked = {name: value if name[:4] == "year" else [value] if isinstance(value, str) else value
                     for name, value in query.items()}  # fmt: skip
            (one,) = client.post("/v1/recommendations", json={"users": users, **asked}).json()["lists"]
            assert [item["item_id"] for item in one["items"]] == expected

    @pytest.mark.parametrize(
        ("query", "where"),
        [
            ({"attribute": "red"}, "query.attribute.0"),
            ({"attribute": ["a=1"] * 21}, "query.attribute"),
            ({"year_from": "x"}, "query.year_from"),
            ({"year_to": 100_000}, "query.year_to"),
            ({"fields": "year,categories"}, "query.fields.0"),
            ({"fields": "colour"}, "query.fields.0"),
            ({"not_category": ["x"] * 101}, "query.not_category"),
        ],
    )
    def test_wrong_filters(self, reader: httpx.Client, query: dict[str, Any], where: str) -> None:
        for url in ("/v1/users/u1/recommendations", "/v1/items/a/similar", "/v1/popular"):
            check_problem(reader.get(url, params=query), 422, where)

    def test_fields(self, reader: httpx.Client) -> None:
        query = {"fields": ["categories", "year", "attributes"], "n": 3}
        expected = [
            {"item_id": "b", "title": "Brazil (1985)", "score": 2.0, "year": 1985, "categories": ["Sci-Fi"]},
            {"item_id": "c", "title": "Casablanca (1942)", "score": 0.5, "year": 1942, "categories": ["Drama"]},
            {"item_id": "e", "title": None, "score": 0.5, "year": None, "categories": []},
        ]
        answer = reader.get("/v1/users/u1/recommendations", params=query).json()
        assert answer["items"] == [{**item, "attributes": {}} for item in expected]
        (one,) = reader.post("/v1/recommendations", json={"users": [{"user_id": "u1"}], **query}).json()["lists"]
        assert one["items"] == answer["items"]
        similar = reader.get("/v1/items/a/similar", params={"fields": "year", "n": 1}).json()
        assert similar["items"][0]["year"] == 1985
        popular = reader.get("/v1/popular", params={"fields": "year", "n": 1, "by": "count"}).json()
        assert popular["items"] == [{"item_id": "a", "title": "Alien (1979)", "score": 3.0, "year": 1979}]
        explained = reader.get("/v1/users/u1/recommendations", params={**query, "explain": True}).json()
        assert [item["year"] for item in explained["items"]] == [1985, 1942, None]
        assert all(item["explanation"] for item in explained["items"])

    def test_predictions_beside_the_scores(self, reader: httpx.Client) -> None:
        for user_id in ("u1", "u3", "nobody", "s/1 ü"):
            url = f"/v1/users/{quote(user_id, '')}"
            items = reader.get(f"{url}/recommendations", params={"fields": "prediction"}).json()["items"]
            query = {"item_id": [item["item_id"] for item in items]}
            predicted = reader.get(f"{url}/predictions", params=query).json()["items"]
            assert [item["prediction"] for item in items] == [item["prediction"] for item in predicted]
            body = {"users": [{"user_id": user_id}], "fields": ["prediction"]}
            assert reader.post("/v1/recommendations", json=body).json()["lists"][0]["items"] == items

    @pytest.mark.parametrize("engine", ["sqlite"], indirect=True)
    def test_parts_without_effect_are_named(self, engine: Engine, known_engine: Engine) -> None:
        publish(known_engine, add_known_model(known_engine, "rating"), "test")
        with serving(url_of(known_engine)) as client:
            query = {"category": ["Sci-Fi", "Sci-Fi,Drama"], "exclude": "zzz", "attribute": "size=1"}
            answer = client.get("/v1/users/u1/recommendations", params=query).json()
            named = [("category", "Sci-Fi,Drama"), ("attribute", "size=1"), ("exclude", "zzz")]
            assert [(each["where"], each["value"]) for each in answer["ignored"]] == named
            body = {"users": [{}], "candidates": ["a", "zzz"], "not_category": ["Dramma"]}
            answer = client.post("/v1/recommendations", json=body).json()
            assert [each["where"] for each in answer["ignored"]] == ["not_category", "candidates"]
            answer = client.get("/v1/items/a/similar", params={"exclude_seen_by": "nobody"}).json()
            assert answer["ignored"][0]["reason"] == "there is no such user, so nothing is excluded"
            answer = client.get("/v1/popular", params={"category": "nothing"}).json()
            assert (answer["items"], answer["ignored"][0]["value"]) == ([], "nothing")


class TestSimilar:
    def test_what_a_user_has_rated_is_left_out(self, reader: httpx.Client) -> None:
        assert ids(reader.get("/v1/items/a/similar")) == ["b", "e", "c", "d/ä"]
        assert ids(reader.get("/v1/items/a/similar", params={"exclude_seen_by": "u2"})) == ["b", "e", "d/ä"]
        assert ids(reader.get("/v1/items/a/similar", params={"exclude_seen_by": "s/1 ü"})) == ["e", "c", "d/ä"]

    def test_to_several_items(self, reader: httpx.Client) -> None:
        body: dict[str, Any] = {"item_ids": ["a", "c", "zzz", "new", "a"], "fields": ["year"]}
        answer = reader.post("/v1/items/similar", json=body).json()
        # The mean of the directions (1, 0) and (0, 1): e has (1, 1)/√2, b (1, 0), d/ä (0, 1).
        assert [(item["item_id"], item["score"]) for item in answer["items"]] == [
            ("e", 0.707107),
            ("b", 0.5),
            ("d/ä", 0.5),
        ]
        assert (answer["score_kind"], answer["items"][1]["year"]) == ("cosine", 1985)
        assert [each["value"] for each in answer["ignored"]] == ["zzz", "new"]
        page = reader.post("/v1/items/similar", json={**body, "n": 2}).json()
        rest = reader.post("/v1/items/similar", json={**body, "n": 2, "cursor": page["next_cursor"]})
        assert (ids(rest), rest.json()["next_cursor"]) == (["d/ä"], None)
        asked = {**body, "exclude": ["e"], "exclude_seen_by": "s/1 ü"}
        assert ids(reader.post("/v1/items/similar", json=asked)) == ["d/ä"]
        single = reader.post("/v1/items/similar", json={"item_ids": ["a"]})
        assert ids(single) == ids(reader.get("/v1/items/a/similar"))

    def test_to_several_items_of_which_none_is_known(self, reader: httpx.Client) -> None:
        answer = reader.post("/v1/items/similar", json={"item_ids": ["zzz", "new"]})
        check_problem(answer, 404, "none of the 2 items is known")
        check_problem(reader.post("/v1/items/similar", json={"item_ids": []}), 422, "body.item_ids")
        check_problem(reader.post("/v1/items/similar", json={"item_ids": ["a"], "k": 1}), 422, "body.k")


class TestPopular:
    def test_by_trend(self, client: httpx.Client) -> None:
        quiet = client.get("/v1/popular", params={"by": "trending", "half_life_days": 2}).json()
        assert [item["item_id"] for item in quiet["items"]][:3] == ["a", "c", "b"]
        assert quiet["fallback"].startswith("no item was rated in the last 20 days")
        ages = {"d/ä": 0, "e": 7, "b": 14}
        rows = [
            {"user_id": f"n{i}", "item_id": item_id, "rating": 3, "rated_at": iso_days_ago(days)}
            for i, (item_id, days) in enumerate(ages.items())
        ]
        assert client.post("/v1/ratings", json={"ratings": rows}).json()["inserted"] == 3
        answer = client.get("/v1/popular", params={"by": "trending", "n": 5}).json()
        assert (answer["score_kind"], answer["source"]) == ("trending", "popularity")
        assert "fallback" not in answer
        scores = [(item["item_id"], item["score"]) for item in answer["items"]]
        assert [item_id for item_id, _ in scores] == ["d/ä", "e", "b", "a", "c"]
        assert [score for _, score in scores] == pytest.approx([1.0, 0.5, 0.25, 0.0, 0.0], abs=1e-3)
        wrong = client.get("/v1/popular", params={"by": "trending", "half_life_days": 0})
        check_problem(wrong, 422, "query.half_life_days")

    @pytest.mark.parametrize("engine", ["sqlite"], indirect=True)
    def test_without_a_rating_version_bias_is_count_and_says_so(self, engine: Engine, known_engine: Engine) -> None:
        take_down_rating(known_engine)
        with serving(url_of(known_engine)) as client:
            answer = client.get("/v1/popular", params={"n": 2}).json()
            assert [(item["item_id"], item["score"]) for item in answer["items"]] == [("a", 3.0), ("c", 2.0)]
            assert (answer["score_kind"], answer["model_version"]) == ("count", 1)
            assert "no rating model is live" in answer["fallback"]
            page = client.get("/v1/popular", params={"cursor": answer["next_cursor"], "n": 1})
            assert ids(page) == ["b"]

    @pytest.mark.parametrize(
        ("values", "said"),
        [({"kind": schema.IMPLICIT, "rating": 1}, "only events"), ({"rating": 4}, "all ratings are 4")],
    )
    def test_what_has_nothing_to_predict_is_not_told_to_train(
        self, known_engine: Engine, values: dict[str, Any], said: str
    ) -> None:
        take_down_rating(known_engine)
        with writing(known_engine) as connection:
            connection.execute(update(schema.ratings).values(values))
        recount(known_engine)
        with serving(url_of(known_engine)) as client:
            answers = [
                client.get("/v1/popular").json()["fallback"],
                client.get("/v1/users/u1/predictions", params={"item_id": "a"}).json()["detail"],
                client.get("/v1/users/u1/recommendations?fields=prediction").json()["ignored"][0]["reason"],
            ]
        assert all(said in answer and "recsys train" not in answer for answer in answers), answers

    @pytest.mark.parametrize("url", ["/v1/popular?by=count", "/v1/items/a/similar"])
    def test_an_unchanged_list_is_304(self, reader: httpx.Client, url: str) -> None:
        answer = reader.get(url)
        etag = answer.headers["etag"]
        for known in (etag, f'"x", {etag}', "*"):
            again = reader.get(url, headers={"if-none-match": known})
            assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", etag)
        assert reader.get(url, headers={"if-none-match": '"x"'}).content == answer.content


def iso_days_ago(days: int) -> str:
    from datetime import UTC, datetime, timedelta

    return (datetime.now(UTC) - timedelta(days=days)).isoformat()
