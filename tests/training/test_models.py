"""Models against their formulas, written once more in numpy."""

from dataclasses import replace
from typing import TypeVar

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from recsys.data.dataset import Ratings
from recsys.data.features import Features
from recsys.scoring.score import predict_ratings, score_users
from recsys.training.build import build
from recsys.training.config import Config, default_config
from recsys.training.fit import fit
from recsys.training.loop import train_run
from recsys.training.models import DotProduct, NeuralCF, embedding_width
from recsys.training.side import SideModule
from recsys.training.sparse import Cells, FixedMatrix
from tests.training.made import checkerboard

Made = TypeVar("Made", bound=torch.nn.Module)

CPU = torch.device("cpu")
HAS = np.array([[1, 1, 0, 1], [0, 1, 0, 0], [1, 1, 1, 1]], float)  # 3 users × 4 items
USER_KINDS = np.array([[1, 0], [0, 0], [1, 1]], float)
ITEM_KINDS = np.array([[0, 1, 0], [1, 1, 0], [0, 0, 0], [0, 0, 1]], float)
USER, ITEM = (place.astype(np.int32) for place in np.nonzero(HAS))


def matrix(dense: np.ndarray) -> FixedMatrix:
    row, column = np.nonzero(dense)
    starts = np.searchsorted(row, np.arange(len(dense) + 1))
    return FixedMatrix.from_rows(
        starts, column.astype(np.int32), dense[row, column].astype(np.float32), dense.shape[1], CPU
    )


def share(has: np.ndarray) -> np.ndarray:
    return has / np.sqrt(has.sum(1, keepdims=True))


def side(
    has: np.ndarray, kinds: np.ndarray, width: int, generator: torch.Generator, *, adds: bool = True
) -> SideModule:
    added = {"history": matrix(share(has)), "features": matrix(kinds)} if adds else {}
    return SideModule(len(has), width, init_std=0.5, generator=generator, **added)


def shuffled(made: Made, generator: torch.Generator) -> Made:
    """With all of its parameters drawn at random, those that begin at zero as well."""
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.5)
    return made


def users() -> SideModule:
    generator = torch.Generator().manual_seed(2)
    return shuffled(side(HAS, USER_KINDS, 5, generator), generator)


def seen() -> Cells:
    return Cells(torch.from_numpy(USER), torch.from_numpy(ITEM), 3, 4)


def array(tensor: torch.Tensor | None) -> NDArray[np.float64]:
    assert tensor is not None
    return tensor.detach().numpy().astype(np.float64)


def table(of: SideModule, has: np.ndarray, kinds: np.ndarray) -> NDArray[np.float64]:
    if of.implicit_factors is None:
        return array(of.own_factors)
    return array(of.own_factors) + share(has) @ array(of.implicit_factors) + kinds @ array(of.feature_factors)


def biases(of: SideModule, kinds: np.ndarray) -> NDArray[np.float64]:
    return array(of.own_bias) if of.feature_bias is None else array(of.own_bias) + kinds @ array(of.feature_bias)


def test_rows_are_their_own_and_what_history_and_features_add() -> None:
    made = users()
    p = array(made.own_factors).copy()
    p[0] += (
        array(made.implicit_factors)[0] + array(made.implicit_factors)[1] + array(made.implicit_factors)[3]
    ) / np.sqrt(3)
    p[1] += array(made.implicit_factors)[1]
    p[2] += array(made.implicit_factors).sum(0) / 2
    p[0] += array(made.feature_factors)[0]
    p[2] += array(made.feature_factors)[0] + array(made.feature_factors)[1]
    assert array(made.factors()) == pytest.approx(p, rel=1e-5, abs=1e-6)
    c = array(made.feature_bias)
    assert array(made.biases()) == pytest.approx(array(made.own_bias) + np.array([c[0], 0, c[0] + c[1]]), rel=1e-5)


def test_a_side_without_history_and_features_is_its_own_rows() -> None:
    generator = torch.Generator().manual_seed(0)
    made = SideModule(1000, 3, init_std=0.25, generator=generator)
    assert torch.equal(made.factors(), made.own_factors)
    assert torch.equal(made.biases(), torch.zeros(1000))
    assert made.own_factors.std().item() == pytest.approx(0.25, rel=0.05)
    assert {name for name, _ in made.named_parameters()} == {"own_factors", "own_bias"}


def some(made: SideModule, dropout: float, generator: torch.Generator) -> NDArray[np.float64]:
    """Rows of users 2 and 0, by what they rated."""
    of_batch = np.repeat([0, 1], [4, 3]).astype(np.int32)
    has = Cells(torch.from_numpy(of_batch), torch.tensor([0, 1, 2, 3, 0, 1, 3], dtype=torch.int32), 2, 4)
    return array(made.dropped_factors(torch.tensor([2, 0], dtype=torch.int32), has, dropout, generator))


