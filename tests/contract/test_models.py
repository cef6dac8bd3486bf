"""The contract of every model: what each architecture under each objective must do. A new one is a new line here."""

from typing import NamedTuple

import numpy as np
import pandas as pd
import pytest

from recsys import Learner, NotFoundError, RatingData, load_ratings
from recsys.results import Architecture, Objective
from recsys.scoring.score import predict_ratings, score_users

N_USERS, N_ITEMS = 40, 20


class Kind(NamedTuple):
    """One architecture under one objective, with settings that train it well on the checkerboard."""

    architecture: Architecture
    objective: Objective
    settings: dict[str, object]


KINDS = [
    Kind("dot", "ranking", {"n_factors": 8, "n_epochs": 40, "batch_size": 64, "learning_rate": 0.05}),
    Kind("dot", "rating", {"n_factors": 8, "n_epochs": 40, "batch_size": 64, "learning_rate": 0.03}),
    Kind("neural", "ranking", {"n_epochs": 60, "batch_size": 64, "learning_rate": 0.05, "dropout": 0.0}),
    Kind("item", "ranking", {}),
    Kind("blend", "ranking", {"n_factors": 8, "n_epochs": 40, "batch_size": 64, "learning_rate": 0.05}),
    Kind("neural", "rating", {"n_epochs": 60, "batch_size": 64, "learning_rate": 0.03, "dropout": 0.0}),
]


def checkerboard(objective: Objective) -> pd.DataFrame:
    """Users and items are even or odd; equal parity is rated 5, the other 1. A third of the pairs is missing.

    Under `ranking` a rating is a choice, whatever its value, so only the pairs of equal parity are there.
    """
    pairs = [(u, i) for u in range(N_USERS) for i in range(N_ITEMS) if (u // 2 + i // 2 * 5) % 3]
    rating = [5.0 if u % 2 == i % 2 else 1.0 for u, i in pairs]
    frame = pd.DataFrame({"user": [f"u{u}" for u, _ in pairs], "item": [f"i{i}" for _, i in pairs], "rating": rating})
    return frame if objective == "rating" else frame[frame.rating == 5].reset_index(drop=True)


@pytest.fixture(scope="module", params=KINDS, ids=lambda kind: f"{kind.architecture} {kind.objective}")
def kind(request: pytest.FixtureRequest) -> Kind:
    chosen: Kind = request.param
    return chosen


@pytest.fixture(scope="module")
def data(kind: Kind) -> RatingData:
    return load_ratings(checkerboard(kind.objective))


def fit(data: RatingData, kind: Kind, seed: int = 0) -> Learner:
    return Learner.fit(
        data, objective=kind.objective, architecture=kind.architecture, device="cpu", seed=seed, **kind.settings
    )


@pytest.fixture(scope="module")
def learner(data: RatingData, kind: Kind) -> Learner:
    return fit(data, kind)


def parity(external_id: str) -> int:
    return int(external_id[1:]) % 2


def test_known_answer(learner: Learner, kind: Kind) -> None:
    """Of the pairs that were not rated, those of equal parity come first, and are predicted higher."""
    for user in ("u0", "u7", "u38"):
        listed = learner.recommend(user, N_ITEMS).item_id.tolist()
        same = [parity(item) == parity(user) for item in listed]
        assert same == sorted(same, reverse=True), (user, listed)
        if kind.objective == "rating":
            predicted = learner.predict(user, listed).prediction.to_numpy()
            assert predicted[np.array(same)].min() > 4
            assert predicted[~np.array(same)].max() < 2


def test_no_seen_item_is_listed(learner: Learner, kind: Kind) -> None:
    frame = checkerboard(kind.objective)
    for user, rated in frame.groupby("user").item:
        assert not set(rated) & set(learner.recommend(user, N_ITEMS).item_id)


def test_an_unknown_user_gets_popularity(learner: Learner) -> None:
    assert learner.recommend("stranger", 5).equals(learner.popular("count", 5))
    assert learner.explain("stranger").source == "popularity"


def test_an_unknown_item_is_refused_or_left_out(learner: Learner) -> None:
    with pytest.raises(NotFoundError):
        learner.similar("no such item")
    known = learner.recommend(ratings={"i0": 5.0, "i1": 1.0})
    assert learner.recommend(ratings={"i0": 5.0, "i1": 1.0, "no such item": 5.0}).equals(known)
    factors = learner.factors
    if factors.objective == "rating":
        unknown = predict_ratings(factors, np.array([0, -1]), np.array([-1, -1]))
        assert np.isfinite(unknown).all()


def test_saved_and_loaded_is_equal(learner: Learner, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("saved")
    learner.save(folder)
    loaded = Learner.load(folder)
    everyone = np.arange(learner.factors.n_users)
    assert np.array_equal(score_users(loaded.factors, everyone), score_users(learner.factors, everyone))
    assert loaded.recommend("u3").equals(learner.recommend("u3"))


def test_the_same_seed_gives_the_same_bits(data: RatingData, kind: Kind) -> None:
    short = kind._replace(settings={**kind.settings, "n_epochs": 3})
    once, again, other = fit(data, short), fit(data, short), fit(data, short, seed=1)
    for name in ("user_factors", "item_factors", "user_bias", "item_bias"):
        assert np.array_equal(getattr(again.factors, name), getattr(once.factors, name))
    weights, equal, others = (each.factors.weights for each in (once, again, other))
    if weights is not None:
        assert equal is not None
        assert np.array_equal(equal.values, weights.values)
    if once.factors.n_factors:
        assert not np.array_equal(other.factors.item_factors, once.factors.item_factors)
    elif weights is not None and others is not None:  # in closed form: there is nothing to draw
        assert np.array_equal(others.values, weights.values)


def test_a_batch_equals_single_lists(learner: Learner) -> None:
    users = [f"u{u}" for u in range(N_USERS)]
    batch = learner.recommend(users, 7)
    for user in users:
        mine = batch[batch.user_id == user][["item_id", "title", "score"]].reset_index(drop=True)
        assert mine.equals(learner.recommend(user, 7))


def test_fold_in_is_near_the_trained_user(learner: Learner, kind: Kind) -> None:
    """A visitor with a user's ratings gets the user's items of equal parity first, too."""
    frame = checkerboard(kind.objective)
    for user in ("u0", "u7", "u38"):
        mine = frame[frame.user == user]
        listed = learner.recommend(ratings=dict(zip(mine.item, mine.rating, strict=True)), n=N_ITEMS).item_id.tolist()
        trained = learner.recommend(user, N_ITEMS).item_id.tolist()
        n_same = sum(parity(item) == parity(user) for item in trained)
        assert {parity(item) for item in listed[:n_same]} == {parity(user)}
        assert set(listed) == set(trained)


def test_an_explanation_adds_up(learner: Learner) -> None:
    for user in ("u1", "u20"):
        for item in learner.explain(user, 5).items:
            parts = item.explanation
            assert parts is not None
            total = parts.global_bias + parts.user_bias + parts.item_bias + parts.dot_product + parts.layers
            assert total + parts.item_weights == pytest.approx(item.score, abs=1e-5)
            if not learner.factors.n_factors:
                assert parts.all_contributions == pytest.approx(parts.dot_product + parts.item_weights, abs=1e-5)
