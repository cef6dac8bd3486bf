"""Training with a progress bar, for every job that trains."""

from collections.abc import Callable

from jobs.training_progress import training_progress
from recsys.evaluation.gate import Judge, usable_scale
from recsys.factors import Factors
from recsys.learner import Learner
from recsys.library.loading import RatingData
from recsys.training.build import EpochRecord
from recsys.training.checkpoint import Checkpoint
from recsys.training.config import Config


def fit_with_progress(
    data: RatingData,
    config: Config,
    scale: tuple[float, float],
    device: str,
    seed: int,
    curve: Judge | None = None,
    *,
    accumulate: int = 1,
    baseline: Factors | None = None,
    checkpoint: Checkpoint | None = None,
    check: Callable[[], None] = lambda: None,
    label: str = "training",
) -> Learner:
    """Train with a progress bar.

    Args:
        baseline: the bias-only model of the same training set, if it is there already.
        check: called after every epoch; raises if training must not go on.
        curve: measures the factors after every epoch.
    """
    metric = None if curve is None else curve.metric
    with training_progress(data.ratings, config, device, metric, label=label) as shown:

        def on_epoch(record: EpochRecord) -> None:
            shown.on_epoch(record)
            check()

        return Learner.fit(
            data,
            config=config,
            rating_scale=usable_scale(scale),
            device=device,
            seed=seed,
            accumulate=accumulate,
            baseline=baseline,
            checkpoint=checkpoint,
            validate=None if curve is None else curve.main_metric,
            on_epoch=on_epoch,
            on_step=shown.on_step,
        )
