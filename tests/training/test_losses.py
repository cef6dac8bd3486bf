"""Every loss against an independent formula in numpy, and its gradient against the derivative worked out by hand."""

import numpy as np
import pytest
import torch

from recsys.errors import TrainingError
from recsys.training.models import DotProduct, RowProduct, rows
from recsys.training.objectives import (
    RankingLoss,
    RatingLoss,
    checked,
    logit,
    ranking_loss,
    rating_loss,
    rating_range,
)

from .made import ratings

CPU = torch.device("cpu")
DATA = ratings([(0, 0, 1), (0, 1, 5), (1, 1, 4), (2, 0, 2), (2, 2, 3), (2, 1, 5)])


def model(n_factors: int = 4) -> DotProduct:
    made = DotProduct(3, 3, n_factors, init_std=0.5, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        made.user_bias += torch.tensor([0.1, -0.2, 0.3])
        made.item_bias += torch.tensor([-0.4, 0.5, 0.6])
        made.global_bias += 0.7
    return made


def parts(made: DotProduct) -> tuple[np.ndarray, ...]:
    names = ("user_factors", "item_factors", "user_bias", "item_bias", "global_bias")
    return tuple(getattr(made, name).detach().numpy().astype(np.float64) for name in names)


def sigmoid(z: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-z))


def test_dot_product_is_its_formula() -> None:
    made = model()
    p, q, b_u, b_i, b = parts(made)
    u, i = np.array([0, 2, 2]), np.array([1, 1, 0])
    pairs = made.pairs(torch.from_numpy(u).int(), torch.from_numpy(i).int())
    assert pairs.z.detach().numpy() == pytest.approx((p[u] * q[i]).sum(1) + b_u[u] + b_i[i] + b, rel=1e-5)
    assert pairs.user_squared_norm.detach().numpy() == pytest.approx((p[u] ** 2).sum(1), rel=1e-5)
    assert pairs.item_squared_norm.detach().numpy() == pytest.approx((q[i] ** 2).sum(1), rel=1e-5)
    assert pairs.user_bias.detach().numpy() == pytest.approx(b_u[u])
    assert pairs.item_bias.detach().numpy() == pytest.approx(b_i[i])
    scores, user_squared_norm, item_squared_norm = made.catalogue(torch.tensor([2, 0], dtype=torch.int32))
    assert scores.detach().numpy() == pytest.approx(p[[2, 0]] @ q.T + b_i, rel=1e-5)
    assert user_squared_norm.detach().numpy() == pytest.approx((p[[2, 0]] ** 2).sum(1), rel=1e-5)
    assert item_squared_norm.detach().numpy() == pytest.approx((q**2).sum(1), rel=1e-5)


def test_rows_is_indexing_and_adds_up_gradients() -> None:
    table = torch.randn(5, 3, generator=torch.Generator().manual_seed(0), requires_grad=True)
    idx = torch.tensor([4, 0, 4, 4])
    taken = rows(table, idx)
    assert torch.equal(taken, table[idx])
    taken.backward(torch.ones(4, 3))
    assert table.grad is not None
    assert table.grad[:, 0].tolist() == [1, 0, 0, 0, 3]


def test_row_product_has_the_gradient_of_its_formula() -> None:
    """Against finite differences in double precision, rows drawn twice included."""
    generator = torch.Generator().manual_seed(0)
    P = torch.randn(5, 3, dtype=torch.float64, generator=generator, requires_grad=True)
    Q = torch.randn(4, 3, dtype=torch.float64, generator=generator, requires_grad=True)
    u, i = torch.tensor([0, 4, 4, 2]), torch.tensor([3, 3, 0, 1])
    assert torch.autograd.gradcheck(lambda P, Q: RowProduct.apply(P, Q, u, i), (P, Q))


def test_rating_loss_is_its_formula() -> None:
    made = model()
    p, q, b_u, b_i, b = parts(made)
    u, i, r = DATA.user_idx, DATA.item_idx, DATA.rating
    z = (p[u] * q[i]).sum(1) + b_u[u] + b_i[i] + b
    error = 0.5 + 5 * sigmoid(z) - r
    s2 = (5 / 4) ** 2
    for_user, for_item = 0.7 / np.bincount(u)[u], 0.7 / np.bincount(i)[i]  # (6,) each
    expected = np.mean(
        error**2
        + s2 * (0.3 + for_user) * (p[u] ** 2).sum(1)
        + s2 * (0.3 + for_item) * (q[i] ** 2).sum(1)
        + s2 * for_user * b_u[u] ** 2
        + s2 * for_item * b_i[i] ** 2
    )
    whole = RatingLoss(DATA, rating_range=(0.5, 5.5), l2=0.3, damping=0.7, device=CPU)
    loss = whole.batch(made, 0, 6)
    assert loss.item() == pytest.approx(expected, rel=1e-5)

    loss.backward()
    slope = 2 * error * 5 * sigmoid(z) * (1 - sigmoid(z)) / 6  # ∂ mean squared error / ∂z, (6,)
    for_users = np.zeros_like(p)
    np.add.at(for_users, u, slope[:, None] * q[i] + s2 * (2 / 6) * (0.3 + for_user)[:, None] * p[u])
    assert made.user_factors.grad is not None
    assert made.user_factors.grad.numpy() == pytest.approx(for_users, rel=1e-4, abs=1e-6)
    for_biases = np.bincount(i, slope, 3) + s2 * (2 / 6) * 0.7 * b_i  # damping once, whatever the count
    assert made.item_bias.grad is not None
    assert made.item_bias.grad.numpy() == pytest.approx(for_biases, rel=1e-4, abs=1e-6)
    assert made.global_bias.grad is not None
    assert made.global_bias.grad.item() == pytest.approx(slope.sum(), rel=1e-4)


