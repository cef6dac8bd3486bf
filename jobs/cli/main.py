"""The `recsys` command: all groups of subcommands put together."""

import os
import sys
import traceback
from typing import Annotated

import typer

from jobs.cli.audit import audit_command
from jobs.cli.capacity import capacity_command
from jobs.cli.copies import backup_command, erase_user_command, export_command, restore_command
from jobs.cli.database import init_command, load_command
from jobs.cli.doctor import doctor_command
from jobs.cli.keys import keys_app
from jobs.cli.lists import items_command, popular_command, recommend_command, similar_command
from jobs.cli.models import models_app
from jobs.cli.options import used_databases
from jobs.cli.runs import runs_app
from jobs.cli.serving import demo_command, map_command, report_command, serve_command
from jobs.cli.teaching import add_command, as_markdown
from jobs.cli.training import evaluate_command, nightly_command, train_command
from jobs.cli.tuning import lr_find_command, sweep_command, tune_command
from recsys import __version__
from recsys.errors import RecsysError
from recsys.extras import missing_extra
from recsys.training.threads import limit_spinning

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    help=as_markdown("""Train a recommender on your ratings, and ask it for lists.

A first look, with generated ratings: `recsys demo`. With your own ratings:

    recsys load ratings.csv      # store the ratings in the database
    recsys nightly               # train, compare with the live models, publish
    recsys recommend 196         # print the list of user 196
    recsys serve                 # answer over HTTP: http://127.0.0.1:8000/docs

Ratings and models are kept in the database that `RECSYS_DATABASE_URL` names, by default the file `recsys.db`
in the working directory. `recsys COMMAND --help` explains each command with examples.

Exit codes: 0 done, 1 failed, 2 wrong usage, 3 another run of the same job is at work.
"""),
)
add_command(app, "init", init_command)
add_command(app, "demo", demo_command)
add_command(app, "load", load_command)
add_command(app, "train", train_command)
add_command(app, "evaluate", evaluate_command)
add_command(app, "nightly", nightly_command)
add_command(app, "lr-find", lr_find_command)
add_command(app, "sweep", sweep_command)
add_command(app, "tune", tune_command)
add_command(app, "recommend", recommend_command)
add_command(app, "similar", similar_command)
add_command(app, "popular", popular_command)
add_command(app, "items", items_command)
app.add_typer(models_app, name="models")
app.add_typer(runs_app, name="runs")
app.add_typer(keys_app, name="keys")
add_command(app, "map", map_command)
add_command(app, "export", export_command)
add_command(app, "backup", backup_command)
add_command(app, "restore", restore_command)
add_command(app, "erase-user", erase_user_command)
add_command(app, "audit", audit_command)
add_command(app, "report", report_command)
add_command(app, "serve", serve_command)
add_command(app, "doctor", doctor_command)
add_command(app, "capacity", capacity_command)


def show_version(wanted: bool) -> None:
    """Print the version and exit, if `--version` is given."""
    if wanted:
        typer.echo(f"recsys {__version__}")
        raise typer.Exit


@app.callback()
def common_options(
    version: Annotated[
        bool, typer.Option("--version", callback=show_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Take the options that stand before a command."""


def main(command: typer.Typer = app, name: str = "recsys") -> None:
    """Run a command, and exit with its code. An error is one line on standard error.

    Every command names its database on standard error, so that standard output is the result alone.
    """
    limit_spinning()
    code = run(command, name)
    try:
        sys.stdout.flush()
    except OSError as error:
        code = code or report_failure(f"standard output cannot be written ({error.strerror})")
        # Python would try again at its end, and print a traceback.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    if used_databases and code in (0, 10, 11, 12):
        typer.echo(f"database: {used_databases[-1]}", err=True)
    sys.exit(code)


def run(command: typer.Typer, name: str) -> int:
    """Run a command, and return its exit code."""
    try:
        command(prog_name=name)
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except RecsysError as error:
        database = used_databases[-1] if used_databases else ""
        where = f" (database {database})" if database and database not in str(error) else ""
        return report_failure(f"{error}{where}", error.exit_code)
    except ModuleNotFoundError as error:
        missing = missing_extra(error)
        if missing is None:
            return report_bug(error)
        return report_failure(str(missing), missing.exit_code)
    except KeyboardInterrupt:
        return report_failure("interrupted", 130)
    except OSError as error:
        reason = error.strerror or str(error)
        named = f"{error.filename}: {reason}" if error.filename else f"standard output cannot be written ({reason})"
        return report_failure(named)
    except Exception as error:
        return report_bug(error)
    return 0


def report_failure(message: str, code: int = 1) -> int:
    """Print one line on standard error, and return the exit code."""
    typer.echo(f"recsys: {message}", err=True)
    return code


def report_bug(error: Exception) -> int:
    """Print an unexpected error: in one line, or with its traceback where RECSYS_LOG_LEVEL is DEBUG."""
    if os.environ.get("RECSYS_LOG_LEVEL") == "DEBUG":
        traceback.print_exception(error)
    text = " ".join(str(error).split())
    return report_failure(f"unexpected {type(error).__name__}: {text[:500]}; RECSYS_LOG_LEVEL=DEBUG prints where")


if __name__ == "__main__":
    main()