def test_rows_of_some_are_those_of_the_table() -> None:
    made = users()
    assert some(made, 0.0, torch.Generator()) == pytest.approx(array(made.factors())[[2, 0]], rel=1e-5, abs=1e-6)
    plain = SideModule(3, 5, init_std=0.5, generator=torch.Generator())
    assert np.array_equal(some(plain, 0.5, torch.Generator()), array(plain.own_factors)[[2, 0]])


def test_dropout_leaves_rows_as_they_are_in_the_mean() -> None:
    made, generator = users(), torch.Generator().manual_seed(0)
    draws = np.stack([some(made, 0.4, generator) for _ in range(1000)])
    # Off by less than 5 standard errors; without the weights of 1 / 0.6 it is by 15.
    error = draws.std(0) / np.sqrt(len(draws))
    assert (np.abs(draws.mean(0) - some(made, 0.0, generator)) < 5 * error).all()
    nothing_kept = array(made.own_factors)[0] + array(made.feature_factors)[0]
    share_of_nothing = (np.abs(draws[:, 1] - nothing_kept).max(1) < 1e-6).mean()
    assert share_of_nothing == pytest.approx(0.4**3, abs=0.04)


def test_biases_start_as_given_and_features_explain_what_they_can() -> None:
    random = np.random.default_rng(0)
    kind = np.repeat([0, 1], 100)
    kinds = np.zeros((202, 2))
    kinds[np.arange(200), kind] = 1  # the last two have no kind
    made = SideModule(202, 2, init_std=0.1, generator=torch.Generator(), features=matrix(kinds))
    given = np.append(np.where(kind == 0, 2.0, -1.0) + 0.1 * random.normal(size=200), [0.7, -0.7])
    made.start_biases(torch.from_numpy(given.astype(np.float32)))
    assert array(made.biases()) == pytest.approx(given, abs=1e-6)
    means = [given[:100].mean(), given[100:200].mean()]
    assert array(made.feature_bias) == pytest.approx(means, rel=0.02)
    # What the docstring says is minimised: Σ (bias − X c)² + ‖c‖².
    best = np.linalg.solve(kinds.T @ kinds + np.eye(2), kinds.T @ given)
    assert array(made.feature_bias) == pytest.approx(best, rel=1e-5)


def test_biases_without_features_start_as_given() -> None:
    made = SideModule(3, 2, init_std=0.1, generator=torch.Generator())
    made.start_biases(torch.tensor([1.0, 2.0, 3.0]))
    assert made.biases().tolist() == [1, 2, 3]


def dot(*, adds: bool = True) -> DotProduct:
    generator = torch.Generator().manual_seed(1)
    sides = side(HAS, USER_KINDS, 5, generator, adds=adds), side(HAS.T, ITEM_KINDS, 5, generator, adds=adds)
    return shuffled(DotProduct(*sides, generator), generator)


def bias_of_pairs(made: DotProduct | NeuralCF) -> NDArray[np.float64]:
    b_u, b_i = biases(made.users, USER_KINDS), biases(made.items, ITEM_KINDS)
    return b_u[USER] + b_i[ITEM] + made.global_bias.item()


@pytest.mark.parametrize("adds", [False, True], ids=["own rows", "history and features"])
def test_dot_product_is_its_formula(adds: bool) -> None:
    made = dot(adds=adds)
    p, q = table(made.users, HAS, USER_KINDS), table(made.items, HAS.T, ITEM_KINDS)
    expected = (p[USER] * q[ITEM]).sum(1) + bias_of_pairs(made)
    assert array(made.score_pairs(seen())) == pytest.approx(expected, rel=1e-4, abs=1e-5)

    z = p @ q.T + biases(made.items, ITEM_KINDS)
    everyone = torch.arange(3, dtype=torch.int32)
    of_all, of_seen = made.score_lists(everyone, seen(), 0.0, None)
    assert array(of_all) == pytest.approx(z, rel=1e-4, abs=1e-5)
    assert array(of_seen) == pytest.approx(z[USER, ITEM], rel=1e-4, abs=1e-5)
    of_some, of_seen = made.score_lists(everyone, seen(), 0.0, torch.tensor([3, 0, 3]))
    assert array(of_some) == pytest.approx(z[:, [3, 0, 3]], rel=1e-4, abs=1e-5)
    assert array(of_seen) == pytest.approx(z[USER, ITEM], rel=1e-4, abs=1e-5)


