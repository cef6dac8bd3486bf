"""The report: one self-contained HTML file about the live model versions."""

from collections.abc import Sequence
from pathlib import Path

import plotly.graph_objects as go
import plotly.io

from recsys import __version__
from recsys.analysis import page
from recsys.analysis.sections import ModelSection
from recsys.analysis.tables import MIN_RATINGS
from recsys.analysis.view import ModelView
from recsys.errors import InputError, NoModelError


def write_report(out_dir: Path, models: Sequence[ModelView]) -> Path:
    """Write `report.html` into a folder, completely or not at all; create the folder if necessary.

    Returns:
        The path of the file.

    Raises:
        NoModelError: `models` is empty.
        InputError: the file cannot be written.
    """
    path = out_dir / "report.html"
    page.write(path, render(models))
    return path


def render(models: Sequence[ModelView]) -> str:
    """Return the report as HTML. The same models give the same text.

    Raises:
        NoModelError: `models` is empty.
    """
    if not models:
        raise NoModelError("no model version is live, so there is nothing to report; run `recsys train`")
    sections = [ModelSection(model) for model in models]
    return page.render("report.html.j2", sections=sections, min_ratings=MIN_RATINGS, version=__version__)


def write_images(out_dir: Path, models: Sequence[ModelView], width: int = 1100) -> list[Path]:
    """Write each figure of the report as a PNG image into a folder.

    Args:
        width: of the images in pixels, at a scale of 2.

    Returns:
        The paths of the files.

    Raises:
        InputError: there is no browser to draw them, or a file cannot be written.
    """
    figures: dict[str, go.Figure] = {}
    for section in map(ModelSection, models):
        prefix = f"v{section.model.number}"
        bias = section.bias if section.model.objective == "rating" else None
        named = {"map": section.map, "categories": section.categories, "bias": None if bias is None else bias.figure}
        figures |= {f"{prefix}-{name}": figure for name, figure in named.items() if figure is not None}
        figures |= {f"{prefix}-curve{at}": curve.figure for at, curve in enumerate(section.curves, start=1)}
    paths = [out_dir / f"{name}.png" for name in figures]
    heights = [figure.layout.height for figure in figures.values()]
    try:
        plotly.io.write_images(list(figures.values()), paths, width=width, height=heights, scale=2)
    except (RuntimeError, OSError) as error:
        raise InputError(
            f"the figures cannot be written as PNG ({error}): install Chromium, or leave out --png"
        ) from error
    return paths
