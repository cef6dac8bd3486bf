"""What a range test, a sweep or a search found, as one self-contained HTML page."""

from collections.abc import Mapping, Sequence

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray

from recsys.analysis import page
from recsys.analysis.figures import BLUE, GREY, INK, PALETTE, VERMILLION

_HEIGHT_PX = 480
_LEAST_FALL = 0.02
"""The axis of the loss shows at least this share of it, lest rounding look like a curve."""


def learning_rate_figure(
    learning_rates: NDArray[np.float64],
    losses: NDArray[np.float64],
    smoothed: NDArray[np.float64],
    marks: Mapping[str, float],
) -> go.Figure:
    """Loss against the learning rate, with named learning rates marked.

    Args:
        learning_rates, losses, smoothed: (n_steps,) of each step.
        marks: name → learning rate.
    """
    figure = go.Figure()
    figure.add_trace(
        go.Scatter(
            x=learning_rates, y=losses, mode="markers", name="loss of a batch", marker={"color": GREY, "size": 4}
        )
    )
    figure.add_trace(
        go.Scatter(x=learning_rates, y=smoothed, mode="lines", name="smoothed", line={"color": INK, "width": 2})
    )
    for (name, learning_rate), colour in zip(marks.items(), PALETTE, strict=False):
        height = float(np.interp(np.log(learning_rate), np.log(learning_rates), smoothed))
        figure.add_trace(
            go.Scatter(
                x=[learning_rate],
                y=[height],
                mode="markers",
                name=page.text(f"{name}: {learning_rate:.2g}"),
                marker={"color": colour, "size": 12, "line": {"width": 1, "color": INK}},
            )
        )
    figure.update_layout(_layout())
    figure.update_xaxes(title="Learning rate (logarithmic)", type="log", exponentformat="power", dtick=1)
    # Where training diverges the loss leaves every scale, and would flatten what is of interest.
    low, first = float(losses.min()), float(smoothed[0])
    fall = max(first - low, _LEAST_FALL * first)
    figure.update_yaxes(title="Training loss", range=[first - 1.1 * fall, first + fall])
    return figure


def sweep_figure(
    field: str, values: Sequence[float], metric: Sequence[float | None], metric_name: str, default: float | None
) -> go.Figure:
    """A held-out metric against the values of a setting, beside that of the default.

    Args:
        values, metric: of each training; a metric of None leaves a gap.
        default: the metric with the default of the setting; None draws no line.
    """
    figure = go.Figure()
    figure.add_trace(
        go.Scatter(
            x=list(values),
            y=list(metric),
            mode="lines+markers",
            name=page.text(metric_name),
            line={"color": BLUE, "width": 2},
            marker={"size": 9},
            hovertemplate=f"{page.text(field)} %{{x}}: <b>%{{y:.4f}}</b><extra></extra>",
        )
    )
    if default is not None:
        figure.add_hline(y=default, line={"color": VERMILLION, "dash": "dash"}, annotation_text="default")
    figure.update_layout(_layout(), showlegend=False)
    figure.update_xaxes(title=page.text(f"{field} (logarithmic)"), type="log", exponentformat="power", dtick=1)
    figure.update_yaxes(title=page.text(f"{metric_name} on held-out ratings"))
    return figure


def tuning_figure(values: Sequence[float | None], metric_name: str, higher_is_better: bool) -> go.Figure:
    """A held-out metric over the trials of a search, and the best of them so far.

    Args:
        values: of each trial in its order, the defaults first; None where training diverged.
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
            name="a trial",
            marker={"color": BLUE, "size": 9},
            hovertemplate="trial %{x}: <b>%{y:.4f}</b><extra></extra>",
        )
    )
    figure.add_trace(
        go.Scatter(
            x=numbers,
            y=[None if np.isnan(value) else float(value) for value in running],
            mode="lines",
            name="the best so far",
            line={"color": INK, "width": 2, "shape": "hv"},
            hoverinfo="skip",
        )
    )
    if values and values[0] is not None:
        figure.add_hline(y=values[0], line={"color": VERMILLION, "dash": "dash"}, annotation_text="default")
    figure.update_layout(_layout())
    figure.update_xaxes(title="Trial", rangemode="tozero", tickformat="d")
    figure.update_yaxes(title=page.text(f"{metric_name} on held-out ratings"))
    return figure


def finding_page(
    title: str, how: str, figure: go.Figure, header: Sequence[str], rows: Sequence[Sequence[str]], best: int | None
) -> str:
    """The document: a sentence, the figure, and a table whose row `best` is bold. The same input, the same text."""
    head = "".join(f"<th scope='col'>{page.text(name)}</th>" for name in header)
    body = "".join(
        "<tr>"
        + "".join(f"<td{' class=best' if place == best else ''}>{page.text(cell)}</td>" for cell in row)
        + "</tr>"
        for place, row in enumerate(rows)
    )
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    return page.page(
        title,
        f"<h1>{page.text(title)}</h1><p class='how'>{page.text(how)}</p>"
        f"<div class='card'>{page.figure_html(figure, 'finding')}</div>"
        f"<div class='card'><div class='scroll'>{table}</div></div>",
    )


def _layout() -> go.Layout:
    axis = {"gridcolor": "#ECECE8", "zeroline": False, "ticks": ""}
    return go.Layout(
        template="none",
        height=_HEIGHT_PX,
        margin={"l": 72, "r": 16, "t": 40, "b": 56},
        font={"family": "system-ui, sans-serif", "size": 12, "color": INK},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        xaxis=axis,
        yaxis=axis,
        legend={"orientation": "h", "x": 0, "y": 1, "xanchor": "left", "yanchor": "bottom"},
    )
