"""What several commands share: options, and the database that the settings name."""

from typing import Annotated, Literal

import typer
from sqlalchemy import Engine

from recsys.data.database import connect
from recsys.factors import Architecture
from recsys.settings import Settings, load_settings

Json = Annotated[bool, typer.Option("--json", help="Print the result as one line of JSON.")]
DeviceName = Annotated[Literal["auto", "cpu", "cuda"], typer.Option("--device", help="Where to train.")]
NFactors = Annotated[int | None, typer.Option(min=1, help="Width of the factors; by default chosen by the data.")]
ArchitectureName = Annotated[
    Architecture, typer.Option("--architecture", help="`dot`: a dot product; `neural`: layers above the embeddings.")
]
BatchSize = Annotated[int | None, typer.Option(min=1, help="Ratings per step; by default chosen by the data.")]


def open_database() -> tuple[Engine, Settings]:
    """The database, with the tables that this version needs.

    Raises:
        InputError: a setting cannot be used.
        DatabaseError: it cannot be reached, or needs `recsys init`.
    """
    from recsys.data import migration  # Alembic takes a while to import: not for `--help`, nor for a server

    settings = load_settings()
    engine = connect(settings.database_url)
    migration.ready(engine)
    return engine, settings
