"""`recsys init` and `recsys load`: the tables of the database, and the ratings in them."""

from pathlib import Path
from typing import Annotated

import typer

from jobs.cli.options import (
    AllowErasedOption,
    AppendOption,
    EventWeightsOption,
    FormatOption,
    FromQueryOption,
    ImplicitOption,
    ItemsOption,
    JsonOption,
    MapItemsOption,
    MapOption,
    MapUsersOption,
    SinceOption,
    TimeFormatOption,
    UnratedOption,
    UsersOption,
    columns_of,
    database_to_preview,
    open_database,
    read_options,
    used_databases,
)
from jobs.cli.stopping import stoppable
from recsys.errors import UsageError


def init_command(json: JsonOption = False) -> None:
    """Create the tables, or upgrade them to this version.

    Running it again changes nothing. `recsys load` does it by itself for a new SQLite file.

        recsys init
        RECSYS_DATABASE_URL=postgresql://recsys@db.example/recsys recsys init
    """
    from jobs.cli.show import show
    from recsys.database import migration
    from recsys.database.engine import connect, server_version
    from recsys.results import InitReport
    from recsys.settings import load_settings

    engine = connect(load_settings().database_url)
    used_databases.append(engine.url.render_as_string(hide_password=True))
    migration.upgrade(engine)
    report = InitReport(
        database=engine.url.render_as_string(hide_password=True),
        server=server_version(engine),
        revision=migration.head_revision(),
    )
    show(report, json)


@stoppable(
    "the rows written so far are kept, the others are missing. Run the same command again: it adds the missing ones"
)
def load_command(
    path: Annotated[
        Path | None,
        typer.Argument(
            help="File, folder or zip of ratings, on disk or at s3://, gs://, az:// or https://; - is standard input. "
            "The path may go on inside a zip: ml.zip/u1.base."
        ),
    ] = None,
    from_query: FromQueryOption = None,
    items: ItemsOption = None,
    users: UsersOption = None,
    format: FormatOption = None,
    map: MapOption = None,
    map_items: MapItemsOption = None,
    map_users: MapUsersOption = None,
    implicit: ImplicitOption = None,
    event_weights: EventWeightsOption = None,
    unrated: UnratedOption = None,
    time_format: TimeFormatOption = None,
    append: AppendOption = False,
    since: SinceOption = None,
    allow_erased: AllowErasedOption = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Report what would change, and change nothing.")] = False,
    rejects: Annotated[
        Path | None,
        typer.Option(help="File for the rejected rows and their reasons. Default: NAME.rejects.txt in this folder."),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Load ratings, items and users from files into the database.

    Loading the same file twice changes nothing. Bad rows are set aside with file, line and reason. A file with more
    bad rows than good ones is refused as a whole.

        recsys load ml-100k.zip
        recsys load ratings.csv --items films.csv --users people.csv
        recsys load export.parquet --map user_id=customer,item_id=sku,rating=stars
        recsys load plays.csv.gz --implicit
        recsys load events.jsonl --event-weights view=1,cart=3,purchase=5
        recsys load ratings.csv --unrated 0 --time-format '%d/%m/%Y'
        recsys load s3://bucket/ratings/
        recsys load ratings.csv --since 7d
        recsys load --from-query "SELECT customer, item, stars, at FROM reviews"
        recsys load --from-query "SELECT * FROM clicks" --since 36h --append
        recsys load ratings.csv --dry-run
    """
    if (path is None) == (from_query is None):
        raise UsageError("expected either a PATH or --from-query SQL: give one of them")
    from jobs.cli.show import show
    from jobs.load import LoadOptions, load
    from jobs.query import Query
    from recsys.database.leases import LOADING, lease
    from recsys.database.runs import recorded

    arguments: LoadOptions = {
        "items": items,
        "users": users,
        "format": format,
        "columns": columns_of(map),
        "options": read_options(implicit, event_weights, unrated, time_format, map_items, map_users, since),
        "append": append,
        "allow_erased": allow_erased,
    }
    if dry_run:
        with database_to_preview() as (engine, settings):
            source = path or Query.of(str(from_query), settings)
            report = load(engine, source, settings, dry_run=True, rejects_file=rejects, **arguments)
    else:
        engine, settings = open_database(create=True)
        source = path or Query.of(str(from_query), settings)
        with lease(engine, LOADING, settings.lease_seconds) as held, recorded(engine, "load") as run:
            report = load(engine, source, settings, guard=held.guard, rejects_file=rejects, **arguments)
            run.reason, run.detail = f"loaded {source}", report.model_dump(mode="json")
    show(report, json)
