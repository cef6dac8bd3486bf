"""Fold-in: the row that a user's own share of the training loss asks for."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from recsys.data.dataset import NO_TIME, Ratings
from recsys.data.sample import generate
from recsys.factors import Factors, Head, RankingConstants, RatingConstants, Side
from recsys.results import Architecture, Objective
from recsys.scoring.fold_in import FoldedUser, FoldIn
from recsys.scoring.score import score_rows, score_users
from recsys.training.config import default_config
from recsys.training.fit import fit

N_ITEMS, WIDTH, EMBEDDING = 40, 6, 4
RATING = RatingConstants(l2=0.05, damping=2.0)
RANKING = RankingConstants(mean=3.5, span=4.0, n_items=20.0, ridge=6.0, rating_weight=2.0, user_power=0.5)
ITEMS = np.array([3, 17, 5, 30])
RATINGS = np.array([5, 1, 4, 3], np.float32)


def version(objective: Objective, *, neural: bool = False, implicit: bool = True, n_items: int = N_ITEMS) -> Factors:
    """A version of random rows; of a neural one the last 3 columns go through two layers."""
    rng = np.random.default_rng(3)

    def normal(*shape: int) -> NDArray[np.float32]:
        return rng.normal(size=shape).astype(np.float32)

    n_hidden, n_second = 3, 5
    layers = ((normal(n_second, n_hidden), normal(n_second)), (normal(1, n_second), normal(1)))
    user_map = normal(WIDTH, EMBEDDING) if neural else None
    y = normal(n_items, EMBEDDING if neural else WIDTH)
    user_factors, item_factors = normal(1, WIDTH), normal(n_items, WIDTH)
    user_bias, item_bias = normal(1), normal(n_items)
    implicit_vectors = (y if user_map is None else y @ user_map.T) if implicit else None
    return Factors(
        objective=objective,
        users=Side(np.arange(1), user_factors, user_bias),
        items=Side(np.arange(n_items), item_factors, item_bias, implicit_vectors),
        global_bias=0.25,
        rating_range=(0.5, 5.5) if objective == "rating" else None,
        head=Head(WIDTH - n_hidden, layers, user_map) if neural else None,
        constants=RANKING if objective == "ranking" else RATING,
    )


def user_map_of(factors: Factors) -> NDArray[np.float32] | None:
    return None if factors.head is None else factors.head.user_map


def z_of(factors: Factors, row: NDArray[np.float64]) -> NDArray[np.float64]:
    """Scores of all items without b_u and b, in float64."""
    items, bias = factors.item_factors.astype(float), factors.item_bias.astype(float)
    if factors.head is None:
        return items @ row + bias
    n_dot = factors.head.n_dot
    x = items[:, n_dot:] + row[n_dot:]
    for weight, layer_bias in factors.head.layers:
        x = np.maximum(x, 0) @ weight.T.astype(float) + layer_bias
    return items[:, :n_dot] @ row[:n_dot] + bias + x[:, 0]


def loss_of(factors: Factors, items: NDArray[np.int64], ratings: NDArray[np.float32]) -> Callable[[Any], float]:
    """The loss of (own, b_u), written out anew."""
    n = len(items)
    y = np.zeros(WIDTH) if factors.items.implicit is None else factors.items.implicit[items].sum(0) / np.sqrt(n)
    A = np.eye(WIDTH) if user_map_of(factors) is None else user_map_of(factors).astype(float)

    def rating_loss(x: NDArray[np.float64]) -> float:
        z = z_of(factors, y + A @ x[:-1])[items] + x[-1] + factors.global_bias
        error = 0.5 + 5 / (1 + np.exp(-z)) - ratings
        l2 = 0.05 * (1 if factors.head is None else 0.35)
        penalty = (l2 * n + 2.0) * x[:-1] @ x[:-1] + 2.0 * x[-1] ** 2
        return float(error @ error + (5 / 4) ** 2 * penalty)

    def ranking_loss(x: NDArray[np.float64]) -> float:
        z = z_of(factors, y + A @ x[:-1])
        weight = np.maximum(0.05, 1 + 2 * (ratings - 3.5) / 4) / np.sqrt(n / 20)
        ridge = 6.0 * (0.5 if factors.head is None else 2)
        return float(weight @ (np.log(np.exp(z).sum()) - z[items]) + ridge / 2 * x[:-1] @ x[:-1] + x[-1] ** 2)

    return rating_loss if factors.objective == "rating" else ranking_loss


def slope_of(loss: Callable[[Any], float], x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Central differences."""
    steps = 1e-5 * np.eye(len(x))
    return np.array([(loss(x + step) - loss(x - step)) / 2e-5 for step in steps])


