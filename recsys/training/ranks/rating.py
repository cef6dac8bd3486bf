"""The rating objective over ranks: the users of a rank stay there, and the rows of items travel.

The mean over a batch of ratings, of all ranks together, of

    (r̂_ui − r_ui)² + s² · [ (l2 + damping / n_u) · ‖p_u‖² + damping / n_u · b_u²
                          + (l2 + damping / n_i) · ‖q_i‖² + damping / n_i · b_i² ]

as in `rating_loss.RatingLoss`, with the implicit term of the users and without that of the items, which is a sum over
all ratings of an item. Gradients are written out, so that those of the items travel while the users are moved.

Legend of the shapes: `batch` ratings of this rank in a step, `users` and `items` that they have, `width` columns.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recsys.training.config import Config
from recsys.training.ranks.group import Group
from recsys.training.ranks.partition import Partition
from recsys.training.ranks.rows import StepRows, plan_rows, start_fetch, start_return
from recsys.training.ranks.tables import Tables, row_gradient
from recsys.training.ranks.windows import Window
from recsys.training.sparse import Cells, FixedMatrix, products_at, stable_argsort, sum_by_item, sum_by_user


@dataclass(slots=True)
class _Implicit:
    """The implicit terms of a window's users: the rows of y that they need, and the gradients so far."""

    plan: StepRows
    history: FixedMatrix
    terms: Tensor
    gradients: Tensor


