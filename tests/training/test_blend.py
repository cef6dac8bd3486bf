"""The `blend` architecture: α is 0 where weights between items say nothing, and large where vectors say nothing."""

from dataclasses import replace

import numpy as np
import pytest

from recsys.data.dataset import Ratings
from recsys.errors import InputError
from recsys.evaluation.splits import hold_out
from recsys.factors import Factors, ItemWeights, Side
from recsys.training.blend import DEFAULT_ALPHA, find_alpha
from recsys.training.config import default_config
from recsys.training.fit import fit
from recsys.training.item import fit_weights, ranking_constants
from tests.training.test_item import chosen_at_random, made

SETTINGS = {"n_factors": 4, "n_epochs": 2}


def split(ratings: Ratings) -> tuple[Ratings, Ratings]:
    held_out = hold_out(ratings)
    return ratings.select(~held_out).compact(), ratings.select(held_out).compact()


def random_vectors(train: Ratings, scale: float) -> Factors:
    random = np.random.default_rng(0)

    def side(keys: np.ndarray) -> Side:
        return Side(
            keys, (scale * random.normal(size=(len(keys), 4))).astype(np.float32), np.zeros(len(keys), np.float32)
        )

    constants = ranking_constants(train, default_config("ranking", 1000))
    return Factors("ranking", side(train.item_keys), side(train.user_keys), constants=constants)


def test_the_part_that_orders_well_decides() -> None:
    train, test = split(chosen_at_random(tastes=4))
    settings = default_config("ranking", 1000, architecture="item", item_l2=50.0)
    weights = fit_weights(train, settings, 50.0, 0.0)[0]
    noise = random_vectors(train, 3.0)
    assert find_alpha(noise, weights, train, test) >= 16
    dot = fit(train, default_config("ranking", 1000, n_factors=8, n_epochs=30, batch_size=256), device="cpu").factors
    meaningless = replace(weights, values=np.random.default_rng(0).normal(size=len(weights.values)).astype(np.float32))
    assert find_alpha(dot, meaningless, train, test) == 0


def test_given_settings_are_kept_and_the_parts_are_those_of_each_model() -> None:
    ratings = chosen_at_random(tastes=4)
    dot_config = default_config("ranking", 1000, **SETTINGS)  # type: ignore[arg-type]
    blend_config = default_config(
        "ranking", 1000, architecture="blend", item_l2=50.0, item_power=0.25, alpha=3.0, **SETTINGS
    )  # type: ignore[arg-type]
    dot, blend = fit(ratings, dot_config, device="cpu"), fit(ratings, blend_config, device="cpu")
    assert blend.found == {"item_l2": 50.0, "item_power": 0.25, "alpha": 3.0}
    assert np.array_equal(blend.factors.item_factors, dot.factors.item_factors)
    assert np.array_equal(blend.factors.user_factors, dot.factors.user_factors)
    assert blend.factors.constants == dot.factors.constants
    assert blend.factors.weights is not None
    weights = fit_weights(ratings, blend_config, 50.0, 0.25)[0]
    assert np.array_equal(blend.factors.weights.values, weights.values * np.float32(3))
    none = fit(ratings, replace(blend_config, alpha=0.0), device="cpu")
    assert none.factors.weights is None


def test_without_ratings_to_hold_out_alpha_has_a_default() -> None:
    ratings = made([0, 1, 2], [0, 1, 2], [5, 4, 5], 3, 3)
    config = default_config("ranking", 3, architecture="blend", **SETTINGS)  # type: ignore[arg-type]
    assert fit(ratings, config, device="cpu").found["alpha"] == DEFAULT_ALPHA
    empty = ItemWeights.from_entries(np.empty(0, int), np.empty(0, int), np.empty(0, np.float32), 3)
    nobody = replace(ratings, user_keys=np.array([7, 8, 9]))
    assert find_alpha(random_vectors(ratings, 1.0), empty, ratings, nobody) == DEFAULT_ALPHA


def test_alpha_must_not_be_negative() -> None:
    with pytest.raises(InputError, match="alpha"):
        default_config("ranking", 1000, architecture="blend", alpha=-1.0)
    with pytest.raises(InputError, match="--objective ranking"):
        default_config("rating", 1000, architecture="blend")
