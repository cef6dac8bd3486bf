"""Rows of items that ranks need of each other, for the steps of a window: who sends which, decided once a window.

Each step sends the rows of the items in its batch and takes their gradients back, so its bytes grow with the batch and
not with the tables.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recsys.training.ranks.group import Group


@dataclass(frozen=True, slots=True)
class StepRows:
    """The rows of one step.

    Attributes:
        n_needed: rows that this rank needs of each.
        n_asked: rows that each needs of this rank.
        asked: (Σ n_asked,) positions in `rows` of the rows that the ranks need of this one, in their order.
        rows: (n,) the different rows of this rank's shard that any rank needs, ascending.
        n_drawn: (n,) ratings of each in the whole batch.
    """

    n_needed: list[int]
    n_asked: list[int]
    asked: Tensor
    rows: Tensor
    n_drawn: Tensor


def plan_rows(
    group: Group, items: list[NDArray[Any]], n_drawn: list[NDArray[np.int64]], bounds: NDArray[np.int64]
) -> list[StepRows]:
    """Tell each rank the rows of its shard that this one needs in each step, and return what it takes to send them.

    Args:
        items: for each step the items that this rank needs, ascending and distinct.
        n_drawn: for each step the ratings of each of them.
        bounds: (size + 1,) the first item of each rank, and the end.
    """
    n_steps = len(items)
    cuts = np.array([np.searchsorted(each, bounds) for each in items]).reshape(n_steps, group.size + 1)
    needed = np.diff(cuts, axis=1)  # (n_steps, size)
    asked = group.exchange_counts(np.ascontiguousarray(needed.T))  # (size, n_steps)
    sent = [
        np.stack([items[step][part], n_drawn[step][part]], 1).astype(np.int32)
        for rank in range(group.size)
        for step in range(n_steps)
        for part in [slice(int(cuts[step, rank]), int(cuts[step, rank + 1]))]
    ]
    received = group.exchange(
        torch.from_numpy(np.concatenate(sent)), needed.sum(0).tolist(), asked.sum(1).tolist()
    ).numpy()
    ends = np.cumsum(asked.ravel()).reshape(asked.shape)  # of each rank's rows of each step in `received`
    plans = []
    for step in range(n_steps):
        parts = [received[ends[rank, step] - asked[rank, step] : ends[rank, step]] for rank in range(group.size)]
        joined = np.concatenate(parts)
        if group.size == 1:
            rows, at, n = joined[:, 0], np.arange(len(joined)), joined[:, 1]
        else:
            rows, at = np.unique(joined[:, 0], return_inverse=True)
            n = np.bincount(at, joined[:, 1], len(rows))
        plans.append(
            StepRows(
                needed[step].tolist(),
                asked[:, step].tolist(),
                torch.from_numpy(at.astype(np.int64)).to(group.device),
                torch.from_numpy(rows.astype(np.int64) - int(bounds[group.rank])).to(group.device),
                torch.from_numpy(n.astype(np.float32)).to(group.device),
            )
        )
    return plans


def start_fetch(group: Group, plan: StepRows, rows: Tensor) -> Callable[[], Tensor]:
    """Start to send rows to the ranks that need them; the function returned waits for those that this rank needs.

    Args:
        rows: (n, …) the rows of `plan.rows`.
    """
    if group.size == 1:
        return lambda: rows
    return group.start_exchange(rows.index_select(0, plan.asked), plan.n_asked, plan.n_needed)


def start_return(group: Group, plan: StepRows, gradients: Tensor) -> Callable[[], Tensor]:
    """Start to send the gradients of fetched rows back; the function returned waits, and returns sums for `plan.rows`.

    Args:
        gradients: (Σ n_needed, …) of the rows that this rank fetched.
    """
    if group.size == 1:
        return lambda: gradients
    wait = group.start_exchange(gradients, plan.n_needed, plan.n_asked)

    def summed() -> Tensor:
        received = wait()
        out = received.new_zeros(len(plan.rows), *received.shape[1:])
        return out.index_add_(0, plan.asked, received)

    return summed