def neural(*, hidden: tuple[int, ...] = (6, 4), dropout: float = 0.0, batch_norm: bool = False) -> NeuralCF:
    """Users are 5 wide, items 3."""
    generator = torch.Generator().manual_seed(1)
    sides = side(HAS, USER_KINDS, 5, generator), side(HAS.T, ITEM_KINDS, 3, generator)
    return shuffled(NeuralCF(*sides, hidden, dropout=dropout, batch_norm=batch_norm, generator=generator), generator)


def layers(made: NeuralCF, first: np.ndarray) -> NDArray[np.float64]:
    """f of what the first rectifier sees: (rows, hidden[0]) → (rows,)."""
    x = first
    for place, (weight, bias) in enumerate(zip(made.weights, made.biases, strict=True)):
        x = np.maximum(x, 0)
        if len(made.norms):
            norm = made.norms[place]
            assert isinstance(norm, torch.nn.BatchNorm1d)
            mean, variance = x.mean(0), x.var(0)
            if not made.training:
                mean, variance = array(norm.running_mean), array(norm.running_var)
            x = (x - mean) / np.sqrt(variance + norm.eps) * array(norm.weight) + array(norm.bias)
        x = x @ array(weight).T + array(bias)
    return x[:, 0]


def first_layer(made: NeuralCF, p: np.ndarray, q: np.ndarray) -> NDArray[np.float64]:
    return p @ array(made.user_layer).T + q @ array(made.item_layer).T + array(made.first_bias)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("batch_norm", [False, True])
@pytest.mark.parametrize("hidden", [(6,), (6, 4), (4, 5, 3)])
def test_neural_pairs_are_their_formula(hidden: tuple[int, ...], batch_norm: bool, training: bool) -> None:
    made = neural(hidden=hidden, batch_norm=batch_norm).train(training)
    p, q = table(made.users, HAS, USER_KINDS)[USER], table(made.items, HAS.T, ITEM_KINDS)[ITEM]
    product = ((p @ array(made.projection).T) * q).sum(1)
    expected = product + layers(made, first_layer(made, p, q)) + bias_of_pairs(made)
    assert array(made.score_pairs(seen())) == pytest.approx(expected, rel=1e-4, abs=1e-4)


@pytest.mark.parametrize("candidates", [None, [3, 0, 3]])
@pytest.mark.parametrize("batch_norm", [False, True])
def test_neural_lists_are_their_formula(batch_norm: bool, candidates: list[int] | None) -> None:
    """Normalised over what is listed and what users have together."""
    made = neural(batch_norm=batch_norm)
    p, q = table(made.users, HAS, USER_KINDS), table(made.items, HAS.T, ITEM_KINDS)
    chosen = list(range(4)) if candidates is None else candidates
    pairs = [(u, i) for u in range(3) for i in chosen] + list(zip(USER.tolist(), ITEM.tolist(), strict=True))
    u, i = np.array(pairs).T
    product = ((p[u] @ array(made.projection).T) * q[i]).sum(1)
    z = product + layers(made, first_layer(made, p[u], q[i])) + biases(made.items, ITEM_KINDS)[i]
    given = None if candidates is None else torch.tensor(candidates)
    of_all, of_seen = made.score_lists(torch.arange(3, dtype=torch.int32), seen(), 0.0, given)
    assert array(of_all) == pytest.approx(z[: 3 * len(chosen)].reshape(3, -1), rel=1e-4, abs=1e-4)
    assert array(of_seen) == pytest.approx(z[3 * len(chosen) :], rel=1e-4, abs=1e-4)


def test_dropout_leaves_layers_as_they_are_in_the_mean() -> None:
    made = neural(hidden=(6,), dropout=0.4)
    with torch.no_grad():
        draws = np.stack([array(made.score_pairs(seen())) for _ in range(1000)])
        made.eval()
        whole = array(made.score_pairs(seen()))
        assert np.array_equal(whole, array(made.score_pairs(seen())))
    error = draws.std(0) / np.sqrt(len(draws))
    assert error.min() > 0
    assert (np.abs(draws.mean(0) - whole) < 5 * error).all()


def test_a_new_neural_model_multiplies_what_both_sides_have() -> None:
    generator = torch.Generator().manual_seed(0)
    sides = side(HAS, USER_KINDS, 5, generator), side(HAS.T, ITEM_KINDS, 3, generator)
    made = NeuralCF(*sides, (8,), dropout=0.0, batch_norm=True, generator=generator)
    assert np.array_equal(array(made.projection), np.eye(3, 5))
    assert np.abs(array(made.user_layer)).max() < 8**-0.5
    assert array(made.user_layer).std() == pytest.approx(8**-0.5 / np.sqrt(3), rel=0.3)
    assert np.abs(array(made.weights[0])).max() < 8**-0.5


