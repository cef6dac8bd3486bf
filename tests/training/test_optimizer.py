"""AdamW against torch's own, and against its formula."""

import copy
import subprocess
import sys

import pytest
import torch
from torch import nn

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