def descended(loss: Callable[[Any], float], n: int) -> NDArray[np.float64]:
    """The minimum near zero by plain gradient descent."""
    x, rate, least = np.zeros(n), 0.1, loss(np.zeros(n))
    for _ in range(4000):
        slope = slope_of(loss, x)
        if np.abs(slope).max() < 1e-6:
            break
        while loss(x - rate * slope) > least and rate > 1e-9:
            rate /= 2
        x = x - rate * slope
        least, rate = loss(x), rate * 1.5
    return x


def expected(factors: Factors, items: NDArray[np.int64], ratings: NDArray[np.float32]) -> FoldedUser:
    """Row and bias by gradient descent."""
    n_own = WIDTH if factors.head is None else EMBEDDING
    x = descended(loss_of(factors, items, ratings), n_own + 1)
    user_map = user_map_of(factors)
    A = np.eye(WIDTH) if user_map is None else user_map
    y = 0 if factors.items.implicit is None else factors.items.implicit[items].sum(0) / np.sqrt(len(items))
    return FoldedUser((y + A @ x[:-1]).astype(np.float32), float(x[-1]), None)


@pytest.mark.parametrize("objective", ["rating", "ranking"])
@pytest.mark.parametrize("implicit", [True, False])
@pytest.mark.parametrize("n", [1, 2, 4])
def test_the_row_is_what_gradient_descent_on_the_training_loss_finds(
    objective: Objective, implicit: bool, n: int
) -> None:
    factors = version(objective, implicit=implicit)
    folded = FoldIn(factors).solve(ITEMS[:n], RATINGS[:n])
    known = expected(factors, ITEMS[:n], RATINGS[:n])
    assert folded.vector.tolist() == pytest.approx(known.vector.tolist(), abs=0.02)
    assert folded.bias == pytest.approx(known.bias, abs=0.02)
    assert folded.vector.dtype == np.float32


@pytest.mark.parametrize("objective", ["rating", "ranking"])
def test_a_neural_row_is_a_minimum_of_its_own_loss(objective: Objective) -> None:
    factors = version(objective, neural=True)
    folded = FoldIn(factors).solve(ITEMS, RATINGS)
    loss = loss_of(factors, ITEMS, RATINGS)
    assert factors.items.implicit is not None
    user_map = user_map_of(factors)
    assert user_map is not None
    own = np.linalg.lstsq(user_map, folded.vector - factors.items.implicit[ITEMS].sum(0) / 2)[0]
    x = np.array([*own, folded.bias])
    found = loss(descended(loss, EMBEDDING + 1))
    assert loss(x) < loss(np.zeros(EMBEDDING + 1))
    assert loss(x) <= found + 0.02 * abs(found)


@pytest.mark.parametrize("neural", [False, True])
@pytest.mark.parametrize("objective", ["rating", "ranking"])
def test_parts_and_the_prior_add_up_to_the_row(objective: Objective, neural: bool) -> None:
    prior = np.linspace(-0.5, 0.5, WIDTH, dtype=np.float32)
    fold_in = FoldIn(version(objective, neural=neural))
    folded = fold_in.solve(ITEMS, RATINGS, prior=prior, prior_bias=0.5, explain=True)
    assert folded.parts is not None
    assert folded.parts.shape == (4, WIDTH)
    assert (prior + folded.parts.sum(0)).tolist() == pytest.approx(folded.vector.tolist(), abs=1e-4)
    plain = fold_in.solve(ITEMS, RATINGS, prior=prior, prior_bias=0.5)
    assert plain.parts is None
    assert plain.vector.tolist() == folded.vector.tolist()


