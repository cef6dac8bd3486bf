"""What training minimises: the rating loss and the ranking loss, as pure functions and over a training set.

A `Loss` holds its training data as flat tensors on the device and answers the loss of a batch of its units:
ratings under `rating`, users under `ranking`. The loop in `fit` needs nothing else.
"""

from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recsys.data.dataset import Ratings
from recsys.training.models import Model, Side
from recsys.training.sparse import Cells, ascending, cells, squares

_MOST_SCORES = 1 << 25
"""Scores of one batch under `ranking`: 128 MiB of them."""

_LEAST_WEIGHT = 0.05
"""What the least liked item of a user counts at least: they chose it."""


class Loss(Protocol):
    """What the training loop asks of an objective."""

    @property
    def n_units(self) -> int:
        """How many units an epoch goes through."""
        ...

    def units_of(self, batch_size: int) -> int:
        """How many units make a batch of about `batch_size` ratings, at least one."""
        ...

    def shuffle(self, generator: torch.Generator) -> None:
        """Put the units in the random order of a new epoch."""
        ...

    def batch(self, model: Model, start: int, stop: int) -> Tensor:
        """The mean loss of the units `start` to `stop` of the current order: ()."""
        ...


def rating_loss(z: Tensor, rating: Tensor, low: float, high: float) -> Tensor:
    """Squared error of each prediction on the rating scale: (batch,).

        (low + (high − low) · sigmoid(z) − r)²

    The sigmoid keeps predictions on the scale; `low` and `high` lie half a step outside it, so that its
    ends can be reached with finite scores.
    """
    return (low + (high - low) * torch.sigmoid(z) - rating).square()


def ranking_loss(z: Tensor, z_seen: Tensor, seen: Cells, weight: Tensor) -> Tensor:
    """Multinomial negative log-likelihood of the items that users have, weighted, summed over the users: ().

        −Σ_u Σ_{i ∈ N(u)} w_ui · log softmax(z_u)_i

    over the whole catalogue (Liang, Krishnan, Hoffman & Jebara, "Variational Autoencoders for Collaborative
    Filtering", WWW 2018, eq. 2).

    Args:
        z: (users, n_items) scores.
        z_seen: (batch,) those of `seen`.
        seen: (users) × items cells.
        weight: (batch,) w of `seen`.
    """
    log_sum = z.logsumexp(1)  # (users,)
    return weight @ (log_sum.index_select(0, seen.user_idx) - z_seen)


def sampled_ranking_loss(
    z: Tensor, z_seen: Tensor, seen: Cells, weight: Tensor, candidates: Tensor, log_expected: Tensor
) -> Tensor:
    r"""`ranking_loss` with the sum over the catalogue estimated from a sample, summed over the users: ().

        −Σ_u Σ_{i ∈ N(u)} w_ui · log( e^{z_ui} / (e^{z_ui} + Σ_{j ∈ C \ N(u)} e^{z_uj} / E_j) )

    E_j is how often item j is expected among the candidates C: the logQ correction, without which popular items,
    which are drawn more often, would be pushed down (Yi et al., "Sampling-Bias-Corrected Neural Modeling for Large
    Corpus Item Recommendations", RecSys 2019, section 4). The item itself is always in the sum, and so not corrected.

    Args:
        z: (users, n_candidates) scores.
        z_seen: (batch,) those of `seen`.
        seen: (users) × items cells.
        weight: (batch,) w of `seen`.
        candidates: (n_candidates,) item indices; drawn twice, they count twice.
        log_expected: (n_items,) log E.
    """
    has = torch.zeros(z.shape[0], len(log_expected), dtype=torch.bool, device=z.device)
    has[seen.user_idx.long(), seen.item_idx.long()] = True
    corrected = z - log_expected.index_select(0, candidates)
    others = corrected.masked_fill(has.index_select(1, candidates), -torch.inf).logsumexp(1)  # (users,)
    return weight @ (torch.logaddexp(z_seen, others.index_select(0, seen.user_idx)) - z_seen)


