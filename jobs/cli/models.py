"""`recsys models`: list, show, publish, roll back and prune the stored model versions."""

from typing import TYPE_CHECKING, Annotated

import typer

from jobs.cli.options import JsonOption, ObjectiveOption, actor, open_database, reason_to_force
from jobs.cli.teaching import add_command, as_markdown

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine

    from recsys.database.work import Guard

models_app = typer.Typer(
    no_args_is_help=True,
    help=as_markdown("""List the stored model versions, and publish, roll back or prune them by hand.

Every training is stored as a numbered version. For each objective, one version is live: the one that serves requests.

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
    reason: Annotated[str | None, typer.Option(help="Why. It is recorded.")] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Publish the version even if the gate refused it. Needs --reason.")
    ] = False,
    json: JsonOption = False,
) -> None:
    """Make a version the live one of its objective.

    Running servers answer from it within a second. The one that was live stays stored: `recsys models rollback`
    returns to it. A version that the gate refused needs --force and a reason. It was trained without each user's newest
    tenth of ratings, since only what the gate passes is trained again on all: `recsys train --force` does so.

        recsys models publish 7 --reason "better for new users"
        recsys models publish 7 --force --reason "the old model lists withdrawn items"
    """
    from recsys.database.models import NOT_REFITTED, publish

    reason = reason_to_force(force, reason) or reason or "published by hand"
    engine, _ = open_database()
    detail: dict[str, object] = {"number": number, "reason": reason, "force": force}
    chosen = publish(engine, number, reason, audited("publish", detail), force=force)
    outcome = f"version {number} is the live {chosen.objective} model"
    if not chosen.training.gate_passed and chosen.training.refit is None:
        outcome += f", {NOT_REFITTED}. To serve all ratings: `recsys train --objective {chosen.objective} --force`"
    show_version(engine, number, outcome, json)


def rollback_command(
    objective: ObjectiveOption,
    reason: Annotated[str, typer.Option(help="Why. It is recorded.")] = "rolled back by hand",
    json: JsonOption = False,
) -> None:
    """Make the previous live version live again.

    Rolling back once more returns to the version before that one.

        recsys models rollback --objective ranking --reason "lists looked odd"
    """
    from recsys.database.models import roll_back

    engine, _ = open_database()
    chosen = roll_back(engine, objective, reason, audited("rollback", {"objective": objective, "reason": reason}))
    show_version(engine, chosen.number, f"version {chosen.number} is the live {objective} model again", json)


def prune_command(
    keep: Annotated[int, typer.Option(min=1, help="Number of the newest versions of each objective to keep.")] = 3,
    json: JsonOption = False,
) -> None:
    """Delete old versions. Live versions are never deleted.

    A deleted version cannot be published or rolled back to any more. The exit code is 3 while a training runs.

        recsys models prune
        recsys models prune --keep 10
    """
    from jobs.cli.show import show
    from recsys.database.audit import record
    from recsys.database.leases import TRAINING, lease
    from recsys.database.retention import prune
    from recsys.database.runs import record_finished
    from recsys.results import PruneReport

    engine, settings = open_database()
    with lease(engine, TRAINING, settings.lease_seconds) as held:

        def audit(connection: "Connection", numbers: list[int]) -> None:
            detail = {"keep": keep, "numbers": numbers}
            record(connection, actor(), "prune", detail)
            record_finished(connection, "prune", f"deleted {', '.join(map(str, numbers))}", detail)

        deleted = prune(engine, keep, audit, held.guard)
    show(PruneReport(deleted=deleted), json)


def show_version(engine: "Engine", number: int, line: str, as_json: bool) -> None:
    """Print a version that just went live: one line for people, its summary for machines."""
    from jobs.cli.show import show
    from recsys.database.engine import reading
    from recsys.database.models import version
    from recsys.serving.versions import summarised

    if not as_json:
        typer.echo(line)
        return
    with reading(engine) as connection:
        show(summarised(version(connection, number)), as_json)


def audited(action: str, detail: dict[str, object]) -> "Guard":
    """Return a function that records the change in the audit log and as a run, in the transaction of the change."""
    from recsys.database.audit import record
    from recsys.database.runs import record_finished

    def guard(connection: "Connection") -> None:
        record(connection, actor(), action, detail)
        record_finished(connection, action, str(detail["reason"]), detail)

    return guard


add_command(models_app, "list", list_command)
add_command(models_app, "show", show_command)
add_command(models_app, "publish", publish_command)
add_command(models_app, "rollback", rollback_command)
add_command(models_app, "prune", prune_command)
