"""What people see of a training."""

from io import StringIO

import pytest
import torch
from rich.console import Console

import jobs.progress
import jobs.training_progress as shown_module
from jobs.training_progress import describe_curve, describe_memory, format_count, training_progress
from recsys.training.build import EpochRecord
from recsys.training.config import default_config
from recsys.training.fit import fit
from tests.training.made import checkerboard


def test_a_terminal_shows_memory_rate_losses_and_the_curve(monkeypatch: pytest.MonkeyPatch) -> None:
    text = StringIO()
    console = Console(file=text, force_terminal=True, width=200)
    monkeypatch.setattr(jobs.progress, "stderr", console)
    monkeypatch.setattr(shown_module, "stderr", console)
    train, _ = checkerboard()
    config = default_config("rating", train.n_ratings, n_epochs=4, n_factors=4)
    with training_progress(train, config, "cpu", "rmse") as shown:
        fit(train, config, device="cpu", on_step=shown.on_step, on_epoch=shown.on_epoch, validate=lambda _: 0.5)
        console.file.write("\n")
    assert "rating: needs about 1 MiB of memory of the" in text.getvalue()
    assert "ratings/s" in text.getvalue()
    assert "epoch 4 loss" in text.getvalue()
    assert "rmse 0.5000" in text.getvalue()
    last = text.getvalue().rstrip().splitlines()[-1]
    assert "rating: loss █" in last
    assert last.endswith("rmse ▁▁▁▁ 0.5 to 0.5")


def test_a_loss_that_rises_and_a_restart_are_shown() -> None:
    train, _ = checkerboard()
    config = default_config("rating", train.n_ratings, n_epochs=4)
    with training_progress(train, config, "cpu", None) as shown:
        shown.on_step(50, 100)
        for epoch, loss in ((1, 0.9), (2, 1.0)):
            shown.on_epoch(EpochRecord(epoch, loss, None, 1.0))
        assert shown._bar.tasks[0].fields["loss"] == "epoch 2 loss 1 [yellow](the loss rose)[/yellow]"
        assert shown._bar.tasks[0].completed == 2 * train.n_ratings
        shown.on_step(1, 100)
        assert shown.records == []
        assert shown._bar.tasks[0].completed == pytest.approx(0.04 * train.n_ratings)


def test_curves_are_bars() -> None:
    records = [EpochRecord(n, loss, valid, 1.0) for n, loss, valid in ((1, 3.0, 0.1), (2, 2.0, 0.2), (3, 1.0, 0.2))]
    assert describe_curve(records, "ndcg") == "loss █▅▁ 3 to 1, ndcg ▁██ 0.1 to 0.2"
    assert describe_curve(records, None) == "loss █▅▁ 3 to 1"


@pytest.mark.parametrize(("n", "expected"), [(850, "850"), (12_345, "12 k"), (3_400_000, "3.4 M")])
def test_counts_are_short(n: float, expected: str) -> None:
    assert format_count(n) == expected


def test_memory_left_may_be_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    train, _ = checkerboard()
    monkeypatch.setattr(shown_module, "available_memory", lambda _: None)
    config = default_config("ranking", train.n_ratings)
    assert describe_memory(train, config, torch.device("cpu")) == "ranking: needs about 1 MiB of memory"
