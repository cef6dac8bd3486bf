"""What several commands share: options, and the database that the settings name."""

import getpass
from typing import Annotated, Literal

import typer
from sqlalchemy import Engine

from recsys.database.engine import connect
from recsys.results import Architecture
from recsys.settings import Settings, load_settings

Json = Annotated[bool, typer.Option("--json", help="Print the result as one line of JSON.")]
DeviceName = Annotated[Literal["auto", "cpu", "cuda"], typer.Option("--device", help="Where to train.")]
NFactors = Annotated[int | None, typer.Option(min=1, help="Width of the factors; by default chosen by the data.")]
ArchitectureName = Annotated[
    Architecture, typer.Option("--architecture", help="`dot`: a dot product; `neural`: layers above the embeddings.")
]
ObjectiveName = Annotated[
    Literal["rating", "ranking"],
    typer.Option(help="`ranking` learns to order lists; `rating` to predict ratings, and the item biases."),
]
BatchSize = Annotated[int | None, typer.Option(min=1, help="Ratings per step; by default chosen by the data.")]


def open_database() -> tuple[Engine, Settings]:
    """The database, with the tables that this version needs.

    Raises:
        InputError: a setting cannot be used.
        DatabaseError: it cannot be reached, or needs `recsys init`.
    """
    from recsys.database import migration  # Alembic takes a while to import: not for `--help`, nor for a server

    settings = load_settings()
    engine = connect(settings.database_url)
    migration.ready(engine)
    return engine, settings


def actor() -> str:
    """Who is at the command line, for the audit log."""
    try:
        login = getpass.getuser()
    except (KeyError, OSError, ImportError):  # a container's user often has no name
        login = ""
    # From the environment, so it may be anything; the database takes only what can be printed.
    login = "".join(character for character in login if character.isprintable())
    return f"command line ({login})" if login else "command line"
