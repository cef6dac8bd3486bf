"""The rating loss, as a pure function and over a training set.

Legend of the shapes: `batch` ratings of one step, `n` ratings of a block.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recsys.data.dataset import Ratings
from recsys.training.models import Model
from recsys.training.rows import SideRows
from recsys.training.side import SideModule
from recsys.training.sparse import Cells, stable_argsort, weighted_squares


def rating_loss(z: Tensor, rating: Tensor, low: float, high: float) -> Tensor:
    """Return the squared error of each prediction on the rating scale: (batch,), (batch,) → (batch,).

        (low + (high − low) · sigmoid(z) − r)²

    The sigmoid keeps predictions on the scale. `low` and `high` lie half a step outside it, so that finite scores reach
    both ends of the scale.
    """
    return (low + (high - low) * torch.sigmoid(z) - rating).square()


@dataclass(frozen=True, slots=True)
class Block:
    """The ratings of some users, in the order of the steps that train on them.

    Attributes:
        start: its first unit.
        users: (n_block_users,) ascending indices.
        user_row: (n,) positions in `users`, ascending within each step.
        item_idx, rating: (n,).
    """

    start: int
    users: Tensor
    user_row: Tensor
    item_idx: Tensor
    rating: Tensor


class RatingLoss:
    """The rating objective: mean over a batch of ratings of

        (r̂_ui − r_ui)² + s² · [ (l2 + damping / n_u) · ‖p_u‖² + damping / n_u · b_u²
                              + (l2 + damping / n_i) · ‖q_i‖² + damping / n_i · b_i² ]

    with p_u, q_i, b_u and b_i the own factors and biases of the sides, n_u and n_i their numbers of ratings, and
    s = (high − low) / 4, the steepest slope of the sigmoid, so that one strength serves every rating scale.

    Each draw of a row pays `l2` (Koren, Bell & Volinsky 2009, eq. 2). Each row pays `damping` once an epoch, whatever
    its number of ratings, which holds back those with few ratings most. The implicit factors of a side pay
    s² · implicit_l2 and the feature factors and biases s² · feature_l2, once an epoch.

    An epoch is cut into blocks, each with the ratings of some users in random order. While a block lasts, its users'
    rows stay in the cache, and implicit and feature terms are held (`SideModule.hold`): those of the block's users for
    the block, those of the items for `item_blocks` blocks.

    Args:
        rating_range: (low, high), the ends of the sigmoid.
        device: holds the training set.
        batch_units: ratings of a step; `None`: all.
        block_steps: steps of a block; `None`: the epoch is one block, nothing is held, and each step uses all rows.
        item_blocks: blocks for which the terms of the items are held.
    """

    def __init__(
        self,
        train: Ratings,
        *,
        rating_range: tuple[float, float],
        l2: float,
        damping: float,
        user_implicit_l2: float,
        item_implicit_l2: float,
        feature_l2: float,
        device: torch.device,
        batch_units: int | None = None,
        block_steps: int | None = None,
        item_blocks: int = 1,
    ) -> None:
        low, high = rating_range

        def damping_of_draw(idx: NDArray[np.int32]) -> Tensor:
            """Return the damping that each draw of a row pays, so that an epoch sums to `damping`: (n,)."""
            return torch.from_numpy((damping / np.bincount(idx)).astype(np.float32)).to(device)

        self._square = ((high - low) / 4) ** 2
        self._range = rating_range
        self._l2, self._feature_l2 = l2, feature_l2
        self._implicit_l2 = {"user": user_implicit_l2, "item": item_implicit_l2}
        self._damping = {"user": damping_of_draw(train.user_idx), "item": damping_of_draw(train.item_idx)}
        self._shape = train.n_users, train.n_items
        starts, by_user = train.by_user()
        self._starts = torch.from_numpy(starts).to(device)
        self._item_idx = torch.from_numpy(train.item_idx[by_user]).to(device)
        self._rating = torch.from_numpy(train.rating[by_user]).to(device)
        self._batch_units = train.n_ratings if batch_units is None else batch_units
        self._block_units = train.n_ratings if block_steps is None else self._batch_units * block_steps
        self._holds, self._item_blocks = block_steps is not None, item_blocks
        self._item_row = torch.zeros(train.n_items, dtype=torch.int32, device=device)
        self._set_order(torch.arange(train.n_users, device=device), 0)

    def _set_order(self, users: Tensor, seed: int) -> None:
        """Set the order of the users (n_users,) and the seed of the order of the ratings within their blocks."""
        self._users, self._seed = users, seed
        self._ends = torch.cumsum(self._starts[users + 1] - self._starts[users], 0)
        self._block: Block | None = None

    @property
    def n_units(self) -> int:
        """Number of ratings."""
        return len(self._rating)

    def units_of(self, batch_size: int) -> int:
        """Return `batch_size`: a unit is a rating."""
        return batch_size

    def shuffle(self, generator: torch.Generator) -> None:
        """Put the users, and the ratings within a block, into the random order of a new epoch."""
        users = torch.randperm(self._shape[0], generator=generator, device=generator.device)
        seed = torch.randint(1 << 48, (), generator=generator, device=generator.device)
        self._set_order(users, int(seed))

    def enter(self, model: Model, start: int) -> None:
        """Load the block with the unit `start`, and hold its terms."""
        if not self._holds:
            return
        number = start // self._block_units
        if self._block is None or self._block.start != number * self._block_units:
            self._block = self._load_block(number)
        n_blocks = -(-self.n_units // self._block_units)
        model.users.hold(self._seed + number, self._block.users)
        model.items.hold(self._seed + n_blocks + number // self._item_blocks, None)

    def _load_block(self, number: int) -> Block:
        """Return a block of the current order; users at its ends may have ratings in the blocks beside it."""
        device = self._users.device
        start = number * self._block_units
        n = min(self._block_units, self.n_units - start)
        ends = torch.tensor([start, start + n - 1], device=device)
        first, last = torch.searchsorted(self._ends, ends, right=True).tolist()
        users, end = self._users[first : last + 1], self._ends[first : last + 1].clamp(max=start + n)
        n_rated = self._starts[users + 1] - self._starts[users]
        begun = self._ends[first : last + 1] - n_rated  # unit of each user's first rating
        n_of_user = end - begun.clamp(min=start)
        begin = self._starts[users] + (start - begun).clamp(min=0)
        users, ascending = torch.sort(users)
        begin, n_of_user = begin[ascending], n_of_user[ascending]
        row = torch.repeat_interleave(
            torch.arange(len(users), dtype=torch.int32, device=device), n_of_user, output_size=n
        )
        before = torch.cumsum(n_of_user, 0) - n_of_user
        idx = torch.arange(n, device=device) + (begin - before)[row]
        # Each step gets a random part of the ratings, and keeps them by user.
        generator = torch.Generator(device).manual_seed(self._seed + number)
        step = (torch.randperm(n, generator=generator, device=device) // self._batch_units).int()
        order = stable_argsort(step, -(-n // self._batch_units))
        idx, row = idx[order], row[order]
        return Block(start, users, row, self._item_idx[idx], self._rating[idx])

    def batch(self, model: Model, start: int, stop: int) -> Tensor:
        """Return the mean loss of the ratings `start` to `stop` of the current order, within one step: ()."""
        if not self._holds:
            return self.of_columns(model, *self.columns(start, stop))
        self.enter(model, start)
        block, user_row, item_idx, rating = self._part(start, stop)
        item_rows = self._pick_items(item_idx)
        n_item_rows = self._shape[1] if item_rows is None else len(item_rows)
        if item_rows is not None:
            self._item_row[item_rows] = torch.arange(len(item_rows), dtype=torch.int32)
            item_idx = self._item_row.index_select(0, item_idx)
        at = Cells(user_row, item_idx, len(block.users), n_item_rows)
        users, items = model.users.rows(block.users), model.items.rows(item_rows, item_rows)
        error = rating_loss(model.score_pairs(at, users, items), rating, *self._range).sum()
        share = (stop - start) / self.n_units
        penalty = self._penalty("user", model.users, users, block.users, at.n_of_user, share)
        penalty = penalty + self._penalty("item", model.items, items, item_rows, at.n_of_item, share)
        return (error + self._square * penalty) / (stop - start)

    def _part(self, start: int, stop: int) -> tuple[Block, Tensor, Tensor, Tensor]:
        """Return the current block, and rows of its users, items and ratings of the units `start` to `stop`."""
        block = self._block
        assert block is not None
        part = slice(start - block.start, stop - block.start)
        return block, block.user_row[part], block.item_idx[part], block.rating[part]

    def columns(self, start: int, stop: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return users, items and ratings `start` to `stop` of an epoch in one block: (batch,) each."""
        if self._block is None:
            self._block = self._load_block(0)  # of all users, so that their rows are their indices
        return self._part(start, stop)[1:]

    def of_columns(self, model: Model, user_idx: Tensor, item_idx: Tensor, rating: Tensor) -> Tensor:
        """Return the mean loss of these ratings, with all rows of both sides: (batch,) each → ()."""
        n = len(rating)
        at = Cells(user_idx, item_idx, *self._shape)
        users, items = model.users.rows(), model.items.rows()
        error = rating_loss(model.score_pairs(at, users, items), rating, *self._range).sum()
        share = n / self.n_units
        penalty = self._penalty("user", model.users, users, None, at.n_of_user, share)
        penalty = penalty + self._penalty("item", model.items, items, None, at.n_of_item, share)
        return (error + self._square * penalty) / n

    def _pick_items(self, item_idx: Tensor) -> Tensor | None:
        """Return the distinct items of a batch, ascending; `None` if they are most of the catalogue."""
        is_in = torch.zeros(self._shape[1], dtype=torch.bool)
        is_in[item_idx] = True
        rows = is_in.nonzero()[:, 0]
        return rows if 2 * len(rows) < self._shape[1] else None

    def finish(self, model: Model, stop: int) -> None:
        """Give the implicit and feature tables the gradients of the block that ends at `stop`, if one does."""
        if not self._holds:
            return
        for name, side, n_blocks in (("user", model.users, 1), ("item", model.items, self._item_blocks)):
            n = n_blocks * self._block_units
            if stop % n and stop != self.n_units:
                continue
            # Every step charges the same, whatever its number of ratings.
            n_steps = -(-(stop - (stop - 1) // n * n) // self._batch_units)
            once = n_steps * self._square / self.n_units
            side.release(once * self._implicit_l2[name], once * self._feature_l2)

    def _penalty(
        self, name: str, side: SideModule, rows: SideRows, idx: Tensor | None, n_drawn: Tensor, share: float
    ) -> Tensor:
        """Return the penalty of a side for a batch, before the factor s²: ().

        Args:
            rows, idx: the rows of the batch, and which these are; `None`: all.
            n_drawn: (rows,) ratings of each row in the batch.
            share: size of the batch as a share of an epoch.
        """
        of_draw = self._damping[name]
        damping = n_drawn * (of_draw if idx is None else of_draw.index_select(0, idx))  # (rows,)
        penalty = weighted_squares(rows.own_factors, torch.add(damping, n_drawn, alpha=self._l2))
        penalty = penalty + weighted_squares(rows.own_bias, damping)
        if side.held is not None:  # `release` has the gradient
            once = self._implicit_l2[name] * side.held.implicit_squares + self._feature_l2 * side.held.feature_squares
            return penalty + share * once
        if side.implicit_factors is not None:
            penalty = penalty + share * self._implicit_l2[name] * side.implicit_factors.square().sum()
        if side.feature_factors is not None and side.feature_bias is not None:
            squared = side.feature_factors.square().sum() + side.feature_bias.square().sum()
            penalty = penalty + share * self._feature_l2 * squared
        return penalty
