"""A snapshot of a database, and lists from it, as the service makes them."""

from sqlalchemy import Engine

from recsys.database.engine import glancing, reading
from recsys.results import ItemList
from recsys.serving.recommender import DEFAULT_WISH, Recommender, Wish, load_recommender
from recsys.serving.users import UserState, read_states


def load(engine: Engine) -> Recommender:
    with reading(engine) as connection:
        return load_recommender(connection)


def states(engine: Engine, recommender: Recommender, user_ids: list[str], asked: str | None = None) -> list[UserState]:
    with glancing(engine) as connection:
        read = read_states(connection, user_ids, recommender.catalogue, recommender.model_for_lists(asked))
    return [read[user_id] for user_id in user_ids]


def recommend(engine: Engine, user_id: str, wish: Wish = DEFAULT_WISH, asked: str | None = None) -> ItemList:
    recommender = load(engine)
    users = states(engine, recommender, [user_id], asked)
    (listed,) = recommender.recommend(recommender.model_for_lists(asked), users, wish)
    return recommender.as_list(listed)


def pairs(answer: ItemList) -> list[tuple[str, float]]:
    return [(item.item_id, round(item.score, 4)) for item in answer.items]
