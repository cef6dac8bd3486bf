"""Figures and pages of the results of a learning-rate range test, a sweep and a search."""

from collections.abc import Mapping, Sequence

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray

from recsys.analysis import page
from recsys.analysis.style import BLUE, GREY, MIDDLE, PALETTE, VERMILLION, chart_layout, figure_text

HEIGHT_PX = 480
# plotly draws powers a quarter larger than the font: at size 10 they do not touch in a narrow window.
LOG_AXIS = {"type": "log", "exponentformat": "power", "dtick": 1, "tickfont": {"size": 10}}
MIN_LOSS_SPAN = 0.02
"""The axis of the loss spans at least this share of the first loss, so that rounding errors look like no curve."""


def learning_rate_figure(
    learning_rates: NDArray[np.float64],
    losses: NDArray[np.float64] | None,
    smoothed: NDArray[np.float64],
    marks: Mapping[str, float],
) -> go.Figure:
    """Draw the loss against the learning rate, and mark some learning rates.

    Args:
        learning_rates, losses, smoothed: (n_steps,) values of each step; without `losses` only the curve is drawn.
        marks: name → learning rate.
    """
    figure = go.Figure()
    if losses is not None:
        figure.add_trace(
            go.Scatter(
                x=learning_rates, y=losses, mode="markers", name="loss of a batch", marker={"color": GREY, "size": 4}
            )
        )
    figure.add_trace(
        go.Scatter(x=learning_rates, y=smoothed, mode="lines", name="smoothed", line={"color": MIDDLE, "width": 2})
    )
    for (name, learning_rate), colour in zip(marks.items(), PALETTE, strict=False):
        height = float(np.interp(np.log(learning_rate), np.log(learning_rates), smoothed))
        figure.add_trace(
            go.Scatter(
                x=[learning_rate],
                y=[height],
                mode="markers",
                name=figure_text(f"{name}: {learning_rate:.2g}"),
                marker={"color": colour, "size": 12, "line": {"width": 1, "color": MIDDLE}},
            )
        )
    figure.update_layout(chart_layout(HEIGHT_PX))
    figure.update_xaxes(title="Learning rate (logarithmic)", **LOG_AXIS)
    # A training that diverges has losses so high that the rest of the curve would look flat.
    low, first = float((smoothed if losses is None else losses).min()), float(smoothed[0])
    fall = max(first - low, MIN_LOSS_SPAN * first)
    figure.update_yaxes(title="Training loss", range=[first - 1.1 * fall, first + fall])
    return figure


def sweep_figure(
    field: str, values: Sequence[float], metric: Sequence[float | None], metric_name: str, default: float | None
) -> go.Figure:
    """Draw a held-out metric against the values of a setting, and a line at the metric of the default.

    Args:
        field: name of the setting.
        values, metric: (n_trainings,) values of the setting and of the metric; None leaves a gap.
        metric_name: name of the metric.
        default: the metric with the default of the setting; None draws no line.
    """
    figure = go.Figure()
    figure.add_trace(
        go.Scatter(
            x=list(values),
            y=list(metric),
            mode="lines+markers",
            name=figure_text(metric_name),
            line={"color": BLUE, "width": 2},
            marker={"size": 9},
            hovertemplate=f"{figure_text(field)} %{{x}}: <b>%{{y:.4f}}</b><extra></extra>",
        )
    )
    if default is not None:
        figure.add_hline(y=default, line={"color": VERMILLION, "dash": "dash"}, annotation_text="default")
    figure.update_layout(chart_layout(HEIGHT_PX), showlegend=False)
    figure.update_xaxes(title=figure_text(f"{field} (logarithmic)"), **LOG_AXIS)
    figure.update_yaxes(title=figure_text(f"{metric_name} on held-out ratings"))
    return figure


def tuning_figure(values: Sequence[float | None], metric_name: str, higher_is_better: bool) -> go.Figure:
    """Draw a held-out metric over the trials of a search, and the best value so far.

    Args:
        values: (n_trials,) metric of each trial in order, the defaults first; None where training diverged.
        metric_name: name of the metric.
        higher_is_better: direction of the metric.
    """
    measured = np.array([np.nan if value is None else value for value in values])
    running = np.fmax.accumulate(measured) if higher_is_better else np.fmin.accumulate(measured)
    numbers = list(range(1, len(values) + 1))
    figure = go.Figure()
    figure.add_trace(
        go.Scatter(
            x=numbers,
            y=list(values),
            mode="markers",
            name="trial",
            marker={"color": BLUE, "size": 9},
            hovertemplate="trial %{x}: <b>%{y:.4f}</b><extra></extra>",
        )
    )
    figure.add_trace(
        go.Scatter(
            x=numbers,
            y=[None if np.isnan(value) else float(value) for value in running],
            mode="lines",
            name="best so far",
            line={"color": MIDDLE, "width": 2, "shape": "hv"},
            hoverinfo="skip",
        )
    )
    if values and values[0] is not None:
        figure.add_hline(y=values[0], line={"color": VERMILLION, "dash": "dash"}, annotation_text="default")
    figure.update_layout(chart_layout(HEIGHT_PX))
    figure.update_xaxes(title="Trial", rangemode="tozero", tickformat="d")
    figure.update_yaxes(title=figure_text(f"{metric_name} on held-out ratings"))
    return figure


def finding_page(
    title: str, how: str, figure: go.Figure, header: Sequence[str], rows: Sequence[Sequence[str]], best: int | None
) -> str:
    """Return a page with an explanation, a figure and a table. The same arguments give the same text.

    Args:
        title: of the page.
        how: sentences that explain the figure.
        figure: drawn at the top.
        header: names of the columns of the table.
        rows: cells of the table.
        best: index of the row to print in bold; None for no row.
    """
    return page.render("finding.html.j2", title=title, how=how, figure=figure, header=header, rows=rows, best=best)
