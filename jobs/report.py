"""Report of the live model versions as one self-contained HTML page."""

import logging
from pathlib import Path

from sqlalchemy import Connection, Engine

from recsys.analysis.report import write_images, write_report
from recsys.analysis.view import ModelView
from recsys.data.dataset import Ratings
from recsys.database.engine import reading
from recsys.database.models import live_numbers
from recsys.database.ratings import read_ratings
from recsys.errors import NoModelError
from recsys.library.views import read_view
from recsys.serving.catalogue import read_catalogue

_log = logging.getLogger(__name__)


def report(engine: Engine, folder: Path, *, png: bool = False) -> Path:
    """Write the report of the live versions into a folder.

    Args:
        png: write each figure as a PNG image beside it too.

    Returns:
        The path of the file.

    Raises:
        NoModelError: no version is live.
        InputError: a file cannot be written.
    """
    with reading(engine) as connection:
        views = live_views(connection, read_ratings(connection))
    path = write_report(folder, views)
    if png:
        write_images(folder, views)
    return path


def try_report(engine: Engine, folder: Path) -> Path | None:
    """Write the report after a night; an error is logged, since versions are live without a report."""
    try:
        return report(engine, folder)
    except Exception:
        _log.exception("the report could not be written", extra={"folder": str(folder)})
        return None


def live_views(connection: Connection, ratings: Ratings | None = None) -> list[ModelView]:
    """Return the live versions, ranking before rating: readers look for the quality of the lists first.

    Raises:
        NoModelError: no version is live.
    """
    numbers = live_numbers(connection)
    if not numbers:
        raise NoModelError("no model is live yet, so there is nothing to report: run `recsys nightly` first")
    catalogue = read_catalogue(connection)
    return [
        read_view(connection, numbers[objective], catalogue, users=ratings is not None, ratings=ratings)
        for objective in sorted(numbers)
    ]
