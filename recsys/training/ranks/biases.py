"""The bias-only model over ranks: the baseline, and the biases that a training starts with."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from recsys.data.scale import logit
from recsys.evaluation.baselines import DAMPING
from recsys.training.ranks.group import Group
from recsys.training.ranks.partition import Bucket, Partition, add_at

ROUNDS = 6
"""Alternations between user and item biases: one reading of the ratings each."""


class Biases:
    """z_ui = b_u + b_i + b, as `recsys.evaluation.baselines.bias_only` defines it.

    Attributes:
        user_bias: (n_users of this rank,), by the rows of its table.
        item_bias: (n_items,).
        global_bias: b.
    """

    def __init__(self, user_bias: NDArray[np.float32], item_bias: NDArray[np.float32], global_bias: float) -> None:
        self.user_bias, self.item_bias, self.global_bias = user_bias, item_bias, global_bias


def fit_biases(group: Group, data: Partition) -> Biases:
    """Fit the biases: in each round those of a bucket's users, and then, with the sums of all ranks, those of items."""
    low, high = data.range_ends
    span = high - low
    ridge = DAMPING * (span / 4) ** 2
    center = float(logit(data.rating_sum / data.n_train.sum(), low, high))
    lanes = data.layout.lanes_of(group.rank)
    starts = data.user_starts(lanes)
    user_bias = np.zeros(int(starts[-1]), np.float32)
    item_bias = np.zeros(data.n_items, np.float32)
    for round_ in range(ROUNDS + 1):
        sums = np.zeros((2, data.n_items))
        for first, bucket in buckets(data, lanes, starts):
            rows = slice(first, first + len(bucket.users))
            user_idx, item_idx = bucket.user_idx.astype(np.intp), bucket.item_idx.astype(np.intp)
            of_items = item_bias.take(item_idx) + np.float32(center)

            if round_:
                error, square = slopes(bucket, user_bias[rows].take(user_idx) + of_items, low, span)
                n = len(bucket.users)
                gradient = np.bincount(user_idx, error, n) - ridge * user_bias[rows]
                user_bias[rows] += (gradient / (np.bincount(user_idx, square, n) + ridge)).astype(np.float32)
            if round_ < ROUNDS:
                error, square = slopes(bucket, user_bias[rows].take(user_idx) + of_items, low, span)
                add_at(sums[0], item_idx, error)
                add_at(sums[1], item_idx, square)
        if round_ < ROUNDS:
            sums = group.sum_array(sums)
            item_bias += ((sums[0] - ridge * item_bias) / (sums[1] + ridge)).astype(np.float32)
    return Biases(user_bias, item_bias, center)


def slopes(
    bucket: Bucket, z: NDArray[np.float32], low: float, span: float
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the slope of each rating's error times the error, and the square of the slope: (n,) → (n,), (n,)."""
    sigmoid = 1 / (1 + np.exp(-z))
    slope = np.float32(span) * sigmoid * (1 - sigmoid)
    error = bucket.rating - np.float32(low) - np.float32(span) * sigmoid
    return (slope * error).astype(np.float32), (slope**2).astype(np.float32)


def buckets(data: Partition, lanes: range, starts: NDArray[np.int64]) -> Iterator[tuple[int, Bucket]]:
    """Yield the buckets of some lanes to train on, each with its first row in the table of their users."""
    for at, (lane, slot) in enumerate((lane, slot) for lane in lanes for slot in range(data.layout.n_slots)):
        bucket = data.train(lane, slot)
        if len(bucket.users):
            yield int(starts[at]), bucket
