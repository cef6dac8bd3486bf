"""Newton's method with step halving, for the small problems of fold-in."""

from collections.abc import Callable
from typing import NamedTuple, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

_N_STEPS = 5
_N_HALVINGS = 6


class Solution(NamedTuple):
    """The solved part of a user's vector.

    Attributes:
        own: (n_own,) the user's own embedding.
        bias: b_u.
        pull: (n, n_own) how far each rating pulls `own`; at the optimum the rows add up to `own`.
    """

    own: NDArray[np.float64]
    bias: float
    pull: NDArray[np.floating]


class Point(Protocol):
    """The loss at one point, and its negative gradient (n,)."""

    @property
    def loss(self) -> float: ...
    @property
    def downhill(self) -> NDArray[np.float64]: ...


_P = TypeVar("_P", bound=Point)


def minimise(
    evaluate: Callable[[NDArray[np.float64]], _P],
    n: int,
    curvature: Callable[[_P], NDArray[np.floating]],
    tolerance: float,
) -> tuple[NDArray[np.float64], _P]:
    """Take Newton steps from zero until one improves the loss by less than `tolerance`.

    A step that makes the loss worse is halved.

    Args:
        evaluate: the loss at a point (n,).
        curvature: its second derivative there: (n, n).

    Returns:
        The last x (n,) and what `evaluate` returned for it.
    """
    x = np.zeros(n)
    here = evaluate(x)
    for _ in range(_N_STEPS):
        step = np.linalg.solve(curvature(here), here.downhill)
        for _ in range(_N_HALVINGS):
            there = evaluate(x + step)
            if there.loss <= here.loss:
                break
            step = step / 2
        else:
            break
        improved = here.loss - there.loss
        x, here = x + step, there
        if improved < tolerance:
            break
    return x, here


def add_to_diagonal(matrix: NDArray[np.floating], value: NDArray[np.float64] | float) -> NDArray[np.floating]:
    """Add a value to the diagonal of a matrix, in place, and return the matrix."""
    matrix[np.diag_indices(len(matrix))] += value
    return matrix
