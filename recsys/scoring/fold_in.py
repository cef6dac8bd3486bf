"""Fold-in: the row of a user from ratings that a model version has not seen. numpy only.

The items stay as they are; what is solved is the user's share of the loss that training minimised. A row is

    p = prior + Σ_{j ∈ N} y_j / √|N| + A own

where the prior is what the user's metadata makes, y what an item adds whatever its rating, and A the identity, but for
a neural model the map from embeddings to rows. Only `own`, and under `rating` the bias, has to be solved.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from recsys.factors import Factors, Head, RankingConstants
from recsys.results import Objective

DEFAULT_RIDGE = 20.0
"""λ under `ranking` where training left none."""
_RIDGE_SHARE = {"dot": 0.5, "neural": 2.0}
"""λ as a share of the ridge that training had: what orders lists best, found on validation parts."""
_RIDGE_RANGE = (0.1, 1e4)
_L2_SHARE = {"dot": 1.0, "neural": 0.35}
"""The same of l2 under `rating`."""
_LEAST_L2 = 0.01
"""l2 under `rating` at least, where training had less."""
_LEAST_WEIGHT = 0.05
"""What the least liked item counts at least, as in training."""

_N_POPULAR = 8192
"""Items with the highest biases, which are all scored at the start."""
_N_RARE = 2048
"""Draws that stand for the other items of a larger catalogue."""
_N_BEST = 512
"""Of these the best at the start, which stand for themselves in the softmax."""
_N_OTHERS = 256
"""Draws that stand for the rest of these."""
_N_CURVED = 256
"""Items of which the curvature is made."""
_N_STEPS = 5
_N_HALVINGS = 6
_ENOUGH = 0.01
"""What a step must improve the loss by for another to follow, as a share of its sum of weights."""

_F32 = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Folded:
    """A user's row and bias.

    Attributes:
        vector: (width,) float32, as a row of `user_factors`.
        bias: as in `user_bias`.
        parts: (n, width) float32, what each rating adds: vector = prior + Σ parts, up to rounding; None where it was
            not asked for.
    """

    vector: _F32
    bias: float
    parts: _F32 | None


class FoldIn:
    """Solves rows of users against the items of one version. Safe to use from many threads; holds a copy of 10,240
    items at most.

    Under `rating` the row and the bias minimise, as in training,

        Σ_j (r̂_j − r_j)² + s² · [ (l2 · n + damping) · ‖own‖² + damping · b_u² ],   s = (high − low) / 4

    by Gauss-Newton steps (a neural model with .35 of its l2). Under `ranking` the row minimises

        Σ_j w_j · (log Σ_i e^{z_i} − z_j) + λ/2 · ‖own‖²

    by Newton steps, with w as training weighs ratings, and λ half of what training held rows back by (twice that for a
    neural model). The sum over i is estimated where the catalogue is large: from the 8,192 items with the highest
    biases and 2,048 drawn from the others in proportion to e^{b_i}; and of those from the 512 with the best scores at
    own = 0 and 256 drawn from the others in proportion to e^{z_i}. What is drawn counts as the inverse of how often it
    was to be drawn. The draws are systematic, and so the same each time.
    """

    def __init__(
        self,
        *,
        objective: Objective,
        item_factors: _F32,
        item_bias: _F32,
        item_implicit: _F32 | None,
        head: Head | None,
        global_bias: float,
        rating_range: tuple[float, float] | None,
        configuration: Mapping[str, object],
        user_map: _F32 | None = None,
        ranking: RankingConstants | None = None,
    ) -> None:
        """
        Args:
            objective, item_factors, item_bias, item_implicit, head, global_bias, rating_range, user_map, ranking: as in
                `Factors`; an item of bias −inf is one that the version does not know.
            configuration: the training's, as `Config.as_record` gives it.

        Raises:
            ValueError: `rating` without a rating range.
        """
        if objective == "rating" and rating_range is None:
            raise ValueError("the rating objective has a rating range: pass the version's")
        self._objective = objective
        self._items, self._item_bias, self._implicit = item_factors, item_bias, item_implicit
        self._head = head
        self._global_bias = float(global_bias)
        self._range = rating_range or (0.0, 1.0)
        # A neural model of which the map is not known has no own part.
        width = item_factors.shape[1]
        self._map = user_map if user_map is not None or head is None else np.zeros((width, 0), np.float32)
        self._n_own = width if self._map is None else self._map.shape[1]
        self._ranking = ranking
        self._known: NDArray[np.bool_] = np.isfinite(item_bias)
        self._trained = self._known if item_implicit is None else self._known & item_implicit.any(1)
        # What has no ratings was not in the softmax of training.
        bias = np.where(self._trained, item_bias, np.float32(-np.inf))
        self._pool, self._pool_bias = item_factors, bias
        if len(bias) > _N_POPULAR + _N_RARE:
            idx, offset = _thinned(bias, _N_POPULAR, _N_RARE)
            self._pool, self._pool_bias = item_factors[idx], bias[idx] + offset

        def setting(name: str, default: float) -> float:
            value = configuration.get(name)
            return float(value) if isinstance(value, int | float) else default

        kind = "dot" if head is None else "neural"
        self._l2, self._damping = _L2_SHARE[kind] * max(setting("l2", 0.05), _LEAST_L2), setting("damping", 2.5)
        self._ridge = _RIDGE_SHARE[kind] * (DEFAULT_RIDGE if ranking is None else ranking.ridge)
        self._rating_weight, self._user_power = setting("rating_weight", 2.0), setting("user_power", 0.5)

    @classmethod
    def of(cls, factors: Factors, configuration: Mapping[str, object]) -> "FoldIn":
        """Of all factors of a version."""
        return cls(
            objective=factors.objective,
            item_factors=factors.item_factors,
            item_bias=factors.item_bias,
            item_implicit=factors.item_implicit,
            head=factors.head,
            global_bias=factors.global_bias,
            rating_range=factors.rating_range,
            configuration=configuration,
            user_map=factors.user_map,
            ranking=factors.ranking,
        )

    def solve(
        self,
        item_idx: NDArray[np.int64],
        rating: _F32,
        *,
        prior: _F32 | None = None,
        prior_bias: float = 0.0,
        explain: bool = False,
    ) -> Folded:
        """The row of a user who gave these ratings.

        Args:
            item_idx: (n,) positions of distinct items, in any order; an item that the version does not know adds
                nothing.
            rating: (n,) their ratings.
            prior: (width,) the row of the user's metadata; None: zeros.
            prior_bias: its bias.
            explain: whether to say what each rating adds.
        """
        width = self._items.shape[1]
        start = np.zeros(width, np.float32) if prior is None else prior.astype(np.float32)
        known = self._known[item_idx]
        idx, r = item_idx[known], rating[known].astype(np.float32)
        if len(idx) == 0:
            return Folded(start, prior_bias, np.zeros((len(item_idx), width), np.float32) if explain else None)
        implicit = self._implicit_of(idx)
        begin = start if implicit is None else start + implicit.sum(0)
        solved = (
            self._solve_rating(idx, r, begin, prior_bias)
            if self._objective == "rating"
            else self._solve_ranking(idx, r, begin)
        )
        own = self._row_of(solved.own)
        vector = (begin + own).astype(np.float32)
        if not explain:
            return Folded(vector, prior_bias + solved.bias, None)
        # At the optimum the shares add up to own; what is left of the way there is shared out evenly.
        shares = self._row_of(solved.pull)
        added = shares + (own - shares.sum(0)) / len(idx)
        if implicit is not None:
            added += implicit
        parts = np.zeros((len(item_idx), width), np.float32)
        parts[known] = added
        return Folded(vector, prior_bias + solved.bias, parts)

    def measured_ridge(self, rated: Sequence[tuple[NDArray[np.int64], _F32]], user_rows: _F32, own: _F32) -> float:
        """How strongly a `ranking` training held back the own rows of some users: the λ that fits

            λ · own_u = −∂/∂own_u Σ_j w_j · (log Σ_i e^{z_i} − z_j)

        best, weighed by ‖own_u‖. AdamW's decoupled decay is a penalty of no fixed strength (it is divided by how much
        gradients vary), but users differ little in it: on MovieLens 1M it is 21 to 23 from the least to the most
        active fifth.

        Args:
            rated: of each user the positions of the items, and the ratings.
            user_rows: (users, width) their rows.
            own: (users, width of the embeddings) the part of each that is their own.
        """
        pulled = square = 0.0
        for (idx, rating), row, of_user in zip(rated, user_rows, own, strict=True):
            weight = self._weights(rating)
            catalogue = _scores(*self._candidates(row), row, self._head)
            mine = _scores(self._items[idx], self._item_bias[idx], row, self._head)
            share, _ = _softmax(catalogue.z)
            gradient = weight @ mine.slopes - weight.sum() * (share @ catalogue.slopes)
            pulled += float(self._own_of(gradient) @ of_user)
            square += float(of_user @ of_user)
        if not pulled > 0 or not square > 0:
            return DEFAULT_RIDGE
        return float(np.clip(pulled / square, *_RIDGE_RANGE))

    def _implicit_of(self, idx: NDArray[np.int64]) -> _F32 | None:
        """y_j / √|N| of each item: (n, width); items without ratings at training are none of N."""
        if self._implicit is None:
            return None
        n = max(int(self._trained[idx].sum()), 1)
        result: _F32 = self._implicit[idx] / np.float32(np.sqrt(n))
        return result

    def _row_of(self, own: NDArray[np.floating]) -> NDArray[np.floating]:
        """A own, of one or of rows of many."""
        return own if self._map is None else own @ self._map.T

    def _own_of(self, gradient: NDArray[np.floating]) -> NDArray[np.floating]:
        """The gradient in own from that in the row."""
        return gradient if self._map is None else gradient @ self._map

    def _weights(self, rating: _F32) -> NDArray[np.float64]:
        """w of a user's ratings, as `recsys.training.objectives.RankingLoss` has it."""
        known = self._ranking
        if known is None:
            return np.full(len(rating), 10 * len(rating) ** -self._user_power)
        liked = 1 + self._rating_weight * (rating.astype(np.float64) - known.mean) / known.span
        eager = (len(rating) / known.n_items) ** self._user_power
        weight: NDArray[np.float64] = np.maximum(liked, _LEAST_WEIGHT) / eager
        return weight

    def _candidates(self, row: _F32) -> tuple[_F32, _F32]:
        """Rows (n, width) and biases (n,) that stand for the catalogue in the softmax of a user near this row."""
        n_dot = self._items.shape[1] if self._head is None else self._head.n_dot
        idx, offset = _thinned(self._pool[:, :n_dot] @ row[:n_dot] + self._pool_bias, _N_BEST, _N_OTHERS)
        return self._pool[idx], self._pool_bias[idx] + offset

    def _solve_ranking(self, idx: NDArray[np.int64], rating: _F32, begin: _F32) -> "_Solved":
        weight = self._weights(rating)
        total = float(weight.sum())
        ridge = self._ridge
        every, rated = self._candidates(begin), (self._items[idx], self._item_bias[idx])

        def at(own: NDArray[np.float64]) -> _Choices:
            row = (begin + self._row_of(own)).astype(np.float32)
            catalogue, mine = _scores(*every, row, self._head), _scores(*rated, row, self._head)
            share, log_sum = _softmax(catalogue.z)
            loss = total * log_sum - weight @ mine.z + ridge / 2 * own @ own
            mean = share @ catalogue.slopes
            downhill = self._own_of(weight @ mine.slopes - total * mean) - ridge * own
            return _Choices(float(loss), downhill, share, catalogue.slopes, mean, mine.slopes)

        own, there = _descended(
            at, self._n_own, lambda point: self._curvature(point.share, point.slopes, total, ridge), _ENOUGH * total
        )
        return _Solved(own, 0.0, self._own_of(weight[:, None] * (there.of_rated - there.mean) / ridge))

    def _curvature(self, share: _F32, slopes: _F32, total: float, ridge: float) -> NDArray[np.floating]:
        """Second derivative in own, of the items with most of the probability: as if they had all of it."""
        if len(share) > _N_CURVED:
            most = np.argpartition(share, -_N_CURVED)[-_N_CURVED:]
            share, slopes = share[most] / share[most].sum(), slopes[most]
        mean = share @ slopes
        centred = (slopes - mean) * np.sqrt(total * share)[:, None]
        if self._map is not None:
            centred = centred @ self._map
        return _with_diagonal(centred.T @ centred, ridge)

    def _solve_rating(self, idx: NDArray[np.int64], rating: _F32, begin: _F32, prior_bias: float) -> "_Solved":
        low, high = self._range
        n, steepest = len(idx), ((high - low) / 4) ** 2
        ridge = np.full(self._n_own + 1, steepest * (self._l2 * n + self._damping))
        ridge[-1] = steepest * max(self._damping, _LEAST_L2)
        items, bias = self._items[idx], self._item_bias[idx]
        raw = rating.astype(np.float64)

        def at(x: NDArray[np.float64]) -> _Errors:
            """At own and b_u, (n_own + 1,)."""
            row = (begin + self._row_of(x[:-1])).astype(np.float32)
            scores = _scores(items, bias, row, self._head)
            share = 1 / (1 + np.exp(-np.clip(scores.z + (self._global_bias + prior_bias + x[-1]), -60, 60)))
            error = low + (high - low) * share - raw
            slope = (high - low) * share * (1 - share)
            slopes = np.column_stack([self._own_of(scores.slopes.astype(np.float64)), np.ones(n)]) * slope[:, None]
            return _Errors(float(error @ error + ridge @ x**2), -(slopes.T @ error) - ridge * x, error, slopes)

        x, there = _descended(
            at,
            self._n_own + 1,
            lambda point: _with_diagonal(point.slopes.T @ point.slopes, ridge),
            _ENOUGH * _ENOUGH * n * steepest,
        )
        pull = -(there.slopes * there.error[:, None]) / ridge
        return _Solved(x[:-1], float(x[-1]), pull[:, :-1])


