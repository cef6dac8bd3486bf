"""Two servers on one database: what one is told, the other respects within a second, with the refresh of a default
server."""

import json
from collections.abc import Iterator
from typing import NamedTuple

import httpx
import numpy as np
import pytest

from recsys.database.models import publish
from recsys.factors import FeatureEmbeddings
from tests.api.asking import eventually, ids
from tests.api.conftest import BOTH, migrated, serving, url_of
from tests.conftest import add_known_model, add_known_rows

SECONDS = 1.5  # a second, and some for a machine that has other things to do
FEATURES = FeatureEmbeddings(
    names=("category: Comedy",),
    base=np.zeros(2, np.float32),
    vectors=np.array([[0.5, 0.5]], np.float32),
    bias=np.array([0.25], np.float32),
)


class Pair(NamedTuple):
    first: httpx.Client
    second: httpx.Client


@pytest.fixture(scope="module", params=BOTH)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    with migrated(request, tmp_path_factory) as engine:
        add_known_rows(engine)
        for objective in ("ranking", "rating"):
            publish(engine, add_known_model(engine, objective, item_features=FEATURES), "known")  # type: ignore[arg-type]
        url = url_of(engine)
        with serving(url, refresh_seconds=0.5) as first, serving(url, refresh_seconds=0.5) as second:
            yield Pair(first, second)


def listed(client: httpx.Client, user_id: str, **query: object) -> list[str]:
    return ids(client.get(f"/v1/users/{user_id}/recommendations", params={"n": 1000, **query}))  # type: ignore[arg-type]


def rate(client: httpx.Client, user_id: str, item_id: str, rating: float = 4) -> None:
    body = {"ratings": [{"user_id": user_id, "item_id": item_id, "rating": rating}]}
    assert client.post("/v1/ratings", json=body).status_code == 200


def agree(pair: Pair, url: str) -> bool:
    return pair.first.get(url).json() == pair.second.get(url).json()


def test_a_rating(pair: Pair) -> None:
    for client in pair:  # both have the user in memory
        assert "b" in listed(client, "u1")
    rate(pair.first, "u1", "b")
    assert "b" not in listed(pair.first, "u1")
    eventually(lambda: "b" not in listed(pair.second, "u1"), SECONDS)
    assert agree(pair, "/v1/users/u1/recommendations")
    assert agree(pair, "/v1/users/u1/predictions?item_id=a&item_id=c")


def test_a_rating_to_each_in_turn(pair: Pair) -> None:
    """Whoever asks the worker that took the last rating gets a list without all that were rated before it."""
    for turn, item_id in enumerate(("a", "b", "c", "e")):
        rate(pair[turn % 2], "both", item_id)
        rated = {row["item_id"] for row in pair[turn % 2].get("/v1/users/both/ratings").json()["ratings"]}
        assert item_id in rated
        assert not rated & set(listed(pair[turn % 2], "both"))
    eventually(lambda: agree(pair, "/v1/users/both/recommendations"), SECONDS)


def test_a_rating_taken_back(pair: Pair) -> None:
    for client in pair:
        assert "c" not in listed(client, "u2")
    assert pair.second.delete("/v1/users/u2/ratings/c").status_code == 204
    assert "c" in listed(pair.second, "u2")
    eventually(lambda: "c" in listed(pair.first, "u2"), SECONDS)
    assert agree(pair, "/v1/users/u2/recommendations")


def test_a_hidden_item(pair: Pair) -> None:
    for client in pair:
        assert "d/ä" in listed(client, "nobody")
    assert pair.first.put("/v1/items/d%2F%C3%A4", json={"hidden": True}).status_code == 200
    assert "d/ä" not in listed(pair.first, "nobody")
    eventually(lambda: "d/ä" not in listed(pair.second, "nobody"), SECONDS)
    assert "d/ä" not in ids(pair.second.get("/v1/items/a/similar"))
    assert ids(pair.second.get("/v1/items", params={"title": "delicat"})) == []
    body = {"users": [{}, {"user_id": "u1"}], "candidates": ["d/ä"]}
    assert [one["items"] for one in pair.second.post("/v1/recommendations", json=body).json()["lists"]] == [[], []]
    pair.second.put("/v1/items/d%2F%C3%A4", json={"hidden": False})
    eventually(lambda: "d/ä" in listed(pair.first, "nobody"), SECONDS)


def test_a_new_item(pair: Pair) -> None:
    known = "s%2F1%20%C3%BC"  # (1, 1)
    for client in pair:
        assert "n/1" not in listed(client, known)
    made = pair.second.put("/v1/items/n%2F1", json={"title": "Airplane!", "categories": ["Comedy"]})
    assert made.status_code == 201
    assert "n/1" in listed(pair.second, known)
    eventually(lambda: "n/1" in listed(pair.first, known), SECONDS)
    assert agree(pair, f"/v1/users/{known}/recommendations")
    found = pair.first.get(f"/v1/users/{known}/recommendations", params={"n": 1000}).json()["items"]
    assert {item["item_id"]: item["score"] for item in found}["n/1"] == 1.25
    rate(pair.first, "fresh", "n/1")  # known to both at once, for it is in the database
    assert ids(pair.first.get("/v1/items", params={"title": "airplane!"})) == ["n/1"]


def test_a_rating_of_an_item_the_other_has_just_made(pair: Pair) -> None:
    pair.first.put("/v1/items/just-made", json={"categories": ["Comedy"]})
    rate(pair.second, "quick", "just-made")
    eventually(lambda: agree(pair, "/v1/users/quick/recommendations"), SECONDS)
    assert "just-made" not in listed(pair.second, "quick")


def test_an_erased_user(pair: Pair) -> None:
    rate(pair.first, "gone", "a", 5)
    for client in pair:
        assert client.get("/v1/users/gone/recommendations").json()["source"] == "fold_in"
    assert pair.second.delete("/v1/users/gone").status_code == 200
    assert pair.second.get("/v1/users/gone/recommendations").json()["source"] == "popularity"
    eventually(lambda: pair.first.get("/v1/users/gone/recommendations").json()["source"] == "popularity", SECONDS)
    assert "a" in listed(pair.first, "gone")


def test_a_published_version(pair: Pair) -> None:
    """Within a second too; an answer is of one version."""
    reason = {"reason": "test"}
    assert pair.first.post("/v1/models/2/publish", json=reason).status_code == 200
    back = pair.first.post("/v1/models/1/publish", json=reason)
    assert back.status_code == 200, json.dumps(back.json())
    eventually(lambda: agree(pair, "/health/ready"), SECONDS)