class RatingLoss:
    """Mean over a batch of ratings of

        (r̂_ui − r_ui)² + s² · [ (l2 + damping / n_u) · ‖p_u‖² + damping / n_u · b_u²
                              + (l2 + damping / n_i) · ‖q_i‖² + damping / n_i · b_i² ]

    with p_u, q_i, b_u and b_i each user's and item's own, n_u and n_i their numbers of ratings, and s = (high − low) /
    4, the steepest slope of the sigmoid, so that the same strengths serve any rating scale. `l2` is paid each time a
    row is drawn (Koren, Bell & Volinsky 2009, eq. 2); `damping` is paid once an epoch, whatever n is, and so holds
    back those rows most that have few ratings. What sides add to their own rows is paid for once an epoch too:
    `implicit_l2` for the rows of the other side, and `feature_l2` for those of features, each times s².
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
    ) -> None:
        low, high = rating_range
        self._square = ((high - low) / 4) ** 2
        self._range = rating_range
        self._l2, self._feature_l2 = l2, feature_l2
        self._implicit_l2 = {"user": user_implicit_l2, "item": item_implicit_l2}
        self._damping = {
            "user": _damping(np.bincount(train.user_idx), damping, device),  # (n_users,)
            "item": _damping(np.bincount(train.item_idx), damping, device),  # (n_items,)
        }
        self._shape = train.n_users, train.n_items
        self._columns = (
            torch.from_numpy(train.user_idx).to(device),
            torch.from_numpy(train.item_idx).to(device),
            torch.from_numpy(train.rating).to(device),
        )
        self._order = self._columns

    @property
    def n_units(self) -> int:
        return len(self._columns[0])

    def units_of(self, batch_size: int) -> int:
        return batch_size

    def shuffle(self, generator: torch.Generator) -> None:
        order = torch.randperm(self.n_units, generator=generator, device=generator.device)
        user_idx, item_idx, rating = self._columns
        self._order = (user_idx[order], item_idx[order], rating[order])

    def batch(self, model: Model, start: int, stop: int) -> Tensor:
        user_idx, item_idx, rating = (column[start:stop] for column in self._order)  # (batch,) each
        by_user = ascending(user_idx, self._shape[0])
        at = cells(user_idx.index_select(0, by_user), item_idx.index_select(0, by_user), *self._shape)
        error = rating_loss(model.pairs(at), rating.index_select(0, by_user), *self._range).sum()
        share = (stop - start) / self.n_units
        penalty = self._penalty("user", model.users, at.n_of_user, share)
        penalty = penalty + self._penalty("item", model.items, at.n_of_item, share)
        return (error + self._square * penalty) / (stop - start)

    def _penalty(self, name: str, side: Side, n_drawn: Tensor, share: float) -> Tensor:
        """What a side pays for a batch: ().

        Args:
            n_drawn: (n,) how often each row was drawn.
            share: how much of an epoch the batch is.
        """
        damping = n_drawn * self._damping[name]  # (n,)
        penalty = squares(side.own, torch.add(damping, n_drawn, alpha=self._l2)) + squares(side.bias, damping)
        if side.implicit is not None:
            penalty = penalty + share * self._implicit_l2[name] * side.implicit.square().sum()
        if side.feature_rows is not None and side.feature_bias is not None:
            squared = side.feature_rows.square().sum() + side.feature_bias.square().sum()
            penalty = penalty + share * self._feature_l2 * squared
        return penalty


class RankingLoss:
    """Sum over a batch of users of the multinomial loss of what they have, each of their items with the weight

        w_ui = max(.05, 1 + rating_weight · (r_ui − mean rating) / (highest − lowest)) / (n_u / mean n)^user_power

    and of l2 · Σ_{i ∈ N(u)} (‖p_u‖² + ‖q_i‖²), over the mean number of interactions in such a batch. So what was liked
    counts more than what was merely had, and who has ten times as much not quite ten times as much. Memory: a few
    arrays of (users, n_items), of at most 128 MiB each.

    Args:
        dropout: share of a user's items that their own row is not to know; see `Side.rows`.
        width: numbers that the model makes for each user and candidate: 1, or the first layer's of a neural model.
        n_sampled: how many candidates, drawn in proportion to their ratings for each batch, stand for the catalogue
            (`sampled_ranking_loss`); 0: the whole catalogue (`ranking_loss`).
    """

    def __init__(
        self,
        train: Ratings,
        *,
        rating_weight: float,
        user_power: float,
        l2: float,
        dropout: float,
        n_sampled: int,
        width: int,
        generator: torch.Generator,
    ) -> None:
        device = generator.device
        starts, order = train.by_user()
        weight = _weight(train, rating_weight, user_power)[order]
        self._weight = torch.from_numpy(weight).to(device)
        self._starts = torch.from_numpy(starts).to(device)
        self._item_idx = torch.from_numpy(train.item_idx[order]).to(device)
        self._users = torch.arange(train.n_users, dtype=torch.int32, device=device)
        self._order = self._users
        self._n_items = train.n_items
        self._mean_items = train.n_ratings / train.n_users
        self._l2, self._dropout, self._n_sampled = l2, dropout, n_sampled
        self._most_users = max(1, _MOST_SCORES // max(train.n_items, (n_sampled or train.n_items) * width))
        self._share = torch.from_numpy(train.item_counts() / train.n_ratings).to(device)  # (n_items,) of all ratings
        self._log_expected = (self._share * max(n_sampled, 1)).log().float()
        self._generator = generator

    @property
    def n_units(self) -> int:
        return len(self._users)

    def units_of(self, batch_size: int) -> int:
        wanted = round(batch_size / self._mean_items)
        return max(1, min(wanted, self._most_users))

    def shuffle(self, generator: torch.Generator) -> None:
        order = torch.randperm(self.n_units, generator=generator, device=generator.device)
        self._order = self._users[order]

    def batch(self, model: Model, start: int, stop: int) -> Tensor:
        users = self._order[start:stop]  # (users,)
        seen, weight = self._seen(users)
        if self._n_sampled:
            candidates = torch.multinomial(self._share, self._n_sampled, replacement=True, generator=self._generator)
            z, z_seen = model.lists(users, seen, self._dropout, candidates)
            loss = sampled_ranking_loss(z, z_seen, seen, weight, candidates, self._log_expected)
        else:
            z, z_seen = model.lists(users, seen, self._dropout, None)
            loss = ranking_loss(z, z_seen, seen, weight)
        if self._l2 > 0:
            n_drawn = torch.zeros(self.n_units, device=users.device).index_add(0, users, seen.n_of_user.float())
            penalty = squares(model.users.own, n_drawn) + squares(model.items.own, seen.n_of_item)
            loss = loss + self._l2 * penalty
        return loss / (len(users) * self._mean_items)

    def _seen(self, users: Tensor) -> tuple[Cells, Tensor]:
        """What each of the users has: (users) × items cells, and their weights (batch,)."""
        n_seen = self._starts[users + 1] - self._starts[users]  # (users,)
        row = torch.repeat_interleave(torch.arange(len(users), dtype=torch.int32, device=users.device), n_seen)
        before = torch.cumsum(n_seen, 0) - n_seen  # (users,)
        place = torch.arange(len(row), device=users.device) + (self._starts[users] - before)[row]  # (batch,)
        return cells(row, self._item_idx[place], len(users), self._n_items), self._weight[place]


def _weight(train: Ratings, rating_weight: float, user_power: float) -> NDArray[np.float32]:
    """w of every rating, (n_ratings,), as `RankingLoss` has it."""
    span = float(np.ptp(train.rating)) or 1.0
    liked = 1 + rating_weight * (train.rating - train.rating.mean(dtype=np.float64)) / span
    n_rated = np.bincount(train.user_idx)
    eager = (n_rated * (train.n_users / train.n_ratings)) ** user_power  # (n_users,)
    weight: NDArray[np.float32] = (np.maximum(liked, _LEAST_WEIGHT) / eager[train.user_idx]).astype(np.float32)
    return weight


def _damping(n_rated: NDArray[np.int64], strength: float, device: torch.device) -> Tensor:
    """What each draw of a row is charged, so that an epoch charges every row `strength`."""
    return torch.from_numpy((strength / n_rated).astype(np.float32)).to(device)
