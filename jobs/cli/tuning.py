"""`recsys lr-find`, `recsys sweep` and `recsys tune`: the search for a training config that does better."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from jobs.cli.options import (
    ArchitectureOption,
    DeviceOption,
    EpochsOption,
    FactorsOption,
    JsonOption,
    ObjectiveOption,
    SeedOption,
    open_database,
)
from jobs.cli.stopping import stoppable
from recsys.errors import InputError

if TYPE_CHECKING:
    from rich.console import Console

    from jobs.find import LrFindReport, SweepReport
    from jobs.tune_report import TuneReport

OutOption = Annotated[
    Path | None, typer.Option("--out", help="Write the plot to this file, a self-contained HTML page.")
]
RANGE = "LOW:HIGH, in powers of ten: 1e-3:1e1 is .001, .01, .1, 1 and 10."


@stoppable("nothing was stored")
def lr_find_command(
    objective: ObjectiveOption = "ranking",
    lowest: Annotated[float, typer.Option("--from", help="Learning rate of the first step.")] = 1e-5,
    highest: Annotated[float, typer.Option("--to", help="Learning rate of the last step.")] = 10.0,
    steps: Annotated[int, typer.Option(min=20, help="Number of steps. More steps see more of the ratings.")] = 200,
    out: OutOption = None,
    n_factors: FactorsOption = None,
    device: DeviceOption = "auto",
    seed: SeedOption = 0,
    json: JsonOption = False,
) -> None:
    """Suggest a learning rate by one short training in which it grows step by step.

    Prints two suggestions. **valley** is the careful one: two thirds along the longest fall of the loss. **slide** is
    the bold one: the middle of the steepest fall. Both are peaks for the one-cycle schedule of `recsys train`.

    The default was measured on whole trainings. Keep it, unless a suggestion is more than a factor of three away. A
    rating model starts with its biases already fitted, so the loss may fall too little for a suggestion; the command
    then says so. No version is stored; the dashboard's page Training shows the plot.

        recsys lr-find
        recsys lr-find --steps 400 --out lr.html

    To check a suggestion with whole trainings: `recsys sweep --learning-rate 1e-4:1e-1`.
    """
    from jobs.cli.show import show
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
        show_learning_rates(report)


@stoppable("nothing was stored")
def sweep_command(
    objective: ObjectiveOption = "ranking",
    weight_decay: Annotated[
        str | None, typer.Option(help=f"AdamW's weight decay of the factors. Matters most for ranking. {RANGE}")
    ] = None,
    l2: Annotated[str | None, typer.Option(help=f"L2 penalty in the loss. Matters most for rating. {RANGE}")] = None,
    damping: Annotated[
        str | None, typer.Option(help=f"Penalty on users and items with few ratings. For rating only. {RANGE}")
    ] = None,
    learning_rate: Annotated[str | None, typer.Option(help=f"Peak of the learning-rate schedule. {RANGE}")] = None,
    out: OutOption = None,
    n_factors: FactorsOption = None,
    n_epochs: EpochsOption = None,
    device: DeviceOption = "auto",
    seed: SeedOption = 0,
    json: JsonOption = False,
) -> None:
    """Train with one value of the config at several powers of ten, and compare the results.

    Looks for the right power of ten; values between two powers seldom matter as much. The default is trained too.
    Results are measured on ratings held out of the training part, never on those of the gate. Nothing is stored.
    Without an option the command sweeps `--weight-decay 1e-3:1e1`.

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
        raise InputError(f"{names}: a sweep varies one of them; run the command once for each")
    field, text = chosen[0] if chosen else ("weight_decay", "1e-3:1e1")

    from jobs.cli.show import show
    from jobs.find import sweep
    from recsys.training.sweep import multiples_of_ten

    values = multiples_of_ten(text)
    engine, settings = open_database()
    report = sweep(
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
        show_sweep(report)


@stoppable("the trials that ended are recorded. Run the same command again to continue")
def tune_command(
    objective: ObjectiveOption = "ranking",
    architecture: ArchitectureOption = "dot",
    minutes: Annotated[
        float | None,
        typer.Option(
            min=0, help="Time limit: no trial starts that would exceed it. Default: 10; no limit if --trials is given."
        ),
    ] = None,
    trials: Annotated[
        int | None,
        typer.Option(min=1, help="Number of trials, including those of earlier calls. Default: no limit."),
    ] = None,
    out: OutOption = None,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Delete the trials of earlier calls on the same ratings first.")
    ] = False,
    reset: Annotated[
        bool, typer.Option("--reset", help="Only delete the tuned config, so that `train` uses its defaults again.")
    ] = False,
    device: DeviceOption = "auto",
    seed: SeedOption = 0,
    json: JsonOption = False,
) -> None:
    """Search for a config that trains better models than the defaults; `train` and `nightly` use it from then on.

    Each trial is one training. The first one uses the defaults; the later ones vary the learning rate, the decay or
    the penalties, the batch size, and the numbers of factors and epochs.

    The best of many trials is often best by chance. So it must win once more, on other ratings from further back in
    time and with another seed, before it is used. Both sets of ratings are held out of the training part; the ratings
    of the gate are never used.

    Each trial is recorded when it ends. Stop the command whenever you like: the next call on the same ratings
    continues. On other ratings a new search starts, with the config in use as its second trial. A tuned config is
    no longer used once there are more than four times as many ratings, or fewer than a quarter.

        recsys tune
        recsys tune --objective rating --minutes 60 --out tuning.html
        recsys tune --trials 30                  # the same seed always makes the same trials
        recsys tune --reset                      # back to the defaults
    """
    if reset and fresh:
        raise InputError("--reset and --fresh: give one of them; --reset deletes the tuned config, --fresh the trials")

    from jobs.cli.show import show
    from jobs.tune import reset_tuning, tune

    engine, settings = open_database()
    if reset:
        outcome = reset_tuning(engine, objective, architecture)
        if json:
            show(outcome, json)
        else:
            state = "deleted" if outcome.forgotten else "there was none"
            typer.echo(f"tuned config of the {objective} model: {state}; recsys train uses the defaults")
        return

    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)  # trials are reported by this command, in its own words
    report = tune(
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
        show_tuning(report)


def show_learning_rates(report: "LrFindReport") -> None:
    """Print the suggestions of a learning-rate range test."""
    from rich.table import Table

    from jobs.cli.show import show_line, stdout_console

    console = stdout_console()
    table = Table("", "learning rate", "")
    table.add_row("valley", f"{report.valley:.2g}", "two thirds along the longest fall of the loss")
    table.add_row("slide", f"{report.slide:.2g}", "the middle of its steepest fall")
    table.add_row("default", f"{report.default:.2g}", "what recsys train uses")
    console.print(table)
    if report.notice:
        show_line(console, f"note: {report.notice}")
    show_end(console, report)


def show_sweep(report: "SweepReport") -> None:
    """Print the values of a sweep, the best one marked."""
    from rich.table import Table

    from jobs.cli.show import stdout_console
    from jobs.find import sweep_header, sweep_table

    console = stdout_console()
    table = Table(*sweep_header(report), "")
    for row in sweep_table(report):
        table.add_row(*row)
    console.print(table)
    show_end(console, report)


def show_tuning(report: "TuneReport") -> None:
    """Print the best config of a search beside the defaults, and which of them is used from now on."""
    from rich.table import Table

    from jobs.cli.show import show_line, stdout_console
    from jobs.tune_report import tuning_table

    console = stdout_console()
    table = Table("", "default", "best")
    for row in tuning_table(report):
        table.add_row(*row)
    console.print(table)
    earlier = f", {report.n_earlier} of them by earlier calls" if report.n_earlier else ""
    diverged = f", {report.n_diverged} diverged" if report.n_diverged else ""
    show_line(console, f"{len(report.trials)} trials{earlier}{diverged}")
    if report.confirmation is not None:
        outcome = "better than the defaults again" if report.confirmation.confirmed else "not better than the defaults"
        show_line(console, f"second test, on ratings further back and with another seed: {outcome}")
    in_use = {
        "best": "recsys train uses the best config from now on",
        "default": "recsys train uses the defaults",
        "earlier": "recsys train keeps the config that an earlier call found",
    }
    show_line(console, in_use[report.in_use])
    show_end(console, report)


def show_end(console: "Console", report: "LrFindReport | SweepReport | TuneReport") -> None:
    """Print the time a command took, and the file of its plot."""
    from jobs.cli.show import show_line

    plot = f"; plot: {report.plot}" if report.plot else ""
    show_line(console, f"{report.seconds:.1f} s{plot}")
