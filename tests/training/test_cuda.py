"""The kernels against float64, and training on a CUDA device against the CPU.

On a machine without a CUDA device but with Triton, `TRITON_INTERPRET=1` runs the kernels on the CPU.
"""

import os
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from recsys.errors import TrainingError
from recsys.training import sparse
from recsys.training.build import build
from recsys.training.config import default_config
from recsys.training.fit import fit
from recsys.training.graphs import GraphedStep
from recsys.training.loop import train_step
from recsys.training.optimizer import AdamW
from recsys.training.sparse import catalogue_logsumexp
from tests.training.made import blocks, checkerboard

INTERPRETED = find_spec("triton") is not None and os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
needs_kernels = pytest.mark.skipif(
    not (torch.cuda.is_available() or INTERPRETED), reason="needs a CUDA device, or Triton and TRITON_INTERPRET=1"
)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(DEVICE)


def drawn(n: int, size: int, seed: int) -> Tensor:
    """`size` of 0 … n − 1 in int32, half of them 0: many cells of one row."""
    generator = torch.Generator().manual_seed(seed)
    idx = torch.randint(n, (size,), generator=generator, dtype=torch.int32)
    return (idx * (torch.arange(size) % 2)).to(torch.int32).to(DEVICE)


@needs_kernels
@pytest.mark.parametrize("width", [1, 7, 64, 200])
@pytest.mark.parametrize("size", [0, 1, 333])
def test_products_and_sums_of_rows(width: int, size: int) -> None:
    kernels = sparse.kernels()
    P, Q, value = normal(40, width), normal(30, width, seed=1), normal(size, seed=2)
    user_idx, item_idx = drawn(40, size, 3), drawn(30, size, 4)
    u, i = user_idx.long(), item_idx.long()
    expected = (P.double()[u] * Q.double()[i]).sum(1)
    assert torch.allclose(kernels.pair_products(P, Q, user_idx, item_idx).double(), expected, atol=1e-4)
    out = normal(40, width, seed=5)
    expected = out.double().index_add(0, u, value.double()[:, None] * Q.double()[i])
    assert kernels.add_rows(out, user_idx, value, Q, item_idx) is out
    assert torch.allclose(out.double(), expected, atol=1e-4)


@needs_kernels
def test_adamw_is_that_of_torch() -> None:
    kernels = sparse.kernels()
    theta, mean, variance = normal(5000), torch.zeros(5000, device=DEVICE), torch.zeros(5000, device=DEVICE)
    expected = nn.Parameter(theta.clone())
    optimizer = torch.optim.AdamW([expected], lr=0.01, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.3)
    for step in range(1, 4):
        gradient = normal(5000, seed=step)
        expected.grad = gradient.clone()
        optimizer.step()
        numbers = [1 - 0.01 * 0.3, 0.9, 0.999, 0.01 / (1 - 0.9**step), (1 - 0.999**step) ** 0.5]
        kernels.adamw(theta, gradient, mean, variance, torch.tensor(numbers, device=DEVICE))
        assert torch.allclose(theta, expected.detach(), atol=1e-6)


@needs_kernels
@pytest.mark.parametrize("n_columns", [1, 100, 5000])
def test_logsumexp_and_softmax_of_rows(n_columns: int) -> None:
    kernels = sparse.kernels()
    z = 30 * normal(9, n_columns)
    z[0] -= 1000
    expected = z.double().logsumexp(1)
    log_sum = kernels.row_logsumexp(z)
    assert torch.allclose(log_sum.double(), expected, rtol=1e-6, atol=1e-4)
    softmax = (z.double() - expected[:, None]).exp()
    assert torch.allclose(kernels.exp_of_difference(z.clone(), log_sum).double(), softmax, rtol=1e-3, atol=1e-6)


@needs_kernels
def test_the_logsumexp_of_the_catalogue_and_its_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sparse, "_MAX_CELLS", 3 * 50)  # three users at a time
    tables = [normal(10, 16), normal(50, 16, seed=1), normal(50, seed=2)]
    ours = [table.clone().requires_grad_() for table in tables]
    theirs = [table.double().requires_grad_() for table in tables]
    weight = normal(10, seed=3)
    log_sum = catalogue_logsumexp(*ours)
    expected = torch.addmm(theirs[2], theirs[0], theirs[1].T).logsumexp(1)
    assert torch.allclose(log_sum.double(), expected, rtol=2e-3)
    (log_sum @ weight).backward()
    (expected @ weight.double()).backward()
    for mine, other in zip(ours, theirs, strict=True):
        assert mine.grad is not None
        assert other.grad is not None
        assert (mine.grad.double() - other.grad).norm() <= 5e-3 * other.grad.norm()


