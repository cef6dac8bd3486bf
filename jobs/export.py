"""Export the items of a version for other tools."""

from pathlib import Path

from sqlalchemy import Engine

from recsys.analysis.export import export_items
from recsys.database.engine import reading
from recsys.database.models import live_numbers
from recsys.errors import NoModelError
from recsys.library.views import read_view
from recsys.serving.catalogue import read_catalogue


def export(engine: Engine, folder: Path, number: int | None = None) -> list[Path]:
    """Write vectors, metadata and map of the items of a version to a folder.

    Args:
        number: of the version; by default the live ranking version, else the live rating version.

    Raises:
        NoModelError: no version is live, and none is named.
        NotFoundError: there is no such version.
        InputError: the folder cannot be written.
    """
    with reading(engine) as connection:
        if number is None:
            live = live_numbers(connection)
            number = live.get("ranking") or live.get("rating")
        if number is None:
            raise NoModelError("no model is live yet, so there is nothing to export: run `recsys nightly` first")
        view = read_view(connection, number, read_catalogue(connection))
    return export_items(view, folder)