class _Scores(NamedTuple):
    """z (n,) and its slopes in the user's row (n, width)."""

    z: _F32
    slopes: _F32


class _Choices(NamedTuple):
    """The loss of a ranking at some own, the way down (n_own,), the candidates' shares and slopes, the mean of these,
    and the slopes of what was rated."""

    loss: float
    downhill: NDArray[np.float64]
    share: _F32
    slopes: _F32
    mean: _F32
    of_rated: _F32


class _Errors(NamedTuple):
    """The loss of ratings at some own and b_u, half the way down (n_own + 1,), the errors (n,) and their slopes."""

    loss: float
    downhill: NDArray[np.float64]
    error: NDArray[np.float64]
    slopes: NDArray[np.float64]


class _Solved(NamedTuple):
    """own (n_own,), b_u, and by how much each rating pulls own (n, n_own)."""

    own: NDArray[np.float64]
    bias: float
    pull: NDArray[np.floating]


class _State(Protocol):
    @property
    def loss(self) -> float: ...
    @property
    def downhill(self) -> NDArray[np.float64]: ...


_S = TypeVar("_S", bound=_State)


def _descended(
    at: Callable[[NDArray[np.float64]], _S], n: int, curvature: Callable[[_S], NDArray[np.floating]], enough: float
) -> tuple[NDArray[np.float64], _S]:
    """Newton steps from zero until one improves the loss by less than `enough`: the place (n,) and what is there.

    A step that makes the loss worse is halved.
    """
    x = np.zeros(n)
    here = at(x)
    for _ in range(_N_STEPS):
        step = np.linalg.solve(curvature(here), here.downhill)
        for _ in range(_N_HALVINGS):
            there = at(x + step)
            if there.loss <= here.loss:
                break
            step = step / 2
        else:
            break
        improved = here.loss - there.loss
        x, here = x + step, there
        if improved < enough:
            break
    return x, here


