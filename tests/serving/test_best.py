"""Lists from the best items that are kept with a user's state are those that a search finds."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from recsys.database.items import StoredItem
from recsys.factors import Factors, Head, Side
from recsys.serving.catalogue import Catalogue
from recsys.serving.filters import Filters
from recsys.serving.lists import N_KEPT, ListQuery, plan_list
from recsys.serving.live_model import Embedding, LiveModel
from recsys.serving.searches import RankedItems, Search, run_searches
from recsys.serving.snapshot import Recommender
from recsys.serving.users import UserState


def made(n_items: int, seed: int, head: Head | None = None) -> tuple[Recommender, LiveModel, UserState]:
    draw = np.random.default_rng(seed)
    keys = np.arange(1, n_items + 1)
    vectors = np.round(draw.standard_normal((n_items, 4)), 1).astype(np.float32)  # some scores are equal
    factors = Factors("ranking", Side(keys, vectors, np.zeros(n_items, np.float32)), Side.empty(4), 0.25, head=head)
    names = [("a",), ("b",), ("a", "c")]
    items = [StoredItem(key, f"i{key}", None, names[key % 3], {}, key % 13 == 0) for key in keys.tolist()]
    catalogue = Catalogue.from_items(items, (keys, draw.integers(0, 30, n_items), np.zeros(n_items)))
    version: Any = SimpleNamespace(number=1, objective="ranking")
    model = LiveModel.from_version(version, factors, catalogue)
    vector = np.round(draw.standard_normal(4), 1).astype(np.float32)
    seen = draw.choice(n_items, n_items // 10, replace=False).astype(np.int32)
    return (
        Recommender(catalogue, {"ranking": model}),
        model,
        UserState(Embedding(vector, 0.5), "model", seen, user_key=1),
    )


def content(plan: Search | RankedItems) -> tuple[object, ...]:
    ranked = answered(plan)
    _, _, best, *others = ranked
    return (*others, ranked.model_version, ranked.source, best.item_idx.tolist(), best.scores.tolist())


def answered(plan: Search | RankedItems) -> RankedItems:
    return plan if isinstance(plan, RankedItems) else plan.finish(run_searches([plan])[0])


@pytest.mark.parametrize("n_items", [30, 400])
@pytest.mark.parametrize("seed", range(3))
def test_a_list_with_other_parameters_is_the_one_that_is_searched(n_items: int, seed: int) -> None:
    recommender, model, user = made(n_items, seed)
    fresh = replace(user)
    first = answered(plan_list(recommender, model, user, ListQuery(11), keep=True))
    assert content(first) == content(plan_list(recommender, model, fresh, ListQuery(11)))
    assert user.best is not None
    assert fresh.best is None
    shown = first.best.item_idx
    n_known = 0
    for query in (
        ListQuery(5),
        ListQuery(25),
        ListQuery(n_items),
        ListQuery(10, exclude=[int(shown[0]), 7]),
        ListQuery(10, filters=Filters(categories=("c",))),
        ListQuery(30, filters=Filters(categories=("c",), min_ratings=20)),
        ListQuery(10, after=int(shown[9]), exclude=shown[:10]),
        ListQuery(10, after=int(shown[4]), exclude=shown[:5], filters=Filters(not_categories=("b",))),
        ListQuery(10, after=int(user.seen[0])),
        ListQuery(10, candidates=np.arange(0, n_items, 3)),
        ListQuery(10, exclude_seen=False),
        ListQuery(10, diversity=0.0),
    ):
        plan = plan_list(recommender, model, user, query)
        n_known += isinstance(plan, RankedItems)
        assert content(plan) == content(plan_list(recommender, model, fresh, query))
    assert n_known >= 7


def test_what_the_best_items_cannot_tell_is_searched() -> None:
    recommender, model, user = made(400, 0)
    answered(plan_list(recommender, model, user, ListQuery(11), keep=True))
    for query in (ListQuery(N_KEPT + 1), ListQuery(5, exclude_seen=False), ListQuery(5, diversity=0.5)):
        assert isinstance(plan_list(recommender, model, user, query), Search)
    other = Recommender(recommender.catalogue, recommender.models)  # a newer snapshot
    assert isinstance(plan_list(other, model, user, ListQuery(5)), Search)


def test_only_plain_lists_keep_the_best_items() -> None:
    recommender, model, user = made(400, 0)
    for query in (
        ListQuery(5, exclude_seen=False),
        ListQuery(5, exclude=[3]),
        ListQuery(5, filters=Filters(categories=("a",))),
        ListQuery(5, diversity=0.5),
        ListQuery(N_KEPT + 1),
    ):
        answered(plan_list(recommender, model, user, query, keep=True))
        assert user.best is None
    head = Head(2, ((np.ones((1, 2), np.float32), np.zeros(1, np.float32)),))
    recommender, model, user = made(400, 0, head)
    answered(plan_list(recommender, model, user, ListQuery(5), keep=True))
    assert user.best is None
