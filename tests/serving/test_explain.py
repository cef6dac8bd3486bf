"""Explanations: parts that sum to the score, and the user's own ratings behind them."""

import numpy as np
import pytest
from sqlalchemy import Engine

from recsys.database.engine import read_latest
from recsys.database.feedback import NewRating
from recsys.database.models import publish
from recsys.database.posts import rate
from recsys.factors import FeatureEmbeddings, Head
from recsys.results import Explanation, ItemList
from recsys.serving import lists
from recsys.serving.encode import to_item_list
from recsys.serving.explain import explain_list
from recsys.serving.lists import ListQuery
from recsys.serving.users import read_rated_items_by_id, read_states
from tests.conftest import add_known_model, add_known_rows
from tests.serving.made import load

# What is read from the database differs in `read_states` alone, which test_users.py asks on both.
pytestmark = pytest.mark.parametrize("engine", ["sqlite"], indirect=True)


def explain(engine: Engine, user_id: str, asked: str | None = None, *, exclude_seen: bool = False) -> ItemList:
    recommender = load(engine)
    model = recommender.list_model(asked)
    with read_latest(engine) as connection:
        user = read_states(connection, [user_id], recommender.catalogue, model)[user_id]
        rated = read_rated_items_by_id(connection, [user_id], recommender.catalogue)[user_id]
    (listed,) = lists.recommend(recommender, model, [user], ListQuery(exclude_seen=exclude_seen))
    answer = explain_list(recommender, model, user, rated, listed)
    plain = to_item_list(recommender.catalogue, listed)
    assert [(item.item_id, item.score) for item in answer.items] == [(item.item_id, item.score) for item in plain.items]
    assert (answer.source, answer.model_version) == (plain.source, plain.model_version)
    return answer


def of(answer: ItemList, item_id: str) -> Explanation:
    (found,) = [item.explanation for item in answer.items if item.item_id == item_id]
    assert found is not None
    return found


def sums(answer: ItemList) -> None:
    assert answer.items
    for item in answer.items:
        said = item.explanation
        assert said is not None
        parts = said.global_bias + said.user_bias + said.item_bias + said.dot_product + said.layers
        assert parts == pytest.approx(item.score, abs=1e-6)
        assert len(said.contributions) <= 3
        assert len(said.nearest_liked) <= 3


def test_the_parts_of_a_known_user(known_engine: Engine) -> None:
    answer = explain(known_engine, "u1")
    sums(answer)
    said = of(answer, "b")  # z = (1, 0) · (2, 0) + 0
    assert (said.global_bias, said.user_bias, said.item_bias, said.dot_product, said.layers) == (0, 0, 0, 2, 0)
    assert [(row.item_id, row.title, row.rating) for row in said.contributions] == [("a", "Alien (1979)", 5.0)]
    assert [(near.item_id, near.similarity) for near in said.nearest_liked] == [("a", 1.0)]
    c = of(answer, "c")
    assert c.item_bias == pytest.approx(0.5)
    assert [(near.item_id, near.similarity) for near in c.nearest_liked] == [("a", 0.0)]


def test_an_item_is_not_its_own_neighbour(known_engine: Engine) -> None:
    answer = explain(known_engine, "u2")  # rated a and c, both alike
    assert [near.item_id for near in of(answer, "a").nearest_liked] == ["c"]
    assert [near.item_id for near in of(answer, "c").nearest_liked] == ["a"]
    assert {near.item_id for near in of(answer, "e").nearest_liked} == {"a", "c"}


def test_only_what_the_user_liked_is_near(known_engine: Engine) -> None:
    answer = explain(known_engine, "u3")  # rated a 3 and c 2
    assert [near.item_id for near in of(answer, "d/ä").nearest_liked] == ["a"]


@pytest.mark.parametrize("asked", ["ranking", "rating"])
def test_of_a_user_folded_in_the_ratings_are_all_there_is(known_engine: Engine, asked: str) -> None:
    rows = [NewRating("fresh", item_id, rating, None) for item_id, rating in (("a", 5), ("b", 4), ("c", 1), ("e", 2))]
    rate(known_engine, rows, None, lambda users, seq: None)
    answer = explain(known_engine, "fresh", asked)
    assert answer.source == "fold_in"
    sums(answer)
    for item in answer.items:
        said = item.explanation
        assert said is not None
        assert said.all_contributions == pytest.approx(said.dot_product, abs=1e-4)
        values = [row.contribution for row in said.contributions]
        assert values == sorted(values, reverse=True)
        assert len(values) == 3  # the most of four
    assert of(answer, "b").contributions[0].item_id == "a"


@pytest.mark.parametrize("objective", ["ranking", "rating"])
def test_the_layers_of_a_neural_version_are_a_part(engine: Engine, objective: str) -> None:
    add_known_rows(engine)
    one = np.ones((1, 1), np.float32)
    head = Head(1, ((-2 * one, np.ones(1, np.float32)),))
    publish(engine, add_known_model(engine, objective, head=head), "test")  # type: ignore[arg-type]
    answer = explain(engine, "u1", objective)
    sums(answer)
    e = of(answer, "e")  # (1 | 0), (1 | 1): 1 · 1, and 1 − 2 · relu(0 + 1)
    assert (e.dot_product, e.layers, e.item_bias) == (1.0, -1.0, -0.5)
    sums(explain(engine, "u3", objective))


def test_an_item_known_by_its_metadata_alone(engine: Engine) -> None:
    add_known_rows(engine)
    features = FeatureEmbeddings(
        ("category: Sci-Fi",), np.zeros(2, np.float32), np.array([[2, 1]], np.float32), np.array([0.25], np.float32)
    )
    publish(engine, add_known_model(engine, "ranking", item_features=features), "test")
    answer = explain(engine, "u1", exclude_seen=True)
    sums(answer)
    said = of(answer, "new")
    assert (said.item_bias, said.dot_product) == (0.25, 2.0)
    rate(engine, [NewRating("u1", "new", 5.0, None)], None, lambda users, seq: None)
    sums(explain(engine, "u1"))  # with a rating of an item that the version was not trained with


def test_popularity_says_why_it_is_one(known_engine: Engine) -> None:
    answer = explain(known_engine, "nobody")
    assert answer.source == "popularity"
    assert answer.fallback is not None
    assert "the user is unknown" in answer.fallback
    assert all(item.explanation is None for item in answer.items)
