"""AdamW against torch's own, and against its formula."""

import copy
import subprocess
import sys

import pytest
import torch
from torch import nn

import recsys.training.optimizer as optimizer_module
import recsys.training.rowwise as rowwise_module
from recsys.training.optimizer import AdamW


def parameters(seed: int = 0) -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(seed)
    return [nn.Parameter(torch.randn(3, 4, generator=generator)), nn.Parameter(torch.randn(5, generator=generator))]


def draw_gradients(of: list[nn.Parameter], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for parameter in of:
        parameter.grad = torch.randn(parameter.shape, generator=generator)


def test_steps_are_those_of_torch() -> None:
    ours, theirs = parameters(), parameters()
    optimizer = AdamW(
        [{"params": ours[:1], "weight_decay": 0.3}, {"params": ours[1:], "weight_decay": 0.0, "lr_share": 0.1}]
    )
    expected = torch.optim.AdamW(
        [{"params": theirs[:1], "weight_decay": 0.3}, {"params": theirs[1:], "weight_decay": 0.0}], fused=True
    )
    for step, (learning_rate, beta1) in enumerate(((0.01, 0.95), (0.1, 0.85), (0.05, 0.9))):
        draw_gradients(ours, step)
        draw_gradients(theirs, step)
        for group, rate in zip(expected.param_groups, (1.0, 0.1), strict=True):
            group["lr"], group["betas"] = learning_rate * rate, (beta1, 0.999)
        optimizer.set_schedule(learning_rate, beta1)
        optimizer.step()
        expected.step()
        for mine, other in zip(ours, theirs, strict=True):
            assert torch.equal(mine, other)


def test_the_state_of_torch_is_loaded_and_continued() -> None:
    """The state dicts have the same layout."""
    ours, theirs = parameters(), parameters()
    optimizer = AdamW([{"params": ours}])
    expected = torch.optim.AdamW(theirs, lr=0.1, betas=(0.9, 0.999), weight_decay=0.0, fused=True)
    draw_gradients(theirs, 1)
    expected.step()
    with torch.no_grad():
        for mine, other in zip(ours, theirs, strict=True):
            mine.copy_(other)
    state = copy.deepcopy(expected.state_dict())
    optimizer.load_state_dict({"state": state["state"], "param_groups": optimizer.state_dict()["param_groups"]})
    draw_gradients(ours, 2)
    draw_gradients(theirs, 2)
    optimizer.set_schedule(0.1, 0.9)
    optimizer.step()
    expected.step()
    for mine, other in zip(ours, theirs, strict=True):
        assert torch.equal(mine, other)


def test_a_parameter_without_a_gradient_stays_and_its_gradient_can_be_dropped() -> None:
    moved, still = parameters()
    before = [parameter.detach().clone() for parameter in (moved, still)]
    optimizer = AdamW(
        [
            {"params": [moved, still], "weight_decay": 0.5},
            {"params": [nn.Parameter(torch.ones(2))], "weight_decay": 0.5},
        ]
    )
    moved.grad = torch.ones_like(moved)
    optimizer.set_schedule(0.1, 0.9)
    optimizer.step()
    assert not torch.equal(moved, before[0])
    assert torch.equal(still, before[1])
    optimizer.zero_grad()
    assert moved.grad is None


def test_no_step_takes_more_than_half() -> None:
    parameter = nn.Parameter(torch.tensor([8.0]))
    parameter.grad = torch.zeros(1)
    optimizer = AdamW([{"params": [parameter], "weight_decay": 100.0}])
    optimizer.set_schedule(0.1, 0.9)
    optimizer.step()
    assert parameter.item() == pytest.approx(4.0)


def test_a_learning_rate_of_zero_moves_nothing() -> None:
    parameter = nn.Parameter(torch.tensor([8.0]))
    parameter.grad = torch.ones(1)
    optimizer = AdamW([{"params": [parameter], "weight_decay": 100.0}])
    optimizer.set_schedule(0.0, 0.9)
    optimizer.step()
    assert parameter.item() == 8.0


def test_a_closure_is_evaluated_with_gradients() -> None:
    parameter = nn.Parameter(torch.tensor([3.0]))
    optimizer = AdamW([{"params": [parameter]}])

    def closure() -> float:
        optimizer.zero_grad()
        loss = parameter.square().sum()
        loss.backward()
        return loss.item()

    assert optimizer.step(closure) == 9.0
    assert parameter.item() < 3.0


def test_a_state_dict_continues_as_if_there_had_been_no_break() -> None:
    def step(optimizer: AdamW, of: list[nn.Parameter], seed: int) -> None:
        draw_gradients(of, seed)
        optimizer.step()

    whole, again = parameters(), parameters()
    first = AdamW([{"params": whole, "weight_decay": 0.1}])
    first.set_schedule(0.1, 0.8)
    step(first, whole, 1)
    kept = copy.deepcopy(first.state_dict())
    with torch.no_grad():
        for mine, other in zip(again, whole, strict=True):
            mine.copy_(other)
    second = AdamW([{"params": again, "weight_decay": 0.3}])
    second.load_state_dict(kept)
    step(first, whole, 2)
    step(second, again, 2)
    for mine, other in zip(whole, again, strict=True):
        assert torch.equal(mine, other)
    with pytest.raises(ValueError, match="different number of parameter groups"):
        second.load_state_dict({"state": {}, "param_groups": []})


def row_gradient(shape: torch.Size, rows: list[int], seed: int) -> torch.Tensor:
    values = torch.randn(len(rows), *shape[1:], generator=torch.Generator().manual_seed(seed))
    return torch.sparse_coo_tensor(torch.tensor([rows]), values, shape)


@pytest.mark.parametrize("decay", [0.0, 3.0])
def test_rows_are_moved_as_by_whole_tables(decay: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows have a gradient often, at times, hardly ever or never, and the schedule changes at every step."""
    for module in (optimizer_module, rowwise_module):
        monkeypatch.setattr(module, "WINDOW", 16)
    start = torch.randn(6, 3, generator=torch.Generator().manual_seed(0))
    table, whole = nn.Parameter(start.clone()), nn.Parameter(start.clone())
    by_row, plain = (AdamW([{"params": [of], "weight_decay": decay}]) for of in (table, whole))
    random = torch.Generator().manual_seed(1)
    for step in range(60):
        rows = [row for row in range(5) if torch.rand((), generator=random) < (0.9, 0.5, 0.2, 0.05, 0.02)[row]]
        table.grad = row_gradient(table.shape, rows, step)
        whole.grad = table.grad.to_dense()
        for optimizer in (by_row, plain):
            optimizer.set_schedule(0.002 * (1 + step % 7), 0.85 + 0.001 * step)
            optimizer.step()
    lagging = table.detach().clone()
    with by_row.settled():
        assert torch.allclose(table, whole, rtol=1e-4, atol=1e-6)
    assert torch.equal(table, lagging)
    by_row.settle()
    assert torch.allclose(table, whole, rtol=1e-4, atol=1e-6)
    assert not torch.allclose(table, start, atol=0.01)
    if decay == 0:
        assert torch.equal(table[5], start[5])
    assert torch.allclose(by_row.state[table]["exp_avg_sq"], plain.state[whole]["exp_avg_sq"], rtol=1e-3)


def test_the_parts_of_a_batch_may_share_rows() -> None:
    table, whole = (nn.Parameter(torch.ones(4, 2)) for _ in range(2))
    table.grad = row_gradient(table.shape, [0, 2], 0) + row_gradient(table.shape, [2, 3], 1)
    whole.grad = table.grad.to_dense()
    for of in (table, whole):
        AdamW([{"params": [of]}]).step()
    assert torch.allclose(table, whole)


def test_rows_continue_from_a_state_dict_bit_for_bit() -> None:
    whole, again = (nn.Parameter(torch.ones(4, 2)) for _ in range(2))
    first, second = (AdamW([{"params": [of], "weight_decay": 0.1}]) for of in (whole, again))
    for step, rows in enumerate(([0, 2], [1, 2], [0, 1])):
        whole.grad = row_gradient(whole.shape, rows, step)
        first.step()
    again.data.copy_(whole.data)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    for optimizer, of in ((first, whole), (second, again)):
        of.grad = row_gradient(of.shape, [1, 3], 7)
        optimizer.step()
        optimizer.settle()
    assert torch.equal(whole, again)


def test_the_compiler_of_torch_is_not_imported() -> None:
    """Its import takes longer than a small training; torch's own optimisers import it when they are first made."""
    program = """
import sys
import torch
from recsys.training.optimizer import AdamW

parameter = torch.nn.Parameter(torch.ones(3))
optimizer = AdamW([{"params": [parameter]}])
optimizer.zero_grad()
parameter.grad = torch.ones(3)
optimizer.set_schedule(0.1, 0.9)
optimizer.step()
optimizer.load_state_dict(optimizer.state_dict())
sys.exit("torch._dynamo" in sys.modules)
"""
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
