"""The `item` architecture: what its settings do, and what is chosen on a validation part."""

from dataclasses import replace

import numpy as np
import pytest

from recsys.data.dataset import NO_TIME, Ratings
from recsys.data.keyed import hash_ids
from recsys.errors import InputError, TrainingError
from recsys.evaluation.baselines import popular
from recsys.evaluation.metrics import evaluate_ranking
from recsys.evaluation.splits import hold_out
from recsys.training import item, item_weights, memory
from recsys.training.config import Config, default_config
from recsys.training.fit import fit
from recsys.training.item import fit_item, ranking_constants, user_matrix
from recsys.training.item_weights import penalties, solve_weights, squares_of


def made(user: list[int], item_idx: list[int], rating: list[float], n_users: int, n_items: int) -> Ratings:
    return Ratings(
        user_idx=np.array(user, np.int32),
        item_idx=np.array(item_idx, np.int32),
        rating=np.array(rating, np.float32),
        rated_at=np.full(len(user), NO_TIME),
        user_keys=np.arange(n_users),
        item_keys=np.arange(n_items),
        user_hash=hash_ids([f"u{key}" for key in range(n_users)]),
        item_hash=hash_ids([f"i{key}" for key in range(n_items)]),
        scale=(1.0, 5.0),
    )


def chosen_at_random(*, tastes: int, seed: int = 0, n_users: int = 300, n_items: int = 40) -> Ratings:
    """Users of some tastes, each with a part of the catalogue; items are popular by k^−1."""
    random = np.random.default_rng(seed)
    rows = []
    for user in range(n_users):
        weight = (1 / np.arange(1, n_items + 1)) * np.where(np.arange(n_items) % tastes == user % tastes, 1, 0.05)
        rows += [(user, place) for place in random.choice(n_items, 6, replace=False, p=weight / weight.sum()).tolist()]
    users, items = zip(*rows, strict=True)
    return made(list(users), list(items), [5.0] * len(rows), n_users, n_items)


def config(**settings: object) -> Config:
    return default_config("ranking", 1000, 100, architecture="item", **settings)


def test_the_model_is_the_closed_form_of_weighted_users_and_popularity() -> None:
    ratings = made([0, 0, 0, 1, 1, 2], [0, 1, 2, 0, 1, 2], [5, 4, 1, 3, 5, 5], 3, 3)
    settings = config(item_l2=2.0, item_power=0.0, popularity=0.5, item_dropout=0.25)
    factors, loss, found = fit_item(ratings, settings)
    assert found == (2.0, 0.0, 0.5)
    assert np.isfinite(loss)
    constants = ranking_constants(ratings, settings)
    mean = 23 / 6
    x = np.maximum(1 + 2 * (np.array([5, 4, 1, 3, 5, 5]) - mean) / 4, 0.05)
    rows = user_matrix(ratings, constants, weighted=True).toarray()
    plain = user_matrix(ratings, constants, weighted=False).toarray()
    assert plain[ratings.user_idx, ratings.item_idx] == pytest.approx(x)
    # the Gram matrix has each user with (mean number of items / number)^½, as the ranking loss does
    assert rows[0] ** 2 == pytest.approx(plain[0] ** 2 * (2 / 3) ** 0.5)
    assert rows[2] ** 2 == pytest.approx(plain[2] ** 2 * (2 / 1) ** 0.5)
    X = user_matrix(ratings, constants, weighted=True)
    expected, _ = solve_weights(X, penalties(squares_of(X), 2.0, 0.25), 9)
    assert factors.weights is not None
    assert factors.weights.values.tolist() == expected.values.tolist()
    assert factors.item_bias == pytest.approx(0.5 * np.log([3, 3, 3]) / np.log(3))
    more = made([*ratings.user_idx, 2], [*ratings.item_idx, 0], [*ratings.rating, 5.0], 3, 3)
    plain, by_popularity = (fit_item(more, replace(settings, item_power=power))[0].weights for power in (0.0, 0.5))
    assert plain is not None
    assert by_popularity is not None
    scale = (np.array([3, 2, 2]) / (7 / 3)) ** -0.5
    assert by_popularity.values == pytest.approx(plain.values * scale[plain.item_idx], rel=1e-5)


def test_where_users_are_alike_popularity_is_strong_and_where_they_differ_weights_are() -> None:
    alike, differing = chosen_at_random(tastes=1), chosen_at_random(tastes=4)
    assert item.find_settings(alike, config()).popularity > item.find_settings(differing, config()).popularity
    held_out = hold_out(alike)
    train, test = alike.select(~held_out), alike.select(held_out)
    ours = evaluate_ranking(fit(train, config()).factors, train, test).ndcg
    assert ours > 0.97 * evaluate_ranking(popular(train, "ranking"), train, test).ndcg
    held_out = hold_out(differing)
    train, test = differing.select(~held_out), differing.select(held_out)
    ours = evaluate_ranking(fit(train, config()).factors, train, test).ndcg
    assert ours > 1.3 * evaluate_ranking(popular(train, "ranking"), train, test).ndcg


