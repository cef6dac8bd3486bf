"""Runs of models in processes of their own, in this environment or in the peers' environment."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from benchmarks.case import RunResult

ROOT = Path(__file__).parents[1]

RUN_TIMEOUT_SECONDS = 3600
"""Time after which a run has failed; on two cores every run takes far less."""


class RunFailedError(Exception):
    """A process stopped without an answer."""


@dataclass(slots=True)
class Runner:
    """Starts runs one after another, and reports the progress on standard error.

    Attributes:
        peers: Python executable of the peers' environment.
        folder: for temporary files.
        n_threads: of each run.
        n_runs: number of runs in total.
        console: for the progress.
        done: number of runs so far.
        versions: environment → library → version.
    """

    peers: Path
    folder: Path
    n_threads: int
    n_runs: int
    console: Console
    done: int = 0
    versions: dict[str, dict[str, str]] = field(default_factory=lambda: {"ours": {}, "peers": {}})

    def run(self, name: str, case: Path, seed: int, *, is_ours: bool) -> tuple[RunResult, Any]:
        """Run a model in a process of its own, and return its result and its answer.

        Raises:
            RunFailedError: the process stopped without an answer.
        """
        python, module = (sys.executable, "ours") if is_ours else (str(self.peers), "peers")
        answer = self.folder / "answer.npy"
        answer.unlink(missing_ok=True)
        self.done += 1
        where = f"[{self.done}/{self.n_runs}] {case.stem} · {name} · seed {seed}"
        command = [python, "-m", f"benchmarks.{module}", name, str(case), str(answer), "--seed", str(seed)]
        try:
            ended = subprocess.run(
                command, cwd=ROOT, env=self._environment(), capture_output=True, text=True, timeout=RUN_TIMEOUT_SECONDS
            )
        except subprocess.TimeoutExpired as error:
            raise self._failed(where, f"no answer within {RUN_TIMEOUT_SECONDS} s") from error
        if ended.returncode:
            lines = ended.stderr.strip().splitlines() or [f"exit code {ended.returncode}"]
            raise self._failed(where, lines[-1])
        result = RunResult(**json.loads(ended.stdout.strip().splitlines()[-1]))
        self.versions["ours" if is_ours else "peers"].update(result.versions)
        self.console.print(f"{where}: {result.seconds:.2f} s", markup=False)
        return result, np.load(answer)

    def _failed(self, where: str, reason: str) -> RunFailedError:
        self.console.print(f"{where}: failed: {reason}", markup=False)
        return RunFailedError(reason)

    def _environment(self) -> dict[str, str]:
        limits = ("OMP", "OPENBLAS", "MKL", "NUMEXPR", "RAYON")
        threads = {f"{name}_NUM_THREADS": str(self.n_threads) for name in limits}
        lenskit = {"LK_NUM_THREADS": str(self.n_threads), "LK_NUM_BACKEND_THREADS": "1", "LK_NUM_PROCS": "1"}
        return {**os.environ, **threads, **lenskit}
