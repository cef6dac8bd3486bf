"""Small rating sets whose answers are known."""

import numpy as np

from recsys.data.dataset import NO_TIME, Ratings, ratings_from_keys
from recsys.data.keyed import hash_ids


def ratings(rows: list[tuple[int, int, float]]) -> Ratings:
    """`Ratings` of (user_key, item_key, rating) rows."""
    user_key, item_key, rating = (np.array(column) for column in zip(*rows, strict=True)) if rows else ([], [], [])
    return columns(np.array(user_key, np.int64), np.array(item_key, np.int64), np.array(rating, np.float64))


def columns(user_key: np.ndarray, item_key: np.ndarray, rating: np.ndarray) -> Ratings:
    return ratings_from_keys(
        user_key,
        item_key,
        rating,
        np.full(len(rating), NO_TIME),
        hash_ids([f"u{key}" for key in range(int(user_key.max(initial=-1)) + 1)]),
        hash_ids([f"i{key}" for key in range(int(item_key.max(initial=-1)) + 1)]),
    )


def checkerboard(n: int = 60, n_rated: int = 30, seed: int = 0) -> tuple[Ratings, Ratings]:
    """Users love (5) the items of their own parity and loathe (1) the others: (train, test).

    Every user rates `n_rated` of the n items; a tenth of the ratings are the test. No bias can tell anything:
    only user · item can.
    """
    random = np.random.default_rng(seed)
    user = np.repeat(np.arange(n), n_rated)
    item = np.concatenate([random.permutation(n)[:n_rated] for _ in range(n)])
    everything = columns(user, item, np.where(user % 2 == item % 2, 5.0, 1.0))
    return split(everything, random)


def blocks(n_users: int = 200, n_items: int = 100, n_blocks: int = 5, seed: int = 0) -> tuple[Ratings, Ratings]:
    """Users have only items of their own block, a random half of it each: (train, test)."""
    random = np.random.default_rng(seed)
    user, item = np.nonzero(
        (np.arange(n_users)[:, None] % n_blocks == np.arange(n_items) % n_blocks)
        & (random.random((n_users, n_items)) < 0.6)
    )
    return split(columns(user, item, random.integers(3, 6, len(user)).astype(float)), random)


def split(data: Ratings, random: np.random.Generator) -> tuple[Ratings, Ratings]:
    held = random.random(data.n_ratings) < 0.1
    return data.select(~held), data.select(held)
