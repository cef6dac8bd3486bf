"""A live version of weights between items, by hand: see `KNOWN_WEIGHTS` in conftest."""

import numpy as np
import pytest
from sqlalchemy import Engine

from recsys.data.rows import ItemRow
from recsys.database.engine import read_latest
from recsys.database.feedback import NewRating
from recsys.database.items import upsert_items
from recsys.database.models import publish
from recsys.database.posts import rate
from recsys.database.ratings import delete_rating
from recsys.serving import lists
from recsys.serving.encode import to_item_list
from recsys.serving.explain import explain_list
from recsys.serving.filters import Filters
from recsys.serving.lists import ListQuery
from recsys.serving.parts import parts_of
from recsys.serving.searches import run_searches
from recsys.serving.users import RatedItems, new_state, read_rated_items_by_id
from tests.conftest import add_known_item_model, add_known_rows
from tests.serving.made import load, pairs, recommend, states

# What is read from the database differs in `read_states` alone, which test_users.py asks on both.
pytestmark = pytest.mark.parametrize("engine", ["sqlite"], indirect=True)


@pytest.fixture
def live(engine: Engine) -> Engine:
    add_known_rows(engine)
    publish(engine, add_known_item_model(engine), "known")
    return engine


def test_lists_are_what_the_rated_items_add_and_popularity(live: Engine) -> None:
    # u1: a 5, counts 2. u2: a 4 and c 4, 1.5 each. u3, unknown to the training: c 2 and a 3, .5 and 1.
    answer = recommend(live, "u1")
    assert (answer.source, answer.model_version) == ("model", 2)
    assert pairs(answer) == [("b", 1.01), ("c", 0.42), ("d/ä", 0.0), ("e", 0.0)]
    assert pairs(recommend(live, "u2")) == [("d/ä", 0.9), ("b", 0.61), ("e", 0.0)]
    assert recommend(live, "u3").source == "model"
    assert pairs(recommend(live, "u3")) == [("b", 0.46), ("d/ä", 0.3), ("e", 0.0)]
    # b 1 and nothing liked: what goes with b comes last
    assert pairs(recommend(live, "s/1 ü")) == [("a", 0.03), ("c", 0.02), ("d/ä", 0.0), ("e", -0.4)]
    nobody = recommend(live, "nobody")
    assert (nobody.source, nobody.items[0].item_id) == ("popularity", "a")


def test_items_with_weights_between_them_are_alike(live: Engine) -> None:
    model = load(live).list_model()
    assert model is not None
    at = [load(live).catalogue.idx_of[item_id] for item_id in ("d/ä", "a", "c", "b")]
    expected = np.zeros((4, 4))
    expected[0, 2] = expected[2, 0] = 1.0  # (c, d) .6, halved, is the largest
    expected[1, 2] = expected[2, 1] = 0.2 / 0.6
    expected[1, 3] = expected[3, 1] = 0.5 / 0.6
    expected[2, 3] = expected[3, 2] = -0.1 / 0.6
    assert model.alikeness(np.array(at)) == pytest.approx(expected, abs=1e-6)
    assert model.alikeness(np.array(at[:1])).tolist() == [[0.0]]
    assert model.alikeness(np.array([], np.int64)).shape == (0, 0)


def test_many_lists_at_once_are_those_of_each_user(live: Engine) -> None:
    recommender = load(live)
    ids = ["u2", "u1", "nobody", "s/1 ü", "u3", "u1"]
    users = states(live, recommender, ids)
    together = lists.recommend(recommender, recommender.list_model(), users)
    assert [pairs(to_item_list(recommender.catalogue, one)) for one in together] == [
        pairs(recommend(live, user_id)) for user_id in ids
    ]


def test_filters_candidates_and_pages(live: Engine) -> None:
    recommender = load(live)
    sci_fi = recommend(live, "u1", ListQuery(filters=Filters(categories=("Sci-Fi",))))
    assert pairs(sci_fi) == [("b", 1.01)]
    assert pairs(
        recommend(live, "u1", ListQuery(n=1, exclude_seen=False, candidates=recommender.catalogue.find("a")))
    ) == [("a", 0.03)]
    after = ListQuery(n=2, after=recommender.catalogue.idx_of["b"])
    assert pairs(recommend(live, "u1", after)) == [("c", 0.42), ("d/ä", 0.0)]


def test_a_posted_rating_counts_in_the_next_list(live: Engine) -> None:
    rate(live, [NewRating("u1", "c", 4.0, None)], None, lambda users, seq: None)
    assert pairs(recommend(live, "u1")) == [("d/ä", 0.9), ("b", 0.86), ("e", 0.0)]
    assert recommend(live, "u1").source == "model"
    delete_rating(live, "u1", "c")
    delete_rating(live, "u1", "a")
    assert recommend(live, "u1").source == "popularity"


def test_a_visitor_and_an_item_newer_than_the_training(live: Engine) -> None:
    upsert_items(live, [ItemRow("later", "Later", ("Sci-Fi",), 2025)])
    rate(live, [NewRating("u1", "later", 5.0, None)], None, lambda users, seq: None)
    assert pairs(recommend(live, "u1")) == [("b", 1.01), ("c", 0.42), ("d/ä", 0.0), ("e", 0.0)]
    recommender = load(live)
    idx_of, model = recommender.catalogue.idx_of, recommender.list_model()
    rated = RatedItems(np.array([idx_of["later"], idx_of["c"]]), np.array([5.0, 5.0], np.float32))
    (ranked,) = lists.recommend(recommender, model, [new_state(model, rated, rated.item_idx.astype(np.int32))])
    assert pairs(to_item_list(recommender.catalogue, ranked))[0] == ("d/ä", 1.2)


def test_an_explanation_is_exact(live: Engine) -> None:
    recommender = load(live)
    model = recommender.list_model()
    (user,) = states(live, recommender, ["u2"])
    with read_latest(live) as connection:
        rated = read_rated_items_by_id(connection, ["u2"], recommender.catalogue)["u2"]
    (ranked,) = lists.recommend(recommender, model, [user])
    answer = explain_list(recommender, model, user, rated, ranked)
    for item in answer.items:
        assert sum(value for _, value in parts_of(item.explanation)) == pytest.approx(item.score, abs=1e-6)
    b = answer.items[1].explanation
    assert b is not None
    assert (b.dot_product, b.item_bias) == (0.0, pytest.approx(0.01))
    assert b.item_weights == b.all_contributions == pytest.approx(0.6)
    assert [(row.item_id, round(row.contribution, 4)) for row in b.contributions] == [("a", 0.75), ("c", -0.15)]
    assert [(row.item_id, round(row.similarity, 4)) for row in b.nearest_liked] == [("a", 0.25), ("c", -0.05)]


def test_similar_items_are_those_with_the_largest_weights_either_way(live: Engine) -> None:
    recommender = load(live)
    search = recommender.similar.search("b", 3)
    found = recommender.similar.finish(search, run_searches([search])[0])
    assert found.score_kind == "weight"
    assert pairs(to_item_list(recommender.catalogue, found)) == [("a", 0.25), ("e", 0.2), ("d/ä", 0.0)]
    search, ignored = recommender.similar.search_many(["a", "c", "new"], 2)
    found = recommender.similar.finish(search, run_searches([search])[0])
    assert pairs(to_item_list(recommender.catalogue, found)) == [("d/ä", 0.15), ("b", 0.1)]
    assert [each.value for each in ignored] == ["new"]
