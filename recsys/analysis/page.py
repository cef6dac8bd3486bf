"""Self-contained HTML pages from the Jinja2 templates beside this module."""

from functools import cache
from pathlib import Path

import plotly.graph_objects as go
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from plotly.io import to_html
from plotly.offline import get_plotlyjs

from recsys.analysis import measures, style
from recsys.analysis.figures import MIN_WIDTH_PX
from recsys.data.whole_file import whole_file
from recsys.errors import InputError


@cache
def environment() -> Environment:
    """Return the environment of the templates: it escapes every value, and refuses undefined ones."""
    made = Environment(
        loader=PackageLoader("recsys.analysis"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.globals.update(colours=style.COLOURS, figure_html=figure_html, min_width_px=MIN_WIDTH_PX)
    made.filters.update(measure_value=measures.format_value, setting=measures.format_setting)
    return made


def render(template: str, **context: object) -> str:
    """Render a template that extends `base.html.j2`, with plotly.js inside the page.

    Args:
        template: name of a file in `templates`.
        context: values for the template; texts are escaped.
    """
    return environment().get_template(template).render(plotly_js=Markup(get_plotlyjs()), **context)


def figure_html(figure: go.Figure, div_id: str) -> Markup:
    """Return a figure as a part of a page that contains plotly.js. The same figure gives the same text.

    Args:
        figure: its texts must be escaped with `style.figure_text`.
        div_id: id of the element, also the name of a downloaded image.
    """
    config = {
        "displaylogo": False,
        "responsive": True,
        "modeBarButtonsToRemove": ["select2d", "lasso2d", "autoScale2d", "zoomIn2d", "zoomOut2d"],
        "toImageButtonOptions": {"filename": div_id, "scale": 2},
    }
    return Markup(
        to_html(
            figure,
            config=config,
            include_plotlyjs=False,
            full_html=False,
            div_id=div_id,
            default_height=f"{figure.layout.height}px",
        )
    )


def write(path: Path, document: str) -> None:
    """Write a page, completely or not at all; create its folder if necessary.

    Raises:
        InputError: the file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as beside:
            beside.write_text(document, encoding="utf-8")
    except OSError as error:
        raise InputError(f"{path} cannot be written ({error.strerror}); choose another location with --out") from error
