"""`recsys runs`: list and show what the jobs did."""

from typing import Annotated

import typer

from jobs.cli.options import JsonOption, open_database
from jobs.cli.teaching import add_command, as_markdown
from recsys.errors import NotFoundError

runs_app = typer.Typer(
    no_args_is_help=True,
    help=as_markdown("""List the runs of all jobs, and show one with its steps.

Every load, train, nightly, publish, rollback and prune is recorded: when it ran, how it ended and why.

    recsys runs list
    recsys runs show 12
"""),
)


def list_command(
    job: Annotated[
        str | None, typer.Option(help="Only runs of this job: load, train, nightly, publish, rollback or prune.")
    ] = None,
    n: Annotated[int, typer.Option("--n", "-n", min=1, max=1000, help="Number of runs.")] = 20,
    json: JsonOption = False,
) -> None:
    """List the latest runs, the newest first.

    A run that is still running has no seconds and no exit code.

        recsys runs list
        recsys runs list --job nightly --n 7 --json
    """
    from jobs.cli.show import show
    from recsys.database.engine import reading
    from recsys.database.runs import read_runs
    from recsys.results import RunSummaries
    from recsys.serving.runs import summarised_run

    engine, _ = open_database()
    with reading(engine) as connection:
        runs = read_runs(connection, n, job)
    show(RunSummaries(runs=[summarised_run(run) for run in runs]), json)


def show_command(
    number: Annotated[int, typer.Argument(metavar="NUMBER", help="Number of the run, as `recsys runs list` shows it.")],
    json: JsonOption = False,
) -> None:
    """Show one run: its steps with their figures, and why it ended as it did.

    With --json the slices that the gate compared are there too.

        recsys runs show 12
        recsys runs show 12 --json
    """
    from jobs.cli.show import show
    from recsys.database.engine import reading
    from recsys.database.runs import read_run
    from recsys.serving.runs import detailed_run

    engine, _ = open_database()
    with reading(engine) as connection:
        run = read_run(connection, number)
    if run is None:
        raise NotFoundError(f"there is no run {number}: see `recsys runs list`")
    show(detailed_run(run), json)


add_command(runs_app, "list", list_command)
add_command(runs_app, "show", show_command)
