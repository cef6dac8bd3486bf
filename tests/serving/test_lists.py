"""Lists worked out by hand: see the known factors in conftest."""

import json
from collections.abc import Sequence

import numpy as np
import pytest
from sqlalchemy import Engine, update

from recsys.database import schema
from recsys.database.engine import reading, writing
from recsys.database.models import publish
from recsys.database.ratings import delete_rating
from recsys.database.user_states import read_user_ratings
from recsys.errors import NoModelError, NotFoundError
from recsys.factors import Head
from recsys.results import ItemList
from recsys.serving import lists
from recsys.serving.encode import to_item_list, to_json, to_json_lists
from recsys.serving.filters import Filters
from recsys.serving.lists import ListQuery
from recsys.serving.predictions import predict
from recsys.serving.searches import run_searches
from recsys.serving.snapshot import Recommender
from tests.conftest import add_known_model, add_known_rows
from tests.serving.made import load, pairs, recommend, states

# What is read from the database differs in `read_states` alone, which test_users.py asks on both.
pytestmark = pytest.mark.parametrize("engine", ["sqlite"], indirect=True)


def similar(recommender: Recommender, item_id: str, n: int = 10, categories: Sequence[str] = ()) -> ItemList:
    search = recommender.similar.search(item_id, n, Filters(categories=tuple(categories)))
    (best,) = run_searches([search])
    return to_item_list(recommender.catalogue, recommender.similar.finish(search, best))


def test_a_known_user_gets_the_highest_scores_without_what_they_rated(known_engine: Engine) -> None:
    answer = recommend(known_engine, "u1")
    # scores of u1 = (1, 0): a 3.1, b 2, c .5, d 0, e .5; a is rated, "hidden" is hidden; c before e on the tie
    assert pairs(answer) == [("b", 2.0), ("c", 0.5), ("e", 0.5), ("d/ä", 0.0)]
    assert (answer.model_version, answer.source) == (1, "model")
    assert answer.items[0].title == "Brazil (1985)"
    assert pairs(recommend(known_engine, "u1", ListQuery(n=1))) == [("b", 2.0)]
    assert pairs(recommend(known_engine, "u1", ListQuery(n=2, exclude_seen=False))) == [("a", 3.1), ("b", 2.0)]


@pytest.mark.parametrize("user_id", ["nobody", "", "nul\0", "U1", "u1 "])
def test_a_user_nobody_knows_gets_popularity(known_engine: Engine, user_id: str) -> None:
    answer = recommend(known_engine, user_id)
    assert (answer.model_version, answer.source) == (1, "popularity")
    assert pairs(answer) == [("a", 3.0), ("c", 2.0), ("b", 1.0), ("d/ä", 0.0), ("e", 0.0), ("new", 0.0)]


def test_a_user_who_rated_and_is_unknown_to_the_model_is_folded_in(known_engine: Engine) -> None:
    answer = recommend(known_engine, "u3")  # rated a 3 and c 2
    assert (answer.model_version, answer.source) == (1, "fold_in")
    assert sorted(item.item_id for item in answer.items) == ["b", "d/ä", "e"]
    assert answer.items[0].item_id == "b"  # liked a better than c, and b is like a


def test_a_user_who_took_all_ratings_back_gets_popularity(known_engine: Engine) -> None:
    assert delete_rating(known_engine, "u1", "a") is not None
    answer = recommend(known_engine, "u1")
    assert answer.source == "popularity"
    assert pairs(answer)[:2] == [("a", 2.0), ("c", 2.0)]


def test_popularity_begins_with_the_users_own_categories(known_engine: Engine) -> None:
    delete_rating(known_engine, "u1", "a")
    with writing(known_engine) as connection:
        connection.execute(update(schema.users).where(schema.users.c.user_id == "u1").values(categories=["Drama"]))
    recommender = load(known_engine)
    users = states(known_engine, recommender, ["u1"])
    (ranked,) = lists.recommend(recommender, recommender.list_model(), users)
    assert [item.item_id for item in to_item_list(recommender.catalogue, ranked).items] == [
        "c",
        "a",
        "b",
        "d/ä",
        "e",
        "new",
    ]
    assert ranked.fallback is not None
    assert "Drama" in ranked.fallback


