"""`recsys train`, `recsys evaluate` and `recsys nightly`."""

from pathlib import Path
from typing import Annotated, get_args

import typer

from jobs.cli.options import (
    AllowErasedOption,
    AppendOption,
    ArchitectureOption,
    BatchSizeOption,
    DeviceOption,
    EpochsOption,
    EventWeightsOption,
    FactorsOption,
    FormatOption,
    FromQueryOption,
    ImplicitOption,
    ItemsOption,
    JsonOption,
    MapItemsOption,
    MapOption,
    MapUsersOption,
    NightArchitectureOption,
    ObjectiveOption,
    SeedOption,
    SetOption,
    SinceOption,
    SplitName,
    TimeFormatOption,
    UnratedOption,
    UsersOption,
    columns_of,
    open_database,
    read_options,
    reason_to_force,
)
from jobs.cli.stopping import stoppable
from recsys.errors import InputError

DETAILED_EXIT_CODES = {"published": 0, "not_better": 10, "nothing_new": 11, "some_refused": 12}


@stoppable("nothing was stored. Run the same command again")
def train_command(
    objective: ObjectiveOption = "ranking",
    architecture: ArchitectureOption = "dot",
    n_factors: FactorsOption = None,
    n_epochs: EpochsOption = None,
    batch_size: BatchSizeOption = None,
    set: SetOption = None,
    device: DeviceOption = "auto",
    accumulate: Annotated[
        int,
        typer.Option(min=1, help="Number of parts to split each batch into, if the GPU has too little memory for one."),
    ] = 1,
    seed: SeedOption = 0,
    publish: Annotated[
        bool,
        typer.Option("--publish/--no-publish", help="Publish the version if the gate allows it, or only store it."),
    ] = True,
    force: Annotated[
        bool, typer.Option("--force", help="Publish the version even if the gate refuses it. Needs --reason.")
    ] = False,
    reason: Annotated[str | None, typer.Option(help="Reason for forcing the publication; it is recorded.")] = None,
    json: JsonOption = False,
) -> None:
    """Train one model on the ratings in the database, store it as a new version, and publish it if it is good enough.

    The gate decides: it compares the new version with a simple baseline and with the live version, on ratings that
    training does not see. A training that was stopped continues from its last checkpoint when you give the same
    command again.

        recsys train
        recsys train --objective rating --n-epochs 20
        recsys train --set weight_decay=0.3 --set learning_rate=0.02
        recsys train --architecture neural --no-publish
        recsys train --force --reason "first model of the new shop"

    Over several processes or machines: `torchrun -m jobs.train`, see docs/cluster.md.
    """
    force_reason = reason_to_force(force, reason)
    if force and not publish:
        raise InputError("--force and --no-publish: give one of them")
    from jobs.cli.show import show
    from jobs.overrides import read_overrides
    from jobs.train import train
    from recsys.database.leases import TRAINING, lease

    options = {"n_factors": n_factors, "n_epochs": n_epochs, "batch_size": batch_size}
    given = {name: value for name, value in options.items() if value is not None}
    overrides = {**read_overrides(objective, set or ()), **given}
    engine, settings = open_database()
    with lease(engine, TRAINING, settings.lease_seconds) as held:
        report = train(
            engine,
            settings,
            held,
            objective,
            architecture=architecture,
            overrides=overrides,
            device=device,
            seed=seed,
            accumulate=accumulate,
            publish_it=publish,
            force_reason=force_reason,
        )
    show(report, json)


