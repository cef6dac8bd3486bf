"""`recsys models`: list, show, publish, roll back and prune the stored model versions."""

from typing import TYPE_CHECKING, Annotated

import typer

from jobs.cli.options import JsonOption, ObjectiveOption, actor, open_database
from jobs.cli.teaching import add_command, as_markdown

if TYPE_CHECKING:
    from recsys.database.models import Guard

models_app = typer.Typer(
    no_args_is_help=True,
    help=as_markdown("""List the stored model versions, and publish, roll back or prune them by hand.

Every training is stored as a numbered version. For each objective, one version is live: the one that answers.

    recsys models list
    recsys models rollback --objective ranking --reason "lists looked odd"
"""),
)

NumberArgument = Annotated[
    int, typer.Argument(metavar="NUMBER", help="Number of the version, as `recsys models list` shows it.")
]


def list_command(json: JsonOption = False) -> None:
    """List all stored versions, the newest first.

    Shows which versions are live, when each was trained, on how many ratings, and its metrics.

        recsys models list
        recsys models list --json
    """
    from jobs.cli.show import show
    from recsys.database.engine import reading
    from recsys.database.models import versions
    from recsys.results import ModelSummaries
    from recsys.serving.versions import summarised

    engine, _ = open_database()
    with reading(engine) as connection:
        summaries = ModelSummaries(models=[summarised(stored) for stored in versions(connection)])
    show(summaries, json)


def show_command(number: NumberArgument, json: JsonOption = False) -> None:
    """Show one version: its configuration, its metrics and its training curve.

    The metrics stand beside those of two simple baselines, measured on the same held-out ratings.

        recsys models show 7
        recsys models show 7 --json
    """
    from jobs.cli.show import show
    from recsys.database.engine import reading
    from recsys.database.models import version
    from recsys.serving.versions import detailed

    engine, _ = open_database()
    with reading(engine) as connection:
        show(detailed(version(connection, number)), json)


def publish_command(
    number: NumberArgument,
    reason: Annotated[str, typer.Option(help="Why. It is recorded.")] = "published by hand",
) -> None:
    """Make a version the live one of its objective.

    Running servers answer from it within a second. The one that was live stays stored: `recsys models rollback`.

        recsys models publish 7 --reason "better for new users"
    """
    from recsys.database.models import publish

    engine, _ = open_database()
    chosen = publish(engine, number, reason, audited("publish", {"number": number, "reason": reason}))
    typer.echo(f"version {number} is the live {chosen.objective} model")


def rollback_command(
    objective: ObjectiveOption,
    reason: Annotated[str, typer.Option(help="Why. It is recorded.")] = "rolled back by hand",
) -> None:
    """Make the previous live version live again.

    Rolling back once more returns to the version before that one.

        recsys models rollback --objective ranking --reason "lists looked odd"
    """
    from recsys.database.models import roll_back

    engine, _ = open_database()
    chosen = roll_back(engine, objective, reason, audited("rollback", {"objective": objective, "reason": reason}))
    typer.echo(f"version {chosen.number} is the live {objective} model again")


def prune_command(
    keep: Annotated[int, typer.Option(min=1, help="Number of the newest versions of each objective to keep.")] = 3,
) -> None:
    """Delete old versions. Live versions are never deleted.

    A deleted version cannot be published or rolled back to any more.

        recsys models prune
        recsys models prune --keep 10
    """
    from recsys.database.models import prune

    engine, _ = open_database()
    deleted = prune(engine, keep)
    typer.echo(f"deleted: {', '.join(map(str, deleted)) or 'none'}")


def audited(action: str, detail: dict[str, object]) -> "Guard":
    """Return a function that records the change in the audit log, in the transaction of the change."""
    from sqlalchemy import Connection

    from recsys.database.audit import record

    def guard(connection: Connection) -> None:
        record(connection, actor(), action, detail)

    return guard


add_command(models_app, "list", list_command)
add_command(models_app, "show", show_command)
add_command(models_app, "publish", publish_command)
add_command(models_app, "rollback", rollback_command)
add_command(models_app, "prune", prune_command)
