"""AdamW against torch's own, and against its formula."""

import pytest
import torch
from torch import nn

from recsys.training.optimizer import AdamW, Group


def parameters(seed: int = 0) -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(seed)
    return [nn.Parameter(torch.randn(3, 4, generator=generator)), nn.Parameter(torch.randn(5, generator=generator))]


def test_steps_are_those_of_torch() -> None:
    ours, theirs = parameters(), parameters()
    optimizer = AdamW([Group(ours[:1], 0.3), Group(ours[1:], 0.0, rate=0.1)])
    expected = torch.optim.AdamW(
        [{"params": theirs[:1], "weight_decay": 0.3}, {"params": theirs[1:], "weight_decay": 0.0}], fused=True
    )
    generator = torch.Generator().manual_seed(1)
    for learning_rate, beta1 in ((0.01, 0.95), (0.1, 0.85), (0.05, 0.9)):
        for mine, other in zip(ours, theirs, strict=True):
            mine.grad = torch.randn(mine.shape, generator=generator)
            other.grad = mine.grad.clone()
        for group, rate in zip(expected.param_groups, (1.0, 0.1), strict=True):
            group["lr"], group["betas"] = learning_rate * rate, (beta1, 0.999)
        optimizer.step(learning_rate, beta1)
        expected.step()
        for mine, other in zip(ours, theirs, strict=True):
            assert torch.equal(mine, other)


def test_a_parameter_without_a_gradient_stays_and_its_gradient_can_be_dropped() -> None:
    moved, still = parameters()
    before = [parameter.detach().clone() for parameter in (moved, still)]
    optimizer = AdamW([Group([moved, still], 0.5), Group([nn.Parameter(torch.ones(2))], 0.5)])
    moved.grad = torch.ones_like(moved)
    optimizer.step(0.1, 0.9)
    assert not torch.equal(moved, before[0])
    assert torch.equal(still, before[1])
    optimizer.zero_grad()
    assert moved.grad is None


def test_no_step_takes_more_than_half() -> None:
    parameter = nn.Parameter(torch.tensor([8.0]))
    parameter.grad = torch.zeros(1)
    AdamW([Group([parameter], 100.0)]).step(0.1, 0.9)
    assert parameter.item() == pytest.approx(4.0)


def test_what_was_kept_goes_on_as_if_nothing_had_happened() -> None:
    def stepped(optimizer: AdamW, of: list[nn.Parameter], seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        for parameter in of:
            parameter.grad = torch.randn(parameter.shape, generator=generator)
        optimizer.step(0.1, 0.9)

    whole, again = parameters(), parameters()
    first = AdamW([Group(whole, 0.1)])
    stepped(first, whole, 1)
    kept = {name: tensor.clone() for name, tensor in first.tensors().items()}
    with torch.no_grad():
        for mine, other in zip(again, whole, strict=True):
            mine.copy_(other)
    second = AdamW([Group(again, 0.1)])
    second.restore(kept)
    stepped(first, whole, 2)
    stepped(second, again, 2)
    for mine, other in zip(whole, again, strict=True):
        assert torch.equal(mine, other)
    with pytest.raises(KeyError):
        second.restore({})
