"""The order of the steps: epochs of windows, each a bucket or more of every lane, and within a window random steps.

All lanes are in the same window at the same time, and each gives every step its share. So the batches do not depend on
the number of ranks, and a rank holds the ratings of one window of its own lanes.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from recsys.training.ranks.partition import Partition

Unit = Literal["rating", "user"]


@dataclass(frozen=True, slots=True)
class WindowPlan:
    """Where a window is in its epoch.

    Attributes:
        epoch: from 0.
        first_step: its first step, counted within the epoch.
        n_steps: its steps.
        slots: (n_lanes, n) the buckets of each lane, ascending.
        n_units: (n_lanes,) units of each lane.
    """

    epoch: int
    first_step: int
    n_steps: int
    slots: NDArray[np.int64]
    n_units: NDArray[np.int64]

    def bounds(self, lane: int) -> NDArray[np.int64]:
        """Return the first unit of each step of a lane, and the end: (n_steps + 1,)."""
        bounds: NDArray[np.int64] = np.arange(self.n_steps + 1, dtype=np.int64) * self.n_units[lane] // self.n_steps
        return bounds

    def batch_units(self, lanes: range | None = None) -> NDArray[np.int64]:
        """Return the units of each step of some lanes together, `None`: of all: (n_steps,)."""
        chosen = range(len(self.n_units)) if lanes is None else lanes
        units: NDArray[np.int64] = np.diff(np.sum([self.bounds(lane) for lane in chosen], axis=0))
        return units


@dataclass(frozen=True, slots=True)
class Window:
    """The ratings of a window of this rank's lanes: (n,) by step, within a step by user.

    Attributes:
        plan: where it is.
        user_rows: (n_users,) rows of its users in the table of this rank, ascending.
        n_rated: (n_users,) their ratings.
        starts: (n_steps + 1,) the first rating of each step, and the end.
        user: (n,) positions in `user_rows`.
        item_idx, rating: (n,).
        draws: (n,) random numbers from 0 to 1, where a step counts users.
    """

    plan: WindowPlan
    user_rows: NDArray[np.int64]
    n_rated: NDArray[np.int64]
    starts: NDArray[np.int64]
    user: NDArray[np.int32]
    item_idx: NDArray[np.int32]
    rating: NDArray[np.float32]
    draws: NDArray[np.float32]

    def step(self, number: int) -> slice:
        """Return the ratings of a step."""
        return slice(int(self.starts[number]), int(self.starts[number + 1]))


class Schedule:
    """The windows of all epochs.

    Args:
        unit: what a step counts: ratings, or users with all their ratings.
        batch_units: units of a step.
    """

    def __init__(self, data: Partition, unit: Unit, batch_units: int, seed: int) -> None:
        self._data, self._unit, self._seed = data, unit, seed
        self._units = data.n_train if unit == "rating" else data.n_users
        self.n_units = int(self._units.sum())
        self.batch_units = batch_units
        self.steps_per_epoch = max(1, -(-self.n_units // batch_units))

    def plans(self, epoch: int) -> list[WindowPlan]:
        """Return the windows of an epoch (from 0), the same on every rank."""
        n_lanes, n_slots = self._units.shape
        n_windows = min(n_slots, self.steps_per_epoch)
        order = np.array([self._random(1, epoch, lane).permutation(n_slots) for lane in range(n_lanes)])
        cuts = np.arange(n_windows + 1) * n_slots // n_windows
        slots = [np.sort(order[:, first:last], 1) for first, last in pairwise(cuts.tolist())]
        units = [np.take_along_axis(self._units, each, 1).sum(1) for each in slots]  # (n_lanes,) each
        done = np.cumsum([int(each.sum()) for each in units])
        plans, step = [], 0
        for number, (each, n_units) in enumerate(zip(slots, units, strict=True)):
            left = n_windows - number - 1
            end = round(self.steps_per_epoch * int(done[number]) / self.n_units)
            end = min(max(end, step + 1), self.steps_per_epoch - left)
            plans.append(WindowPlan(epoch, step, end - step, each, n_units))
            step = end
        return plans

    def load(self, plan: WindowPlan, lanes: range) -> Window:
        """Read a window of some lanes of this rank."""
        data = self._data
        starts = data.user_starts(lanes)[:-1].reshape(len(lanes), -1)
        rows: list[NDArray[np.int64]] = []
        n_rated: list[NDArray[np.int32]] = []
        items: list[NDArray[np.int32]] = []
        ratings: list[NDArray[np.float32]] = []
        steps: list[NDArray[np.uint32]] = []
        draws: list[NDArray[np.float32]] = []
        for place, lane in enumerate(lanes):
            slots = plan.slots[lane]
            buckets = [data.train(lane, slot) for slot in slots.tolist()]
            firsts = starts[place, slots]
            rows += [first + np.arange(len(each.users)) for first, each in zip(firsts, buckets, strict=True)]
            of_lane = np.concatenate([each.n_rated for each in buckets])
            n_rated.append(of_lane)
            items += [each.item_idx for each in buckets]
            ratings += [each.rating for each in buckets]
            step = np.empty(plan.n_units[lane], np.uint32)
            order = self._random(2, plan.epoch, lane, plan.first_step).permutation(len(step))
            step[order] = np.repeat(np.arange(plan.n_steps, dtype=np.uint32), np.diff(plan.bounds(lane)))
            by_user = self._unit == "user"
            steps.append(np.repeat(step, of_lane) if by_user else step)
            n_drawn = int(of_lane.sum()) if by_user else 0
            draws.append(self._random(4, plan.epoch, lane, plan.first_step).random(n_drawn, np.float32))
        step = np.concatenate(steps)
        counts = np.concatenate(n_rated).astype(np.int64)
        small = step.astype(np.uint16) if plan.n_steps <= 1 << 16 else step  # numpy sorts 16 bits by radix
        order = np.argsort(small, kind="stable")
        ends = np.cumsum(np.bincount(step, minlength=plan.n_steps))
        return Window(
            plan,
            np.concatenate(rows).astype(np.int64),
            counts,
            np.concatenate([[0], ends]),
            np.repeat(np.arange(len(counts), dtype=np.int32), counts)[order],
            np.concatenate(items)[order],
            np.concatenate(ratings)[order],
            np.concatenate(draws)[order] if self._unit == "user" else np.empty(0, np.float32),
        )

    def from_step(self, step: int, n_epochs: int) -> Iterator[WindowPlan]:
        """Yield the windows from a step on, counted over all epochs, which is the first one of a window."""
        for epoch in range(step // self.steps_per_epoch, n_epochs):
            for plan in self.plans(epoch):
                if epoch * self.steps_per_epoch + plan.first_step >= step:
                    yield plan

    def _random(self, *of: int) -> np.random.Generator:
        return np.random.default_rng([self._seed, *of])