class RatingSteps:
    """The steps of the rating objective."""

    def __init__(self, group: Group, data: Partition, tables: Tables, config: Config) -> None:
        self._group, self._tables, self._config = group, tables, config
        low, high = data.range_ends
        self._low, self._span = low, high - low
        self._square = ((high - low) / 4) ** 2
        self._bounds = data.layout.rank_bounds(data.n_items)
        mine = slice(int(self._bounds[group.rank]), int(self._bounds[group.rank + 1]))
        self._n_of_item = torch.from_numpy(data.item_counts[mine].astype(np.float32)).to(group.device)
        self._n_ratings = int(data.n_train.sum())
        self._n_items = data.n_items

    def enter(self, window: Window) -> None:
        """Decide the rows that the steps of a window exchange, and compute the implicit terms of its users."""
        device, n_steps = self._group.device, window.plan.n_steps
        items: list[NDArray[Any]] = []
        drawn: list[NDArray[np.int64]] = []
        self._item_at: list[Tensor] = []
        self._order: list[Tensor] = []
        for step in range(n_steps):
            item_idx = torch.from_numpy(window.item_idx[window.step(step)])
            order = stable_argsort(item_idx, self._n_items)
            ascending = item_idx.index_select(0, order).numpy()
            first = np.flatnonzero(np.diff(ascending, prepend=-1))
            items.append(ascending[first])
            drawn.append(np.diff(first, append=len(ascending)))
            at = torch.empty(len(item_idx), dtype=torch.int32)
            at[order] = torch.from_numpy(np.repeat(np.arange(len(first), dtype=np.int32), drawn[-1]))
            self._item_at.append(at.to(device))
            self._order.append(order.to(device))
        self._plans = plan_rows(self._group, items, drawn, self._bounds)
        self._window = window
        self._rows = torch.from_numpy(window.user_rows).to(device)
        self._n_of_user = torch.from_numpy(window.n_rated.astype(np.float32)).to(device)
        self._batch_units = window.plan.batch_units()
        self._loss = torch.zeros((), dtype=torch.float64, device=device)
        self._implicit = self._enter_implicit(window)

    def _enter_implicit(self, window: Window) -> _Implicit | None:
        y = self._tables.implicit
        if y is None:
            return None
        items, column = np.unique(window.item_idx, return_inverse=True)
        plan = plan_rows(self._group, [items], [np.ones(len(items), np.int64)], self._bounds)[0]
        by_user = np.argsort(window.user, kind="stable")
        starts = np.concatenate([[0], np.cumsum(window.n_rated)])
        value = np.repeat(1 / np.sqrt(np.maximum(window.n_rated, 1)), window.n_rated).astype(np.float32)
        history = FixedMatrix.from_rows(starts, column[by_user].astype(np.int32), value, len(items), self._group.device)
        rows = start_fetch(self._group, plan, y.detach().index_select(0, plan.rows))()
        terms = history.pattern.matmul(history.value, rows)
        squares = y.detach().square().sum().double()
        share = window.plan.n_steps / -(-self._n_ratings // self._config.batch_size)
        self._loss += self._square * share * self._config.user_implicit_l2 * squares
        return _Implicit(plan, history, terms, torch.zeros_like(terms))

    @torch.no_grad()
    def step(self, number: int, learning_rate: float, beta1: float) -> None:
        """Take a step of the window."""
        group, tables, config, plan = self._group, self._tables, self._config, self._plans[number]
        n = int(self._batch_units[number])
        part = self._window.step(number)
        factors = tables.item_factors.index_select(0, plan.rows)
        bias = tables.item_bias.index_select(0, plan.rows)
        fetched = start_fetch(group, plan, torch.cat([factors, bias[:, None]], 1))
        user = torch.from_numpy(self._window.user[part])
        users, user_at, n_drawn = torch.unique_consecutive(user.long(), return_inverse=True, return_counts=True)
        users, user_at = users.to(group.device), user_at.int().to(group.device)
        n_drawn = n_drawn.float().to(group.device)
        rows = self._rows.index_select(0, users)
        own, b_u = tables.user_factors.index_select(0, rows), tables.user_bias.index_select(0, rows)
        p = own if self._implicit is None else own + self._implicit.terms.index_select(0, users)
        rating = torch.from_numpy(self._window.rating[part]).to(group.device)
        received = fetched()
        q, b_i = received[:, :-1].contiguous(), received[:, -1].contiguous()
        at = Cells(user_at, self._item_at[number], len(users), len(q))
        at.__dict__["order"] = self._order[number]

        z = products_at(p, q, at) + b_u.index_select(0, user_at) + b_i.index_select(0, at.item_idx)
        sigmoid = torch.sigmoid(z + tables.global_bias)
        error = self._low + self._span * sigmoid - rating
        slope = error * sigmoid * (1 - sigmoid) * (2 * self._span / n)  # of each rating's part of the mean
        loss = error.square().sum().double()

        of_items = torch.cat(
            [sum_by_item(slope, p, at), slope.new_zeros(len(q)).index_add_(0, at.item_idx, slope)[:, None]], 1
        )
        returned = start_return(group, plan, of_items)
        of_global = slope.sum()[None]
        group.sum_(of_global)

        of_users = sum_by_user(slope, q, at)
        if self._implicit is not None:
            self._implicit.gradients.index_add_(0, users, of_users)
        damping = config.damping * n_drawn / self._n_of_user.index_select(0, users)
        decay = damping + config.l2 * n_drawn
        loss += self._square * self._penalty(own, b_u, decay, damping)
        twice = 2 * self._square / n
        of_users.addcmul_(own, (twice * decay)[:, None])
        of_bias = slope.new_zeros(len(users)).index_add_(0, user_at, slope).addcmul_(b_u, twice * damping)
        tables.user_factors.grad = row_gradient(tables.user_factors, rows, of_users)
        tables.user_bias.grad = row_gradient(tables.user_bias, rows, of_bias)
        tables.of_users.set_schedule(learning_rate, beta1)
        tables.of_users.step()

        gradient = returned()
        damping = config.damping * plan.n_drawn / self._n_of_item.index_select(0, plan.rows)
        decay = damping + config.l2 * plan.n_drawn
        loss += self._square * self._penalty(factors, bias, decay, damping)
        of_factors = torch.addcmul(gradient[:, :-1], factors, (twice * decay)[:, None])
        tables.item_factors.grad = row_gradient(tables.item_factors, plan.rows, of_factors)
        tables.item_bias.grad = row_gradient(
            tables.item_bias, plan.rows, torch.addcmul(gradient[:, -1], bias, twice * damping)
        )
        tables.global_bias.grad = of_global
        if self._implicit is not None and number == self._window.plan.n_steps - 1:
            self._return_implicit(self._implicit)
        tables.of_items.set_schedule(learning_rate, beta1)
        tables.of_items.step()
        tables.of_items.zero_grad()
        self._loss += loss

    def _return_implicit(self, implicit: _Implicit) -> None:
        """Give y the gradients of the window."""
        y, X = self._tables.implicit, implicit.history
        assert y is not None
        gradient = X.transposed.matmul(X.transposed_value, implicit.gradients)
        once = self._window.plan.n_steps * self._square / self._n_ratings * self._config.user_implicit_l2
        y.grad = torch.zeros_like(y).index_add_(
            0, implicit.plan.rows, start_return(self._group, implicit.plan, gradient)()
        )
        y.grad.add_(y.detach(), alpha=2 * once)

    @staticmethod
    def _penalty(factors: Tensor, bias: Tensor, decay: Tensor, damping: Tensor) -> Tensor:
        penalty: Tensor = torch.linalg.vecdot(factors, factors) @ decay + bias.square() @ damping
        return penalty.double()

    def leave(self) -> float:
        """Return the sum of the losses of the window's ratings of all ranks."""
        self._group.sum_(self._loss)
        return float(self._loss)
