"""The interface of an objective, and the ranking loss as a pure function and over a training set.

A `Loss` holds its training data as flat tensors on the device and returns the mean loss of a batch of its units. A unit
is a rating under `rating` and a user under `ranking`.

Legend of the shapes: `batch` ratings of one step, `users` users of one step, `n_candidates` sampled items.
"""

from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from recsys.data.dataset import Ratings
from recsys.scoring.profile import MIN_WEIGHT
from recsys.training.models import Model
from recsys.training.sparse import Cells, uses_kernels, weighted_squares

MAX_SCORES = 1 << 25
"""Largest number of scores of one batch under `ranking`: 128 MiB in float32."""


class Loss(Protocol):
    """The interface between the training loop and an objective."""

    @property
    def n_units(self) -> int:
        """Number of units in an epoch."""
        ...

    def units_of(self, batch_size: int) -> int:
        """Return the number of units that have about `batch_size` ratings, at least 1."""
        ...

    def shuffle(self, generator: torch.Generator) -> None:
        """Put the units into the random order of a new epoch."""
        ...

    def enter(self, model: Model, start: int) -> None:
        """Prepare the model for the block of steps with the unit `start`, unless it is prepared already."""
        ...

    def batch(self, model: Model, start: int, stop: int) -> Tensor:
        """Return the mean loss of the units `start` to `stop` of the current order: ()."""
        ...

    def finish(self, model: Model, stop: int) -> None:
        """Give the terms that are held for a block of steps their gradients, if the step to `stop` ends the block."""
        ...


def ranking_loss(log_sum: Tensor, z_seen: Tensor, seen: Cells, weight: Tensor) -> Tensor:
    """Return the weighted multinomial negative log-likelihood of the users' items, summed over the users: ().

        −Σ_u Σ_{i ∈ N(u)} w_ui · log softmax(z_u)_i

    over the whole catalogue (Liang, Krishnan, Hoffman & Jebara, "Variational Autoencoders for Collaborative
    Filtering", WWW 2018, eq. 2).

    Args:
        log_sum: (users,) log Σ_i e^{z_ui} over the catalogue.
        z_seen: (batch,) scores of `seen`.
        seen: (users) × items cells.
        weight: (batch,) w of `seen`.
    """
    return weight @ (log_sum.index_select(0, seen.user_idx) - z_seen)


def sampled_ranking_loss(
    z: Tensor, z_seen: Tensor, seen: Cells, weight: Tensor, candidates: Tensor, log_expected: Tensor
) -> Tensor:
    r"""Return `ranking_loss` with the sum over the catalogue estimated from a sample of it: ().

        −Σ_u Σ_{i ∈ N(u)} w_ui · log( e^{z_ui} / (e^{z_ui} + Σ_{j ∈ C \ N(u)} e^{z_uj} / E_j) )

    E_j is the expected number of times that item j is among the candidates C. This is the logQ correction. Without it,
    popular items, which are drawn more often, would be pushed down (Yi et al., "Sampling-Bias-Corrected Neural Modeling
    for Large Corpus Item Recommendations", RecSys 2019, section 4). Item i is always in the sum, so it needs none.

    Args:
        z: (users, n_candidates) scores.
        z_seen: (batch,) scores of `seen`.
        seen: (users) × items cells.
        weight: (batch,) w of `seen`.
        candidates: (n_candidates,) item indices. An item that was drawn twice counts twice.
        log_expected: (n_items,) log E.
    """
    corrected = z - log_expected.index_select(0, candidates)
    corrected[find_seen(seen, candidates)] = -torch.inf
    others = corrected.logsumexp(1)  # (users,)
    return weight @ (torch.logaddexp(z_seen, others.index_select(0, seen.user_idx)) - z_seen)


def find_seen(seen: Cells, candidates: Tensor) -> tuple[Tensor, Tensor]:
    """Return the places of the seen items among the candidates: the rows and columns of (users, n_candidates)."""
    ascending, order = torch.sort(candidates)
    item_idx = seen.item_idx.to(candidates.dtype)
    first = torch.searchsorted(ascending, item_idx)
    n_places = torch.searchsorted(ascending, item_idx, right=True) - first  # (batch,) more than 1 if drawn repeatedly
    row = torch.repeat_interleave(seen.user_idx.long(), n_places)
    before = torch.cumsum(n_places, 0) - n_places
    place = torch.arange(len(row), device=row.device) + torch.repeat_interleave(first - before, n_places)
    return row, order[place]


