"""Train on one file, measure on another: no database."""

import time
from collections.abc import Mapping
from pathlib import Path

from jobs.load import read_ratings_file, rejects_to
from jobs.train import fit_with_progress, rating_scale
from recsys.data.encoding import IdEncoder, as_ratings
from recsys.data.files import open_source
from recsys.factors import Objective
from recsys.results import EvaluateReport
from recsys.settings import Settings
from recsys.training.fit import default_config
from recsys.training.gate import Judge


def evaluate(
    train_path: Path,
    test_path: Path,
    settings: Settings,
    objective: Objective,
    *,
    format: str | None = None,
    columns: Mapping[str, str] | None = None,
    overrides: Mapping[str, float | None] | None = None,
    k: int = 10,
    relevant_from: float = 4.0,
    device: str = "auto",
    seed: int = 0,
) -> EvaluateReport:
    """Train on one file and read the other once, beside the most-popular and the bias-only baselines.

    Raises:
        InputError: a file cannot be read, has no ratings, or nothing relevant to rank.
        TrainingError: training is not possible with what the first file holds.
    """
    started = time.perf_counter()
    users, items = IdEncoder(), IdEncoder()
    sets = []
    for path in (train_path, test_path):
        source = open_source(
            path, format=format, columns=columns, rating_range=(settings.rating_min, settings.rating_max)
        )
        with rejects_to(None, source) as rejects:
            sets.append(as_ratings(read_ratings_file(source, rejects, users, items)))
    training_set, test = sets
    scale = rating_scale(training_set, settings)
    config = default_config(objective, training_set.n_ratings, **(overrides or {}))
    fitted = fit_with_progress(training_set, config, scale, device, seed)
    judge = Judge(objective, training_set, test, scale, k=k, relevant_from=relevant_from)
    return EvaluateReport(
        metrics=judge.measure(fitted.factors)[1],
        baselines={name: judge.measure(factors)[1] for name, factors in judge.baselines().items()},
        seconds=round(time.perf_counter() - started, 3),
    )