def _with_diagonal(matrix: NDArray[np.floating], added: NDArray[np.float64] | float) -> NDArray[np.floating]:
    """The same matrix, with something added to its diagonal."""
    matrix[np.diag_indices(len(matrix))] += added
    return matrix


def _scores(items: _F32, bias: _F32, row: _F32, head: Head | None) -> _Scores:
    if head is None:
        return _Scores(items @ row + bias, items)
    n_dot = head.n_dot
    z = items[:, :n_dot] @ row[:n_dot] + bias
    x = items[:, n_dot:] + row[n_dot:]
    above: list[NDArray[np.bool_]] = []
    for weight, layer_bias in head.layers:
        above.append(x > 0)
        x = np.maximum(x, 0) @ weight.T + layer_bias
    slope = np.ones((len(items), 1), np.float32)
    for (weight, _), is_above in zip(reversed(head.layers), reversed(above), strict=True):
        slope = (slope @ weight) * is_above
    return _Scores(z + x[:, 0], np.concatenate([items[:, :n_dot], slope], 1))


def _thinned(z: _F32, n_best: int, n_others: int) -> tuple[NDArray[np.int64], _F32]:
    """Positions that stand for all in Σ e^z, and what is to be added to the z of each.

    The `n_best` highest as they are, and `n_others` drawn from the rest in proportion to e^z. All, if they are no more.
    """
    if len(z) <= n_best + n_others:
        idx = np.flatnonzero(np.isfinite(z))
        return idx, np.zeros(len(idx), np.float32)
    best = np.argpartition(z, -n_best)[-n_best:]
    best = best[np.isfinite(z[best])]
    share = np.exp(z - z.max()) if len(best) else np.zeros_like(z)
    share[best] = 0
    up_to = np.cumsum(share, dtype=np.float64)
    if not up_to[-1] > 0:
        return best, np.zeros(len(best), np.float32)
    drawn = np.searchsorted(up_to, up_to[-1] * (np.arange(n_others) + 0.5) / n_others)
    expected = n_others * share[drawn] / up_to[-1]
    offset = np.concatenate([np.zeros(len(best)), -np.log(expected)]).astype(np.float32)
    return np.concatenate([best, drawn]), offset


def _softmax(z: _F32) -> tuple[_F32, float]:
    """Shares (n,) and log Σ e^z."""
    if len(z) == 0:
        return z, 0.0
    highest = z.max()
    share = np.exp(z - highest)
    total = share.sum()
    return cast(_F32, share / total), float(highest + np.log(total))
