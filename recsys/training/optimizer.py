"""AdamW as a `torch.optim.Optimizer`."""

import inspect
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.adamw import adamw

from recsys.training.rowwise import WINDOW, advance, caught_up, new_tail, write
from recsys.training.sparse import kernels, uses_kernels

_BETA2 = 0.999
_EPS = 1e-8
_MAX_DECAY = 0.5
"""Largest share of a parameter that one step may take away. With a larger share, steps overshoot zero."""


class AdamW(Optimizer):
    """AdamW by a fused kernel, with a limit on the decay of one step.

        m ← β₁ m + (1 − β₁) g        v ← β₂ v + (1 − β₂) g²
        θ ← θ · (1 − min(lr · weight_decay, 1/2)) − lr · m̂ / (√v̂ + ε)

    where m̂ and v̂ are m and v divided by 1 − β₁ᵗ and 1 − β₂ᵗ, β₂ = .999, ε = 1e-8. State, parameter groups and
    state dicts have the names and the layout of `torch.optim.AdamW`.

    Loshchilov & Hutter, "Decoupled Weight Decay Regularization", ICLR 2019.

    The kernel is torch's, or `kernels.adamw` where `uses_kernels`. That one reads learning rate and β₁ on the device,
    where `load_schedule` writes them, so that a CUDA graph of `move` can be replayed at any point of the schedule.

    A parameter whose gradient is a sparse tensor of rows is moved at these rows alone, so that a step costs what its
    batch costs, whatever the size of the table. `recsys.training.rowwise` makes up for the steps that a row missed;
    `settle` does so for all rows, and `settled` while a parameter is read.

    The class exists for three reasons: the limit on the decay, the graphs, and the start. The methods of `Optimizer`
    that are taken over below are wrapped so that their first call imports torch's compiler, which takes longer than a
    small training. Nothing here is compiled, so the functions inside the wrappers do.

    Args:
        params: groups as torch has them. Beside `params` a group may have `weight_decay` (1 / learning rate) and
            `lr_share`, its learning rate as a share of the one that `set_schedule` is given.
    """

    add_param_group = inspect.unwrap(Optimizer.add_param_group)
    state_dict = inspect.unwrap(Optimizer.state_dict)
    zero_grad = inspect.unwrap(Optimizer.zero_grad)

    def __init__(self, params: Sequence[dict[str, Any]]) -> None:
        defaults = {"lr": 1e-3, "betas": (0.9, _BETA2), "weight_decay": 0.0, "lr_share": 1.0, "fused": True}
        super().__init__(params, defaults)
        self._steps: dict[Tensor, int] = {}
        self._scalars: Tensor | None = None

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from a state dict of this class or of `torch.optim.AdamW`."""
        inspect.unwrap(Optimizer.load_state_dict)(self, state_dict)
        self._steps.clear()
        parameters = [parameter for group in self.param_groups for parameter in group["params"]]
        for idx, state in state_dict["state"].items():
            # Optimizer casts all state to the parameter's type.
            for name in ("last", "tail"):
                if name in state:
                    self.state[parameters[idx]][name] = state[name].clone()

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
        self.load_schedule()
        self.move()
        return loss

    def load_schedule(self) -> None:
        """Write the scalars of the coming step to the device, where `kernels.adamw` reads them."""
        device = self.param_groups[0]["params"][0].device
        if not uses_kernels(device):
            return
        rows = []
        for group in self.param_groups:
            rate, (beta1, beta2) = group["lr"], group["betas"]
            for parameter in group["params"]:
                if parameter.grad is not None:
                    before = self._steps.get(parameter)
                    steps = (int(self.state_of(parameter)["step"]) if before is None else before) + 1
                    self._steps[parameter] = steps
                    bias1, bias2 = 1 - beta1**steps, 1 - beta2**steps
                    rows.append([1 - rate * _decay(group), beta1, beta2, rate / bias1, math.sqrt(bias2)])
                else:
                    rows.append([0.0] * 5)
        if self._scalars is None:
            self._scalars = torch.empty(len(rows), 5, device=device)
        # CUDA has read memory that is not pinned when this returns, without waiting for the device.
        self._scalars.copy_(torch.tensor(rows), non_blocking=True)

    @torch.no_grad()
    def move(self) -> None:
        """Move every parameter that has a gradient. `load_schedule` must have been called."""
        number = -1
        for group in self.param_groups:
            moved: list[Tensor] = []
            for parameter in group["params"]:
                number += 1
                if parameter.grad is None:
                    continue
                state = self.state_of(parameter)
                if parameter.grad.is_sparse or "last" in state:
                    self._step_rows(parameter, group)
                elif self._scalars is None:
                    moved.append(parameter)
                else:
                    gradient = parameter.grad.contiguous()
                    kernels().adamw(parameter, gradient, state["exp_avg"], state["exp_avg_sq"], self._scalars[number])
                    state["step"] += 1
            if not moved:
                continue
            states = [self.state_of(parameter) for parameter in moved]
            fused_adamw(
                group,
                moved,
                [parameter.grad for parameter in moved if parameter.grad is not None],
                [state["exp_avg"] for state in states],
                [state["exp_avg_sq"] for state in states],
                [state["step"] for state in states],
            )

    def state_of(self, parameter: Tensor) -> dict[str, Tensor]:
        """Return m, v and the number of steps of a parameter, zeros before its first step."""
        state: dict[str, Tensor] = self.state[parameter]
        if not state:
            state["step"] = torch.zeros((), dtype=torch.float32, device=parameter.device)
            state["exp_avg"] = torch.zeros_like(parameter, requires_grad=False)
            state["exp_avg_sq"] = torch.zeros_like(parameter, requires_grad=False)
        return state

    def _step_rows(self, parameter: Tensor, group: dict[str, Any]) -> None:
        """Move the rows that have a gradient, after they have made up for the steps that they missed."""
        state = self.state_of(parameter)
        if "last" not in state:
            state.update(new_tail(len(parameter), parameter.device))
            state["last"].fill_(int(state["step"]))
        gradient = parameter.grad
        assert gradient is not None
        step = int(state["step"])
        if gradient.is_sparse:
            idx = gradient._indices()[0]
            if not bool((idx[1:] > idx[:-1]).all()):  # more than one part of a batch
                gradient = gradient.coalesce()
                idx = gradient._indices()[0]
            values = gradient._values()
        else:
            idx, values = None, gradient
        rows = caught_up(parameter, state, step, _BETA2, _EPS, idx)
        fused_adamw(group, [rows[0]], [values], [rows[1]], [rows[2]], [state["step"]])
        write(parameter, state, rows, step + 1, idx)
        advance(state, step + 1, group["lr"], group["betas"][0], _BETA2, group["lr"] * _decay(group))
        if (step + 1) % (WINDOW - 1) == 0:
            write(parameter, state, caught_up(parameter, state, step + 1, _BETA2, _EPS, None), step + 1, None)

    @torch.no_grad()
    def settle(self) -> None:
        """Bring every row to the last step taken, for good."""
        for parameter, state in self._lagging():
            step = int(state["step"])
            write(parameter, state, caught_up(parameter, state, step, _BETA2, _EPS, None), step, None)

    @contextmanager
    def settled(self) -> Iterator[None]:
        """Bring every row to the last step taken while the context lasts; afterwards all bits are as before."""
        with torch.no_grad():
            before = [(parameter, parameter.detach().clone()) for parameter, _ in self._lagging()]
            for parameter, state in self._lagging():
                parameter.copy_(caught_up(parameter, state, int(state["step"]), _BETA2, _EPS, None)[0])
        try:
            yield
        finally:
            with torch.no_grad():
                for parameter, original in before:
                    parameter.copy_(original)

    def _lagging(self) -> list[tuple[Tensor, dict[str, Tensor]]]:
        """Return the parameters that are moved by rows, with their state."""
        parameters = [parameter for group in self.param_groups for parameter in group["params"]]
        return [(of, self.state[of]) for of in parameters if "last" in self.state.get(of, ())]


def fused_adamw(
    group: dict[str, Any],
    parameters: list[Tensor],
    gradients: list[Tensor],
    means: list[Tensor],
    variances: list[Tensor],
    steps: list[Tensor],
) -> None:
    """Take one step of torch's fused AdamW with the settings of a parameter group."""
    adamw(
        parameters,
        gradients,
        means,
        variances,
        [],
        steps,
        fused=True,
        amsgrad=False,
        beta1=group["betas"][0],
        beta2=group["betas"][1],
        lr=group["lr"],
        weight_decay=_decay(group),
        eps=_EPS,
        maximize=False,
    )


def _decay(group: dict[str, Any]) -> float:
    """Return the weight decay of a group, limited so that a step takes away at most `_MAX_DECAY` of a parameter."""
    rate: float = group["lr"]
    decay: float = group["weight_decay"]
    return min(decay, _MAX_DECAY / rate) if rate > 0 else decay