def test_a_part_is_what_the_rating_pulls_by() -> None:
    factors = version("ranking", implicit=False)
    folded = FoldIn(factors).solve(ITEMS, RATINGS, explain=True)
    z = z_of(factors, folded.vector.astype(float))
    share = np.exp(z) / np.exp(z).sum()
    weight = np.maximum(0.05, 1 + 2 * (RATINGS - 3.5) / 4) / np.sqrt(4 / 20)
    pulls = weight[:, None] * (factors.item_factors[ITEMS] - share @ factors.item_factors) / 3.0
    assert folded.parts is not None
    assert folded.parts.ravel().tolist() == pytest.approx(pulls.ravel().tolist(), abs=0.02)


@pytest.mark.parametrize("objective", ["rating", "ranking"])
def test_without_ratings_the_row_is_the_prior(objective: Objective) -> None:
    fold_in = FoldIn(version(objective))
    nothing = np.empty(0, np.int64), np.empty(0, np.float32)
    prior = np.full(WIDTH, 0.5, np.float32)
    folded = fold_in.solve(*nothing, prior=prior, prior_bias=0.25, explain=True)
    assert folded.vector.tolist() == prior.tolist()
    assert folded.bias == 0.25
    assert folded.parts is not None
    assert folded.parts.shape == (0, WIDTH)
    assert fold_in.solve(*nothing).vector.tolist() == [0.0] * WIDTH


@pytest.mark.parametrize("objective", ["rating", "ranking"])
def test_an_item_that_the_version_does_not_know_counts_nothing(objective: Objective) -> None:
    factors = version(objective)
    fold_in = FoldIn(factors)
    bias = np.append(factors.item_bias, -np.inf).astype(np.float32)
    assert factors.items.implicit is not None
    wider = replace(
        factors,
        items=Side(
            keys=np.arange(N_ITEMS + 1),
            factors=np.append(factors.item_factors, np.full((1, WIDTH), 9, np.float32), 0),
            bias=bias,
            implicit=np.append(factors.items.implicit, np.zeros((1, WIDTH), np.float32), 0),
        ),
    )
    among_unknown = FoldIn(wider)
    rated = np.append(ITEMS, N_ITEMS), np.append(RATINGS, np.float32(5))
    folded = among_unknown.solve(*rated, explain=True)
    assert folded.vector.tolist() == pytest.approx(fold_in.solve(ITEMS, RATINGS).vector.tolist(), abs=1e-5)
    assert folded.parts is not None
    assert folded.parts[-1].tolist() == [0.0] * WIDTH
    only = among_unknown.solve(rated[0][-1:], rated[1][-1:])
    assert only.vector.tolist() == [0.0] * WIDTH
    nobody = FoldIn(replace(wider, items=replace(wider.items, bias=np.full_like(bias, -np.inf))))
    assert nobody.solve(ITEMS, RATINGS).vector.tolist() == [0.0] * WIDTH


@pytest.mark.parametrize("neural", [False, True])
@pytest.mark.parametrize("objective", ["rating", "ranking"])
@pytest.mark.parametrize("given", [-1e6, 0.0, 5.5, 1e6])
def test_ratings_outside_the_scale_give_numbers(objective: Objective, neural: bool, given: float) -> None:
    fold_in = FoldIn(version(objective, neural=neural))
    folded = fold_in.solve(np.arange(N_ITEMS), np.full(N_ITEMS, given, np.float32), explain=True)
    assert np.isfinite(folded.vector).all()
    assert np.isfinite(folded.bias)
    assert folded.parts is not None
    assert np.isfinite(folded.parts).all()