@needs_cuda
@pytest.mark.parametrize("implicit", [False, True])
def test_a_step_as_a_graph_is_the_step_without(implicit: bool) -> None:
    train = checkerboard(n=300, n_rated=25)[0].select(np.arange(6000)).compact()
    config = default_config("rating", train.n_ratings, n_factors=16, batch_size=1000, implicit=implicit)
    runs = [build(train, config, (1.0, 5.0), torch.Generator("cuda").manual_seed(0)) for _ in range(2)]
    for run in runs:
        run.start_epoch()
    graphed = GraphedStep(runs[0])
    losses: list[list[float]] = [[], []]
    for step in range(12):
        start = step % 6 * 1000
        rate = 0.001 * (step + 1)
        losses[1].append(train_step(runs[1], start, start + 1000, rate, 0.9).item())
        ready = graphed.is_ready(1000)
        assert ready == (step >= 3)
        take = graphed.step if ready else lambda *numbers: train_step(runs[0], *numbers)
        losses[0].append(take(start, start + 1000, rate, 0.9).item())
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    for mine, other in zip(runs[0].model.parameters(), runs[1].model.parameters(), strict=True):
        assert (mine - other).norm() <= 1e-2 * other.norm() + 1e-5


@needs_cuda
@pytest.mark.parametrize("objective", ["rating", "ranking"])
@pytest.mark.parametrize("architecture", ["dot", "neural"])
def test_losses_are_those_of_the_cpu(objective: str, architecture: str) -> None:
    """Dropout and hidden ratings are off: the two devices draw other random numbers."""
    train = checkerboard(n=150, n_rated=60)[0] if objective == "rating" else blocks()[0]
    config = default_config(
        objective, train.n_ratings, train.n_users, architecture=architecture, implicit_dropout=0.0, n_epochs=6
    )
    if architecture == "neural":
        config = default_config(
            objective, train.n_ratings, architecture="neural", dropout=0.0, implicit_dropout=0.0, n_epochs=6
        )
    last = [fit(train, config, device=device).history[-1].train_loss for device in ("cuda", "cpu")]
    assert last[0] == pytest.approx(last[1], rel=0.05)


@needs_cuda
def test_deterministic_algorithms_give_the_same_bits() -> None:
    train = blocks()[0]
    torch.use_deterministic_algorithms(True)
    try:
        for objective in ("rating", "ranking"):
            config = default_config(objective, train.n_ratings, n_factors=16, n_epochs=2)
            first, second = (fit(train, config, device="cuda", seed=1).factors for _ in range(2))
            assert np.array_equal(first.item_factors, second.item_factors)
            assert np.array_equal(first.user_factors, second.user_factors)
    finally:
        torch.use_deterministic_algorithms(False)


@needs_cuda
def test_a_state_dict_continues_on_the_device() -> None:
    ours, theirs = nn.Parameter(normal(100)), nn.Parameter(normal(100))
    first = AdamW([{"params": [ours], "weight_decay": 0.1}])
    whole = AdamW([{"params": [theirs], "weight_decay": 0.1}])
    for step in range(4):
        if step == 2:
            second = AdamW([{"params": [ours], "weight_decay": 0.1}])
            second.load_state_dict(first.state_dict())
            first = second
        for optimizer, parameter in ((first, ours), (whole, theirs)):
            parameter.grad = normal(100, seed=step)
            optimizer.set_schedule(0.01, 0.9)
            optimizer.step()
    assert torch.allclose(ours, theirs)


@needs_cuda
def test_memory_that_is_short(caplog: pytest.LogCaptureFixture) -> None:
    train = blocks()[0]
    config = default_config("ranking", train.n_ratings, n_factors=1 << 13, n_epochs=1)
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(1e-4)
    try:
        with pytest.raises(TrainingError, match=r"memory of device cuda is too short.*--device cpu"):
            fit(train, config, device="cuda")
        fitted = fit(train, config, device="auto")
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert "GPU memory is too short for this training: training on the CPU" in caplog.messages
    assert np.isfinite(fitted.factors.item_factors).all()
