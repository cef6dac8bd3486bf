"""Every loss against an independent formula in numpy, and its gradient against finite differences of that formula."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

from recsys.data.dataset import Ratings
from recsys.data.scale import logit, rating_range, validate_ratings
from recsys.errors import TrainingError
from recsys.training.models import DotProduct
from recsys.training.objectives import RankingLoss, ranking_loss, sampled_ranking_loss
from recsys.training.rating_loss import RatingLoss, rating_loss
from recsys.training.side import SideModule
from recsys.training.sparse import Cells, FixedMatrix
from tests.training.made import ratings

CPU = torch.device("cpu")
DATA = ratings([(0, 0, 1), (0, 1, 5), (1, 1, 4), (2, 0, 2), (2, 2, 3), (2, 1, 5)])
HAS = np.array([[1, 1, 0], [0, 1, 0], [1, 1, 1]], float)  # users × items of DATA
USER_KINDS = np.array([[1, 0], [0, 0], [1, 1]], float)  # what is known of each user
ITEM_KINDS = np.array([[0, 1, 0], [1, 1, 0], [0, 0, 0]], float)  # and of each item
NO_PENALTY = {"l2": 0.0, "damping": 0.0, "user_implicit_l2": 0.0, "item_implicit_l2": 0.0, "feature_l2": 0.0}

Weights = dict[str, np.ndarray]


def matrix(dense: np.ndarray) -> FixedMatrix:
    row, column = np.nonzero(dense)
    starts = np.searchsorted(row, np.arange(len(dense) + 1))
    return FixedMatrix.from_rows(
        starts, column.astype(np.int32), dense[row, column].astype(np.float32), dense.shape[1], CPU
    )


def history(has: np.ndarray) -> np.ndarray:
    return has / np.sqrt(has.sum(1, keepdims=True))


def model(*, adds: bool = False) -> DotProduct:
    """Every number drawn at random; with `adds`, rows that history and features add to."""
    generator = torch.Generator().manual_seed(1)

    def side(has: np.ndarray, kinds: np.ndarray) -> SideModule:
        added = {"history": matrix(history(has)), "features": matrix(kinds)} if adds else {}
        return SideModule(3, 4, init_std=0.5, generator=generator, **added)

    made = DotProduct(side(HAS, USER_KINDS), side(HAS.T, ITEM_KINDS), generator)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.5)
    return made


def weights(made: DotProduct) -> Weights:
    return {name: value.detach().numpy().astype(np.float64) for name, value in made.named_parameters()}


def differences(formula: Callable[[Weights], float], at: Weights, step: float = 1e-5) -> Weights:
    """The gradient of a formula in numpy, by central differences in double precision."""
    gradient = {name: np.zeros_like(value) for name, value in at.items()}
    for name, value in at.items():
        for place in np.ndindex(value.shape):
            up, down = value.copy(), value.copy()
            up[place] += step
            down[place] -= step
            gradient[name][place] = (formula({**at, name: up}) - formula({**at, name: down})) / (2 * step)
    return gradient


def assert_same_gradient(made: DotProduct, formula: Callable[[Weights], float]) -> None:
    expected = differences(formula, weights(made))
    for name, parameter in made.named_parameters():
        of_torch = np.zeros(parameter.shape) if parameter.grad is None else parameter.grad.numpy()
        assert of_torch == pytest.approx(expected[name], rel=1e-3, abs=1e-5), name


def table(w: Weights, side: str, has: np.ndarray, kinds: np.ndarray) -> np.ndarray:
    rows = w[f"{side}.own_factors"]
    if f"{side}.implicit_factors" in w:
        rows = rows + history(has) @ w[f"{side}.implicit_factors"] + kinds @ w[f"{side}.feature_factors"]
    return rows


def biases(w: Weights, side: str, kinds: np.ndarray) -> np.ndarray:
    bias = w[f"{side}.own_bias"]
    return bias + kinds @ w[f"{side}.feature_bias"] if f"{side}.feature_bias" in w else bias


def tables(w: Weights) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """p, q, b_u and b_i."""
    p, q = table(w, "users", HAS, USER_KINDS), table(w, "items", HAS.T, ITEM_KINDS)
    return p, q, biases(w, "users", USER_KINDS), biases(w, "items", ITEM_KINDS)


def sigmoid(z: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-z))


def rating_loss_of(w: Weights, rows: slice, penalties: dict[str, float]) -> float:
    """What `RatingLoss` says, one rating after the other."""
    p, q, b_u, b_i = tables(w)
    s2 = (5 / 4) ** 2
    n_u, n_i = HAS.sum(1), HAS.sum(0)
    total, n = 0.0, len(DATA.rating[rows])
    for u, i, r in zip(DATA.user_idx[rows], DATA.item_idx[rows], DATA.rating[rows], strict=True):
        z = p[u] @ q[i] + b_u[u] + b_i[i] + w["global_bias"]
        total += (0.5 + 5 * sigmoid(z) - r) ** 2
        for side, k, n_k in (("users", u, n_u[u]), ("items", i, n_i[i])):
            own, bias = w[f"{side}.own_factors"][k], w[f"{side}.own_bias"][k]
            total += s2 * (penalties["l2"] + penalties["damping"] / n_k) * (own @ own)
            total += s2 * penalties["damping"] / n_k * bias**2
    if "users.implicit_factors" in w:  # once an epoch: this batch is n of 6 ratings
        once = penalties["user_implicit_l2"] * (w["users.implicit_factors"] ** 2).sum()
        once += penalties["item_implicit_l2"] * (w["items.implicit_factors"] ** 2).sum()
        for side in ("users", "items"):
            squared = (w[f"{side}.feature_factors"] ** 2).sum() + (w[f"{side}.feature_bias"] ** 2).sum()
            once += penalties["feature_l2"] * squared
        total += s2 * once * n / 6
    return float(total / n)


def made_rating_loss(**penalties: float) -> RatingLoss:
    return RatingLoss(DATA, rating_range=(0.5, 5.5), device=CPU, **(NO_PENALTY | penalties))


def test_rating_loss_is_its_formula() -> None:
    z, rating = np.array([-2.0, 0.0, 1.5]), np.array([1.0, 3.5, 5.0])
    at = torch.tensor(z, requires_grad=True)
    loss = rating_loss(at, torch.tensor(rating), 0.5, 5.5)
    error = 0.5 + 5 * sigmoid(z) - rating
    assert loss.detach().numpy() == pytest.approx(error**2)
    loss.sum().backward()
    assert at.grad is not None
    assert at.grad.numpy() == pytest.approx(2 * error * 5 * sigmoid(z) * (1 - sigmoid(z)))


@pytest.mark.parametrize("rows", [slice(0, 6), slice(0, 4), slice(5, 6)], ids=["all", "four", "one"])
@pytest.mark.parametrize("adds", [False, True], ids=["own rows", "history and features"])
def test_the_loss_of_ratings_is_its_formula_and_has_its_gradient(adds: bool, rows: slice) -> None:
    penalties = {"l2": 0.3, "damping": 0.7, "user_implicit_l2": 0.2, "item_implicit_l2": 0.4, "feature_l2": 0.6}
    made = model(adds=adds)
    loss = made_rating_loss(**penalties).batch(made, rows.start, rows.stop)
    assert loss.item() == pytest.approx(rating_loss_of(weights(made), rows, penalties), rel=1e-5)
    loss.backward()
    assert_same_gradient(made, lambda w: rating_loss_of(w, rows, penalties))


@pytest.mark.parametrize("name", NO_PENALTY)
def test_every_penalty_is_charged_by_itself(name: str) -> None:
    made = model(adds=True)
    loss = made_rating_loss(**{name: 0.5}).batch(made, 1, 5)
    free = made_rating_loss().batch(made, 1, 5)
    assert loss.item() > free.item() + 0.01
    assert loss.item() == pytest.approx(rating_loss_of(weights(made), slice(1, 5), NO_PENALTY | {name: 0.5}), rel=1e-5)


def test_the_batches_of_an_epoch_charge_what_one_batch_of_all_does() -> None:
    made = model(adds=True)
    loss = made_rating_loss(l2=0.1, damping=0.2, user_implicit_l2=0.3, item_implicit_l2=0.4, feature_l2=0.5)
    loss.shuffle(torch.Generator().manual_seed(0))
    parts = sum((stop - start) * loss.batch(made, start, stop).item() for start, stop in ((0, 1), (1, 4), (4, 6)))
    assert parts / 6 == pytest.approx(loss.batch(made, 0, 6).item(), rel=1e-5)


@pytest.mark.parametrize("item_blocks", [1, 2])
@pytest.mark.parametrize("adds", [False, True], ids=["own rows", "history and features"])
def test_a_block_of_steps_adds_up_to_the_gradient_of_one(adds: bool, item_blocks: int) -> None:
    """Two steps of three ratings, nothing moved between: twice the gradient of the mean over all six."""
    penalties = {"l2": 0.3, "damping": 0.7, "user_implicit_l2": 0.2, "item_implicit_l2": 0.4, "feature_l2": 0.6}
    in_one, in_steps = model(adds=adds), model(adds=adds)
    whole = made_rating_loss(**penalties)
    cut = RatingLoss(
        DATA, rating_range=(0.5, 5.5), device=CPU, batch_units=3, block_steps=2, item_blocks=item_blocks, **penalties
    )
    cut.shuffle(torch.Generator().manual_seed(0))
    expected = whole.batch(in_one, 0, 6)
    expected.backward()
    total = 0.0
    for start, stop in ((0, 2), (2, 3), (3, 6)):  # the first step in two parts
        loss = cut.batch(in_steps, start, stop) * ((stop - start) / 3)
        loss.backward()
        cut.finish(in_steps, stop)
        total += loss.item() / 2
    assert total == pytest.approx(expected.item(), rel=1e-5)
    for (name, one), (_, of_steps) in zip(in_one.named_parameters(), in_steps.named_parameters(), strict=True):
        assert one.grad is not None
        assert of_steps.grad is not None
        found = of_steps.grad.to_dense() if of_steps.grad.is_sparse else of_steps.grad
        assert found.numpy() == pytest.approx(2 * one.grad.numpy(), rel=1e-4, abs=1e-6), name
    assert in_steps.users.held is None
    assert in_steps.items.held is None


def test_blocks_hold_every_rating_once_and_some_users_each() -> None:
    random = np.random.default_rng(0)
    user, item = np.nonzero(random.random((50, 40)) < 0.3)
    train = ratings([(int(u), int(i), float(n)) for n, (u, i) in enumerate(zip(user, item, strict=True))])
    loss = RatingLoss(train, rating_range=(0, 1), device=CPU, batch_units=20, block_steps=4, **NO_PENALTY)
    orders = []
    for seed in (0, 0, 1):
        loss.shuffle(torch.Generator().manual_seed(seed))
        seen, n_users = [], []
        for number in range(-(-train.n_ratings // 80)):
            block = loss._load_block(number)
            assert (np.diff(block.users.numpy()) > 0).all()
            rows = block.rating.long().numpy()  # each rating is its own number
            assert np.array_equal(train.user_idx[rows], block.users.numpy()[block.user_row.numpy()])
            assert np.array_equal(train.item_idx[rows], block.item_idx.numpy())
            for start in range(0, len(rows), 20):
                assert (np.diff(block.user_row[start : start + 20].numpy()) >= 0).all()
            seen.append(rows)
            n_users.append(len(block.users))
        assert sorted(np.concatenate(seen)) == list(range(train.n_ratings))
        assert sum(n_users) <= 50 + len(n_users) - 1  # only those at the ends are in two blocks
        orders.append(np.concatenate(seen).tolist())
    assert orders[0] == orders[1] != orders[2]


WEIGHT = np.array([0.5, 2.0, 1.0, 0.3, 1.5, 0.1])  # of the rows of DATA


def of_rows(value: np.ndarray) -> np.ndarray:
    """Numbers of the rows of DATA as users × items."""
    dense: np.ndarray = np.zeros((3, 3))
    dense[DATA.user_idx, DATA.item_idx] = value
    return dense


def seen() -> Cells:
    return Cells(torch.from_numpy(DATA.user_idx), torch.from_numpy(DATA.item_idx), 3, 3)


def test_ranking_loss_is_its_formula() -> None:
    z = np.random.default_rng(0).normal(size=(3, 3))
    at = torch.tensor(z, requires_grad=True)
    of_seen = at[DATA.user_idx.astype(int), DATA.item_idx.astype(int)]
    loss = ranking_loss(at.logsumexp(1), of_seen, seen(), torch.from_numpy(WEIGHT))
    probability = np.exp(z) / np.exp(z).sum(1, keepdims=True)
    weight = of_rows(WEIGHT)
    assert loss.item() == pytest.approx(-(weight * np.log(probability)).sum())
    loss.backward()
    assert at.grad is not None
    assert at.grad.numpy() == pytest.approx(weight.sum(1, keepdims=True) * probability - weight)


@pytest.mark.parametrize(("rating_weight", "user_power"), [(0.0, 0.0), (1.2, 0.0), (0.0, 0.5), (4.0, 0.8)])
@pytest.mark.parametrize("adds", [False, True], ids=["own rows", "history and features"])
@pytest.mark.parametrize("users", [slice(0, 3), slice(1, 3)], ids=["all", "two"])
def test_the_loss_of_users_is_its_formula_and_has_its_gradient(
    users: slice, adds: bool, rating_weight: float, user_power: float
) -> None:
    liked = np.maximum(0.05, 1 + rating_weight * (DATA.rating.astype(float) - 20 / 6) / (5 - 1))
    weight = of_rows(liked) / (HAS.sum(1, keepdims=True) / 2) ** user_power

    def formula(w: Weights) -> float:
        p, q, _, b_i = tables(w)
        z = p @ q.T + b_i
        chosen = HAS[users]
        negative = -(weight[users] * np.log(np.exp(z[users]) / np.exp(z[users]).sum(1, keepdims=True))).sum()
        of_users, of_items = (w["users.own_factors"] ** 2).sum(1), (w["items.own_factors"] ** 2).sum(1)
        norms = (chosen * (of_users[users][:, None] + of_items)).sum()
        return float((negative + 0.3 * norms) / (len(chosen) * 2))  # users have 2 ratings each in the mean

    made = model(adds=adds)
    whole = made_ranking_loss(l2=0.3, rating_weight=rating_weight, user_power=user_power)
    loss = whole.batch(made, users.start, users.stop)
    assert loss.item() == pytest.approx(formula(weights(made)), rel=1e-5)
    loss.backward()
    assert_same_gradient(made, formula)


def test_ratings_that_are_all_the_same_weigh_the_same() -> None:
    train = ratings([(0, 0, 4), (0, 1, 4), (1, 1, 4), (2, 0, 4), (2, 2, 4), (2, 1, 4)])
    weighted, plain = (made_ranking_loss(train, rating_weight=weight).batch(model(), 0, 3) for weight in (2.0, 0.0))
    assert weighted.item() == plain.item()


def sampled_by_hand(z: np.ndarray, z_seen: np.ndarray, candidates: list[int], expected: np.ndarray) -> float:
    total = 0.0
    for user, weight, own in zip(DATA.user_idx, WEIGHT, z_seen, strict=True):
        others = 0.0
        for place, candidate in enumerate(candidates):  # drawn twice, there are two of them
            if HAS[user, candidate] == 0:
                others += np.exp(z[user, place]) / expected[candidate]
        total -= weight * np.log(np.exp(own) / (np.exp(own) + others))
    return total


def test_sampled_ranking_loss_is_its_formula_and_has_its_gradient() -> None:
    candidates, expected = [2, 0, 2, 1, 2], np.array([0.5, 3.0, 1.7])
    random = np.random.default_rng(0)
    z, z_seen = random.normal(size=(3, 5)), random.normal(size=6)
    of_all, of_seen = torch.tensor(z, requires_grad=True), torch.tensor(z_seen, requires_grad=True)
    log_expected = torch.from_numpy(np.log(expected))
    loss = sampled_ranking_loss(
        of_all, of_seen, seen(), torch.from_numpy(WEIGHT), torch.tensor(candidates), log_expected
    )
    assert loss.item() == pytest.approx(sampled_by_hand(z, z_seen, candidates, expected))
    loss.backward()
    assert of_all.grad is not None
    assert of_seen.grad is not None
    by_hand = differences(lambda w: sampled_by_hand(w["z"], w["seen"], candidates, expected), {"z": z, "seen": z_seen})
    assert of_all.grad.numpy() == pytest.approx(by_hand["z"], abs=1e-7)
    assert of_seen.grad.numpy() == pytest.approx(by_hand["seen"], abs=1e-7)
    assert (of_all.grad.numpy()[2] == 0).all()  # user 2 has every item: nothing to be told from


def test_every_item_once_as_candidate_leaves_out_only_what_else_the_user_has() -> None:
    z = np.random.default_rng(0).normal(size=(3, 3))
    of_seen = z[DATA.user_idx, DATA.item_idx]
    loss = sampled_ranking_loss(
        torch.from_numpy(z),
        torch.from_numpy(of_seen),
        seen(),
        torch.ones(6, dtype=torch.float64),
        torch.arange(3),
        torch.zeros(3, dtype=torch.float64),
    )
    others = (np.exp(z) * (1 - HAS)).sum(1)[DATA.user_idx]
    assert loss.item() == pytest.approx(-np.log(np.exp(of_seen) / (np.exp(of_seen) + others)).sum())


def made_ranking_loss(
    train: Ratings = DATA,
    *,
    rating_weight: float = 0.0,
    user_power: float = 0.0,
    l2: float = 0.0,
    dropout: float = 0.0,
    n_sampled: int = 0,
    seed: int = 0,
) -> RankingLoss:
    return RankingLoss(
        train,
        rating_weight=rating_weight,
        user_power=user_power,
        l2=l2,
        dropout=dropout,
        n_sampled=n_sampled,
        width=1,
        generator=torch.Generator().manual_seed(seed),
    )


def skewed() -> tuple[Ratings, np.ndarray]:
    """40 users, 30 items, the first much more popular than the last; and who has what."""
    random = np.random.default_rng(0)
    has = random.random((40, 30)) < 0.9 / (1 + np.arange(30) / 3)
    has[np.arange(30), np.arange(30)] = True  # nobody and nothing without a rating
    has[30:, 0] = True
    return ratings([(int(u), int(i), 1.0) for u, i in zip(*np.nonzero(has), strict=True)]), has


def test_the_sampled_loss_is_that_of_the_whole_catalogue_in_the_mean() -> None:
    """And would not be without the logQ correction: with one count expected of all items it is far off."""
    train, has = skewed()
    generator = torch.Generator().manual_seed(0)
    made = DotProduct(
        SideModule(40, 4, init_std=0.7, generator=generator),
        SideModule(30, 4, init_std=0.7, generator=generator),
        generator,
    )
    with torch.no_grad():
        made.items.own_bias.copy_(torch.linspace(-2, 2, 30))
    z = (made.users.own_factors @ made.items.own_factors.T + made.items.own_bias).detach().double().numpy()
    others = (np.exp(z) * ~has).sum(1, keepdims=True)
    whole = -np.log(np.exp(z) / (np.exp(z) + others))[has].sum() / train.n_ratings

    sampled = made_ranking_loss(train, n_sampled=400)

    def mean() -> float:
        with torch.no_grad():
            return float(np.mean([sampled.batch(made, 0, 40).item() for _ in range(100)]))

    assert mean() == pytest.approx(whole, rel=0.02)
    sampled._log_expected = torch.full((30,), np.log(400 / 30), dtype=torch.float32)
    assert abs(mean() - whole) > 0.1 * whole


def test_dropout_hides_from_users_what_they_have() -> None:
    def losses(dropout: float) -> list[float]:
        loss, made = made_ranking_loss(dropout=dropout), model(adds=True)
        return [loss.batch(made, 0, 3).item() for _ in range(5)]

    assert len(set(losses(0.0))) == 1
    assert len(set(losses(0.5))) > 1


def test_a_batch_of_users_is_about_as_many_ratings_and_bounded_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    loss = made_ranking_loss()  # 6 ratings of 3 users and 3 items
    assert [loss.units_of(batch_size) for batch_size in (1, 2, 4, 6)] == [1, 1, 2, 3]
    monkeypatch.setattr("recsys.training.objectives.MAX_SCORES", 6)
    assert made_ranking_loss().units_of(1000) == 2


def test_rating_loss_of_extreme_scores_is_finite() -> None:
    z = torch.tensor([-1e4, 1e4], requires_grad=True)
    loss = rating_loss(z, torch.tensor([1.0, 5.0]), 0.5, 5.5).sum()
    loss.backward()
    assert loss.item() == pytest.approx(0.5)
    assert z.grad is not None
    assert torch.isfinite(z.grad).all()


def test_batches_of_users_hold_what_each_has_in_any_order() -> None:
    made = model()
    whole = made_ranking_loss()
    whole.shuffle(torch.Generator().manual_seed(3))
    by_user = sorted(whole.batch(made, start, start + 1).item() for start in range(3))
    plain = made_ranking_loss()
    assert by_user == pytest.approx(sorted(plain.batch(made, start, start + 1).item() for start in range(3)))
    assert len(set(by_user)) == 3


def test_shuffle_keeps_every_rating_with_its_user_and_item() -> None:
    loss = made_rating_loss(l2=0.1, damping=0.2)
    made = model()
    before = sorted(loss.batch(made, n, n + 1).item() for n in range(6))
    loss.shuffle(torch.Generator().manual_seed(5))
    assert sorted(loss.batch(made, n, n + 1).item() for n in range(6)) == pytest.approx(before)


@pytest.mark.parametrize(
    ("rating", "scale", "expected"),
    [
        ([1, 2, 5], None, (0.5, 5.5)),
        ([1, 5, 2], (0, 10), (-0.5, 10.5)),
        ([0.5, 4, 3.5], None, (0.25, 4.25)),
        ([3, 3], None, (2.5, 3.5)),
        ([3, 3], (1, 5), (0.5, 5.5)),
        ([0.25, 0.25], (0, 0.5), (-0.25, 0.75)),
        ([0, 1e-6, 1], None, (-0.005, 1.005)),
    ],
)
def test_the_range_is_half_a_step_wider_than_the_scale(
    rating: list[float], scale: tuple[float, float] | None, expected: tuple[float, float]
) -> None:
    assert rating_range(np.array(rating, np.float32), scale) == pytest.approx(expected)


def test_logit_is_the_inverse_of_the_prediction() -> None:
    rating = np.array([1.0, 2.5, 5.0])
    assert 0.5 + 5 * sigmoid(logit(rating, 0.5, 5.5)) == pytest.approx(rating)


def test_ratings_that_cannot_be_learned_from_are_named() -> None:
    with pytest.raises(TrainingError, match="there are no ratings to train on; load a file first"):
        validate_ratings(ratings([]), None)
    with pytest.raises(TrainingError, match=r"2 of 6 ratings are outside the scale 2 to 4.*RECSYS_RATING_MIN"):
        validate_ratings(ratings([(0, 0, 1), (0, 1, 5), (1, 0, 2), (1, 1, 3), (2, 2, 4), (2, 3, 4)]), (2, 4))
    with pytest.raises(TrainingError, match="1 of 1 ratings are not finite"):
        validate_ratings(ratings([(0, 0, np.nan)]), None)
    with pytest.raises(TrainingError, match="rating scale 5 to 1: the lower end must be below the upper"):
        validate_ratings(ratings([(0, 0, 3)]), (5, 1))
