"""A learning rate, or a value of one setting, found for a `Learner`: tables and figures."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import pandas as pd
import plotly.graph_objects as go

from recsys.analysis.findings import learning_rate_figure, sweep_figure
from recsys.analysis.measures import measure_of
from recsys.errors import TrainingError
from recsys.evaluation.gate import Judge, usable_scale
from recsys.evaluation.splits import hold_out
from recsys.training.config import Config
from recsys.training.lr_find import N_STEPS, LrFind, lr_find
from recsys.training.sweep import SweepRow, SweptField, best_row, multiples_of_ten, sweep_values

if TYPE_CHECKING:
    from recsys.learner import Learner


@dataclass(frozen=True, slots=True)
class LearningRates:
    """The result of `Learner.lr_find`.

    Attributes:
        found: the test, with the suggestions `valley` and `slide`.
        used: the learning rate that the learner was trained with.
    """

    found: LrFind
    used: float

    def __repr__(self) -> str:
        return f"LearningRates(valley={self.found.valley:.2g}, slide={self.found.slide:.2g}, used={self.used:.2g})"

    @property
    def table(self) -> pd.DataFrame:
        """One row per step: `learning_rate`, `loss`, `smoothed`."""
        found = self.found
        return pd.DataFrame(
            {"learning_rate": found.learning_rates, "loss": found.losses, "smoothed": found.smoothed}
        ).rename_axis("step")

    def plot(self) -> go.Figure:
        """Draw the loss against the learning rate, with the suggestions and the one that was used."""
        found = self.found
        marks = {"valley": found.valley, "slide": found.slide, "used": self.used}
        return learning_rate_figure(found.learning_rates, found.losses, found.smoothed, marks)


@dataclass(frozen=True, slots=True)
class Sweep:
    """The result of `Learner.sweep`.

    Attributes:
        field: the setting.
        metric: measured on ratings held out of those of the learner.
        rows: one for each value, in the given order.
        used: the training with the value that the learner has.
        best: the best of all of them.
    """

    field: SweptField
    metric: str
    rows: tuple[SweepRow, ...]
    used: SweepRow
    best: SweepRow

    def __repr__(self) -> str:
        return f"Sweep({self.field}: best {self.best.value:g}, {self.metric} {self.best.metric:.4f})"

    @property
    def table(self) -> pd.DataFrame:
        """One row per value: the metric and `train_loss`, NaN where training diverged, and `seconds`."""
        return pd.DataFrame(
            {
                self.metric: [row.metric for row in self.rows],
                "train_loss": [row.train_loss for row in self.rows],
                "seconds": [row.seconds for row in self.rows],
            },
            index=pd.Index([row.value for row in self.rows], name=self.field),
            dtype=float,
        )

    def plot(self) -> go.Figure:
        """Draw the metric against the values, and a line at that of the value that the learner has."""
        values, metric = [row.value for row in self.rows], [row.metric for row in self.rows]
        return sweep_figure(self.field, values, metric, measure_of(self.metric).name, self.used.metric)


def find_learning_rates(learner: "Learner", n_steps: int = N_STEPS, seed: int = 0) -> LearningRates:
    """Run a learning-rate range test with the ratings and the config of a learner; see `Learner.lr_find`."""
    config = config_of(learner.config)
    scale = usable_scale(learner.rating_scale)
    found = lr_find(learner.data.ratings, config, rating_scale=scale, n_steps=n_steps, device="cpu", seed=seed)
    return LearningRates(found, config.learning_rate)


def sweep_setting(
    learner: "Learner", field: SweptField, values: Sequence[float] | str, seed: int = 0, **overrides: Any
) -> Sweep:
    """Train with each value of a setting, and measure; see `Learner.sweep`."""
    chosen = multiples_of_ten(values) if isinstance(values, str) else list(values)
    config = config_of({**learner.config, **overrides})
    ratings, scale = learner.data.ratings, learner.rating_scale
    # A second turn: a test set that `hold_out` takes from all ratings is no part of what is compared here.
    held_out = hold_out(ratings, turn=1)
    if not held_out.any():
        raise TrainingError("there are too few ratings to hold some out for measuring: use more")
    train = ratings.select(~held_out).compact()
    judge = Judge(config.objective, train, ratings.select(held_out).compact(), scale)
    used = float(getattr(config, field, 0.0))
    trained = list(dict.fromkeys([*chosen, used]))
    rows = {
        row.value: row
        for row in sweep_values(
            train,
            config,
            trained,
            judge.main_metric,
            field=field,
            rating_scale=usable_scale(scale),
            device="cpu",
            seed=seed,
        )
    }
    best = best_row(list(rows.values()), judge.higher_is_better)
    return Sweep(field, judge.metric, tuple(rows[value] for value in chosen), rows[used], best)


def config_of(record: Mapping[str, Any]) -> Config:
    """Return the config of a learner's record.

    Raises:
        InputError: a field is out of range.
    """
    known = {field.name: record[field.name] for field in fields(Config) if field.name in record}
    config = Config(**{**known, "hidden": tuple(known.get("hidden", ()))})
    config.check()
    return config