class RankingLoss:
    """The ranking objective: over a batch of users, the multinomial loss of their items, each with the weight

        w_ui = max(.05, 1 + rating_weight · (r_ui − mean rating) / (highest − lowest)) / (n_u / mean n)^user_power

    and l2 · Σ_{i ∈ N(u)} (‖p_u‖² + ‖q_i‖²), summed over the users and divided by the mean number of interactions of
    such a batch. Items that a user liked count more than others, and a user with ten times as many items counts less
    than ten times as much.

    Memory: a few arrays of (users, n_items), of at most 128 MiB each; on CUDA see `catalogue_logsumexp`.

    Args:
        dropout: share of a user's items to hide from their factors, see `SideModule.dropped_factors`.
        n_sampled: candidates that stand for the catalogue in each batch, drawn in proportion to their ratings
            (`sampled_ranking_loss`); 0: the whole catalogue (`ranking_loss`).
        width: numbers that the model computes for each user and candidate: 1, or the width of the first layer of a
            neural model. It bounds the number of users in a batch.
        generator: draws the candidates.
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
        span = float(np.ptp(train.rating)) or 1.0
        liked = 1 + rating_weight * (train.rating - train.rating.mean(dtype=np.float64)) / span  # (n_ratings,)
        eager = (np.bincount(train.user_idx) * (train.n_users / train.n_ratings)) ** user_power  # (n_users,)
        weight = (np.maximum(liked, MIN_WEIGHT) / eager[train.user_idx]).astype(np.float32)[order]
        self._weight = torch.from_numpy(weight).to(device)
        self._starts = torch.from_numpy(starts).to(device)
        self._item_idx = torch.from_numpy(train.item_idx[order]).to(device)
        self._users = torch.arange(train.n_users, dtype=torch.int32, device=device)
        self._order = self._users
        self._count_before()
        self._n_items = train.n_items
        self._mean_items = train.n_ratings / train.n_users
        self._l2, self._dropout, self._n_sampled = l2, dropout, n_sampled
        self._max_users = train.n_users
        if n_sampled or width > 1 or not uses_kernels(device):
            self._max_users = max(1, MAX_SCORES // max(train.n_items, (n_sampled or train.n_items) * width))
        self._share = torch.from_numpy(train.item_counts() / train.n_ratings).to(device)  # (n_items,) of all ratings
        self._log_expected = (self._share * max(n_sampled, 1)).log().float()
        self._generator = generator

    @property
    def n_units(self) -> int:
        """Number of users."""
        return len(self._users)

    def units_of(self, batch_size: int) -> int:
        """Return the number of users that have about `batch_size` ratings, as far as memory allows."""
        wanted = round(batch_size / self._mean_items)
        return max(1, min(wanted, self._max_users))

    def shuffle(self, generator: torch.Generator) -> None:
        """Put the users into the random order of a new epoch."""
        order = torch.randperm(self.n_units, generator=generator, device=generator.device)
        self._order = self._users[order]
        self._count_before()

    def _count_before(self) -> None:
        """Count the items of the users before each of the current order, on the host: (n_users + 1,).

        A batch knows its size from them without waiting for the device.
        """
        n_seen = self._starts.diff()[self._order.long()]
        self._n_before = np.concatenate([[0], n_seen.cumsum(0).cpu().numpy()])

    def enter(self, model: Model, start: int) -> None:
        """Do nothing: no terms are held."""

    def finish(self, model: Model, stop: int) -> None:
        """Do nothing: no terms are held."""

    def batch(self, model: Model, start: int, stop: int) -> Tensor:
        """Return the loss of the users `start` to `stop` of the current order: ()."""
        users = self._order[start:stop]  # (users,)
        seen, weight = self._seen(users, int(self._n_before[stop] - self._n_before[start]))
        if self._n_sampled:
            candidates = torch.multinomial(self._share, self._n_sampled, replacement=True, generator=self._generator)
            z, z_seen = model.score_lists(users, seen, self._dropout, candidates)
            loss = sampled_ranking_loss(z, z_seen, seen, weight, candidates, self._log_expected)
        else:
            log_sum, z_seen = model.score_catalogue(users, seen, self._dropout)
            loss = ranking_loss(log_sum, z_seen, seen, weight)
        if self._l2 > 0:
            n_drawn = torch.zeros(self.n_units, device=users.device).index_add(0, users, seen.n_of_user.float())
            penalty = weighted_squares(model.users.own_factors, n_drawn)
            penalty = penalty + weighted_squares(model.items.own_factors, seen.n_of_item)
            loss = loss + self._l2 * penalty
        return loss / (len(users) * self._mean_items)

    def _seen(self, users: Tensor, n: int) -> tuple[Cells, Tensor]:
        """Return the (users) × items cells of the users' n items in all, and their weights (n,)."""
        n_seen = self._starts[users + 1] - self._starts[users]  # (users,)
        number = torch.arange(len(users), dtype=torch.int32, device=users.device)
        row = torch.repeat_interleave(number, n_seen, output_size=n)
        before = torch.cumsum(n_seen, 0) - n_seen  # (users,)
        idx = torch.arange(len(row), device=users.device) + (self._starts[users] - before)[row]  # (batch,)
        return Cells(row, self._item_idx[idx], len(users), self._n_items), self._weight[idx]
