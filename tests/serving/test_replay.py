"""A new version is tried on recorded requests before it is served."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from sqlalchemy import Engine

from recsys.database.engine import reading
from recsys.database.models import load_factors, publish, roll_back, store, version
from recsys.factors import Factors, Side
from recsys.serving import replay as replaying
from recsys.serving.refresh import LiveRecommender
from tests.conftest import add_known_model


@pytest.fixture
def live(known_engine: Engine) -> LiveRecommender:
    live = LiveRecommender(known_engine, 60)
    live.refresh()
    for user_id in ("u1", "u2", "nobody"):
        live.requests.add(user_id, 3)
    return live


def published(engine: Engine, change: Callable[[Factors], Factors]) -> int:
    """Publish a changed copy of the live ranking version."""
    with reading(engine) as connection:
        factors, training = load_factors(connection, 1), version(connection, 1).training
    number = store(engine, change(factors), training)
    publish(engine, number, "test")
    return number


def with_items(factors: Factors, rows: slice) -> Factors:
    items = factors.items
    return replace(factors, items=Side(items.keys[rows], items.factors[rows], items.bias[rows]))


def test_a_good_version_is_served(known_engine: Engine, live: LiveRecommender) -> None:
    number = published(known_engine, lambda factors: factors)
    live.refresh()
    assert live.current.models["ranking"].number == number
    assert live.problem is None


def test_a_version_that_can_list_too_few_items_is_refused_until_another_is_live(
    known_engine: Engine, live: LiveRecommender
) -> None:
    number = published(known_engine, lambda factors: with_items(factors, slice(0, 2)))
    live.refresh()
    assert live.current.models["ranking"].number == 1
    assert live.current.models["rating"].number == 2
    expected = f"model version {number} was refused: it can list 2 items, less than half as many as version 1"
    assert expected in (live.problem or "")
    live.refresh()  # it is not tried again
    assert live.current.models["ranking"].number == 1
    roll_back(known_engine, "ranking", "refused")
    live.refresh()
    assert live.problem is None


@pytest.mark.parametrize(
    ("broken", "problem"),
    [
        (lambda best: best._replace(scores=best.scores * np.nan), "a score is not finite"),
        (lambda best: best._replace(item_idx=best.item_idx[:1], scores=best.scores[:1]), "a list has 1 items, and 3"),
        (lambda best: best._replace(item_idx=best.item_idx * 0), "a list has an item that the user has rated"),
    ],
)
def test_what_a_bad_list_is(
    known_engine: Engine,
    live: LiveRecommender,
    monkeypatch: pytest.MonkeyPatch,
    broken: Callable[[Any], Any],
    problem: str,
) -> None:
    number = published(known_engine, lambda factors: factors)
    recommend = replaying.recommend

    def bad(recommender: Any, model: Any, *rest: Any) -> Any:
        lists = recommend(recommender, model, *rest)
        return [each._replace(best=broken(each.best)) for each in lists] if model.number == number else lists

    monkeypatch.setattr(replaying, "recommend", bad)
    live.refresh()
    assert live.current.models["ranking"].number == 1
    assert f"model version {number} was refused: {problem}" in (live.problem or "")


def test_a_version_whose_lists_take_much_longer_is_refused(
    known_engine: Engine, live: LiveRecommender, monkeypatch: pytest.MonkeyPatch
) -> None:
    number = published(known_engine, lambda factors: factors)
    monkeypatch.setattr(replaying, "median_seconds", lambda _, model, users: 0.2 if model.number == number else 0.001)
    live.refresh()
    assert "a list takes 200 ms, and took 1 ms before" in (live.problem or "")


def test_at_the_start_some_users_stand_for_requests(known_engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    second = add_known_model(known_engine, "ranking")
    publish(known_engine, second, "test")
    monkeypatch.setattr(replaying, "problem_of", lambda *arguments: "bad" if arguments[-1].number == second else None)
    live = LiveRecommender(known_engine, 60)
    live.refresh()
    assert live.current.models["ranking"].number == 1
    assert "was refused: bad" in (live.problem or "")
