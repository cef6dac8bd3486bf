"""The `recsys` command."""

import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import typer

from jobs.cli.keys import keys_app
from jobs.cli.models import models_app
from jobs.cli.options import ArchitectureName, BatchSize, DeviceName, Json, NFactors, ObjectiveName, open_database
from jobs.cli.show import show
from jobs.cli.tuning import lr_find, sweep, tune
from recsys.database.engine import connect, reading, server_version
from recsys.errors import InputError, RecsysError
from recsys.evaluation.splits import Split
from recsys.extras import missing_extra
from recsys.results import Order, PopularBy
from recsys.settings import load_settings

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    help="""Collaborative filtering as a service.

A first look, with generated ratings: `recsys demo`. With your own:

    recsys load ratings.csv                  # user, item, rating, time → the database
    recsys nightly                           # train, compare, publish
    recsys recommend 196                     # ask from the shell
    recsys serve                             # or over HTTP: http://127.0.0.1:8000/docs

Everything is kept in the database that `RECSYS_DATABASE_URL` names; by default the file `recsys.db` here.
Exit codes: 0 done, 1 failed, 2 wrong usage, 3 another run is at work.
""",
)
app.add_typer(models_app, name="models")
app.add_typer(keys_app, name="keys")

N = Annotated[int, typer.Option("--n", "-n", min=1, max=1000, help="How many items to list.")]
Seed = Annotated[int, typer.Option(help="The same seed on the same machine gives the same model.")]
NEpochs = Annotated[int | None, typer.Option(min=1, help="Passes over the ratings; by default chosen by the data.")]
Format = Annotated[
    str | None,
    typer.Option(help="Kind of file: auto, ml-100k, ml-latest, dat (::), csv, tsv, parquet. By default: look at it."),
]
Map = Annotated[
    list[str] | None,
    typer.Option(
        help="Which column is which: user_id=NAME, item_id=NAME, rating=NAME, rated_at=NAME; "
        "numbers from 1 where the file has no header. Repeat it, or separate by commas."
    ),
]


@app.command()
def init() -> None:
    """Make the tables, or bring them to this version. Running it again changes nothing."""
    from recsys.database import migration

    engine = connect(load_settings().database_url)
    migration.upgrade(engine)
    where = engine.url.render_as_string(hide_password=True)
    typer.echo(f"{where} is ready: {server_version(engine)}, schema {migration.head_revision()}")


@app.command()
def demo(
    data: Annotated[
        Path | None, typer.Option(help="Ratings to use instead of generated ones, for example ml-100k.zip.")
    ] = None,
    port: Annotated[int, typer.Option(min=1, max=65535)] = 8000,
) -> None:
    """A first look: load ratings into a database under .demo/, train, serve, and print three requests to try."""
    from jobs.demo import demo as run  # torch takes seconds to import: only where it is needed

    run(data, load_settings(), port)


@app.command()
def load(
    path: Annotated[Path, typer.Argument(help="A file, folder or zip of ratings; it may go on inside the zip.")],
    items: Annotated[Path | None, typer.Option(help="A file of titles, years and genres.")] = None,
    users: Annotated[
        Path | None, typer.Option(help="A file of users: a column of ids, and all that is known of them.")
    ] = None,
    format: Format = None,
    map: Map = None,
    dry_run: Annotated[bool, typer.Option(help="Say what would be done, and change nothing.")] = False,
    rejects: Annotated[
        Path | None, typer.Option(help="Where to name rejected rows; by default NAME.rejects.txt here.")
    ] = None,
    json: Json = False,
) -> None:
    """Load ratings, and what is said of items and users, into the database.

    Loading the same file twice changes nothing. Bad rows are set aside with line and reason; a file that is
    mostly bad is refused whole.

        recsys load ml-100k.zip
        recsys load ratings.csv --items films.csv --users people.csv
        recsys load export.parquet --map user_id=customer,item_id=sku,rating=stars
    """
    from jobs.load import load as run
    from recsys.database.leases import LOADING, lease

    engine, settings = open_database()
    with nullcontext() if dry_run else lease(engine, LOADING):
        report = run(
            engine,
            path,
            settings,
            items=items,
            users=users,
            format=format,
            columns=_columns(map),
            dry_run=dry_run,
            rejects_file=rejects,
        )
    show(report, json)


