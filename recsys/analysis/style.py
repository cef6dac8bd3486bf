"""Colours, fonts and layout that all figures and pages share."""

import html

import plotly.graph_objects as go

# The palette of Okabe and Ito, which people with any kind of colour vision can tell apart, without its yellow, which
# is too pale on white. Source: M. Okabe and K. Ito, Color Universal Design, 2008.
BLUE, VERMILLION = "#0072B2", "#D55E00"
PALETTE = (BLUE, "#E69F00", "#009E73", VERMILLION, "#CC79A7", "#56B4E9", "#333333")
GREY = "#B4B4B0"
INK = "#2A2A28"
MIDDLE = "#7D7D78"
"""Seen on a light page and on a dark one."""
COLOURS = {"ink": INK, "grey": GREY, "high": BLUE, "low": VERMILLION}
"""Colours of the pages by their use."""

FONT = "system-ui, sans-serif"
MARGIN = {"l": 64, "r": 16, "t": 40, "b": 56}
"""Pixels between the edges of a figure and its drawing area."""


def chart_layout(height: int) -> go.Layout:
    """Return the layout of a figure of `height` pixels, with its legend in a row above the drawing area."""
    axis = {
        "showline": False,
        "gridcolor": "#ECECE8",
        "zerolinecolor": "#D4D4CF",
        "ticks": "",
        "title": {"font": {"size": 13}, "standoff": 10},
    }
    return go.Layout(
        template="none",
        height=height,
        margin=MARGIN,
        font={"family": FONT, "size": 12, "color": INK},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        xaxis=axis,
        yaxis=axis,
        hovermode="closest",
        hoverlabel={
            "bgcolor": "white",
            "bordercolor": "#C9C9C4",
            "font": {"color": INK, "size": 13, "family": FONT},
            "align": "left",
        },
        legend={
            "orientation": "h",
            "x": 0,
            "y": 1,
            "xanchor": "left",
            "yanchor": "bottom",
            "itemsizing": "constant",
        },
    )


def figure_text(text: str) -> str:
    """Escape a text for plotly, which interprets tags and entities in every string that it draws."""
    return html.escape(text, quote=False)


def shorten(text: str, length: int) -> str:
    """Cut a text to at most `length` characters; the last one is then an ellipsis."""
    return text if len(text) <= length else text[: length - 1].rstrip() + "…"