class TestFilters:
    def query(self, engine: Engine, **filters: object) -> ListQuery:
        recommender = load(engine)
        for name in ("exclude", "candidates"):
            if name in filters:
                filters[name] = recommender.catalogue.find(filters[name])  # type: ignore[arg-type]
        by = {name: filters.pop(name) for name in ("categories", "min_ratings") if name in filters}
        return ListQuery(**filters, filters=Filters(**by))  # type: ignore[arg-type]

    @pytest.mark.parametrize(
        ("filters", "expected"),
        [
            ({"exclude": ["b", "zzz"]}, ["c", "e", "d/ä"]),
            ({"candidates": ["e", "d/ä", "zzz", "hidden", "a"]}, ["e", "d/ä"]),
            ({"candidates": []}, []),
            ({"candidates": ["zzz"]}, []),
            ({"categories": ("Sci-Fi",)}, ["b"]),
            ({"categories": ("Sci-Fi", "Drama")}, ["b", "c"]),
            ({"categories": ("sci-fi",)}, []),
            ({"min_ratings": 1}, ["b", "c"]),
            ({"min_ratings": 4}, []),
            ({"candidates": ["a", "b"], "exclude": ["b"], "exclude_seen": False}, ["a"]),
            ({"n": 0}, []),
            ({"n": 10_000, "exclude_seen": False}, ["a", "b", "c", "e", "d/ä"]),
        ],
    )
    def test_a_known_user(self, known_engine: Engine, filters: dict[str, object], expected: list[str]) -> None:
        answer = recommend(known_engine, "u1", self.query(known_engine, **filters))
        assert [item.item_id for item in answer.items] == expected

    @pytest.mark.parametrize(
        ("filters", "expected"),
        [
            ({"exclude": ["a"]}, ["c", "b", "d/ä", "e", "new"]),
            ({"candidates": ["e", "new", "hidden"]}, ["e", "new"]),
            ({"candidates": []}, []),
            ({"categories": ("Drama",)}, ["c"]),
            ({"min_ratings": 2}, ["a", "c"]),
            ({"n": 1, "exclude": ["a", "c"]}, ["b"]),
        ],
    )
    def test_popularity(self, known_engine: Engine, filters: dict[str, object], expected: list[str]) -> None:
        answer = recommend(known_engine, "nobody", self.query(known_engine, **filters))
        assert [item.item_id for item in answer.items] == expected


def test_with_diversity_an_item_unlike_the_others_moves_up(known_engine: Engine) -> None:
    plain = recommend(known_engine, "u1", ListQuery(exclude_seen=False))
    assert [item.item_id for item in plain.items] == ["a", "b", "c", "e", "d/ä"]
    diverse = recommend(known_engine, "u1", ListQuery(exclude_seen=False, diversity=0.9))
    assert [item.item_id for item in diverse.items] == ["a", "c", "e", "b", "d/ä"]  # b points as a does, d as c
    assert sorted(pairs(diverse)) == sorted(pairs(plain))
    assert pairs(recommend(known_engine, "u1", ListQuery(n=2, exclude_seen=False, diversity=0.9)))[1][0] != "b"


def test_many_at_once_get_what_each_gets_alone(known_engine: Engine) -> None:
    recommender = load(known_engine)
    user_ids = ["u1", "nobody", "u3", "s/1 ü", "u2", "u1"]
    model = recommender.list_model()
    users = states(known_engine, recommender, user_ids)
    for query in (
        ListQuery(),
        *(ListQuery(exclude_seen=seen, filters=Filters(("Sci-Fi",), min_ratings=1)) for seen in (True, False)),
    ):
        together = lists.recommend(recommender, model, users, query)
        for user_id, ranked in zip(user_ids, together, strict=True):
            assert to_item_list(recommender.catalogue, ranked) == recommend(known_engine, user_id, query)


def test_json_is_that_of_the_result(known_engine: Engine) -> None:
    recommender = load(known_engine)
    user_ids = ["u1", "nobody", 'a"\\ü']
    ranked = lists.recommend(recommender, recommender.list_model(), states(known_engine, recommender, user_ids))
    for each in ranked:
        assert json.loads(to_json(recommender.catalogue, each)) == json.loads(
            to_item_list(recommender.catalogue, each).model_dump_json()
        )
    encoded = json.loads(to_json_lists(recommender.catalogue, 1, user_ids, ranked))["lists"]
    assert [one["user_id"] for one in encoded] == user_ids
    assert [one["items"] for one in encoded] == [
        json.loads(to_json(recommender.catalogue, each))["items"] for each in ranked
    ]


