"""Lists worked out by hand: see the known factors in conftest."""

import pytest
from sqlalchemy import Engine

from recsys.data.database import reading
from recsys.errors import InputError, NoModelError, NotFoundError
from recsys.registry import publish
from recsys.results import ItemList
from recsys.serving.recommender import Recommender, load_recommender
from recsys.serving.users import read_user, read_user_ratings
from tests.conftest import add_known_model, add_known_rows


def load(engine: Engine) -> Recommender:
    with reading(engine) as connection:
        return load_recommender(connection)


def recommend(engine: Engine, user_id: str, n: int = 10, *, exclude_seen: bool = True) -> ItemList:
    recommender = load(engine)
    model = recommender.list_model
    with reading(engine) as connection:
        user = read_user(connection, user_id, model.number if model else None)
    return recommender.recommend(user, n, exclude_seen=exclude_seen)


def listed(answer: ItemList) -> list[tuple[str, float]]:
    return [(item.item_id, round(item.score, 4)) for item in answer.items]


def test_a_known_user_gets_the_highest_scores_without_what_they_rated(known_engine: Engine) -> None:
    answer = recommend(known_engine, "u1")
    # scores of u1 = (1, 0): a 3.1, b 2, c .5, d 0, e .5; a is rated, "hidden" is hidden; c before e on the tie
    assert listed(answer) == [("b", 2.0), ("c", 0.5), ("e", 0.5), ("d/ä", 0.0)]
    assert (answer.model_version, answer.source) == (1, "model")
    assert answer.items[0].title == "Brazil (1985)"
    assert listed(recommend(known_engine, "u1", 1)) == [("b", 2.0)]
    assert listed(recommend(known_engine, "u1", 2, exclude_seen=False)) == [("a", 3.1), ("b", 2.0)]


@pytest.mark.parametrize("user_id", ["u3", "nobody", "", "nul\0"])
def test_a_user_the_model_does_not_know_gets_popularity_without_what_they_rated(
    known_engine: Engine, user_id: str
) -> None:
    answer = recommend(known_engine, user_id)
    assert (answer.model_version, answer.source) == (1, "popularity")
    counts = [("b", 1.0), ("d/ä", 0.0), ("e", 0.0), ("new", 0.0)]
    assert listed(answer) == (counts if user_id == "u3" else [("a", 3.0), ("c", 2.0), *counts])


def test_similar_items_point_the_same_way(known_engine: Engine) -> None:
    answer = load(known_engine).similar("a")
    assert listed(answer) == [("b", 1.0), ("e", 0.7071), ("c", 0.0), ("d/ä", 0.0)]
    assert (answer.model_version, answer.source) == (1, "model")
    assert listed(load(known_engine).similar("a", 1)) == [("b", 1.0)]


def test_similar_to_what_is_not_there(known_engine: Engine) -> None:
    with pytest.raises(NotFoundError, match="there is no item 'zzz'"):
        load(known_engine).similar("zzz")
    with pytest.raises(NotFoundError, match="item 'new' has no ratings in model version 1"):
        load(known_engine).similar("new")


def test_popular_by_bias_count_and_mean(known_engine: Engine) -> None:
    recommender = load(known_engine)
    by_bias = recommender.popular("bias", min_ratings=0)
    assert listed(by_bias) == [("c", 0.5), ("a", 0.1), ("b", 0.0), ("d/ä", 0.0), ("e", -0.5)]
    assert (by_bias.model_version, by_bias.source) == (2, "popularity")
    assert listed(recommender.popular("bias", 2, order="asc", min_ratings=0)) == [("e", -0.5), ("b", 0.0)]
    assert listed(recommender.popular("bias", min_ratings=2)) == [("c", 0.5), ("a", 0.1)]
    assert listed(recommender.popular("bias")) == []  # nothing has ten ratings
    assert listed(recommender.popular("count", 3)) == [("a", 3.0), ("c", 2.0), ("b", 1.0)]
    assert listed(recommender.popular("mean", min_ratings=1)) == [("a", 4.0), ("c", 3.0), ("b", 1.0)]
    assert listed(recommender.popular("mean", min_ratings=0)) == [("a", 4.0), ("c", 3.0), ("b", 1.0)]


def test_without_a_model_count_and_mean_still_answer(engine: Engine) -> None:
    add_known_rows(engine)
    recommender = load(engine)
    assert listed(recommender.popular("count", 1)) == [("a", 3.0)]
    assert recommender.popular("mean", min_ratings=1).model_version is None
    with pytest.raises(NoModelError, match="recsys train --objective rating"):
        recommender.popular("bias")
    with pytest.raises(NoModelError, match="recsys train --objective ranking"):
        recommend(engine, "u1")
    with pytest.raises(NoModelError):
        recommender.similar("a")


def test_where_only_a_rating_version_is_live_lists_come_from_it(engine: Engine) -> None:
    add_known_rows(engine)
    number = add_known_model(engine, "rating", sign=-1.0)
    publish(engine, number, "test")
    answer = recommend(engine, "u1")
    assert (answer.model_version, answer.source) == (number, "model")
    assert listed(answer) == [("c", 0.5), ("d/ä", 0.0), ("e", -1.5), ("b", -2.0)]


def test_search_by_title(known_engine: Engine) -> None:
    catalogue = load(known_engine).catalogue

    def found(text: str, limit: int = 10, after: str | None = None) -> tuple[list[str], str | None]:
        page = catalogue.search(text, limit, after)
        return [item.item_id for item in page.items], page.next_cursor

    assert found("delicat") == (["d/ä"], None)
    assert found("BRAZIL 1985") == (["b"], None)
    assert found("hidden") == ([], None)
    everything = ["e", "a", "b", "c", "d/ä", "new"]
    assert found("") == (everything, None)
    pages, cursor = [], None
    while True:
        page, cursor = found("", 2, cursor)
        pages.append(page)
        if cursor is None:
            break
    assert pages == [everything[:2], everything[2:4], everything[4:]]
    with pytest.raises(InputError, match="cursor 'zzz'"):
        found("", 2, "zzz")


def test_a_users_ratings_are_the_latest_first(known_engine: Engine) -> None:
    with reading(known_engine) as connection:
        given = read_user_ratings(connection, "u2")
        assert read_user_ratings(connection, "nobody").ratings == []
    assert [(row.item_id, row.rating) for row in given.ratings] == [("c", 4.0), ("a", 4.0)]
    assert given.ratings[0].rated_at is not None
    assert given.ratings[0].rated_at.isoformat() == "1970-01-01T00:00:03+00:00"
