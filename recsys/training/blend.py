"""The `blend` architecture: the dot product and weights between items, added.

z_ui = p_u · q_i + b_u + b_i + b + α · Σ_{j ∈ N(u)} x_uj B_ji
"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from scipy import sparse

from recsys.data.dataset import Ratings
from recsys.data.keyed import evenly, positions
from recsys.evaluation.splits import hold_out
from recsys.factors import Factors, ItemWeights
from recsys.scoring.profile import profiles_of
from recsys.scoring.score import score_rows
from recsys.training.config import Config
from recsys.training.item import TURN, find_settings, fit_weights, mean_ndcg, relevant_ratings, wanted_items

ALPHAS = (0.0, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0)
"""α that are tried. 0 leaves the dot product alone; with the largest the vectors only order what the weights do not."""
DEFAULT_ALPHA = 8.0
"""Where there is nothing to choose it by."""
_USERS, _BLOCK_CELLS = 1500, 1 << 23
"""Most users that α is chosen by, and scores at once."""


def find_blend(train: Ratings, config: Config, fit_dot: Callable[[Ratings, Config], Factors]) -> dict[str, float]:
    """Return λ, the power of popularity and α: those of the config, or chosen on a validation part of the training set.

    Args:
        fit_dot: trains a dot product, for α without the validation part.
    """
    settings = find_settings(train, config if config.popularity is not None else replace(config, popularity=0.001))
    found = {"item_l2": settings.l2, "item_power": settings.power}
    if config.alpha is not None:
        return {**found, "alpha": config.alpha}
    held_out = hold_out(train, turn=TURN)
    if not held_out.any() or held_out.all():
        return {**found, "alpha": DEFAULT_ALPHA}
    rest, test = train.select(~held_out).compact(), train.select(held_out)
    dot = fit_dot(rest, replace(config, architecture="dot"))
    weights = fit_weights(rest, config, settings.l2, settings.power)[0]
    return {**found, "alpha": find_alpha(dot, over_items_of(dot, weights, rest), rest, test)}


def blend_with(dot: Factors, train: Ratings, config: Config, found: dict[str, float]) -> Factors:
    """Return a dot product with weights between items added.

    Args:
        found: as `find_blend` returns it.
    """
    if found["alpha"] == 0:
        return dot
    weights = over_items_of(dot, fit_weights(train, config, found["item_l2"], found["item_power"])[0], train)
    return replace(dot, weights=weights.times(found["alpha"]))


def over_items_of(dot: Factors, weights: ItemWeights, train: Ratings) -> ItemWeights:
    """Return weights between the items of a training set over those of a model, which may have more of them."""
    return weights.moved(positions(dot.item_keys, train.item_keys), dot.n_items)


def find_alpha(dot: Factors, weights: ItemWeights, train: Ratings, test: Ratings) -> float:
    """Return the α of `ALPHAS` with the highest NDCG@10 on a validation part, the smallest of equal ones.

    Args:
        dot: trained on `train`.
        weights: over its items.
        test: the ratings held out.
    """
    test = relevant_ratings(test, train.scale)
    users = np.intersect1d(test.user_keys[np.unique(test.user_idx)], dot.user_keys)
    if not len(users):
        return DEFAULT_ALPHA
    users = users[evenly(len(users), _USERS)]
    profiles = profiles_of(replace(dot, weights=weights), train, users, dot.item_keys) or []
    B = sparse.csr_array((weights.values, weights.item_idx, weights.starts), shape=(dot.n_items, dot.n_items))
    of_test, rows = positions(test.user_keys, users), positions(dot.user_keys, users)
    items = positions(dot.item_keys, test.item_keys)
    total = dict.fromkeys(ALPHAS, 0.0)
    size = max(1, _BLOCK_CELLS // dot.n_items)
    for start in range(0, len(users), size):
        block = slice(start, start + size)
        mine = profiles[block]
        x = sparse.csr_array(
            (
                np.concatenate([profile.x for profile in mine]),
                np.concatenate([profile.item_idx for profile in mine]),
                np.cumsum([0, *(len(profile.item_idx) for profile in mine)]),
            ),
            shape=(len(mine), dot.n_items),
        )
        plain = score_rows(dot.user_factors[rows[block]], dot.item_factors, dot.item_bias, dot.head)
        for row, profile in enumerate(mine):
            plain[row, profile.item_idx] = -np.inf
        added = (x @ B).toarray()  # (n, n_items)
        wanted, n_wanted = wanted_items(test, of_test[block], items, dot.n_items)
        for alpha in ALPHAS:
            total[alpha] += mean_ndcg(plain + np.float32(alpha) * added, wanted, n_wanted) * len(mine)
    return max(total, key=lambda alpha: (total[alpha], -alpha))
