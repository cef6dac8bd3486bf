"""From the tables of the ranks to `Factors`: the items on rank 0, the users piece by piece."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from recsys.training.ranks.group import Group
from recsys.training.ranks.partition import Bucket, Partition
from recsys.training.ranks.rows import plan_rows, start_fetch
from recsys.training.ranks.tables import Tables
from recsys.training.sparse import FixedMatrix


@dataclass(frozen=True, slots=True)
class ItemTable:
    """What was learned of all items: (n_items, n_factors), (n_items,), by index."""

    factors: NDArray[np.float32]
    bias: NDArray[np.float32]
    implicit: NDArray[np.float32] | None


@dataclass(frozen=True, slots=True)
class UserPart:
    """What was learned of the users of one bucket, and their ratings.

    Attributes:
        user_ids: external ids.
        factors, bias: (n_users, n_factors), (n_users,).
        baseline: (n_users,) their biases in the bias-only model.
        train: their ratings to train on.
        test: their held-out ratings, on request.
    """

    user_ids: list[str]
    factors: NDArray[np.float32]
    bias: NDArray[np.float32]
    train: Bucket
    baseline: NDArray[np.float32] | None = None
    test: Bucket | None = None


@torch.no_grad()
def add_implicit_terms(group: Group, data: Partition, tables: Tables) -> None:
    """Add the implicit terms of the users to their own factors, which ends the training of these tables."""
    if tables.implicit is None:
        return
    bounds = data.layout.rank_bounds(data.n_items)
    for slot in range(data.layout.n_slots):
        parts = [data.train(lane, slot) for lane in tables.lanes]
        item_idx = np.concatenate([part.item_idx for part in parts])
        items, column = np.unique(item_idx, return_inverse=True)
        plan = plan_rows(group, [items], [np.ones(len(items), np.int64)], bounds)[0]
        y = start_fetch(group, plan, tables.implicit.detach().index_select(0, plan.rows))()
        n_rated = np.concatenate([part.n_rated for part in parts]).astype(np.int64)
        if not len(n_rated):
            continue
        value = np.repeat(1 / np.sqrt(np.maximum(n_rated, 1)), n_rated).astype(np.float32)
        starts = np.concatenate([[0], np.cumsum(n_rated)])
        history = FixedMatrix.from_rows(starts, column.astype(np.int32), value, len(items), group.device)
        terms, first = history.pattern.matmul(history.value, y), 0
        for lane, part in zip(tables.lanes, parts, strict=True):
            tables.user_factors[tables.bucket_rows(lane, slot)] += terms[first : first + len(part.users)]
            first += len(part.users)


def gather_items(group: Group, tables: Tables) -> ItemTable | None:
    """Return the tables of all items on rank 0, `None` on the others."""
    implicit = None if tables.implicit is None else as_array(tables.implicit)
    mine = (as_array(tables.item_factors), as_array(tables.item_bias), implicit)
    shards = list(group.stream_to_first(iter([mine])))
    if group.rank:
        return None
    factors, bias, implicits = zip(*shards, strict=True)
    whole = None if implicits[0] is None else np.concatenate(implicits)
    return ItemTable(np.concatenate(factors), np.concatenate(bias), whole)


def stream_users(
    group: Group,
    data: Partition,
    tables: Tables,
    slots: range | None = None,
    baseline: NDArray[np.float32] | None = None,
) -> Iterator[UserPart]:
    """Yield the users of all ranks on rank 0, bucket by bucket.

    Args:
        slots: the buckets of each lane to send, with their held-out ratings; `None`: all, without.
        baseline: biases of this rank's users in the bias-only model.
    """

    def parts() -> Iterator[UserPart]:
        for lane in tables.lanes:
            for slot in slots or range(data.layout.n_slots):
                rows = tables.bucket_rows(lane, slot)
                if rows.start == rows.stop:
                    continue
                train = data.train(lane, slot)
                yield UserPart(
                    [data.user_ids[code] for code in train.users.tolist()],
                    as_array(tables.user_factors[rows]),
                    as_array(tables.user_bias[rows]),
                    train,
                    None if baseline is None else baseline[rows],
                    data.test(lane, slot) if slots is not None else None,
                )

    return group.stream_to_first(parts())


def as_array(tensor: torch.Tensor) -> NDArray[np.float32]:
    """Return a copy of a float32 tensor as an array."""
    array: NDArray[np.float32] = tensor.detach().cpu().numpy().copy()
    return array
