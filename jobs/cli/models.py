"""`recsys models`: stored versions, looked at, published, rolled back and pruned by hand."""

from typing import Annotated

import typer
from sqlalchemy import Connection

from jobs.cli.options import Json, ObjectiveName, actor, open_database
from jobs.cli.show import show, show_models
from recsys.database.audit import record
from recsys.database.engine import reading
from recsys.database.models import Guard
from recsys.results import ModelSummaries

models_app = typer.Typer(no_args_is_help=True, help="Look at the stored model versions, publish, roll back, prune.")


@models_app.command("list")
def models_list(json: Json = False) -> None:
    """All stored versions, the newest first."""
    from recsys.database.models import versions
    from recsys.serving.versions import summarised

    engine, _ = open_database()
    with reading(engine) as connection:
        summaries = ModelSummaries(models=[summarised(stored) for stored in versions(connection)])
    if json:
        show(summaries, json)
    else:
        show_models(summaries.models)


@models_app.command("show")
def models_show(number: int, json: Json = False) -> None:
    """One version: configuration, metrics beside the baselines, training curve."""
    from recsys.database.models import version
    from recsys.serving.versions import detailed

    engine, _ = open_database()
    with reading(engine) as connection:
        show(detailed(version(connection, number)), json)


@models_app.command("publish")
def models_publish(
    number: int,
    reason: Annotated[str, typer.Option(help="Why; it is recorded.")] = "published by hand",
) -> None:
    """Make a version the live one of its objective, whatever the gate said."""
    from recsys.database.models import publish

    engine, _ = open_database()
    chosen = publish(engine, number, reason, _audited("publish", {"number": number, "reason": reason}))
    typer.echo(f"version {number} is the live {chosen.objective} model")


@models_app.command("rollback")
def models_rollback(
    objective: ObjectiveName, reason: Annotated[str, typer.Option(help="Why; it is recorded.")] = "rolled back by hand"
) -> None:
    """Make the version live again that the live one replaced."""
    from recsys.database.models import roll_back

    engine, _ = open_database()
    chosen = roll_back(engine, objective, reason, _audited("rollback", {"objective": objective, "reason": reason}))
    typer.echo(f"version {chosen.number} is the live {objective} model again")


@models_app.command("prune")
def models_prune(
    keep: Annotated[int, typer.Option(min=1, help="How many of the newest versions of each objective to keep.")] = 3,
) -> None:
    """Delete old versions; the live ones stay."""
    from recsys.database.models import prune

    engine, _ = open_database()
    gone = prune(engine, keep)
    typer.echo(f"deleted: {', '.join(map(str, gone)) or 'none'}")


def _audited(action: str, detail: dict[str, object]) -> Guard:
    def guard(connection: Connection) -> None:
        record(connection, actor(), action, detail)

    return guard
