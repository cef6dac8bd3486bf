"""From a trained model to `Factors`: plain arrays, which everything outside this package uses."""

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recsys.data.dataset import Ratings
from recsys.data.features import Features
from recsys.data.keyed import evenly, positions
from recsys.factors import Factors, FeatureEmbeddings, RatingConstants, Side
from recsys.scoring.fold_in import FoldIn
from recsys.training.build import Run, feature_matrix
from recsys.training.config import Config
from recsys.training.item import ranking_constants
from recsys.training.side import SideModule

RIDGE_USERS = 128
"""Users on whom the ridge of fold-in is measured."""


@torch.no_grad()
def export(run: Run, train: Ratings, config: Config) -> Factors:
    """Return the current state of a model as arrays of their own.

    Users and items that have features and no ratings get the factors and biases of their features.

    Args:
        train: the ratings that the run was built with.
    """
    model = run.model
    user_keys, users, user_bias = with_feature_rows(model.users, train.user_keys, train.user_features)
    item_keys, items, item_bias = with_feature_rows(model.items, train.item_keys, train.item_features)
    base = model.item_base()
    implicit = None
    if model.users.implicit_factors is not None:
        of_items = items.new_zeros(len(item_keys), model.users.implicit_factors.shape[1])
        idx = torch.from_numpy(positions(item_keys, train.item_keys)).to(items.device)
        of_items[idx] = model.users.implicit_factors
        implicit = as_array(model.user_vectors(of_items))
    return Factors(
        objective=config.objective,
        users=Side(
            keys=user_keys,
            factors=as_array(model.user_vectors(users)),
            bias=as_array(user_bias),
            features=feature_embeddings(model.users, train.user_features, model.user_vectors, torch.zeros_like(base)),
        ),
        items=Side(
            keys=item_keys,
            factors=as_array(model.item_vectors(items) + base),
            bias=as_array(item_bias),
            implicit=implicit,
            features=feature_embeddings(model.items, train.item_features, model.item_vectors, base),
        ),
        global_bias=model.global_bias.item(),
        rating_range=run.rating_range,
        head=model.head(),
        constants=RatingConstants(config.l2, config.damping) if config.objective == "rating" else None,
    )


def with_ranking_constants(factors: Factors, run: Run, train: Ratings, config: Config) -> Factors:
    """Return the factors with the constants that fold-in needs of a `ranking` training.

    The ridge is measured on up to 128 users, spread evenly over the training set.
    """
    constants = ranking_constants(train, config)
    fold_in = FoldIn(replace(factors, constants=constants))
    starts, order = train.by_user()
    item_idx = positions(factors.item_keys, train.item_keys)
    users = evenly(train.n_users, RIDGE_USERS)
    rows = (order[starts[user] : starts[user + 1]] for user in users)
    rated = [(item_idx[train.item_idx[of_user]], train.rating[of_user]) for of_user in rows]
    vectors = factors.user_factors[positions(factors.user_keys, train.user_keys[users])]
    own = run.model.users.own_factors.detach()
    own_vectors = as_array(own[torch.from_numpy(users).to(own.device)])
    constants = replace(constants, ridge=fold_in.measure_ridge(rated, vectors, own_vectors))
    highest = np.full(train.n_users, -math.inf)
    np.maximum.at(highest, train.user_idx, train.rating)
    user_factors = factors.user_factors.copy()
    for user in np.flatnonzero(highest < constants.dislike_below).tolist():
        # The loss has only positive weights: it pulls towards what these users dislike.
        of_user = order[starts[user] : starts[user + 1]]
        folded = fold_in.solve(item_idx[train.item_idx[of_user]], train.rating[of_user])
        user_factors[positions(factors.user_keys, train.user_keys[user : user + 1])] = folded.vector
    return replace(factors, users=replace(factors.users, factors=user_factors), constants=constants)


def with_feature_rows(
    side: SideModule, keys: NDArray[np.int64], features: Features | None
) -> tuple[NDArray[np.int64], Tensor, Tensor]:
    """Return keys, factors and biases of a side, the rows that have features and no ratings among them.

    Args:
        keys: (n,) keys of the rows of `side`.
        features: of these and other keys.

    Returns:
        (n',) ascending keys, (n', width) factors and (n',) biases.
    """
    factors, bias = side.factors(), side.biases()
    if side.feature_factors is None or side.feature_bias is None or features is None:
        return keys, factors, bias
    described = features.keys[np.diff(features.starts) > 0]
    new = np.setdiff1d(described, keys)
    X = feature_matrix(features, new, factors.device) if len(new) else None
    if X is None:
        return keys, factors, bias
    factors = torch.cat([factors, X.matmul(side.feature_factors)])
    bias = torch.cat([bias, X.matmul(side.feature_bias[:, None])[:, 0]])
    all_keys = np.concatenate([keys, new])
    order = np.argsort(all_keys, kind="stable")
    by_key = torch.from_numpy(order).to(factors.device)
    return all_keys[order], factors.index_select(0, by_key), bias.index_select(0, by_key)


def feature_embeddings(
    side: SideModule, features: Features | None, as_vectors: Callable[[Tensor], Tensor], base: Tensor
) -> FeatureEmbeddings | None:
    """Return what a side learned of its features; `None` if it was trained without.

    Args:
        as_vectors: maps factors (n, width) to vectors of `Factors`.
        base: the part that every vector of the side includes.
    """
    if side.feature_factors is None or side.feature_bias is None or features is None:
        return None
    vectors = as_array(as_vectors(side.feature_factors))
    return FeatureEmbeddings(features.names, as_array(base), vectors, as_array(side.feature_bias))


def as_array(tensor: Tensor) -> NDArray[np.float32]:
    """Return a copy of a float32 tensor as an array."""
    array: NDArray[np.float32] = tensor.detach().cpu().numpy().copy()
    return array