def test_given_settings_are_kept_and_the_others_found() -> None:
    ratings = chosen_at_random(tastes=4)
    assert item.find_settings(ratings, config(item_l2=7.0)).l2 == 7.0
    assert item.find_settings(ratings, config(popularity=0.02)).popularity == 0.02
    fitted = fit(ratings, config(item_l2=7.0))
    assert fitted.found["item_l2"] == 7.0
    assert fitted.history[0].epoch == 1


@pytest.mark.parametrize(("n_users", "n_items"), [(1, 1), (1, 3), (4, 1), (4, 2)])
def test_the_smallest_data_train(n_users: int, n_items: int) -> None:
    users, items = np.divmod(np.arange(n_users * n_items), n_items)
    ratings = made(users.tolist(), items.tolist(), [3.0] * len(users), n_users, n_items)
    factors = fit(ratings, config()).factors
    assert np.isfinite(factors.item_bias).all()
    assert factors.weights is not None
    assert np.isfinite(factors.weights.values).all()


def test_a_catalogue_of_many_parts_finds_its_settings_on_some_items(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(item, "_SEARCH_ITEMS", 20)
    monkeypatch.setattr(item, "_SEARCH_USERS", 50)
    found = item.find_settings(chosen_at_random(tastes=4), config())
    assert found.popularity in item.POPULARITIES


def test_a_catalogue_that_is_solved_in_parts_finds_its_settings_on_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    ratings = chosen_at_random(tastes=4)
    for module, name, value in (
        (item, "MAX_INVERSE", 20),
        (item_weights, "MAX_INVERSE", 20),
        (item_weights, "_PART", 10),
        (item_weights, "_HEAD", 4),
        (item_weights, "UNIVERSE", 40),
        (item, "_SEARCH_PARTS", 2),
    ):
        monkeypatch.setattr(module, name, value)
    held_out = hold_out(ratings)
    trials = item.trials_of(ratings, held_out, config())
    assert [len(trial.among.part) for trial in trials] == [10, 10]
    train, test = ratings.select(~held_out), ratings.select(held_out)
    settings = config(item_l2=50.0, item_power=0.25, popularity=0.1)
    factors, _, _ = fit_item(train, settings)
    for trial in trials:  # the universe is the whole catalogue: the scores are those of the model
        users = np.unique(test.user_idx[np.isin(test.item_idx, trial.among.part)])
        X = user_matrix(train, ranking_constants(train, settings), weighted=False)[users]
        assert factors.weights is not None
        dense = np.zeros((40, 40))
        dense[factors.weights.rows(), factors.weights.item_idx] = factors.weights.values
        expected = (X @ dense)[:, trial.among.part]
        seen = X.toarray()[:, trial.among.part] != 0
        found = trial.scores(50.0)
        assert np.isneginf(found[seen]).all()
        assert (found * trial.counts**-0.25)[~seen] == pytest.approx(expected[~seen], abs=1e-4)
        assert trial.wanted.any(1).all()
    assert item.find_settings(ratings, config()).popularity in item.POPULARITIES


def test_settings_out_of_range_and_the_rating_objective_are_refused() -> None:
    for settings, name in (
        ({"item_l2": 0.0}, "item_l2"),
        ({"popularity": -1.0}, "popularity"),
        ({"item_power": -1.0}, "item_power"),
        ({"item_dropout": 1.0}, "item_dropout"),
        ({"n_neighbours": -1}, "n_neighbours"),
        ({"hidden": (8,)}, "hidden"),
    ):
        with pytest.raises(InputError, match=name):
            config(**settings)
    with pytest.raises(InputError, match="--objective ranking"):
        default_config("rating", 1000, 100, architecture="item")


def test_memory_that_is_short_is_said_before_the_training(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "available_memory", lambda device: 1000)
    with pytest.raises(TrainingError, match=r"needs about .* n_neighbours"):
        fit(chosen_at_random(tastes=1), config())


def test_a_large_catalogue_keeps_fewer_weights_of_each_item() -> None:
    assert item.n_weights(10, config()) == 100
    assert item.n_weights(50_000, config()) == 5_000_000
    assert item.n_weights(1_000_000, config()) == item.MAX_WEIGHTS
    ratings = chosen_at_random(tastes=4)
    few = replace(config(item_l2=50.0, item_power=0.0, popularity=0.1), n_neighbours=3)
    weights = fit(ratings, few).factors.weights
    assert weights is not None
    assert len(weights.values) <= 10 * 40