@stoppable("nothing was stored")
def evaluate_command(
    train: Annotated[Path, typer.Option(help="File, folder or zip of the ratings to train on.")],
    test: Annotated[
        Path | None,
        typer.Option(help="Ratings to measure on. Default: a part of the training ratings, chosen by --split."),
    ] = None,
    split: Annotated[
        SplitName,
        typer.Option(
            help="Ratings to hold out if --test is not given. `last-tenth`: the last tenth of each user by time; "
            "`hash`: a tenth by a stable hash; `random`: a tenth at random; `time-cut`: the last tenth of all by time; "
            "`leave-last-out`: the last rating of each user."
        ),
    ] = "last-tenth",
    items: Annotated[Path | None, typer.Option(help="File of items (titles, years, genres) to train with.")] = None,
    users: Annotated[Path | None, typer.Option(help="File of users to train with.")] = None,
    objective: ObjectiveOption = "ranking",
    architecture: ArchitectureOption = "dot",
    k: Annotated[int, typer.Option(min=1, help="Length of the lists that are measured.")] = 10,
    relevant_from: Annotated[
        float | None,
        typer.Option(help="Lowest test rating that counts as relevant. Default: three quarters up the rating scale."),
    ] = None,
    n_factors: FactorsOption = None,
    n_epochs: EpochsOption = None,
    batch_size: BatchSizeOption = None,
    set: SetOption = None,
    device: DeviceOption = "auto",
    seed: SeedOption = 0,
    format: FormatOption = None,
    map: MapOption = None,
    implicit: ImplicitOption = None,
    event_weights: EventWeightsOption = None,
    unrated: UnratedOption = None,
    time_format: TimeFormatOption = None,
    json: JsonOption = False,
) -> None:
    """Train on some ratings and measure on others, beside two simple baselines. No database is used.

    The baselines are the most popular items, and biases of users and items alone. Metadata of items and users is
    trained with, if the folder of ratings holds it or --items and --users name it.

        recsys evaluate --train u1.base --test u1.test --objective rating
        recsys evaluate --train ml-100k.zip/ml-100k/u1.base --test ml-100k.zip/ml-100k/u1.test
        recsys evaluate --train ratings.csv --split time-cut --items films.csv
    """
    from jobs.cli.show import show
    from jobs.evaluate import evaluate
    from jobs.overrides import read_overrides
    from recsys.settings import load_settings

    options = {"n_factors": n_factors, "n_epochs": n_epochs, "batch_size": batch_size}
    given = {name: value for name, value in options.items() if value is not None}
    report = evaluate(
        train,
        test,
        load_settings(),
        objective,
        architecture=architecture,
        split=split,
        items_path=items,
        users_path=users,
        format=format,
        columns=columns_of(map),
        options=read_options(implicit, event_weights, unrated, time_format),
        overrides={**read_overrides(objective, set or ()), **given},
        k=k,
        relevant_from=relevant_from,
        device=device,
        seed=seed,
    )
    show(report, json)


@stoppable("nothing was trained. Run the same command again")
def nightly_command(
    source: Annotated[
        list[Path] | None,
        typer.Option(
            help="Ratings to load first: a file, folder or zip. Repeat it for several; the options of `recsys load` "
            "hold for all of them."
        ),
    ] = None,
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
    from_query: FromQueryOption = None,
    append: AppendOption = False,
    since: SinceOption = None,
    allow_erased: AllowErasedOption = False,
    architecture: NightArchitectureOption = None,
    set: SetOption = None,
    device: DeviceOption = "auto",
    seed: SeedOption = 0,
    detailed_exit_code: Annotated[
        bool,
        typer.Option(
            "--detailed-exit-code",
            help="Exit with 10 if no new version was good enough to publish, with 11 if nothing is new, and with 12 if "
            "one objective was published and the other refused.",
        ),
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what the night would do and why, and do nothing.")
    ] = False,
    json: JsonOption = False,
) -> None:
    """Load new ratings, train both objectives, and publish the versions that are good enough. Run it every night.

    For lists, a dot product, weights between items and their sum are tried on a validation part, and the best one is
    trained. An objective whose ratings did not change is not trained again. The objectives are independent: if one
    fails, the other is trained all the same, and the exit code is 1. The exit code is 3 if another run is in progress.

        recsys nightly
        recsys nightly --source /data/ratings.csv --json
        recsys nightly --source events.jsonl --event-weights view=1,cart=3 --append
        recsys nightly --from-query "SELECT * FROM reviews" --since 3d
        recsys nightly --detailed-exit-code
        recsys nightly --architecture dot
        recsys nightly --dry-run
    """
    from jobs.cli.options import database_to_preview
    from jobs.cli.show import show
    from jobs.load import LoadOptions
    from jobs.night_plan import plan_night
    from jobs.nightly import nightly
    from jobs.overrides import read_overrides
    from jobs.query import Query
    from recsys.results import NightlyReport, Objective
    from recsys.settings import Settings

    load_options: LoadOptions = {
        "items": items,
        "users": users,
        "format": format,
        "columns": columns_of(map),
        "options": read_options(implicit, event_weights, unrated, time_format, map_items, map_users, since),
        "append": append,
        "allow_erased": allow_erased,
    }
    overrides = {objective: read_overrides(objective, set or ()) for objective in get_args(Objective)}

    def sources_of(settings: Settings) -> list[Path | Query]:
        return [*(source or ()), *([] if from_query is None else [Query.of(from_query, settings)])]

    if dry_run:
        with database_to_preview() as (engine, settings):
            plan = plan_night(
                engine, settings, sources_of(settings), load_options=load_options, seed=seed, architecture=architecture
            )
            show(plan, json)
        return
    engine, settings = open_database(create=bool(source or from_query))

    def print_report(report: NightlyReport) -> None:
        if json or report.error is None:
            show(report, json)

    report = nightly(
        engine,
        settings,
        sources_of(settings),
        load_options=load_options,
        overrides=overrides,
        device=device,
        seed=seed,
        architecture=architecture,
        on_end=print_report,
    )
    for each in report.objectives:
        if each.status == "failed":
            typer.echo(f"recsys: {each.objective}: {each.reason}", err=True)
    if report.status == "failed":
        raise typer.Exit(1)
    if detailed_exit_code:
        raise typer.Exit(DETAILED_EXIT_CODES[report.status])
