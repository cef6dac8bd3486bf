"""Plain charts over tables: bars, lines and matrices."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from recsys.analysis.colouring import DIVERGING
from recsys.analysis.style import BLUE, GREY, MIDDLE, PALETTE, VERMILLION, chart_layout, figure_text, shorten

HEIGHT_PX = 360
ROW_PX = 24


def bars(names: Sequence[str], values: Sequence[float], title: str, hover: Sequence[str] = ()) -> go.Figure:
    """Draw horizontal bars from top to bottom: negative ones in the colour of low values.

    Args:
        names: of the bars; equal names are drawn as different bars.
        values: lengths, in the unit that `title` names.
        title: of the axis.
        hover: a text for each bar; by default name and value.
    """
    texts = [figure_text(shorten(name, 36)) for name in names]
    figure = go.Figure(
        go.Bar(
            y=list(range(len(names))),
            x=list(values),
            orientation="h",
            marker={"color": [VERMILLION if value < 0 else BLUE for value in values]},
            hovertext=[figure_text(text) for text in hover] or [figure_text(name) for name in names],
            hovertemplate="%{hovertext}: <b>%{x:.3g}</b><extra></extra>",
        ),
        chart_layout(max(160, ROW_PX * len(names) + 90)),
    )
    figure.update_layout(showlegend=False, margin={"t": 12, "l": 12})
    figure.update_xaxes(title=figure_text(title), zeroline=True)
    figure.update_yaxes(
        tickvals=list(range(len(names))),
        ticktext=texts,
        autorange="reversed",
        automargin=True,
        showgrid=False,
        zeroline=False,
    )
    return figure


def lines(table: pd.DataFrame, x_title: str, y_title: str, names: Mapping[str, str] | None = None) -> go.Figure:
    """Draw each column of a table over its index."""
    figure = go.Figure(layout=chart_layout(HEIGHT_PX))
    for at, column in enumerate(table.columns):
        series = table[column].dropna()
        figure.add_trace(
            go.Scatter(
                x=series.index.tolist(),
                y=series.tolist(),
                mode="lines+markers" if len(series) <= 60 else "lines",
                name=figure_text((names or {}).get(str(column), str(column))),
                line={"color": PALETTE[at % len(PALETTE)], "width": 2},
                hovertemplate="%{x}: <b>%{y:.4f}</b>",
            )
        )
    figure.update_layout(showlegend=len(table.columns) > 1)
    figure.update_xaxes(title=figure_text(x_title), zeroline=False)
    figure.update_yaxes(title=figure_text(y_title), zeroline=False)
    return figure


def matrix(table: pd.DataFrame, title: str) -> go.Figure:
    """Draw a square table of values from −1 to 1."""
    values = np.round(table.to_numpy(np.float64), 3)
    figure = go.Figure(
        go.Heatmap(
            z=values,
            x=table.columns.tolist(),
            y=table.index.tolist(),
            zmin=-1,
            zmax=1,
            colorscale=list(DIVERGING),
            colorbar={"title": {"text": figure_text(title), "side": "right"}, "thickness": 12},
            hovertemplate="%{y} and %{x}: <b>%{z:.2f}</b><extra></extra>",
        ),
        chart_layout(520),
    )
    figure.update_xaxes(title=str(table.columns.name or ""), showgrid=False)
    figure.update_yaxes(title=str(table.index.name or ""), autorange="reversed", showgrid=False)
    return figure


def calibration(table: pd.DataFrame) -> go.Figure:
    """Draw the mean rating over the mean prediction of each group of `residual_table(by="prediction")`."""
    low = float(min(table.mean_prediction.min(), table.mean_rating.min()))
    high = float(max(table.mean_prediction.max(), table.mean_rating.max()))
    figure = go.Figure(layout=chart_layout(HEIGHT_PX))
    figure.add_trace(
        go.Scatter(
            x=[low, high],
            y=[low, high],
            mode="lines",
            name="calibrated",
            line={"color": GREY, "dash": "dash"},
            hoverinfo="skip",
        )
    )
    figure.add_trace(
        go.Scatter(
            x=table.mean_prediction.tolist(),
            y=table.mean_rating.tolist(),
            mode="lines+markers",
            name="model",
            line={"color": BLUE, "width": 2},
            customdata=table.n.tolist(),
            hovertemplate="predicted %{x:.2f}, rated <b>%{y:.2f}</b><br>%{customdata:,} ratings<extra></extra>",
        )
    )
    figure.update_xaxes(title="Mean prediction (rating points)", zeroline=False)
    figure.update_yaxes(title="Mean rating (rating points)", zeroline=False)
    return figure


def residuals(table: pd.DataFrame, group: str) -> go.Figure:
    """Draw bias and RMSE of the groups of `residual_table`."""
    figure = go.Figure(layout=chart_layout(HEIGHT_PX))
    names = table.index.tolist()
    hover = "%{x}: <b>%{y:.3f}</b><br>%{customdata:,} ratings"
    for column, name, colour in (("rmse", "RMSE", GREY), ("bias", "prediction minus rating", BLUE)):
        figure.add_trace(
            go.Bar(
                x=names,
                y=table[column].tolist(),
                name=name,
                marker={"color": colour},
                customdata=table.n.tolist(),
                hovertemplate=hover,
            )
        )
    figure.update_xaxes(title=figure_text(group), type="category", automargin=True)
    figure.update_yaxes(title="Rating points", zeroline=True)
    return figure


def explanation_bars(parts: Sequence[tuple[str, float]], score: float) -> go.Figure:
    """Draw the parts of a score as a waterfall that ends at the score.

    Args:
        parts: (name, value); they add up to `score`.
    """
    figure = go.Figure(
        go.Waterfall(
            y=[*(figure_text(shorten(name, 34)) for name, _ in parts), "score"],
            x=[*(value for _, value in parts), score],
            measure=[*("relative" for _ in parts), "total"],
            orientation="h",
            increasing={"marker": {"color": BLUE}},
            decreasing={"marker": {"color": VERMILLION}},
            totals={"marker": {"color": MIDDLE}},
            connector={"line": {"color": GREY, "width": 1}},
            hovertemplate="%{y}: <b>%{x:+.3f}</b><extra></extra>",
        ),
        chart_layout(ROW_PX * (len(parts) + 1) + 90),
    )
    figure.update_layout(showlegend=False, margin={"t": 12, "l": 12})
    figure.update_yaxes(autorange="reversed", automargin=True, showgrid=False, zeroline=False)
    figure.update_xaxes(title="Score", zeroline=True)
    return figure