def test_what_is_liked_pulls_further_than_what_is_not() -> None:
    factors = version("ranking")
    fold_in = FoldIn(factors)
    items = np.array([3, 17])
    liked = fold_in.solve(items, np.array([5, 1], np.float32)).vector @ factors.item_factors[items].T
    other = fold_in.solve(items, np.array([1, 5], np.float32)).vector @ factors.item_factors[items].T
    assert liked[0] - liked[1] > other[0] - other[1]


@pytest.mark.parametrize("objective", ["rating", "ranking"])
def test_the_order_of_ratings_and_other_threads_change_nothing(objective: Objective) -> None:
    fold_in = FoldIn(version(objective))
    alone = fold_in.solve(ITEMS, RATINGS)
    backwards = fold_in.solve(ITEMS[::-1], RATINGS[::-1])
    assert backwards.vector.tolist() == pytest.approx(alone.vector.tolist(), abs=1e-4)
    with ThreadPoolExecutor(4) as pool:
        rows = list(pool.map(lambda _: fold_in.solve(ITEMS, RATINGS).vector.tolist(), range(40)))
    assert rows == [alone.vector.tolist()] * 40


@pytest.mark.parametrize("neural", [False, True])
@pytest.mark.parametrize("n_popular", [3000, 8192])
def test_of_a_large_catalogue_a_part_stands_for_all(
    neural: bool, n_popular: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The row is nearly that of the whole sum."""
    factors = version("ranking", neural=neural, n_items=6000)
    popularity = -np.log(np.arange(10, 6010)).astype(np.float32)
    factors = replace(factors, items=replace(factors.items, factors=factors.item_factors / 2, bias=popularity))
    items = np.arange(0, 3000, 100)
    ratings = np.tile(np.array([5, 4, 3], np.float32), 10)
    monkeypatch.setattr("recsys.scoring.fold_in.ranking._N_POPULAR", n_popular)
    folded = FoldIn(factors).solve(items, ratings)
    for name in ("_N_POPULAR", "_N_BEST", "_N_CURVED"):
        monkeypatch.setattr(f"recsys.scoring.fold_in.ranking.{name}", 6000)
    exact = FoldIn(factors).solve(items, ratings)
    assert np.linalg.norm(folded.vector - exact.vector) < 0.15 * np.linalg.norm(exact.vector)


def test_a_version_without_constants_of_its_training_still_folds_in() -> None:
    factors = version("ranking", neural=True)
    assert factors.head is not None
    factors = replace(factors, constants=None, head=replace(factors.head, user_map=None))
    assert factors.items.implicit is not None
    folded = FoldIn(factors).solve(ITEMS, RATINGS, explain=True)
    implicit = factors.items.implicit[ITEMS].sum(0) / 2
    assert folded.vector.tolist() == pytest.approx(implicit.tolist())
    dot = replace(version("ranking"), constants=None)
    assert np.isfinite(FoldIn(dot).solve(ITEMS, RATINGS).vector).all()


def test_the_rating_objective_needs_a_range() -> None:
    with pytest.raises(ValueError, match="rating range"):
        FoldIn(replace(version("rating"), rating_range=None))


@pytest.fixture(scope="module")
def sampled() -> Ratings:
    sample = generate(400, 150, 16_000, 0)
    n_users, n_items = 400, 150
    return Ratings(
        user_idx=sample.user_idx,
        item_idx=sample.item_idx,
        rating=sample.rating,
        rated_at=np.full(len(sample.rating), NO_TIME),
        user_keys=np.arange(n_users),
        item_keys=np.arange(n_items),
        user_hash=np.arange(n_users, dtype=np.uint64),
        item_hash=np.arange(n_items, dtype=np.uint64),
    )


def test_folded_users_get_nearly_the_lists_of_trained_ones(sampled: Ratings) -> None:
    """Their first ten items and those of the trained share more than those of popularity do."""
    hidden = np.arange(0, 400, 10)
    config = default_config("ranking", sampled.n_ratings, sampled.n_users, n_factors=16)
    every = fit(sampled, config, device="cpu").factors
    known = sampled.select(~np.isin(sampled.user_idx, hidden))
    some = fit(known, config, device="cpu").factors
    assert isinstance(some.constants, RankingConstants)
    assert some.constants.ridge > 0
    assert some.item_keys.tolist() == every.item_keys.tolist()
    fold_in = FoldIn(some)
    starts, order = sampled.by_user()
    overlap, by_popularity = [], []
    for user in hidden:
        rows = order[starts[user] : starts[user + 1]]
        idx = np.searchsorted(some.item_keys, sampled.item_idx[rows])
        folded = fold_in.solve(idx, sampled.rating[rows])
        lists = []
        for scores in (
            score_users(every, np.searchsorted(every.user_keys, [user]))[0],
            some.item_factors @ folded.vector + some.item_bias,
            some.item_bias.copy(),
        ):
            scores[idx] = -np.inf
            lists.append(set(np.argsort(-scores)[:10].tolist()))
        overlap.append(len(lists[0] & lists[1]))
        by_popularity.append(len(lists[0] & lists[2]))
    assert np.mean(overlap) > 7
    assert np.mean(overlap) > np.mean(by_popularity) + 1


@pytest.mark.parametrize("architecture", ["dot", "neural"])
@pytest.mark.parametrize("draw", [1, 4, 6])
def test_dislikes_alone_do_not_pull_towards_what_is_disliked(architecture: Architecture, draw: int) -> None:
    """Two crowds, each of which likes its own kind of items; a visitor gives one star to eight items of one kind, and
    so does a user of the training: their lists have at most as many of the kind as the most rated items that are left,
    or for the neural model, whose layers know popularity in another way, as the list of someone without a vector.
    """
    rng = np.random.default_rng(draw)
    n_users, n_items = 60, 50
    user_idx = np.repeat(np.arange(n_users), 15)
    item_idx = np.concatenate([rng.choice(n_items, 15, replace=False) for _ in range(n_users)])
    likes = user_idx % 2 == item_idx % 2
    rating = np.where(likes, rng.integers(4, 6, len(likes)), rng.integers(1, 3, len(likes)))
    odd = np.arange(1, n_items, 2)
    counts = np.bincount(item_idx, minlength=n_items)
    disliked = odd[np.argsort(-counts[odd], kind="stable")[:8]]
    ratings = Ratings(
        user_idx=np.append(user_idx, np.full(8, n_users)).astype(np.int32),
        item_idx=np.append(item_idx, disliked).astype(np.int32),
        rating=np.append(rating, np.ones(8)).astype(np.float32),
        rated_at=np.full(len(rating) + 8, NO_TIME),
        user_keys=np.arange(n_users + 1),
        item_keys=np.arange(n_items),
        user_hash=np.arange(n_users + 1, dtype=np.uint64),
        item_hash=np.arange(n_items, dtype=np.uint64),
        scale=(1.0, 5.0),
    )
    config = default_config("ranking", ratings.n_ratings, n_users, ratings.effective_items(), architecture=architecture)
    factors = fit(ratings, config, rating_scale=(1.0, 5.0), device="cpu").factors
    folded = FoldIn(factors).solve(disliked, np.ones(8, np.float32))
    is_odd = np.arange(n_items) % 2 == 1
    left = np.where(np.isin(np.arange(n_items), disliked), -1, counts)

    def n_odd(vector: NDArray[np.float32]) -> int:
        score = score_rows(vector[None], factors.item_factors, factors.item_bias, factors.head)[0].astype(float)
        score[disliked] = -np.inf
        return int(is_odd[np.argsort(-score, kind="stable")[:10]].sum())

    popular = int(is_odd[np.argsort(-left, kind="stable")[:10]].sum())
    bound = popular if architecture == "dot" else n_odd(np.zeros_like(folded.vector))
    assert n_odd(folded.vector) <= bound
    assert n_odd(factors.user_factors[-1]) <= bound
    if architecture == "dot":
        assert isinstance(factors.constants, RankingConstants)
        plain = replace(factors, constants=replace(factors.constants, dislike_below=-np.inf))
        assert n_odd(FoldIn(plain).solve(disliked, np.ones(8, np.float32)).vector) > bound
