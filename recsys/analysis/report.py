"""The report: one self-contained HTML file about the live model versions."""

from collections.abc import Sequence
from pathlib import Path

from recsys import __version__
from recsys.analysis import page
from recsys.analysis.sections import MIN_RATINGS, ModelReport, ModelSection
from recsys.errors import NoModelError


def write_report(out_dir: Path, models: Sequence[ModelReport]) -> Path:
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


def render(models: Sequence[ModelReport]) -> str:
    """Return the report as HTML. The same models give the same text.

    Raises:
        NoModelError: `models` is empty.
    """
    if not models:
        raise NoModelError("no model version is live, so there is nothing to report; run `recsys train`")
    sections = [ModelSection(model) for model in models]
    return page.render("report.html.j2", sections=sections, min_ratings=MIN_RATINGS, version=__version__)