def test_similar_items_point_the_same_way(known_engine: Engine) -> None:
    answer = similar(load(known_engine), "a")
    assert pairs(answer) == [("b", 1.0), ("e", 0.7071), ("c", 0.0), ("d/ä", 0.0)]
    assert (answer.model_version, answer.source) == (1, "model")
    assert pairs(similar(load(known_engine), "a", 1)) == [("b", 1.0)]
    assert pairs(similar(load(known_engine), "a", categories=["Drama"])) == [("c", 0.0)]
    assert pairs(similar(load(known_engine), "a", categories=["nothing"])) == []
    assert pairs(similar(load(known_engine), "hidden", 1)) == [("e", 1.0)]  # hidden itself, and yet asked about


def test_items_of_fewer_than_ten_ratings_come_after_all_other_similar_ones(known_engine: Engine) -> None:
    with writing(known_engine) as connection:
        connection.execute(schema.item_counts.delete())
        keys = dict(connection.execute(schema.items.select().with_only_columns(*list(schema.items.c)[1::-1])).all())
        rows = [{"item_key": keys[item], "n_ratings": 10, "rating_sum": 30.0} for item in ("c", "e")]
        connection.execute(schema.item_counts.insert(), rows)
    assert pairs(similar(load(known_engine), "a")) == [("e", 0.7071), ("c", 0.0), ("b", 1.0), ("d/ä", 0.0)]


def test_similar_to_what_is_not_there(known_engine: Engine) -> None:
    with pytest.raises(NotFoundError, match="there is no item 'zzz'"):
        load(known_engine).similar.search("zzz")
    with pytest.raises(NotFoundError, match="item 'new' has no ratings in model version 1"):
        load(known_engine).similar.search("new")


def test_popular_by_bias_count_and_mean(known_engine: Engine) -> None:
    recommender = load(known_engine)

    def popular(*asked: object, **also: object) -> ItemList:
        return to_item_list(recommender.catalogue, recommender.popular(*asked, **also))  # type: ignore[arg-type]

    by_bias = popular("bias", min_ratings=0)
    assert pairs(by_bias) == [("c", 0.5), ("a", 0.1), ("b", 0.0), ("d/ä", 0.0), ("e", -0.5)]
    assert (by_bias.model_version, by_bias.source) == (2, "popularity")
    assert pairs(popular("bias", 2, order="asc", min_ratings=0)) == [("e", -0.5), ("b", 0.0)]
    assert pairs(popular("bias", min_ratings=2)) == [("c", 0.5), ("a", 0.1)]
    assert pairs(popular("bias")) == []  # nothing has ten ratings
    assert pairs(popular("count", 3)) == [("a", 3.0), ("c", 2.0), ("b", 1.0)]
    assert pairs(popular("count", 3, order="asc")) == [("d/ä", 0.0), ("e", 0.0), ("new", 0.0)]
    assert pairs(popular("count", filters=Filters(categories=("Sci-Fi",)))) == [("a", 3.0), ("b", 1.0), ("new", 0.0)]
    assert pairs(popular("mean", min_ratings=1)) == [("a", 4.0), ("c", 3.0), ("b", 1.0)]
    assert pairs(popular("mean", min_ratings=0)) == [("a", 4.0), ("c", 3.0), ("b", 1.0)]


def test_predictions_follow_the_formula(known_engine: Engine) -> None:
    recommender = load(known_engine)
    (user,) = states(known_engine, recommender, ["s/1 ü"], "rating")
    predicted = predict(recommender, user, ["c", "new", "a", "hidden", "c"])
    z = np.array([3.5, 0.0, 3.1, 27.0, 3.5])  # (1, 1) · q + b_i; nothing is known of "new"
    expected = 0.5 + 5 / (1 + np.exp(-z))
    assert [row.prediction for row in predicted.items] == pytest.approx(expected.tolist(), abs=1e-6)
    assert [row.item_id for row in predicted.items] == ["c", "new", "a", "hidden", "c"]
    assert (predicted.model_version, predicted.source) == (2, "model")
    (nobody,) = states(known_engine, recommender, ["nobody"], "rating")
    usual = predict(recommender, nobody, ["c", "new"])
    assert [row.prediction for row in usual.items] == pytest.approx([0.5 + 5 / (1 + np.exp(-0.5)), 3.0], abs=1e-6)
    assert usual.source == "popularity"
    partly = predict(recommender, user, ["zzz", "a", "", "zzz"])
    assert ([row.item_id for row in partly.items], partly.unknown) == (["a"], ["zzz", ""])


