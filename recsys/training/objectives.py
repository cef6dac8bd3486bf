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
from recsys.errors import TrainingError
from recsys.training.models import Model

_MOST_SCORES = 1 << 25
"""Scores of one batch under `ranking`: 128 MiB of them."""


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


def ranking_loss(z: Tensor, seen: Tensor) -> Tensor:
    """Multinomial negative log-likelihood of each user's items: (users,).

        −Σ_i x_ui · log softmax(z_u)_i

    over the whole catalogue, where x_ui says how often user u has item i (Liang, Krishnan, Hoffman & Jebara,
    "Variational Autoencoders for Collaborative Filtering", WWW 2018, eq. 2).

    Args:
        z: (users, n_items) scores.
        seen: (users, n_items) x.
    """
    return (z.logsumexp(1) * seen.sum(1)) - (z * seen).sum(1)


class RatingLoss:
    """Mean over a batch of ratings of

        (r̂_ui − r_ui)² + s² · [ (l2 + damping / n_u) · ‖p_u‖² + damping / n_u · b_u²
                              + (l2 + damping / n_i) · ‖q_i‖² + damping / n_i · b_i² ]

    with n_u and n_i the numbers of ratings of the user and the item, and s = (high − low) / 4, the steepest
    slope of the sigmoid, so that the same strengths serve any rating scale. `l2` is paid each time a row is
    drawn (Koren, Bell & Volinsky 2009, eq. 2); `damping` is paid once an epoch, whatever n is, and so holds back
    those rows most that have few ratings.
    """

    def __init__(
        self,
        train: Ratings,
        *,
        rating_range: tuple[float, float],
        l2: float,
        damping: float,
        device: torch.device,
    ) -> None:
        low, high = rating_range
        slope = (high - low) / 4
        self._range = rating_range
        self._l2 = l2 * slope**2
        self._user_damping = _damping(np.bincount(train.user_idx), damping * slope**2, device)  # (n_users,)
        self._item_damping = _damping(np.bincount(train.item_idx), damping * slope**2, device)  # (n_items,)
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
        pairs = model.pairs(user_idx, item_idx)
        for_user = self._user_damping.index_select(0, user_idx)  # (batch,)
        for_item = self._item_damping.index_select(0, item_idx)  # (batch,)
        loss = (
            rating_loss(pairs.z, rating, *self._range)
            + (self._l2 + for_user) * pairs.user_squared_norm
            + (self._l2 + for_item) * pairs.item_squared_norm
            + for_user * pairs.user_bias.square()
            + for_item * pairs.item_bias.square()
        )  # (batch,)
        return loss.mean()


class RankingLoss:
    """Sum over a batch of users of

        −Σ_i x_ui · log softmax(z_u)_i + l2 · Σ_i x_ui · (‖p_u‖² + ‖q_i‖²)

    over the mean number of interactions in such a batch, with x_ui = 1 for every item that user u has in the
    training set, whatever the rating. Memory: a few arrays of (users, n_items), of at most 128 MiB each.
    """

    def __init__(self, train: Ratings, *, l2: float, device: torch.device) -> None:
        starts, order = train.by_user()
        self._starts = torch.from_numpy(starts).to(device)
        self._item_idx = torch.from_numpy(train.item_idx[order]).to(device)
        self._users = torch.arange(train.n_users, dtype=torch.int32, device=device)
        self._order = self._users
        self._n_items = train.n_items
        self._mean_items = train.n_ratings / train.n_users
        self._l2 = l2

    @property
    def n_units(self) -> int:
        return len(self._users)

    def units_of(self, batch_size: int) -> int:
        wanted = round(batch_size / self._mean_items)
        return max(1, min(wanted, _MOST_SCORES // self._n_items))

    def shuffle(self, generator: torch.Generator) -> None:
        order = torch.randperm(self.n_units, generator=generator, device=generator.device)
        self._order = self._users[order]

    def batch(self, model: Model, start: int, stop: int) -> Tensor:
        users = self._order[start:stop]  # (users,)
        seen = self._seen(users)  # (users, n_items)
        # (users, n_items), (users,), (n_items,)
        z, user_squared_norm, item_squared_norm = model.catalogue(users)
        penalty = seen.sum(1) @ user_squared_norm + seen.sum(0) @ item_squared_norm  # ()
        loss = ranking_loss(z, seen).sum() + self._l2 * penalty  # ()
        return loss / (len(users) * self._mean_items)

    def _seen(self, users: Tensor) -> Tensor:
        """How often each of the users has each item: (users, n_items)."""
        n_seen = self._starts[users + 1] - self._starts[users]  # (users,)
        row = torch.repeat_interleave(torch.arange(len(users), device=users.device), n_seen)  # (ratings,)
        before = torch.cumsum(n_seen, 0) - n_seen  # (users,)
        place = torch.arange(len(row), device=users.device) + (self._starts[users] - before)[row]  # (ratings,)
        seen = torch.zeros(len(users), self._n_items, device=users.device)
        seen[row, self._item_idx[place].long()] = 1.0
        return seen


def rating_range(rating: NDArray[np.float32], scale: tuple[float, float] | None) -> tuple[float, float]:
    """The ends of the sigmoid: the scale (else the lowest and highest rating), half a step wider at each end.

    A step is the smallest difference between two distinct ratings, but at least a hundredth of the scale, so
    that ratings on a continuous scale do not ask for infinite scores. Where all ratings are equal it is 1, or
    the whole scale if that is less.
    """
    distinct = np.unique(rating).astype(np.float64)
    low, high = scale if scale is not None else (float(distinct[0]), float(distinct[-1]))
    step = min(1.0, high - low) or 1.0
    if len(distinct) > 1:
        step = max(float(np.diff(distinct).min()), (high - low) / 100)
    return low - step / 2, high + step / 2


def logit(rating: NDArray[np.float64] | float, low: float, high: float) -> NDArray[np.float64]:
    """The score whose prediction is `rating`: the inverse of low + (high − low) · sigmoid(z)."""
    share = (np.asarray(rating, np.float64) - low) / (high - low)
    result: NDArray[np.float64] = np.log(share / (1 - share))
    return result


def checked(train: Ratings, scale: tuple[float, float] | None) -> Ratings:
    """The ratings that can be learned from: users and items without any left out.

    Raises:
        TrainingError: there are no ratings, or some are no number or lie outside the stated scale.
    """
    if train.n_ratings == 0:
        raise TrainingError("there are no ratings to train on; load some first (recsys load PATH)")
    n_bad = int((~np.isfinite(train.rating)).sum())
    if n_bad:
        raise TrainingError(f"{n_bad} of {train.n_ratings} ratings are not finite numbers; remove them")
    if scale is not None:
        low, high = scale
        if not low < high:
            raise TrainingError(f"rating scale {low:g} to {high:g}: the lower end must be below the upper")
        outside = int(((train.rating < low) | (train.rating > high)).sum())
        if outside:
            raise TrainingError(
                f"{outside} of {train.n_ratings} ratings are outside the scale {low:g} to {high:g} "
                f"(they go from {train.rating.min():g} to {train.rating.max():g}); "
                "mend RECSYS_RATING_MIN and RECSYS_RATING_MAX or the ratings"
            )
    return train.compact()


def _damping(n_rated: NDArray[np.int64], strength: float, device: torch.device) -> Tensor:
    """What each draw of a row is charged, so that an epoch charges every row `strength`."""
    return torch.from_numpy((strength / n_rated).astype(np.float32)).to(device)