def test_ranking_loss_is_its_formula() -> None:
    made = model()
    p, q, _, b_i, _ = parts(made)
    x = np.array([[1, 1, 0], [0, 1, 0], [1, 1, 1]], float)
    z = p @ q.T + b_i
    probability = np.exp(z) / np.exp(z).sum(1, keepdims=True)
    likelihood = -(x * np.log(probability)).sum(1)
    given = ranking_loss(torch.from_numpy(z), torch.from_numpy(x))
    assert given.numpy() == pytest.approx(likelihood)

    norms = 2 * (p[0] @ p[0]) + p[1] @ p[1] + 3 * (p[2] @ p[2]) + 2 * (q[0] @ q[0]) + 3 * (q[1] @ q[1]) + q[2] @ q[2]
    penalised = RankingLoss(DATA, l2=0.3, device=CPU).batch(made, 0, 3)
    assert penalised.item() == pytest.approx((likelihood.sum() + 0.3 * norms) / 6, rel=1e-5)

    loss = RankingLoss(DATA, l2=0, device=CPU).batch(made, 0, 3)
    assert loss.item() == pytest.approx(likelihood.sum() / 6, rel=1e-5)  # 6 ratings, in one batch
    loss.backward()
    assert made.item_bias.grad is not None
    expected = (probability * x.sum(1, keepdims=True) - x).sum(0) / 6
    assert made.item_bias.grad.numpy() == pytest.approx(expected, rel=1e-4, abs=1e-6)


def test_a_batch_of_users_is_about_as_many_ratings_and_bounded_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    loss = RankingLoss(DATA, l2=0, device=CPU)  # 6 ratings of 3 users and 3 items
    assert [loss.units_of(batch_size) for batch_size in (1, 2, 4, 6)] == [1, 1, 2, 3]
    monkeypatch.setattr("recsys.training.objectives._MOST_SCORES", 6)
    assert loss.units_of(1000) == 2


def test_rating_loss_of_extreme_scores_is_finite() -> None:
    z = torch.tensor([-1e4, 1e4], requires_grad=True)
    loss = rating_loss(z, torch.tensor([1.0, 5.0]), 0.5, 5.5).sum()
    loss.backward()
    assert loss.item() == pytest.approx(0.5)
    assert z.grad is not None
    assert torch.isfinite(z.grad).all()


def test_batches_of_users_hold_what_each_has_in_any_order() -> None:
    made = model()
    whole = RankingLoss(DATA, l2=0, device=CPU)
    whole.shuffle(torch.Generator().manual_seed(3))
    by_user = sorted(whole.batch(made, start, start + 1).item() for start in range(3))
    plain = RankingLoss(DATA, l2=0, device=CPU)
    assert by_user == pytest.approx(sorted(plain.batch(made, start, start + 1).item() for start in range(3)))
    assert len(set(by_user)) == 3


def test_shuffle_keeps_every_rating_with_its_user_and_item() -> None:
    loss = RatingLoss(DATA, rating_range=(0.5, 5.5), l2=0.1, damping=0.2, device=CPU)
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
    with pytest.raises(TrainingError, match="there are no ratings to train on; load some"):
        checked(ratings([]), None)
    with pytest.raises(TrainingError, match=r"2 of 6 ratings are outside the scale 2 to 4.*RECSYS_RATING_MIN"):
        checked(ratings([(0, 0, 1), (0, 1, 5), (1, 0, 2), (1, 1, 3), (2, 2, 4), (2, 3, 4)]), (2, 4))
    with pytest.raises(TrainingError, match="1 of 1 ratings are not finite"):
        checked(ratings([(0, 0, np.nan)]), None)
    with pytest.raises(TrainingError, match="rating scale 5 to 1: the lower end must be below the upper"):
        checked(ratings([(0, 0, 3)]), (5, 1))
