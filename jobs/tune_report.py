"""The outcome of `recsys tune`, as a result, a table and an HTML page."""

from typing import Literal

from pydantic import Field

from recsys.results import Architecture, Objective, Result
from recsys.training.tune import Trial


class TunedTrial(Result):
    """One trial of a search."""

    parameters: dict[str, int | float]
    value: float | None = Field(description="Metric on held-out ratings; null if training diverged.")
    seconds: float


class Confirmation(Result):
    """The defaults and the best parameters once more, on ratings further back in time and with another seed."""

    default: float | None = Field(description="The metric; null if training diverged.")
    best: float | None
    confirmed: bool = Field(description="Whether the best parameters are better there, too.")


class TuneReport(Result):
    """Outcome of a search."""

    objective: Objective
    architecture: Architecture
    metric: str = Field(examples=["ndcg"])
    higher_is_better: bool
    default: TunedTrial
    best: TunedTrial = Field(description="The best trial; the default one if no other is better.")
    confirmation: Confirmation | None = Field(
        description="Null if no trial is better than the default, or the best one was confirmed before."
    )
    in_use: Literal["best", "default", "earlier"] = Field(
        description="What `recsys train` uses from now on; `earlier`: the config that an earlier call found."
    )
    trials: list[TunedTrial] = Field(description="In their order.")
    n_earlier: int = Field(description="Number of `trials` that earlier calls made.")
    n_diverged: int
    n_ratings: int
    plot: str | None = Field(description="File of the plot; null if none was written.")
    seconds: float


class ResetReport(Result):
    """Outcome of deleting a tuned config."""

    objective: Objective
    architecture: Architecture
    forgotten: bool = Field(description="Whether there was a tuned config.")


def tuning_document(report: TuneReport) -> str:
    """Return a search as an HTML page."""
    from recsys.analysis.findings import finding_page, tuning_figure

    figure = tuning_figure([trial.value for trial in report.trials], report.metric, report.higher_is_better)
    fields = list(report.default.parameters)
    rows = [
        [
            str(number) + (" (default)" if number == 1 else ""),
            *(f"{trial.parameters[field]:g}" for field in fields),
            format_metric(trial.value),
            f"{trial.seconds:.1f}",
        ]
        for number, trial in enumerate(report.trials, start=1)
    ]
    better = "higher" if report.higher_is_better else "lower"
    how = (
        f"One training for each trial, the first with the defaults, the later ones near the best of the earlier ones; "
        f"{report.metric} on ratings held out of the training part, {better} is better."
    )
    title = f"Config of the {report.objective} model"
    header = ["trial", *fields, report.metric, "seconds"]
    return finding_page(title, how, figure, header, rows, report.trials.index(report.best))


def tuning_table(report: TuneReport) -> list[list[str]]:
    """Return a row for each parameter, then one for the metric: name, with the defaults, with the best parameters."""
    parameters = [
        [field, f"{value:g}", f"{report.best.parameters[field]:g}"]
        for field, value in report.default.parameters.items()
    ]
    metric = [report.metric, format_metric(report.default.value), format_metric(report.best.value)]
    return [*parameters, metric]


def trial_report(trial: Trial) -> TunedTrial:
    """Return a trial as part of a report."""
    return TunedTrial(parameters=dict(trial.parameters), value=trial.value, seconds=round(trial.seconds, 3))


def format_metric(value: float | None) -> str:
    """Return a metric as text; `None` as "diverged"."""
    return "diverged" if value is None else f"{value:.4f}"
