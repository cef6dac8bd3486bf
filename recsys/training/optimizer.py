"""AdamW over groups of parameters."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim.adamw import adamw

_BETA2 = 0.999
_EPS = 1e-8
_MOST_DECAY = 0.5
"""Share of a parameter that one step may take; with more of it steps overshoot zero."""


@dataclass(frozen=True, slots=True)
class Group:
    """Parameters that learn alike.

    Attributes:
        weight_decay: decoupled, times the learning rate; no step takes more than half of a parameter.
        rate: learning rate as a share of that of the step.
    """

    parameters: Sequence[nn.Parameter]
    weight_decay: float
    rate: float = 1.0


class AdamW:
    """AdamW (Loshchilov & Hutter, "Decoupled Weight Decay Regularization", ICLR 2019) by torch's fused kernel.

    torch's own class imports its compiler when it is first made, which takes longer than a small training.
    """

    def __init__(self, groups: Sequence[Group]) -> None:
        self.groups = groups
        self._state = [[_State.of(parameter) for parameter in group.parameters] for group in groups]

    def zero_grad(self) -> None:
        for group in self.groups:
            for parameter in group.parameters:
                parameter.grad = None

    @torch.no_grad()
    def step(self, learning_rate: float, beta1: float) -> None:
        """Move every parameter that has a gradient."""
        for group, states in zip(self.groups, self._state, strict=True):
            moved = [
                (parameter, parameter.grad, state)
                for parameter, state in zip(group.parameters, states, strict=True)
                if parameter.grad is not None
            ]
            if not moved:
                continue
            rate = learning_rate * group.rate
            adamw(
                [parameter for parameter, _, _ in moved],
                [gradient for _, gradient, _ in moved],
                [state.mean for _, _, state in moved],
                [state.square for _, _, state in moved],
                [],
                [state.n_steps for _, _, state in moved],
                fused=True,
                amsgrad=False,
                beta1=beta1,
                beta2=_BETA2,
                lr=rate,
                weight_decay=min(group.weight_decay, _MOST_DECAY / rate),
                eps=_EPS,
                maximize=False,
            )

    def tensors(self) -> dict[str, Tensor]:
        """The running means by name, for a checkpoint."""
        return {
            f"{group}.{place}.{name}": tensor
            for group, states in enumerate(self._state)
            for place, state in enumerate(states)
            for name, tensor in (("mean", state.mean), ("square", state.square), ("n_steps", state.n_steps))
        }

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Put back what `tensors` gave.

        Raises:
            KeyError: some are missing.
            RuntimeError: some are of another shape.
        """
        for name, tensor in self.tensors().items():
            tensor.copy_(tensors[name])


@dataclass(frozen=True, slots=True)
class _State:
    """Running means of a parameter's gradient and of its square, and how many steps they are of."""

    mean: Tensor
    square: Tensor
    n_steps: Tensor

    @classmethod
    def of(cls, parameter: nn.Parameter) -> "_State":
        zeros = torch.zeros_like(parameter, requires_grad=False)
        return cls(zeros, zeros.clone(), torch.zeros((), dtype=torch.float32, device=parameter.device))
