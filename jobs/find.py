"""Ratings in the database → settings worth training with. Only reads: no version is stored, no lease is needed."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field
from sqlalchemy import Engine

from jobs.configuration import chosen_config
from jobs.progress import progress, say
from jobs.train import rating_scale, ratings_to_train_on
from recsys.data.dataset import Ratings
from recsys.database.engine import reading
from recsys.errors import TrainingError
from recsys.evaluation.gate import Judge, stated
from recsys.evaluation.splits import hold_out
from recsys.extras import require_extra
from recsys.factors import Factors
from recsys.results import Objective, Result
from recsys.settings import Settings
from recsys.training import sweep as sweeps
from recsys.training.config import Config
from recsys.training.lr_find import HIGHEST, LOWEST, N_STEPS, lr_find

LITTLE_FALL = 0.01
"""A range test whose loss falls by less than this share has seen too little of the training to be believed."""


class LrFindReport(Result):
    objective: Objective
    valley: float = Field(description="Two thirds along the longest descent of the loss.")
    slide: float = Field(description="The middle of the steepest descent over half a decade.")
    default: float = Field(description="What `recsys train` uses untold.")
    fall: float = Field(description="How far the smoothed loss fell, as a share of the first.")
    notice: str | None = Field(description="Why the suggestions should not be believed; null where they may be.")
    learning_rates: list[float]
    smoothed: list[float] = Field(description="Smoothed loss at each of `learning_rates`.")
    plot: str | None = Field(description="The page that was written.")
    seconds: float


class SweptValue(Result):
    value: float
    metric: float | None = Field(description="On held-out ratings; null where training diverged.")
    train_loss: float | None
    seconds: float


class SweepReport(Result):
    objective: Objective
    field: sweeps.Field
    metric: str = Field(examples=["rmse"])
    higher_is_better: bool
    best: float = Field(description="Of the values swept, and the default.")
    default: SweptValue = Field(description="Training with what `recsys train` uses untold.")
    rows: list[SweptValue]
    plot: str | None = Field(description="The page that was written.")
    seconds: float


def find_learning_rate(
    engine: Engine,
    settings: Settings,
    objective: Objective,
    out: Path | None = None,
    *,
    lowest: float = LOWEST,
    highest: float = HIGHEST,
    n_steps: int = N_STEPS,
    overrides: Mapping[str, Any] | None = None,
    device: str = "auto",
    seed: int = 0,
) -> LrFindReport:
    """Range test on the ratings that `train` would train on.

    Args:
        out: file to write the plot to, as a page.
        overrides: fields of `Config` that are not to be the default.

    Raises:
        InputError: a setting is out of range, or `out` cannot be written.
        TrainingError: there are too few ratings, or the loss falls at no learning rate.
    """
    started = time.perf_counter()
    if out is not None:
        require_extra("report")
    training_set, scale, config = _training_part(engine, settings, objective, overrides)
    say(f"{objective}: range test of {n_steps} steps on {training_set.n_ratings:,} ratings")
    with progress("range test", n_steps) as advance:
        found = lr_find(
            training_set,
            config,
            rating_scale=stated(scale),
            lowest=lowest,
            highest=highest,
            n_steps=n_steps,
            device=device,
            seed=seed,
            on_step=lambda _done, _all: advance(1),
        )
    notice = None
    if found.fall < LITTLE_FALL:
        notice = (
            f"the loss fell by less than {LITTLE_FALL:.0%}: training begins with the biases fitted, and so short a "
            "test learns little beyond them. Believe a sweep of --learning-rate instead"
        )
    if out is not None:
        from recsys.analysis import page
        from recsys.analysis.findings import finding_page, learning_rate_figure

        marks = {"valley": found.valley, "slide": found.slide, "default": config.learning_rate}
        figure = learning_rate_figure(found.learning_rates, found.losses, found.smoothed, marks)
        how = (
            "One short training under an ever higher learning rate. A good peak for the schedule lies where the loss "
            "falls fast, well before it turns; valley is two thirds along the longest descent, slide the middle of "
            "the steepest."
        )
        how += f" Mind: {notice}." if notice else ""
        table = [[name, f"{learning_rate:.3g}"] for name, learning_rate in marks.items()]
        title = f"Learning rate of the {objective} model"
        page.write(out, finding_page(title, how, figure, ["", "learning rate"], table, best=None))
    return LrFindReport(
        objective=objective,
        valley=found.valley,
        slide=found.slide,
        default=config.learning_rate,
        fall=found.fall,
        notice=notice,
        learning_rates=found.learning_rates.tolist(),
        smoothed=found.smoothed.tolist(),
        plot=None if out is None else str(out),
        seconds=round(time.perf_counter() - started, 3),
    )


def sweep(
    engine: Engine,
    settings: Settings,
    objective: Objective,
    field: sweeps.Field,
    values: Sequence[float],
    out: Path | None = None,
    *,
    overrides: Mapping[str, Any] | None = None,
    device: str = "auto",
    seed: int = 0,
) -> SweepReport:
    """Train with one setting at each value, and at its default, and measure on a validation part.

    The validation part is held out of what `train` would train on, by the same split, so that the ratings which the
    gate measures on have no say in the settings.

    Args:
        out: file to write the plot to, as a page.
        overrides: fields of `Config` that are not to be the default.

    Raises:
        InputError: a value is out of range, or `out` cannot be written.
        TrainingError: there are too few ratings, or every training diverged.
    """
    started = time.perf_counter()
    if out is not None:
        require_extra("report")
    ratings, scale, config = _training_part(engine, settings, objective, overrides)
    validation = held_out_of(ratings, objective, scale)
    default_value = float(getattr(config, field))
    trained = list(dict.fromkeys([*values, default_value]))
    say(
        f"{objective}: {len(trained)} trainings on {validation.training_set.n_ratings:,} ratings, "
        f"measuring on {validation.n_held_out:,} held out of them"
    )
    with progress(f"sweep of {field}", len(trained) * config.n_epochs) as advance:
        rows = list(
            sweeps.sweep(
                validation.training_set,
                config,
                trained,
                validation.measure,
                field=field,
                rating_scale=stated(scale),
                device=device,
                seed=seed,
                on_epoch=lambda: advance(1),
            )
        )
    best = sweeps.best(rows, validation.higher_is_better)
    by_value = {row.value: _swept(row) for row in rows}
    report = SweepReport(
        objective=objective,
        field=field,
        metric=validation.metric,
        higher_is_better=validation.higher_is_better,
        best=best.value,
        default=by_value[default_value],
        rows=[by_value[value] for value in values],
        plot=None if out is None else str(out),
        seconds=round(time.perf_counter() - started, 3),
    )
    if out is not None:
        from recsys.analysis import page

        page.write(out, sweep_document(report))
    return report


def sweep_document(report: SweepReport) -> str:
    """A sweep as a page."""
    from recsys.analysis.findings import finding_page, sweep_figure

    values = [row.value for row in report.rows]
    figure = sweep_figure(
        report.field, values, [row.metric for row in report.rows], report.metric, report.default.metric
    )
    rows = sweep_table(report)
    best = next((place for place, row in enumerate(rows) if row[-1]), None)
    better = "higher" if report.higher_is_better else "lower"
    how = (
        f"One training for each value with everything else as recsys train has it; {report.metric} on ratings held "
        f"out of the training part, {better} is better."
    )
    title = f"{report.field} of the {report.objective} model"
    return finding_page(title, how, figure, sweep_header(report), [row[:-1] for row in rows], best)


def sweep_header(report: SweepReport) -> list[str]:
    return [report.field, report.metric, "train loss", "seconds"]


def sweep_table(report: SweepReport) -> list[list[str]]:
    """The rows under `sweep_header`, ascending, the default among them; a last cell says "best" in the best one."""
    rows = {row.value: row for row in (*report.rows, report.default)}
    return [
        [
            f"{row.value:g}" + (" (default)" if row.value == report.default.value else ""),
            "diverged" if row.metric is None else f"{row.metric:.4f}",
            "" if row.train_loss is None else f"{row.train_loss:.4f}",
            f"{row.seconds:.1f}",
            "best" if row.value == report.best else "",
        ]
        for row in sorted(rows.values(), key=lambda row: row.value)
    ]


@dataclass(frozen=True, slots=True)
class Validation:
    """A part held out of the training part, and what is measured on it.

    Attributes:
        training_set: what is left to train on.
        n_held_out: ratings that are measured on.
        metric: its name.
        measure: the metric of factors.
    """

    training_set: Ratings
    n_held_out: int
    metric: str
    higher_is_better: bool
    measure: Callable[[Factors], float]


def held_out_of(ratings: Ratings, objective: Objective, scale: tuple[float, float]) -> Validation:
    """A validation part held out of what `train` would train on, by the same split.

    Raises:
        TrainingError: there are too few ratings.
    """
    is_held_out = hold_out(ratings)
    if not is_held_out.any():
        raise TrainingError(
            "there are too few ratings to hold a validation part out of the training part: load more, "
            "of users with three and more"
        )
    training_set, held_out = ratings.select(~is_held_out).compact(), ratings.select(is_held_out).compact()
    judge = Judge(objective, training_set, held_out, scale)

    def measure(factors: Factors) -> float:
        return next(iter(judge.measure(factors)[1].values()))

    measured, metrics = judge.measure(next(iter(judge.baselines().values())))
    return Validation(training_set, held_out.n_ratings, next(iter(metrics)), measured.higher_is_better, measure)


def _training_part(
    engine: Engine, settings: Settings, objective: Objective, overrides: Mapping[str, Any] | None
) -> tuple[Ratings, tuple[float, float], Config]:
    """What `train` would train on, its rating scale, and the configuration it would use."""
    with reading(engine) as connection:
        ratings = ratings_to_train_on(connection)
        config = chosen_config(connection, objective, "dot", ratings.n_ratings, ratings.n_users, overrides)
    return ratings.select(~hold_out(ratings)).compact(), rating_scale(ratings, settings), config


def _swept(row: sweeps.SweepRow) -> SweptValue:
    return SweptValue(value=row.value, metric=row.metric, train_loss=row.train_loss, seconds=round(row.seconds, 3))
