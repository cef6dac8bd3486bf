"""Training steps on CUDA as graphs, which one call of the host starts."""

import torch
from torch import Tensor

from recsys.training.build import Run
from recsys.training.models import DotProduct
from recsys.training.rating_loss import RatingLoss
from recsys.training.sparse import uses_kernels

_N_EAGER = 3
"""Steps before the graph is captured: they compile the kernels and make the optimiser's state."""


def can_graph(run: Run) -> bool:
    """Return whether the steps of a run can be a graph: all of one shape, and without a draw of random numbers."""
    device = run.generator.device
    return uses_kernels(device) and isinstance(run.loss, RatingLoss) and isinstance(run.model, DotProduct)


class GraphedStep:
    """One training step of a run of `RatingLoss` as a CUDA graph.

    A step launches some eighty small kernels, which takes the host longer than the device needs for their work. The
    graph is captured once, after a few steps without it, and replayed for every full batch.
    """

    def __init__(self, run: Run) -> None:
        assert isinstance(run.loss, RatingLoss)
        self._run, self._rating_loss = run, run.loss
        self._n_eager = 0
        self._graph: torch.cuda.CUDAGraph | None = None
        self._columns: tuple[Tensor, ...] = ()
        self._loss = torch.empty(())

    def is_ready(self, n_units: int) -> bool:
        """Return whether a batch of this size can go through the graph, and count it as an eager one if not."""
        if n_units != self._run.batch_units:
            return False
        self._n_eager += 1
        return self._n_eager > _N_EAGER

    def step(self, start: int, stop: int, learning_rate: float, beta1: float) -> Tensor:
        """Take one step on the units `start` to `stop` and return their mean loss before it: ().

        The next step overwrites the loss.
        """
        columns = self._rating_loss.columns(start, stop)
        if self._graph is None:
            self._columns = tuple(column.clone() for column in columns)
            self._capture()
        for target, column in zip(self._columns, columns, strict=True):
            target.copy_(column)
        optimizer = self._run.optimizer
        optimizer.set_schedule(learning_rate, beta1)
        optimizer.load_schedule()
        assert self._graph is not None
        self._graph.replay()
        return self._loss

    def _capture(self) -> None:
        """Capture the graph. Nothing is computed."""
        run = self._run
        run.optimizer.zero_grad()
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            loss = self._rating_loss.of_columns(run.model, *self._columns)
            loss.backward()  # type: ignore[no-untyped-call]
            run.optimizer.move()
            self._loss = loss.detach()