@app.command()
def train(
    objective: ObjectiveName = "ranking",
    architecture: ArchitectureName = "dot",
    n_factors: NFactors = None,
    n_epochs: NEpochs = None,
    batch_size: BatchSize = None,
    device: DeviceName = "auto",
    accumulate: Annotated[
        int, typer.Option(min=1, help="Cut each batch into so many parts, where memory is too short for a whole one.")
    ] = 1,
    seed: Seed = 0,
    publish: Annotated[
        bool | None,
        typer.Option(
            "--publish/--no-publish", help="Publish it or not, whatever the gate says; by default the gate decides."
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Train one model version on the ratings in the database, and publish it if it is good enough.

    A training that was killed goes on from its last checkpoint when the same command is given again.
    """
    from jobs.train import train as run
    from recsys.database.leases import TRAINING, lease

    engine, settings = open_database()
    with lease(engine, TRAINING) as held:
        report = run(
            engine,
            settings,
            held,
            objective,
            architecture=architecture,
            overrides={"n_factors": n_factors, "n_epochs": n_epochs, "batch_size": batch_size},
            device=device,
            seed=seed,
            accumulate=accumulate,
            publish_it=publish,
        )
    show(report, json)


@app.command()
def evaluate(
    train: Annotated[Path, typer.Option(help="Ratings to train on.")],
    test: Annotated[
        Path | None, typer.Option(help="Ratings to measure on; by default held out of the others by --split.")
    ] = None,
    split: Annotated[
        Split,
        typer.Option(
            help="What to hold out where there is no --test: each user's last tenth by time, a tenth by a stable hash "
            "or at random, the last tenth of all by time, each user's last one."
        ),
    ] = "last-tenth",
    items: Annotated[Path | None, typer.Option(help="A file of titles, years and genres, to train with.")] = None,
    users: Annotated[Path | None, typer.Option(help="A file of what is known of users, to train with.")] = None,
    objective: ObjectiveName = "ranking",
    architecture: ArchitectureName = "dot",
    k: Annotated[int, typer.Option(min=1, help="Length of the lists.")] = 10,
    relevant_from: Annotated[float, typer.Option(help="Lowest rating of an item worth listing.")] = 4.0,
    n_factors: NFactors = None,
    n_epochs: NEpochs = None,
    batch_size: BatchSize = None,
    device: DeviceName = "auto",
    seed: Seed = 0,
    format: Format = None,
    map: Map = None,
    json: Json = False,
) -> None:
    """Train on some ratings, measure on others, beside the most-popular and bias-only baselines. No database.

    The ratings to measure on are a file of their own, or held out of the others. What a folder of ratings, --items and
    --users say of items and users is trained with.

        recsys evaluate --train u1.base --test u1.test --objective rating
        recsys evaluate --train ml-100k.zip/ml-100k/u1.base --test ml-100k.zip/ml-100k/u1.test
        recsys evaluate --train ratings.csv --split time-cut --items films.csv
    """
    from jobs.evaluate import evaluate as run

    report = run(
        train,
        test,
        load_settings(),
        objective,
        architecture=architecture,
        split=split,
        items_path=items,
        users_path=users,
        format=format,
        columns=_columns(map),
        overrides={"n_factors": n_factors, "n_epochs": n_epochs, "batch_size": batch_size},
        k=k,
        relevant_from=relevant_from,
        device=device,
        seed=seed,
    )
    show(report, json)


@app.command()
def nightly(
    source: Annotated[list[Path] | None, typer.Option(help="Ratings to load first; may be repeated.")] = None,
    device: DeviceName = "auto",
    seed: Seed = 0,
    detailed_exit_code: Annotated[
        bool, typer.Option(help="End with 10 when nothing was good enough to publish, 11 when nothing was new.")
    ] = False,
    json: Json = False,
) -> None:
    """Load, train both objectives, and publish what is at least as good as what is live. Run it every night.

    Does nothing when no rating changed. Ends with 3 when another run is at work.
    """
    from jobs.nightly import nightly as run

    engine, settings = open_database()
    report = run(engine, settings, source or (), device=device, seed=seed)
    show(report, json)
    if detailed_exit_code:
        raise typer.Exit({"published": 0, "not_better": 10, "nothing_new": 11}[report.status])


@app.command()
def recommend(
    user_id: Annotated[str | None, typer.Argument(help="External id of a user.")] = None,
    n: N = 10,
    include_seen: Annotated[bool, typer.Option(help="List what the user has rated too.")] = False,
    explain: Annotated[bool, typer.Option(help="Say of every item how its score came about.")] = False,
    all: Annotated[bool, typer.Option("--all", help="Lists for all users, into a file.")] = False,
    out: Annotated[Path, typer.Option(help="The file, with --all.")] = Path("lists.parquet"),
    json: Json = False,
) -> None:
    """The best items for a user; for one nobody knows, the most rated ones. Or for all users into a Parquet file.

    recsys recommend 196
    recsys recommend 196 --explain
    recsys recommend --all --out lists.parquet     # columns user_id, rank, item_id, score, source
    """
    from jobs.recommend import recommend as run
    from jobs.recommend import recommend_all
    from recsys.serving.recommender import Wish

    if all == (user_id is not None):
        raise typer.BadParameter("name a user, or say --all for every one of them")
    engine, _ = open_database()
    wish = Wish(n=n, exclude_seen=not include_seen)
    if user_id is None:
        show(recommend_all(engine, out, wish), json)
    else:
        show(run(engine, user_id, wish, explain=explain), json)


@app.command()
def similar(
    item_id: Annotated[str, typer.Argument(help="External id of an item.")], n: N = 10, json: Json = False
) -> None:
    """The items that appeal to the same people as this one."""
    from recsys.serving.recommender import find, load_recommender

    engine, _ = open_database()
    with reading(engine) as connection:
        recommender = load_recommender(connection)
    model, search = recommender.search_similar(item_id, n)
    show(recommender.as_list(recommender.similar(model, find([search])[0])), json)


@app.command()
def popular(
    by: Annotated[
        PopularBy, typer.Option(help="bias: liked beyond its kind; count: number of ratings; mean: mean rating.")
    ] = "bias",
    order: Annotated[Order, typer.Option(help="asc lists the other end.")] = "desc",
    min_ratings: Annotated[
        int | None, typer.Option(min=0, help="Fewest ratings of a listed item; by default 10, by count 0.")
    ] = None,
    n: N = 10,
    json: Json = False,
) -> None:
    """Items by how much they are liked beyond their kind, by number of ratings, or by mean rating."""
    from recsys.serving.recommender import load_recommender

    engine, _ = open_database()
    with reading(engine) as connection:
        recommender = load_recommender(connection)
    show(recommender.as_list(recommender.popular(by, n, order=order, min_ratings=min_ratings)), json)


@app.command()
def report(
    out: Annotated[Path, typer.Option(help="Folder to write report.html to.")] = Path("report"),
) -> None:
    """The live versions as one HTML page: map of the items, ends of the components, bias, training curves."""
    from jobs.report import report as run

    engine, _ = open_database()
    typer.echo(str(run(engine, out)))


@app.command()
def serve(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535)] = 8000,
    workers: Annotated[int, typer.Option(min=1, max=256, help="Processes that answer, about one for each core.")] = 1,
    insecure: Annotated[
        bool, typer.Option(help="Listen on an address that other machines can reach, though nobody needs a key.")
    ] = False,
) -> None:
    """Answer over HTTP: http://127.0.0.1:8000/docs describes how.

    Where no key was ever made everybody who reaches it may ask, so it listens on this machine only. On another address
    it asks for keys: make one with `recsys keys create NAME --scope read`.

        recsys serve
        recsys serve --host 0.0.0.0 --workers 4
    """
    from jobs.serve import serve as run

    run(load_settings(), host, port, workers=workers, insecure=insecure)


app.command("lr-find")(lr_find)
app.command("sweep")(sweep)
app.command("tune")(tune)


def _columns(given: list[str] | None) -> dict[str, str] | None:
    """`user_id=customer,item_id=sku` as a mapping."""
    if not given:
        return None
    columns = {}
    for part in ",".join(given).split(","):
        name, equals, column = part.partition("=")
        if not equals or not column or name not in ("user_id", "item_id", "rating", "rated_at"):
            raise InputError(f"--map {part}: expected user_id=COLUMN, item_id=COLUMN, rating=COLUMN or rated_at=COLUMN")
        columns[name] = column
    return columns


def main() -> None:
    """Run the command; an error is one line on stderr and an exit code."""
    try:
        app()
    except RecsysError as error:
        typer.echo(f"recsys: {error}", err=True)
        sys.exit(error.exit_code)
    except ModuleNotFoundError as error:
        missing = missing_extra(error)
        if missing is None:
            raise
        typer.echo(f"recsys: {missing}", err=True)
        sys.exit(missing.exit_code)


if __name__ == "__main__":
    main()
