"""The threads of torch. Nothing here imports it, because the setting must be made before."""

import os

_SPIN_COUNT = "2000"
"""Rounds for which an idle thread spins before it sleeps: a few microseconds."""


def limit_spinning() -> None:
    """Make idle threads of torch sleep after a short spin. Call it before the first import of torch.

    By default the threads of libgomp, which torch computes with, spin while they wait for each other. On a machine that
    does anything else at the same time they take the processor from the threads that they wait for: trainings were seen
    to take twenty times as long. libgomp reads `GOMP_SPINCOUNT` once, when torch loads it.

    Sets the variable for this process and its children, unless it or `OMP_WAIT_POLICY` is set already.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", _SPIN_COUNT)
