"""The ranking objective over ranks: the items of a rank stay there, and vectors and partial sums of users travel.

The multinomial loss of `objectives.RankingLoss`, over the whole catalogue or a sample of it. Each rank computes the
scores of all users of the batch with its own items. What the ranks exchange in a step are the users' vectors, their
gradients, and a few numbers for each user: as large as the batch, whatever the size of the tables.

Legend of the shapes: `users` of the batch of all ranks, `pairs` of them and the items of this rank that they have,
`items` of this rank that take part in the step, `candidates` of them, `width` columns.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recsys.scoring.profile import MIN_WEIGHT
from recsys.training.config import Config
from recsys.training.objectives import MAX_SCORES, find_seen
from recsys.training.ranks.group import Group
from recsys.training.ranks.partition import Partition
from recsys.training.ranks.tables import Tables, row_gradient
from recsys.training.ranks.windows import Window
from recsys.training.sparse import Cells, products_at, sum_by_item, sum_by_user

_PAIR = np.dtype([("user", "<i4"), ("item", "<i4"), ("weight", "<f4"), ("share", "<f4")])


def users_of_batch(data: Partition, config: Config) -> int:
    """Return the users of a step that have about `batch_size` ratings, as far as memory allows."""
    mean = data.n_train.sum() / data.n_users.sum()
    most = MAX_SCORES // max(data.n_items, config.n_sampled_of(data.n_items))
    return max(1, min(round(config.batch_size / float(mean)), most, int(data.n_users.sum())))


@dataclass(frozen=True, slots=True)
class _Step:
    """The pairs of one step, by user.

    Attributes:
        rows: (own users,) rows of this rank's users in its table; they are the users from `first` on.
        n_rated: (own users,) their items.
        n_users: users of all ranks.
        user, item: (pairs,) position of the user in the batch, and of the item in this rank's shard.
        weight: (pairs,) w of the loss.
        share: (pairs,) of y in the user's vector: 1 / √n, weighted up for those that are hidden; 0 for these.
    """

    rows: Tensor
    n_rated: Tensor
    first: int
    n_users: int
    user: Tensor
    item: Tensor
    weight: Tensor
    share: Tensor


class RankingSteps:
    """The steps of the ranking objective."""

    def __init__(self, group: Group, data: Partition, tables: Tables, config: Config, seed: int) -> None:
        self._group, self._data, self._tables, self._config = group, data, tables, config
        self._seed = seed
        n_train = int(data.n_train.sum())
        self._mean_items = n_train / int(data.n_users.sum())
        self._mean_rating = data.rating_sum / n_train
        self._bounds = data.layout.rank_bounds(data.n_items)
        self._n_sampled = config.n_sampled_of(data.n_items)
        share = data.item_counts / n_train
        self._cumulated = np.cumsum(share)
        mine = slice(int(self._bounds[group.rank]), int(self._bounds[group.rank + 1]))
        expected = np.log(np.maximum(share[mine] * max(self._n_sampled, 1), 1e-30)).astype(np.float32)
        self._log_expected = torch.from_numpy(expected).to(group.device)

    def enter(self, window: Window) -> None:
        """Send each rank the pairs of its items, for all steps of a window."""
        group, plan = self._group, window.plan
        rows_of, user, weight, share = self._own_pairs(window)
        counts = np.array([plan.batch_units(self._data.layout.lanes_of(rank)) for rank in range(group.size)])
        firsts = np.cumsum(counts, 0) - counts  # (size, n_steps) first position of each rank's users
        owner = np.searchsorted(self._bounds, window.item_idx, side="right") - 1
        pairs = np.empty(len(user), _PAIR)
        step_of = np.repeat(np.arange(plan.n_steps), np.diff(window.starts))
        pairs["user"] = user + firsts[group.rank][step_of]
        pairs["item"] = window.item_idx - self._bounds[owner]
        pairs["weight"], pairs["share"] = weight, share
        by_owner = np.argsort(owner.astype(np.uint16), kind="stable")  # and by step and user within
        n_to = np.zeros((group.size, plan.n_steps), np.int64)
        np.add.at(n_to, (owner, step_of), 1)
        n_from = group.exchange_counts(n_to)
        sent = torch.from_numpy(pairs[by_owner].view(np.int32).reshape(-1, 4))
        received = group.exchange(sent, n_to.sum(1).tolist(), n_from.sum(1).tolist()).numpy()
        ends = np.cumsum(n_from.ravel()).reshape(n_from.shape)
        self._steps = []
        for step in range(plan.n_steps):
            parts = [received[ends[rank, step] - n_from[rank, step] : ends[rank, step]] for rank in range(group.size)]
            found = np.ascontiguousarray(np.concatenate(parts)).view(_PAIR)[:, 0]
            columns = [torch.from_numpy(found[name].copy()).to(group.device) for name in _PAIR.names or ()]
            rows = rows_of[step]
            self._steps.append(
                _Step(
                    torch.from_numpy(window.user_rows[rows]).to(group.device),
                    torch.from_numpy(window.n_rated[rows].astype(np.float32)).to(group.device),
                    int(firsts[group.rank, step]),
                    int(counts[:, step].sum()),
                    *columns,
                )
            )
        self._window = window
        self._loss = torch.zeros((), dtype=torch.float64, device=group.device)

    def _own_pairs(
        self, window: Window
    ) -> tuple[list[NDArray[np.int64]], NDArray[np.int64], NDArray[np.float32], NDArray[np.float32]]:
        """Return the users of each step, and of each pair its user's position among them, its weight and its share."""
        config, n_rated = self._config, window.n_rated[window.user]
        rows_of, user = [], np.empty(len(window.user), np.int64)
        for step in range(window.plan.n_steps):
            part = window.step(step)
            rows, user[part] = np.unique(window.user[part], return_inverse=True)
            rows_of.append(rows.astype(np.int64))
        low, high = self._data.rating_ends
        span = (high - low) or 1.0
        liked = 1 + config.rating_weight * (window.rating.astype(np.float64) - self._mean_rating) / span
        eager = (n_rated / self._mean_items) ** config.user_power
        weight = (np.maximum(liked, MIN_WEIGHT) / eager).astype(np.float32)
        share = 1 / np.sqrt(np.maximum(n_rated, 1))
        if config.implicit_dropout > 0:
            share = share * (window.draws >= config.implicit_dropout) / (1 - config.implicit_dropout)
        return rows_of, user, weight, share.astype(np.float32)

    @torch.no_grad()
    def step(self, number: int, learning_rate: float, beta1: float) -> None:
        """Take a step of the window."""
        group, tables, step = self._group, self._tables, self._steps[number]
        norm = step.n_users * self._mean_items
        rows, item, candidates = self._items_of(step, number)
        q, b, y = (
            None if table is None else table.detach() if rows is None else table.index_select(0, rows)
            for table in (tables.item_factors, tables.item_bias, tables.implicit)
        )
        assert q is not None
        assert b is not None
        at = Cells(step.user, item, step.n_users, len(q))
        own = tables.user_factors.index_select(0, step.rows)
        mine = slice(step.first, step.first + len(own))
        # The users' vectors, and their weights in the loss, are sums over the ranks.
        p = q.new_zeros(step.n_users, q.shape[1] + 1)
        if y is not None:
            p[:, :-1] = sum_by_user(step.share, y, at)
        p[mine, :-1] += own
        p[:, -1].index_add_(0, step.user, step.weight)
        group.sum_(p)
        p, of_user = p[:, :-1].contiguous(), p[:, -1] / norm
        weight = step.weight / norm
        if candidates is None:
            loss, of_p, of_q, of_b = self._whole(p, q, b, at, weight, of_user)
        else:
            loss, of_p, of_q, of_b = self._sampled(p, q, b, at, weight, candidates, rows)
        group.sum_(of_p)
        l2 = 2 * self._config.l2 / norm
        of_own = of_p[mine]
        if l2:
            n_drawn = at.n_of_item.float()
            of_own = torch.addcmul(of_own, own, (l2 * step.n_rated)[:, None])
            of_q.addcmul_(q, (l2 * n_drawn)[:, None])
            squares = torch.linalg.vecdot(own, own) @ step.n_rated + torch.linalg.vecdot(q, q) @ n_drawn
            loss += self._config.l2 / norm * squares.double()
        tables.user_factors.grad = row_gradient(tables.user_factors, step.rows, of_own)
        gradients = [(tables.item_factors, of_q), (tables.item_bias, of_b)]
        if tables.implicit is not None:
            gradients.append((tables.implicit, sum_by_item(step.share, of_p, at)))
        for table, gradient in gradients:
            table.grad = gradient if rows is None else row_gradient(table, rows, gradient)
        for optimizer in (tables.of_users, tables.of_items):
            optimizer.set_schedule(learning_rate, beta1)
            optimizer.step()
            optimizer.zero_grad()
        self._loss += loss * step.n_users

    def _items_of(self, step: _Step, number: int) -> tuple[Tensor | None, Tensor, Tensor | None]:
        """Return the rows of a step's items, `None` for all, and the places there of the pairs and the candidates."""
        if not self._n_sampled:
            return None, step.item, None
        plan = self._window.plan
        random = np.random.default_rng([self._seed, 3, plan.epoch, plan.first_step + number])
        drawn = np.searchsorted(self._cumulated, random.random(self._n_sampled) * self._cumulated[-1], side="right")
        first, last = int(self._bounds[self._group.rank]), int(self._bounds[self._group.rank + 1])
        mine = torch.from_numpy(drawn[(drawn >= first) & (drawn < last)] - first).to(self._group.device)
        rows, at = torch.unique(torch.cat([step.item.long(), mine]), return_inverse=True)
        return rows, at[: len(step.item)].int(), at[len(step.item) :]

    def _whole(
        self, p: Tensor, q: Tensor, b: Tensor, at: Cells, weight: Tensor, of_user: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return the loss over the whole catalogue, and its gradients: (users, width), (items, width), (items,)."""
        z = torch.addmm(b, p, q.T)  # (users, items)
        log_sum = torch.logsumexp(self._group.gather(z.logsumexp(1)), 0)  # (users,)
        user, item = at.user_idx.long(), at.item_idx.long()
        loss = weight @ (log_sum.index_select(0, user) - z[user, item])
        z.sub_(log_sum[:, None]).exp_().mul_(of_user[:, None])
        z[user, item] -= weight
        return loss.double(), z @ q, z.T @ p, z.sum(0)

    def _sampled(
        self, p: Tensor, q: Tensor, b: Tensor, at: Cells, weight: Tensor, candidates: Tensor, rows: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return the loss over candidates, and its gradients: (users, width), (items, width), (items,)."""
        assert rows is not None
        expected = self._log_expected.index_select(0, rows.index_select(0, candidates))
        chosen = q.index_select(0, candidates)
        z = torch.addmm(b.index_select(0, candidates) - expected, p, chosen.T)  # (users, candidates)
        z[find_seen(at, candidates)] = -torch.inf
        of_rank = z.logsumexp(1) if z.shape[1] else z.new_full((len(z),), -torch.inf)
        others = torch.logsumexp(self._group.gather(of_rank), 0)  # (users,)
        z_seen = products_at(p, q, at) + b.index_select(0, at.item_idx)
        others_seen = others.index_select(0, at.user_idx)
        loss = weight @ (torch.logaddexp(z_seen, others_seen) - z_seen)
        left = weight * torch.sigmoid(others_seen - z_seen)  # what the seen item lacks of the probability
        of_others = p.new_zeros(len(p)).index_add_(0, at.user_idx, left)
        self._group.sum_(of_others)
        z.sub_(torch.where(others.isfinite(), others, 0.0)[:, None]).exp_().mul_(of_others[:, None])
        of_p = (z @ chosen).add_(sum_by_user(-left, q, at))
        of_q = sum_by_item(-left, p, at).index_add_(0, candidates, z.T @ p)
        of_b = q.new_zeros(len(q)).index_add_(0, at.item_idx, -left).index_add_(0, candidates, z.sum(0))
        return loss.double(), of_p, of_q, of_b

    def leave(self) -> float:
        """Return the sum of the losses of the window's users of all ranks."""
        self._group.sum_(self._loss)
        return float(self._loss)
