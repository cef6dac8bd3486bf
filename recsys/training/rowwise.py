"""AdamW for the rows of a step alone: what the other rows have missed is made up for when they are next needed.

A row without a gradient still moves under AdamW: by the rest of its mean gradient m, and by the decay. Over the steps
s + 1 to t that follow its last gradient, with a_j = lr_j √(1 − β₂ʲ) / (1 − β₁ʲ) and d_j the share that decays,

    m ← m Π β₁ⱼ        v ← v β₂^(t − s)
    θ ← θ Π (1 − d_j) − m / (√v + ε) · Σ_j a_j Π_{i ≤ j} (β₁ᵢ / √β₂) Π_{i > j} (1 − d_i)

which is what the single steps come to, but for ε and rounding. The products and the sum depend on s alone, so they are
kept for each s of the last `WINDOW` steps and brought forward once a step.
"""

import math
from typing import Any

import torch
from torch import Tensor

WINDOW = 1024
"""Steps that a row may be left alone; then all rows are brought forward at once."""

_MOVE, _RATIO, _MEAN, _KEEP = range(4)


def new_tail(n_rows: int, device: torch.device) -> dict[str, Tensor]:
    """Return the additional state of a parameter whose rows are moved one by one.

    Returns:
        `last`: (n_rows,) int32, the step that a row was last brought to. `tail`: (4, WINDOW) float64, for each last
        step: the sum of the formula, its product of β₁ / √β₂, the product of β₁, and that of 1 − d.
    """
    tail = torch.ones(4, WINDOW, dtype=torch.float64, device=device)
    tail[_MOVE] = 0
    return {"last": torch.zeros(n_rows, dtype=torch.int32, device=device), "tail": tail}


def advance(state: dict[str, Tensor], step: int, rate: float, beta1: float, beta2: float, decayed: float) -> None:
    """Bring the tail of a parameter forward by the step that has just been taken.

    Args:
        step: its number, from 1.
        decayed: share of the parameter that the step took away, d.
    """
    tail = state["tail"]
    move = rate * math.sqrt(1 - beta2**step) / (1 - beta1**step)
    tail[_RATIO] *= beta1 / math.sqrt(beta2)
    tail[_MOVE].mul_(1 - decayed).add_(tail[_RATIO], alpha=move)
    tail[_MEAN] *= beta1
    tail[_KEEP] *= 1 - decayed
    slot = tail[:, step % WINDOW]
    slot.fill_(1)
    slot[_MOVE] = 0


def caught_up(
    parameter: Tensor, state: dict[str, Tensor], step: int, beta2: float, eps: float, idx: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Return parameter, m and v of some rows as of a step: copies.

    Args:
        idx: (rows,) int64; `None`: all rows.
    """
    p, m, v, last = parameter.detach(), state["exp_avg"], state["exp_avg_sq"], state["last"]
    if idx is not None:
        p, m, v, last = (of.index_select(0, idx) for of in (p, m, v, last))
    missed = step - last
    if not bool(missed.any()):
        return (p, m, v) if idx is not None else (p.clone(), m.clone(), v.clone())
    of_row = state["tail"].index_select(1, (last % WINDOW).long()).float()  # (4, rows)
    of_row = of_row.view(4, -1, *[1] * (p.ndim - 1))
    variance = (beta2 ** missed.double()).float().view(of_row.shape[1:])
    moved = torch.addcdiv(p * of_row[_KEEP], m * of_row[_MOVE], v.sqrt().add_(eps), value=-1)
    return moved, m * of_row[_MEAN], v * variance


def write(parameter: Tensor, state: dict[str, Any], rows: tuple[Tensor, ...], step: int, idx: Tensor | None) -> None:
    """Put parameter, m and v of some rows back, as of a step."""
    targets = (parameter.detach(), state["exp_avg"], state["exp_avg_sq"])
    for target, source in zip(targets, rows, strict=True):
        if idx is None:
            target.copy_(source)
        else:
            target.index_copy_(0, idx, source)
    if idx is None:
        state["last"].fill_(step)
    else:
        state["last"].index_fill_(0, idx, step)
