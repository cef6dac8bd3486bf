"""The training set of one objective over ranks: sorted buckets on the disk, with the held-out ratings, and counts."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from recsys.data.dataset import NO_TIME, Ratings
from recsys.data.keyed import dense_positions
from recsys.data.rating_scale import infer_scale_of
from recsys.data.scale import rating_range
from recsys.errors import NothingToTrainError, TrainingError
from recsys.evaluation.splits import hold_out
from recsys.results import Objective
from recsys.training.ranks.group import Group
from recsys.training.ranks.spool import Layout, Spooled

MAX_VALUES = 100_000
"""Most different ratings that a scale is inferred from."""


class Bucket(NamedTuple):
    """Some users of a lane with their ratings: (n_users,), and (n,) by user.

    Attributes:
        users: codes of the users on their rank.
        n_rated: ratings of each user.
        item_idx, rating: of each rating.
    """

    users: NDArray[np.int32]
    n_rated: NDArray[np.int32]
    item_idx: NDArray[np.int32]
    rating: NDArray[np.float32]

    @property
    def user_idx(self) -> NDArray[np.int32]:
        """The position of the user of each rating."""
        return np.repeat(np.arange(len(self.users), dtype=np.int32), self.n_rated)


@dataclass(frozen=True, slots=True)
class Partition:
    """A training set and its held-out ratings.

    Attributes:
        folder: of the buckets of this rank's lanes.
        n_users, n_train, n_test: (n_lanes, n_slots) of all buckets of all ranks.
        n_items: items with ratings to train on.
        item_ids: their external ids, by index.
        item_counts: (n_items,) ratings to train on.
        effective_items: `Ratings.effective_items` of all ratings.
        user_ids: external ids of this rank's users, by code.
        scale: lowest and highest rating.
        range_ends: ends of the sigmoid.
        rating_ends: lowest and highest rating that occurs.
        rating_sum: of the ratings to train on.
        fingerprint: of all ratings, as `Ratings.fingerprint`.
        newest_rating_at: Unix milliseconds; `None`: the ratings have no times.
        n_left_out: ratings far outside the scale.
    """

    folder: Path
    layout: Layout
    n_users: NDArray[np.int64]
    n_train: NDArray[np.int64]
    n_test: NDArray[np.int64]
    n_items: int
    item_ids: list[str]
    item_counts: NDArray[np.int64]
    effective_items: float
    user_ids: list[str]
    scale: tuple[float, float]
    range_ends: tuple[float, float]
    rating_ends: tuple[float, float]
    rating_sum: float
    fingerprint: str
    newest_rating_at: int | None
    n_left_out: int
    _item_idx: NDArray[np.int32]

    @property
    def n_ratings(self) -> int:
        """Number of all ratings, held-out ones included."""
        return int(self.n_train.sum() + self.n_test.sum())

    def train(self, lane: int, slot: int) -> Bucket:
        """Return the ratings of a bucket to train on."""
        return self._read(lane, slot, "train")

    def test(self, lane: int, slot: int) -> Bucket:
        """Return the held-out ratings of a bucket; `item_idx` is −1 for items without ratings to train on."""
        return self._read(lane, slot, "test")

    def user_starts(self, lanes: range) -> NDArray[np.int64]:
        """Return the first row of each bucket of some lanes in the table of their users, and the end."""
        n = self.n_users[lanes.start : lanes.stop].ravel()
        return np.concatenate([[0], np.cumsum(n)])

    def _read(self, lane: int, slot: int, part: str) -> Bucket:
        path = self.folder / sorted_name(lane, slot)
        n_users, n_train = int(self.n_users[lane, slot]), int(self.n_train[lane, slot])
        n_test = int(self.n_test[lane, slot])
        n_words = 2 * (n_users + n_train), 2 * (n_users + n_test)
        try:
            stored = np.fromfile(path, np.int32, n_words[0] + n_words[1] if part == "test" else n_words[0])
        except OSError as error:
            raise TrainingError(f"{path} cannot be read ({error.strerror}): start the training again") from error
        if part == "test":
            stored, n_train = stored[n_words[0] :], n_test
        if len(stored) != 2 * (n_users + n_train):
            raise TrainingError(f"{path} was changed during the training: start it again")
        users, n_rated, item, rating = np.split(stored, np.cumsum([n_users, n_users, n_train]))
        return Bucket(users, n_rated, self._item_idx[item], rating.view(np.float32))


def sorted_name(lane: int, slot: int) -> str:
    """Return the name of the file of a sorted bucket."""
    return f"{lane:05d}-{slot:05d}.sorted"


class _Sorted:
    """Counts of the buckets of one rank while they are sorted."""

    def __init__(self, layout: Layout, n_items: int) -> None:
        self.sizes = np.zeros((3, layout.n_lanes, layout.n_slots), np.int64)
        self.item_counts = np.zeros((2, n_items), np.int64)
        self.values: dict[float, int] = {}
        self.rating_sum = 0.0
        self.fingerprint = np.uint64(0)
        self.newest, self.n_left_out = NO_TIME, 0


def partition(
    group: Group,
    spooled: Spooled,
    objective: Objective,
    configured: tuple[float | None, float | None] = (None, None),
) -> Partition:
    """Sort the buckets, hold ratings out as every night does, and count.

    Args:
        configured: lowest and highest possible rating; `None`: inferred.

    Raises:
        NothingToTrainError: `rating`, and all ratings are equal.
        TrainingError: there are no ratings, fewer users than ranks, or too few ratings to hold some out.
    """
    counted = group.agree(lambda: sort_buckets(group, spooled, (-np.inf, np.inf)))
    values = merge_values(group, counted.values)
    if not len(values[0]):
        raise TrainingError("there are no ratings to train on: name a folder of Parquet files that have rows")
    n_users = int(group.sum_array(counted.sizes[0].sum(keepdims=True).ravel())[0])
    if n_users < group.size:
        raise TrainingError(
            f"{n_users} users have ratings, and there are {group.size} ranks: start at most {n_users} "
            "(torchrun --nproc-per-node)"
        )
    if objective == "rating" and values[0][0] == values[0][-1]:
        raise NothingToTrainError(
            f"all ratings are {values[0][0]:g}, so there is nothing to predict; lists come from the ranking objective"
        )
    low, high = infer_scale_of(*values)
    scale = (low if configured[0] is None else configured[0], high if configured[1] is None else configured[1])
    inside = (values[0] >= scale[0]) & (values[0] <= scale[1])
    wrong = ~inside & (
        ((values[0] < scale[0]) & (configured[0] is not None)) | ((values[0] > scale[1]) & (configured[1] is not None))
    )
    if wrong.any():
        raise TrainingError(
            f"{int(values[1][wrong].sum()):,} ratings are outside the scale {scale[0]:g} to {scale[1]:g}: correct "
            "RECSYS_RATING_MIN and RECSYS_RATING_MAX, or the ratings"
        )
    if not inside.all():
        counted = group.agree(lambda: sort_buckets(group, spooled, scale))
    for lane in spooled.layout.lanes_of(group.rank):
        for slot in range(spooled.layout.n_slots):
            spooled.discard(lane, slot)
    sizes = group.sum_array(counted.sizes)
    counts = group.sum_array(counted.item_counts)
    said = group.gather_objects((counted.rating_sum, int(counted.fingerprint), counted.newest, counted.n_left_out))
    if not sizes[2].sum():
        raise TrainingError(
            "there are too few ratings to hold some out for measuring: give more, of users with two or more ratings"
        )
    trained = np.flatnonzero(counts[0])
    idx = np.full(len(spooled.item_ids), -1, np.int32)
    idx[trained] = np.arange(len(trained), dtype=np.int32)
    share = counts.sum(0)[counts.sum(0) > 0] / counts.sum()
    newest = max(each[2] for each in said)
    total = sum(each[1] for each in said) % (1 << 64)
    return Partition(
        folder=spooled.folder,
        layout=spooled.layout,
        n_users=sizes[0],
        n_train=sizes[1],
        n_test=sizes[2],
        n_items=len(trained),
        item_ids=[spooled.item_ids[at] for at in trained.tolist()],
        item_counts=counts[0][trained],
        effective_items=float(np.exp(-(share * np.log(share)).sum())),
        user_ids=spooled.user_ids,
        scale=scale,
        range_ends=rating_range(values[0][inside].astype(np.float32), scale),
        rating_ends=(float(values[0][inside][0]), float(values[0][inside][-1])),
        rating_sum=sum(each[0] for each in said),
        fingerprint=f"{int(sizes[1:].sum()):x}-{total:016x}",
        newest_rating_at=None if newest == NO_TIME else newest,
        n_left_out=sum(each[3] for each in said),
        _item_idx=idx,
    )


def sort_buckets(group: Group, spooled: Spooled, scale: tuple[float, float]) -> _Sorted:
    """Write the buckets of this rank sorted, with the held-out ratings apart.

    Args:
        scale: ratings outside are left out.

    Raises:
        TrainingError: the disk is full.
    """
    counted = _Sorted(spooled.layout, len(spooled.item_ids))
    for lane in spooled.layout.lanes_of(group.rank):
        for slot in range(spooled.layout.n_slots):
            ratings = spooled.read(lane, slot)
            inside = (ratings.rating >= scale[0]) & (ratings.rating <= scale[1])
            counted.n_left_out += int((~inside).sum())
            ratings = keep_users(ratings, inside)
            held_out = hold_out(ratings) if ratings.n_ratings else np.zeros(0, bool)
            for number, rows in enumerate((~held_out, held_out)):
                add_at(counted.item_counts[number], ratings.item_idx[rows])
            counted.sizes[:, lane, slot] = ratings.n_users, int((~held_out).sum()), int(held_out.sum())
            if ratings.n_ratings:
                counted.rating_sum += float(ratings.rating[~held_out].sum(dtype=np.float64))
                counted.newest = max(counted.newest, int(ratings.rated_at.max()))
                add = np.uint64(int(ratings.fingerprint().split("-")[1], 16))
                counted.fingerprint = np.add(counted.fingerprint, add, dtype=np.uint64)
            distinct, n = np.unique(ratings.rating, return_counts=True)
            for value, times in zip(distinct.tolist(), n.tolist(), strict=True):
                counted.values[value] = counted.values.get(value, 0) + times
            if len(counted.values) > MAX_VALUES:
                raise TrainingError(
                    f"there are more than {MAX_VALUES:,} different ratings: round them, or train on one machine"
                )
            write_sorted(spooled.folder / sorted_name(lane, slot), ratings, held_out)
    return counted


def add_at(
    totals: NDArray[Any], idx: NDArray[np.int32] | NDArray[np.intp], values: NDArray[np.float32] | None = None
) -> None:
    """Add values, or ones, to totals at some positions, in time that grows with the smaller of the two: (n,), (m,)."""
    if len(idx) * 4 < len(totals):
        np.add.at(totals, idx, 1 if values is None else values)
    else:
        totals += np.bincount(idx, values, len(totals)).astype(totals.dtype)


def keep_users(ratings: Ratings, rows: NDArray[np.bool_]) -> Ratings:
    """Return some rows of a bucket, without the users that have none of them."""
    if rows.all():
        return ratings
    user_idx, users = dense_positions(ratings.user_idx[rows], ratings.n_users)
    return replace(
        ratings.select(rows), user_idx=user_idx, user_keys=ratings.user_keys[users], user_hash=ratings.user_hash[users]
    )


def write_sorted(path: Path, ratings: Ratings, held_out: NDArray[np.bool_]) -> None:
    """Write a bucket: codes of users, numbers of ratings, items and ratings to train on; then the same held out.

    Raises:
        TrainingError: the disk is full.
    """
    parts: list[NDArray[Any]] = []
    for rows in (~held_out, held_out):
        n_rated = np.bincount(ratings.user_idx[rows], minlength=ratings.n_users)
        parts += [ratings.user_keys, n_rated, ratings.item_idx[rows], ratings.rating[rows].view(np.int32)]
    try:
        np.concatenate([part.astype(np.int32) for part in parts]).tofile(path)
    except OSError as error:
        raise TrainingError(
            f"ratings cannot be written to {path.parent} ({error.strerror}): free space, or name another folder with "
            "--work-dir"
        ) from error


def merge_values(group: Group, values: dict[float, int]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return the different ratings of all ranks, ascending, and how often each occurs."""
    total: dict[float, int] = {}
    for each in group.gather_objects(values):
        for value, times in each.items():
            total[value] = total.get(value, 0) + times
    distinct = sorted(total)
    return np.array(distinct, np.float64), np.array([total[value] for value in distinct], np.int64)
