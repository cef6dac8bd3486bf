"""A snapshot of a database, and lists from it, as the service computes them."""

from sqlalchemy import Engine

from recsys.database.engine import read_latest, reading
from recsys.results import ItemList
from recsys.serving import lists
from recsys.serving.encode import to_item_list
from recsys.serving.lists import DEFAULT_QUERY, ListQuery
from recsys.serving.snapshot import Recommender, load_recommender
from recsys.serving.users import UserState, read_states


def load(engine: Engine) -> Recommender:
    with reading(engine) as connection:
        return load_recommender(connection)


def states(engine: Engine, recommender: Recommender, user_ids: list[str], model: str | None = None) -> list[UserState]:
    with read_latest(engine) as connection:
        read = read_states(connection, user_ids, recommender.catalogue, recommender.list_model(model))
    return [read[user_id] for user_id in user_ids]


def recommend(engine: Engine, user_id: str, query: ListQuery = DEFAULT_QUERY, model: str | None = None) -> ItemList:
    recommender = load(engine)
    users = states(engine, recommender, [user_id], model)
    (ranked,) = lists.recommend(recommender, recommender.list_model(model), users, query)
    return to_item_list(recommender.catalogue, ranked)


def pairs(answer: ItemList) -> list[tuple[str, float]]:
    return [(item.item_id, round(item.score, 4)) for item in answer.items]
