"""`recsys lr-find`, `recsys sweep` and `recsys tune`, which `jobs.cli.main` registers."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console
from rich.table import Table

from jobs.cli.options import DeviceName, Json, NFactors, open_database
from jobs.cli.show import show, stdout_console
from recsys.errors import InputError
from recsys.results import Architecture

if TYPE_CHECKING:  # torch takes seconds to import: only where it is needed
    from jobs.find import LrFindReport, SweepReport
    from jobs.tune import TuneReport

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
    from jobs.find import find_learning_rate

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

    from jobs.find import sweep as run
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


def tune(
    objective: ObjectiveName = "ranking",
    architecture: Annotated[Architecture, typer.Option(help="Kind of model.")] = "dot",
    minutes: Annotated[
        float | None,
        typer.Option(
            min=0, help="No trial begins that would take longer than this; by default 10, or no limit with --trials."
        ),
    ] = None,
    trials: Annotated[
        int | None, typer.Option(min=1, help="How many trials, those of earlier calls included; by default no limit.")
    ] = None,
    out: Out = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Forget the trials of earlier calls, and start anew.")] = False,
    reset: Annotated[
        bool, typer.Option("--reset", help="Only forget the tuned settings; train uses its defaults again.")
    ] = False,
    device: DeviceName = "auto",
    seed: Seed = 0,
    json: Json = False,
) -> None:
    """Search for better settings than the defaults; `train` and `nightly` use them from then on.

    The first trial is the defaults. What does better on the ratings that trials are measured on must do so once more
    on others, further back in time, before it is used: the best of many trials is often best by chance. Both are held
    out of the training part; the ratings that the gate uses have no say. Searched are the learning rate, the decay or
    penalties that matter for the objective, the batch size, and the numbers of factors and epochs, all around their
    defaults.

    Each trial is recorded as it ends. Stop it whenever you like: the next call on the same ratings goes on from
    there. With other ratings a new search begins, with the settings in use as its second trial. Tuned settings are
    set aside once there are more than four times as many ratings, or fewer than a quarter.

        recsys tune
        recsys tune --objective rating --minutes 60 --out tuning.html
        recsys tune --trials 30                  # the same trials on every run with the same seed
        recsys tune --reset                      # back to the defaults
    """
    if reset and fresh:
        raise InputError("--reset and --fresh: one at a time; --reset forgets settings, --fresh trials")

    from jobs.tune import reset as run_reset
    from jobs.tune import tune as run

    engine, settings = open_database()
    if reset:
        forgotten = run_reset(engine, objective, architecture)
        if json:
            show(forgotten, json)
        else:
            state = "forgotten" if forgotten.forgotten else "there were none"
            typer.echo(f"tuned settings of the {objective} model: {state}; recsys train uses the defaults")
        return
    report = run(
        engine,
        settings,
        objective,
        out,
        architecture=architecture,
        minutes=minutes,
        n_trials=trials,
        fresh=fresh,
        device=device,
        seed=seed,
    )
    if json:
        show(report, json)
    else:
        _show_tuning(report)


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
    from jobs.find import sweep_header, sweep_table

    console = stdout_console()
    table = Table(*sweep_header(report), "")
    for row in sweep_table(report):
        table.add_row(*row)
    console.print(table)
    _show_end(console, report)


def _show_tuning(report: "TuneReport") -> None:
    from jobs.tune import tuning_table

    console = stdout_console()
    table = Table("", "default", "best")
    for row in tuning_table(report):
        table.add_row(*row)
    console.print(table)
    earlier = f", {report.n_earlier} of them by earlier calls" if report.n_earlier else ""
    diverged = f", {report.n_diverged} diverged" if report.n_diverged else ""
    console.out(f"{len(report.trials)} trials{earlier}{diverged}", highlight=False)
    if report.confirmation is not None:
        said = "better there too" if report.confirmation.confirmed else "no better there"
        console.out(f"once more on ratings further back, with another seed: {said}", highlight=False)
    in_use = {
        "best": "recsys train will use these from now on",
        "default": "recsys train uses the defaults",
        "earlier": "recsys train goes on with the settings that an earlier call found",
    }
    console.out(in_use[report.in_use], highlight=False)
    _show_end(console, report)


def _show_end(console: Console, report: "LrFindReport | SweepReport | TuneReport") -> None:
    plot = f"; plot: {report.plot}" if report.plot else ""
    console.out(f"{report.seconds:.1f} s{plot}", highlight=False)
