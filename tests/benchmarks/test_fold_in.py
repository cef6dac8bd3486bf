"""The fold-in benchmark on a generated case."""

import numpy as np
import pytest

from benchmarks import data, fold_in
from recsys.results import Architecture, Objective


@pytest.mark.parametrize(("objective", "architecture"), [("ranking", "dot"), ("rating", "dot"), ("ranking", "item")])
def test_hidden_users_are_measured_in_both_trainings(objective: Objective, architecture: Architecture) -> None:
    case = data.generated(8_000)
    held_out = np.random.default_rng(0).random(len(case.user)) < 0.2
    case = case.hold_out(held_out)
    found = fold_in.quality(case, objective, architecture, seed=0)
    if objective == "ranking":
        assert found.folded > 0.8 * found.trained > 0
    else:
        assert found.folded < 1.1 * found.trained
        assert found.folded < found.unsolved


def test_times_ascend() -> None:
    seconds = fold_in.solve_seconds(300, 8, "ranking", n=5)
    assert len(seconds) == 5
    assert 0 < seconds[0] <= seconds[-1]


def test_times_are_printed_without_a_quality_run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(fold_in, "solve_seconds", lambda *_: [0.001, 0.002])
    fold_in.main(["--seeds", "--neural-folds"])
    assert "62,000" in capsys.readouterr().out
