"""The live versions as one self-contained HTML page."""

from pathlib import Path

from sqlalchemy import Connection, Engine

from recsys.analysis.labels import ItemLabels
from recsys.analysis.report import ModelReport, write_report
from recsys.data.keyed import positions
from recsys.database.engine import reading
from recsys.database.models import live_numbers, load_factors, version
from recsys.errors import NoModelError
from recsys.serving.catalogue import Catalogue, read_catalogue


def report(engine: Engine, folder: Path) -> Path:
    """Write the report of the live versions; returns its path.

    Raises:
        NoModelError: nothing is live.
    """
    with reading(engine) as connection:
        numbers = live_numbers(connection)
        if not numbers:
            raise NoModelError("no model is live yet, so there is nothing to report: run `recsys nightly` first")
        catalogue = read_catalogue(connection)
        # Ranking before rating, as a reader meets them: lists first, then what is liked beyond its kind.
        models = [_model_report(connection, numbers[objective], catalogue) for objective in sorted(numbers)]
    return write_report(folder, models)


def _model_report(connection: Connection, number: int, catalogue: Catalogue) -> ModelReport:
    stored = version(connection, number)
    factors = load_factors(connection, number)
    place = positions(catalogue.item_keys, factors.item_keys)
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
            item_ids=[catalogue.items[at].item_id for at in place],
            titles=[catalogue.items[at].title for at in place],
            categories=[catalogue.items[at].categories for at in place],
            n_ratings=catalogue.n_ratings[place],
        ),
    )