def test_versions_by_objective_and_by_number(known_engine: Engine) -> None:
    recommender = load(known_engine)
    for name, number in ((None, 1), ("ranking", 1), ("rating", 2), ("1", 1), ("2", 2)):
        model = recommender.list_model(name)
        assert model is not None
        assert model.number == number
    with pytest.raises(NotFoundError, match="model version 3 is not live"):
        recommender.list_model("3")


def test_without_a_model_count_and_mean_still_answer(engine: Engine) -> None:
    add_known_rows(engine)
    recommender = load(engine)
    assert pairs(to_item_list(recommender.catalogue, recommender.popular("count", 1))) == [("a", 3.0)]
    assert recommender.popular("mean", min_ratings=1).model_version is None
    by_count = recommender.popular("bias")
    assert (by_count.score_kind, by_count.best.scores[:2].tolist()) == ("count", [3.0, 2.0])
    assert "recsys train --objective rating" in str(by_count.fallback)
    with pytest.raises(NoModelError, match="recsys train --objective ranking"):
        recommend(engine, "u1", model="ranking")
    answer = recommend(engine, "u1")
    assert (answer.model_version, answer.source) == (None, "popularity")
    assert pairs(answer)[:2] == [("c", 2.0), ("b", 1.0)]  # without a, which u1 rated
    with pytest.raises(NoModelError):
        recommender.similar.search("a")


def test_where_only_a_rating_version_is_live_lists_come_from_popularity(engine: Engine) -> None:
    """A rating version orders a catalogue worse than popularity does, so only a request by name gets its order."""
    add_known_rows(engine)
    number = add_known_model(engine, "rating", sign=-1.0)
    publish(engine, number, "test")
    answer = recommend(engine, "u1")
    assert (answer.model_version, answer.source) == (None, "popularity")
    assert pairs(answer) == [("c", 2.0), ("b", 1.0), ("d/ä", 0.0), ("e", 0.0), ("new", 0.0)]
    assert answer.fallback is not None
    assert "no ranking model is live: run `recsys train --objective ranking`" in answer.fallback
    by_name = recommend(engine, "u1", model="rating")
    assert (by_name.model_version, by_name.source, by_name.fallback) == (number, "model", None)
    assert pairs(by_name) == [("c", 0.5), ("d/ä", 0.0), ("e", -1.5), ("b", -2.0)]


def test_an_empty_database_has_no_lists(engine: Engine) -> None:
    with pytest.raises(NoModelError, match="recsys train --objective ranking"):
        recommend(engine, "u1")


def test_a_neural_version_lists_by_its_layers(engine: Engine) -> None:
    add_known_rows(engine)
    one = np.ones((1, 1), np.float32)
    # The first column is multiplied; of the second f(p + q) = −2 · relu(p + q).
    head = Head(1, ((-2 * one, np.zeros(1, np.float32)),))
    publish(engine, add_known_model(engine, "ranking", head=head), "test")
    # u1 = (1, 0): b 2 − 0, c 0 + .5 − 6, d 0 − 4, e 1 − .5 − 2
    assert pairs(recommend(engine, "u1")) == [("b", 2.0), ("e", -1.5), ("d/ä", -4.0), ("c", -5.5)]


def test_a_users_ratings_are_the_latest_first(known_engine: Engine) -> None:
    with reading(known_engine) as connection:
        given = read_user_ratings(connection, "u2")
        assert read_user_ratings(connection, "nobody").ratings == []
    assert [(row.item_id, row.rating) for row in given.ratings] == [("c", 4.0), ("a", 4.0)]
    assert given.ratings[0].rated_at is not None
    assert given.ratings[0].rated_at.isoformat() == "1970-01-01T00:00:03+00:00"
