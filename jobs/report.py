"""Report of the live model versions as one self-contained HTML page."""

from pathlib import Path

from sqlalchemy import Connection, Engine

from recsys.analysis.labels import ItemLabels
from recsys.analysis.report import write_report
from recsys.analysis.sections import ModelReport
from recsys.data.keyed import positions
from recsys.database.engine import reading
from recsys.database.models import live_numbers, load_factors, version
from recsys.errors import NoModelError
from recsys.serving.catalogue import Catalogue, read_catalogue


def report(engine: Engine, folder: Path) -> Path:
    """Write the report of the live versions into a folder.

    Returns:
        The path of the file.

    Raises:
        NoModelError: no version is live.
        InputError: the file cannot be written.
    """
    with reading(engine) as connection:
        numbers = live_numbers(connection)
        if not numbers:
            raise NoModelError("no model is live yet, so there is nothing to report: run `recsys nightly` first")
        catalogue = read_catalogue(connection)
        # Ranking before rating: readers look for the quality of the lists first.
        models = [model_report(connection, numbers[objective], catalogue) for objective in sorted(numbers)]
    return write_report(folder, models)


def model_report(connection: Connection, number: int, catalogue: Catalogue) -> ModelReport:
    """Read what the report needs of one model version."""
    stored = version(connection, number)
    factors = load_factors(connection, number)
    item_idx = positions(catalogue.item_keys, factors.item_keys)  # (n_items,) in the catalogue
    return ModelReport(
        number=stored.number,
        objective=stored.objective,
        created_at=stored.created_at,
        configuration=stored.training.configuration,
        metrics=stored.training.metrics,
        baselines=stored.training.baselines,
        history=stored.training.history,
        factors=factors,
        items=ItemLabels(
            item_ids=[catalogue.items[idx].item_id for idx in item_idx],
            titles=[catalogue.items[idx].title for idx in item_idx],
            categories=[catalogue.items[idx].categories for idx in item_idx],
            n_ratings=catalogue.n_ratings[item_idx],
        ),
    )
