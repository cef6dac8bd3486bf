"""AdamW as a `torch.optim.Optimizer`."""

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.adamw import adamw

_BETA2 = 0.999
_EPS = 1e-8
_MAX_DECAY = 0.5
"""Largest share of a parameter that one step may take away. With a larger share, steps overshoot zero."""


class AdamW(Optimizer):
    """AdamW by torch's fused kernel, with a limit on the decay of one step.

        m ← β₁ m + (1 − β₁) g        v ← β₂ v + (1 − β₂) g²
        θ ← θ · (1 − min(lr · weight_decay, 1/2)) − lr · m̂ / (√v̂ + ε)

    where m̂ and v̂ are m and v divided by 1 − β₁ᵗ and 1 − β₂ᵗ, β₂ = .999, ε = 1e-8. State, parameter groups and
    state dicts have the names and the layout of `torch.optim.AdamW`.

    Loshchilov & Hutter, "Decoupled Weight Decay Regularization", ICLR 2019.

    The class exists for two reasons: the limit on the decay, and the start. The methods of `Optimizer` that are taken
    over below are wrapped so that their first call imports torch's compiler, which takes longer than a small training.
    Nothing here is compiled, so the functions inside the wrappers do.

    Args:
        params: groups as torch has them. Beside `params` a group may have `weight_decay` (1 / learning rate) and
            `lr_share`, its learning rate as a share of the one that `set_schedule` is given.
    """

    add_param_group = inspect.unwrap(Optimizer.add_param_group)
    load_state_dict = inspect.unwrap(Optimizer.load_state_dict)
    state_dict = inspect.unwrap(Optimizer.state_dict)
    zero_grad = inspect.unwrap(Optimizer.zero_grad)

    def __init__(self, params: Sequence[dict[str, Any]]) -> None:
        defaults = {"lr": 1e-3, "betas": (0.9, _BETA2), "weight_decay": 0.0, "lr_share": 1.0, "fused": True}
        super().__init__(params, defaults)

    def set_schedule(self, learning_rate: float, beta1: float) -> None:
        """Set the learning rate and β₁ of the steps that follow."""
        for group in self.param_groups:
            group["lr"] = learning_rate * group["lr_share"]
            group["betas"] = (beta1, _BETA2)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Move every parameter that has a gradient.

        Args:
            closure: computes the loss and its gradients first, as torch defines it.

        Returns:
            The loss of `closure`; `None` without one.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            moved: list[Tensor] = [parameter for parameter in group["params"] if parameter.grad is not None]
            if not moved:
                continue
            states = [self._state_of(parameter) for parameter in moved]
            rate: float = group["lr"]
            decay: float = group["weight_decay"]
            adamw(
                moved,
                [parameter.grad for parameter in moved if parameter.grad is not None],
                [state["exp_avg"] for state in states],
                [state["exp_avg_sq"] for state in states],
                [],
                [state["step"] for state in states],
                fused=True,
                amsgrad=False,
                beta1=group["betas"][0],
                beta2=group["betas"][1],
                lr=rate,
                weight_decay=min(decay, _MAX_DECAY / rate) if rate > 0 else decay,
                eps=_EPS,
                maximize=False,
            )
        return loss

    def _state_of(self, parameter: Tensor) -> dict[str, Tensor]:
        """Return m, v and the number of steps of a parameter, zeros before its first step."""
        state: dict[str, Tensor] = self.state[parameter]
        if not state:
            state["step"] = torch.zeros((), dtype=torch.float32, device=parameter.device)
            state["exp_avg"] = torch.zeros_like(parameter, requires_grad=False)
            state["exp_avg_sq"] = torch.zeros_like(parameter, requires_grad=False)
        return state
