"""A small case with the irregularities of real ones."""

from dataclasses import replace

import numpy as np

from benchmarks.case import Case
from benchmarks.ours import ratings
from recsys.data.dataset import Ratings


def case(n_users: int = 40, n_items: int = 60, seed: int = 0) -> Case:
    """Random ratings; the last user and the last item are unknown in training, the last but one user gets no list."""
    random = np.random.default_rng(seed)
    user, item = np.nonzero(random.random((n_users, n_items)) < 0.4)
    rating = random.integers(1, 6, len(user)).astype(np.float32)
    rating[user == n_users - 2] = 3
    rating[(user == n_users - 1) | (item == n_items - 1)] = 5
    held_out = (random.random(len(user)) < 0.25) | (user == n_users - 1) | (item == n_items - 1)
    user, item = user.astype(np.int32), item.astype(np.int32)
    return Case(
        user=user[~held_out],
        item=item[~held_out],
        rating=rating[~held_out],
        test_user=user[held_out],
        test_item=item[held_out],
        test_rating=rating[held_out],
        n_users=n_users,
        n_items=n_items,
    )


def parts(made: Case) -> tuple[Ratings, Ratings]:
    """Return a case as `Ratings`: (train, test)."""
    train = ratings(made)
    test = replace(
        train,
        user_idx=made.test_user,
        item_idx=made.test_item,
        rating=made.test_rating,
        rated_at=np.zeros(len(made.test_rating), np.int64),
    )
    return train, test
