"""`recsys lr-find` and `recsys sweep`, which `jobs.cli` registers."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console
from rich.table import Table

from jobs.options import DeviceName, Json, NFactors, open_database
from jobs.show import show, stdout_console
from recsys.errors import InputError

if TYPE_CHECKING:  # torch takes seconds to import: only where it is needed
    from jobs.finders import LrFindReport, SweepReport

ObjectiveName = Annotated[Literal["rating", "ranking"], typer.Option(help="Which model to find settings for.")]
Out = Annotated[Path | None, typer.Option(help="Write the plot to this file, a self-contained HTML page.")]
Seed = Annotated[int, typer.Option(help="The same seed on the same machine finds the same.")]

_RANGE = "LOW:HIGH, from one to the other by tens, as in 1e-3:1e1."


def lr_find(
    objective: ObjectiveName = "ranking",
    lowest: Annotated[float, typer.Option("--from", help="Learning rate of the first step.")] = 1e-5,
    highest: Annotated[float, typer.Option("--to", help="Learning rate of the last step.")] = 10.0,
    steps: Annotated[int, typer.Option(min=20, help="How many steps; more of them see more of the training.")] = 200,
    out: Out = None,
    n_factors: NFactors = None,
    device: DeviceName = "auto",
    seed: Seed = 0,
    json: Json = False,
) -> None:
    """Find a learning rate: train for a moment under an ever higher one, and look where the loss falls.

    Suggests two: **valley**, two thirds along the longest descent, is the careful one; **slide**, the middle of the
    steepest descent, the bold one. Both are peaks for the one-cycle schedule that `train` uses. The default was
    measured on whole trainings; a suggestion within a factor of three of it is no reason to leave it. A rating model
    starts with its biases fitted, so the test may see little of its training; it says so then. Nothing is stored.

        recsys lr-find
        recsys lr-find --steps 400 --out lr.html

    A check by whole trainings: `recsys sweep --learning-rate 1e-4:1e-1`.
    """
    from jobs.finders import find_learning_rate

    engine, settings = open_database()
    report = find_learning_rate(
        engine,
        settings,
        objective,
        out,
        lowest=lowest,
        highest=highest,
        n_steps=steps,
        overrides={"n_factors": n_factors},
        device=device,
        seed=seed,
    )
    if json:
        show(report, json)
    else:
        _show_learning_rates(report)


def sweep(
    objective: ObjectiveName = "ranking",
    weight_decay: Annotated[
        str | None, typer.Option(help=f"AdamW's decay of the factors; what matters for ranking. {_RANGE}")
    ] = None,
    l2: Annotated[str | None, typer.Option(help=f"Penalty inside the loss; what matters for rating. {_RANGE}")] = None,
    damping: Annotated[
        str | None, typer.Option(help=f"Penalty on rows with few ratings; rating only. {_RANGE}")
    ] = None,
    learning_rate: Annotated[str | None, typer.Option(help=f"Peak of the schedule. {_RANGE}")] = None,
    out: Out = None,
    n_factors: NFactors = None,
    n_epochs: Annotated[
        int | None, typer.Option(min=1, help="Passes over the ratings; by default chosen by the data.")
    ] = None,
    device: DeviceName = "auto",
    seed: Seed = 0,
    json: Json = False,
) -> None:
    """Train with one setting at several values, a multiple of ten apart, and measure each on held-out ratings.

    Looks for the right power of ten; what lies between two of them seldom matters as much. The default is trained
    too, to compare with. Measured on ratings held out of the training part, never on those that the gate uses;
    nothing is stored. Without a setting it sweeps `--weight-decay 1e-3:1e1`.

        recsys sweep --weight-decay 1e-3:1e1
        recsys sweep --objective rating --l2 1e-3:1 --out l2.html
    """
    given: dict[Literal["weight_decay", "l2", "damping", "learning_rate"], str | None] = {
        "weight_decay": weight_decay,
        "l2": l2,
        "damping": damping,
        "learning_rate": learning_rate,
    }
    chosen = [(field, text) for field, text in given.items() if text is not None]
    if len(chosen) > 1:
        names = " and ".join("--" + field.replace("_", "-") for field, _ in chosen)
        raise InputError(f"{names}: one setting at a time can be swept; run the command once for each")
    field, text = chosen[0] if chosen else ("weight_decay", "1e-3:1e1")

    from jobs.finders import sweep as run
    from recsys.training.sweep import multiples_of_ten

    values = multiples_of_ten(text)
    engine, settings = open_database()
    report = run(
        engine,
        settings,
        objective,
        field,
        values,
        out,
        overrides={"n_factors": n_factors, "n_epochs": n_epochs},
        device=device,
        seed=seed,
    )
    if json:
        show(report, json)
    else:
        _show_sweep(report)


def _show_learning_rates(report: "LrFindReport") -> None:
    console = stdout_console()
    table = Table("", "learning rate", "")
    table.add_row("valley", f"{report.valley:.2g}", "two thirds along the longest descent of the loss")
    table.add_row("slide", f"{report.slide:.2g}", "the middle of its steepest descent")
    table.add_row("default", f"{report.default:.2g}", "what train uses")
    console.print(table)
    if report.notice:
        console.out(f"mind: {report.notice}", highlight=False)
    _show_end(console, report)


def _show_sweep(report: "SweepReport") -> None:
    from jobs.finders import sweep_header, sweep_table

    console = stdout_console()
    table = Table(*sweep_header(report), "")
    for row in sweep_table(report):
        table.add_row(*row)
    console.print(table)
    _show_end(console, report)


def _show_end(console: Console, report: "LrFindReport | SweepReport") -> None:
    plot = f"; plot: {report.plot}" if report.plot else ""
    console.out(f"{report.seconds:.1f} s{plot}", highlight=False)
