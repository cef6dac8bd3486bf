"""Ratings in the database → a learning rate, or a value of the config, worth training with.

No version is stored, and no lease is needed. The result is recorded as a run, for the dashboard.
"""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field
from sqlalchemy import Engine

from jobs.progress import progress, say
from jobs.training_data import hold_out_validation, read_training_part
from recsys.database.engine import writing
from recsys.database.runs import record_finished
from recsys.evaluation.gate import usable_scale
from recsys.extras import require_extra
from recsys.results import Objective, Result
from recsys.settings import Settings
from recsys.training.lr_find import HIGHEST, LOWEST, N_STEPS, LrFind, lr_find
from recsys.training.sweep import SweptField, best_row, sweep_values

LITTLE_FALL = 0.01
"""A range test whose loss falls by less than this share saw too little of the training to suggest anything."""


class LrFindReport(Result):
    """Suggestions of a learning-rate range test."""

    objective: Objective
    valley: float = Field(description="Two thirds along the longest fall of the loss.")
    slide: float = Field(description="The middle of the steepest fall over half a power of ten.")
    default: float = Field(description="What `recsys train` uses by default.")
    fall: float = Field(description="How far the smoothed loss fell, as a share of its first value.")
    notice: str | None = Field(description="Why the suggestions mean nothing; null if they do.")
    learning_rates: list[float]
    smoothed: list[float] = Field(description="Smoothed loss at each of `learning_rates`.")
    plot: str | None = Field(description="File of the plot; null if none was written.")
    seconds: float


class SweptValue(Result):
    """Result of one training in a sweep."""

    value: float
    metric: float | None = Field(description="On held-out ratings; null if training diverged.")
    train_loss: float | None
    seconds: float


class SweepReport(Result):
    """Outcome of a sweep."""

    objective: Objective
    field: SweptField
    metric: str = Field(examples=["rmse"])
    higher_is_better: bool
    best: float = Field(description="The best of the values and the default.")
    default: SweptValue = Field(description="The value that `recsys train` uses by default.")
    rows: list[SweptValue]
    plot: str | None = Field(description="File of the plot; null if none was written.")
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
    """Find a learning rate by a range test on the ratings that `train` trains on.

    Args:
        out: file to write the plot to, as an HTML page.
        overrides: fields of `Config` to set in place of the defaults.

    Raises:
        InputError: a setting is out of range, or `out` cannot be written.
        TrainingError: there are too few ratings, or the loss falls at no learning rate.
    """
    started = time.perf_counter()
    if out is not None:
        require_extra("report")
    training_set, scale, config = read_training_part(engine, settings, objective, overrides)
    say(f"{objective}: learning-rate range test of {n_steps} steps on {training_set.n_ratings:,} ratings")
    with progress("range test", n_steps) as advance:
        found = lr_find(
            training_set,
            config,
            rating_scale=usable_scale(scale),
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
            f"the loss fell by less than {LITTLE_FALL:.0%}. Training starts with the biases fitted, and so short a "
            "test learns little more. Use a sweep instead: `recsys sweep --learning-rate 1e-4:1e-1`"
        )
    if out is not None:
        from recsys.analysis import page

        page.write(out, learning_rate_document(objective, found, config.learning_rate, notice))
    result = LrFindReport(
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
    reason = f"{objective}: valley {found.valley:.2g}, slide {found.slide:.2g}, default {config.learning_rate:.2g}"
    with writing(engine) as connection:
        record_finished(connection, "lr-find", reason, result.model_dump(mode="json", exclude={"plot"}))
    return result


def learning_rate_document(objective: Objective, found: LrFind, default: float, notice: str | None) -> str:
    """Return a range test as an HTML page."""
    from recsys.analysis.findings import finding_page, learning_rate_figure

    marks = {"valley": found.valley, "slide": found.slide, "default": default}
    how = (
        "One short training in which the learning rate grows step by step. A good peak for the schedule lies where the "
        "loss falls fast, well before it rises again. Valley is two thirds along the longest fall, slide the middle of "
        "the steepest."
    )
    how += f" Note: {notice}." if notice else ""
    return finding_page(
        f"Learning rate of the {objective} model",
        how,
        learning_rate_figure(found.learning_rates, found.losses, found.smoothed, marks),
        ["", "learning rate"],
        [[name, f"{learning_rate:.3g}"] for name, learning_rate in marks.items()],
        best=None,
    )


def sweep(
    engine: Engine,
    settings: Settings,
    objective: Objective,
    field: SweptField,
    values: Sequence[float],
    out: Path | None = None,
    *,
    overrides: Mapping[str, Any] | None = None,
    device: str = "auto",
    seed: int = 0,
) -> SweepReport:
    """Train with each value of one field of the config, and with its default, and measure on a validation part.

    The validation part is held out of the training set of `train`, by the same split, so that the ratings of the gate
    do not influence the config.

    Args:
        out: file to write the plot to, as an HTML page.
        overrides: fields of `Config` to set in place of the defaults.

    Raises:
        InputError: a value is out of range, or `out` cannot be written.
        TrainingError: there are too few ratings, or every training diverged.
    """
    started = time.perf_counter()
    if out is not None:
        require_extra("report")
    ratings, scale, config = read_training_part(engine, settings, objective, overrides)
    validation = hold_out_validation(ratings, objective, scale)
    default_value = float(getattr(config, field))
    trained = list(dict.fromkeys([*values, default_value]))
    say(
        f"{objective}: {len(trained)} trainings on {validation.training_set.n_ratings:,} ratings, each measured on "
        f"{validation.n_held_out:,} held-out ratings"
    )
    with progress(f"sweep of {field}", len(trained) * config.n_epochs) as advance:
        rows = list(
            sweep_values(
                validation.training_set,
                config,
                trained,
                validation.measure,
                field=field,
                rating_scale=usable_scale(scale),
                device=device,
                seed=seed,
                on_epoch=lambda: advance(1),
            )
        )
    best = best_row(rows, validation.higher_is_better)
    by_value = {
        row.value: SweptValue(
            value=row.value, metric=row.metric, train_loss=row.train_loss, seconds=round(row.seconds, 3)
        )
        for row in rows
    }
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
    reason = f"{objective}: the best {field} is {best.value:g} ({validation.metric} {best.metric:.4f})"
    with writing(engine) as connection:
        record_finished(connection, "sweep", reason, report.model_dump(mode="json", exclude={"plot"}))
    return report


def sweep_document(report: SweepReport) -> str:
    """Return a sweep as an HTML page."""
    from recsys.analysis.findings import finding_page, sweep_figure

    values = [row.value for row in report.rows]
    figure = sweep_figure(
        report.field, values, [row.metric for row in report.rows], report.metric, report.default.metric
    )
    rows = sweep_table(report)
    best = next((number for number, row in enumerate(rows) if row[-1]), None)
    better = "higher" if report.higher_is_better else "lower"
    how = (
        f"One training for each value, all other fields as in recsys train; {report.metric} on ratings held out of the "
        f"training part, {better} is better."
    )
    title = f"{report.field} of the {report.objective} model"
    return finding_page(title, how, figure, sweep_header(report), [row[:-1] for row in rows], best)


def sweep_header(report: SweepReport) -> list[str]:
    """Return the names of the columns of `sweep_table`."""
    return [report.field, report.metric, "train loss", "seconds"]


def sweep_table(report: SweepReport) -> list[list[str]]:
    """Return the rows of a sweep, ascending by value, the default included; the last cell of the best row is "best"."""
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