def test_a_single_row_is_normalised_by_what_was_seen_before() -> None:
    """It has no variance of its own, and torch refuses it."""
    made = neural(batch_norm=True)
    made.score_pairs(seen())  # running statistics are now other than 0 and 1
    one = Cells(torch.tensor([1], dtype=torch.int32), torch.tensor([1], dtype=torch.int32), 3, 4)
    in_training = array(made.score_pairs(one))
    assert np.array_equal(in_training, array(made.eval().score_pairs(one)))


def test_parameters_all_get_gradients() -> None:
    made = neural(batch_norm=True)
    of_all, of_seen = made.score_lists(torch.arange(3, dtype=torch.int32), seen(), 0.0, None)
    (of_all.logsumexp(1).sum() - of_seen.sum() + made.score_pairs(seen()).square().sum()).backward()
    for name, parameter in made.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_a_unit_that_never_fires_is_folded_as_it_is_normalised() -> None:
    """Its variance is 0."""
    made = neural(batch_norm=True).eval()
    norm = made.norms[0]
    assert isinstance(norm, torch.nn.BatchNorm1d)
    assert norm.running_var is not None
    norm.running_var[2] = 0
    first = np.random.default_rng(0).normal(size=(10, 6)).astype(np.float32)
    assert made.head()(first) == pytest.approx(layers(made, first.astype(float)), rel=1e-4, abs=1e-3)


def trained(train: Ratings, config: Config) -> NeuralCF:
    """The module that `fit` makes factors of, after the same steps."""
    run = build(train.compact(), config, None, torch.Generator().manual_seed(0))
    train_run(run)
    assert isinstance(run.model, NeuralCF)
    return run.model.eval()


@pytest.mark.parametrize("batch_norm", [False, True])
@pytest.mark.parametrize("objective", ["rating", "ranking"])
def test_factors_score_as_the_module_they_are_made_of(objective: str, batch_norm: bool) -> None:
    """With layers folded into a head: all that a `Factors` holds comes from `head` and the two sides."""
    train, _ = checkerboard(20, 12)
    config = default_config(
        "rating" if objective == "rating" else "ranking",
        train.n_ratings,
        architecture="neural",
        hidden=(7, 5),
        batch_norm=batch_norm,
        n_epochs=3,
        batch_size=50,
        learning_rate=0.05,
    )
    factors = fit(train, config, device="cpu", restarts=False).factors
    made = trained(train, config)
    if batch_norm:
        norm = made.norms[1]
        assert isinstance(norm, torch.nn.BatchNorm1d)
        assert norm.running_mean is not None
        assert norm.running_mean.abs().min() > 0
        assert norm.bias.abs().max() > 0.001
    n_users, n_items = factors.n_users, factors.n_items
    user, item = np.divmod(np.arange(n_users * n_items, dtype=np.int32), n_items)
    every = Cells(torch.from_numpy(user), torch.from_numpy(item.astype(np.int32)), n_users, n_items)
    with torch.no_grad():
        z = array(made.score_pairs(every)).reshape(n_users, n_items)
    assert score_users(factors, np.arange(n_users)) == pytest.approx(z, rel=1e-4, abs=1e-4)
    if objective == "rating":
        low, high = factors.rating_range or (0, 0)
        predicted = predict_ratings(factors, user.astype(np.int64), item.astype(np.int64))
        assert predicted == pytest.approx((low + (high - low) / (1 + np.exp(-z))).ravel(), rel=1e-4)


@pytest.mark.parametrize(("n", "width"), [(1, 2), (943, 74), (1682, 102), (39_000, 596), (40_000, 600), (10**7, 600)])
def test_embeddings_are_as_wide_as_their_rule(n: int, width: int) -> None:
    assert embedding_width(n) == width


def test_sides_of_a_neural_model_are_as_wide_as_their_rule() -> None:
    train, _ = checkerboard(20, 12)
    known = Features(np.arange(20), np.arange(21), np.zeros(20, np.int32), ("kind: a",))
    config = default_config("rating", train.n_ratings, architecture="neural", n_epochs=1, hidden=(4,))
    run = build(replace(train, item_features=known), config, None, torch.Generator())
    assert run.model.users.own_factors.shape == (20, 9)
    assert run.model.items.own_factors.shape == (20, 9)
    assert run.model.items.feature_factors is not None
    assert run.model.items.feature_factors.shape == (1, 9)
