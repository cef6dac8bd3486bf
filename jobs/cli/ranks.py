"""`torchrun -m jobs.train`: training over ranks."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from jobs.cli.options import (
    BatchSizeOption,
    DeviceOption,
    EpochsOption,
    FactorsOption,
    JsonOption,
    MapOption,
    ObjectiveOption,
    SeedOption,
    SetOption,
    columns_of,
    open_database,
    reason_to_force,
)
from jobs.cli.stopping import stoppable
from jobs.cli.teaching import add_command
from recsys.errors import InputError

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from recsys.settings import Settings

app = typer.Typer(pretty_exceptions_enable=False, rich_markup_mode="markdown")


@stoppable("nothing was stored. Run the same command again to continue from the last checkpoint")
def ranks_command(
    objective: ObjectiveOption = "ranking",
    source: Annotated[
        Path | None,
        typer.Option(
            "--from",
            help="Folder of Parquet files of ratings that every rank sees, on the disk or in an object store; each "
            "rank reads a part of the files. Default: the ratings in the database.",
        ),
    ] = None,
    map: MapOption = None,
    n_factors: FactorsOption = None,
    n_epochs: EpochsOption = None,
    batch_size: BatchSizeOption = None,
    set: SetOption = None,
    device: DeviceOption = "auto",
    seed: SeedOption = 0,
    work_dir: Annotated[
        Path | None,
        typer.Option(
            help="Folder for the ratings of each rank while it trains: 40 bytes a rating. Default: the folder for "
            "temporary files."
        ),
    ] = None,
    lanes: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Parts of the users, the largest number of ranks that can continue a training. Default: 16, or more "
            "for more ranks.",
        ),
    ] = None,
    publish: Annotated[
        bool,
        typer.Option("--publish/--no-publish", help="Publish the version if the gate allows it, or only store it."),
    ] = True,
    force: Annotated[
        bool, typer.Option("--force", help="Publish the version even if the gate refuses it. Needs --reason.")
    ] = False,
    reason: Annotated[str | None, typer.Option(help="Reason for forcing the publication; it is recorded.")] = None,
    start_seconds: Annotated[
        float, typer.Option(min=1, help="Seconds that the ranks wait for each other at the start.")
    ] = 50.0,
    json: JsonOption = False,
) -> None:
    """Train one model over several processes, on one machine or many, and store it as a new version.

    torchrun starts the processes, the ranks. Each keeps its part of the users, the items and the ratings. A rank that
    is killed is started again, and all go on from the last checkpoint, on as many ranks as there are then.

        torchrun --nproc-per-node 2 --max-restarts 3 -m jobs.train --from ratings/
        torchrun --nnodes 4 --nproc-per-node 8 --rdzv-backend c10d --rdzv-endpoint host:29500 -m jobs.train --from s3://bucket/ratings
        python -m jobs.train --objective rating --from ratings/
    """
    force_reason = reason_to_force(force, reason)
    if force and not publish:
        raise InputError("--force and --no-publish: give one of them")
    from jobs.cli.show import show
    from jobs.overrides import read_overrides
    from jobs.ranks import RankJob, train_over_ranks
    from recsys.settings import load_settings
    from recsys.training.ranks.group import joined

    options = {"n_factors": n_factors, "n_epochs": n_epochs, "batch_size": batch_size}
    given = {name: value for name, value in options.items() if value is not None}
    job = RankJob(
        objective,
        source,
        columns_of(map) or {},
        {**read_overrides(objective, set or ()), **given},
        seed,
        publish,
        force_reason,
        work_dir,
        lanes,
    )

    def open_on(rank: int) -> tuple[Engine | None, Settings]:
        # Ranks on other machines cannot reach a database in a file, and need none.
        if rank and source is not None:
            return None, load_settings()
        return open_database(create=source is not None)

    with joined(device, start_seconds) as group:
        engine, settings = group.starting.agree(lambda: open_on(group.rank))
        report = train_over_ranks(group, engine, settings, job)
    if report is not None:
        show(report, json)


add_command(app, "train", ranks_command)


def main() -> None:
    """Run the command as `recsys` runs its own."""
    from jobs.cli.main import main as run_command

    run_command(app, "jobs.train")
