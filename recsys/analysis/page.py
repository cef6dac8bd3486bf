"""The HTML around figures and tables: one file, everything inside, nothing fetched."""

import html
import os
import secrets
from pathlib import Path

import plotly.graph_objects as go
from plotly.io import to_html
from plotly.offline import get_plotlyjs

from recsys.analysis.figures import BLUE, GREY, INK, NARROWEST_PX, VERMILLION
from recsys.errors import InputError

_STYLE = f"""
:root {{ --ink: {INK}; --soft: #6A6A66; --line: #E2E2DC; --high: {BLUE}; --low: {VERMILLION}; }}
* {{ box-sizing: border-box; }}
html {{ scroll-behavior: smooth; -webkit-text-size-adjust: 100%; }}
body {{ margin: 0; background: #F6F6F3; color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }}
main {{ max-width: 1160px; margin: 0 auto; padding: 40px 24px 64px; }}
h1 {{ font-size: 30px; line-height: 1.2; margin: 0 0 8px; letter-spacing: -0.01em; }}
h2 {{ font-size: 24px; line-height: 1.25; margin: 0 0 4px; letter-spacing: -0.01em; }}
h3 {{ font-size: 18px; line-height: 1.3; margin: 0 0 4px; }}
h4 {{ font-size: 15px; margin: 0; }}
p {{ margin: 0 0 16px; max-width: 96ch; }}
.soft, .how {{ color: var(--soft); }}
.how {{ font-size: 15px; }}
nav {{ display: flex; flex-wrap: wrap; gap: 12px; margin: 24px 0 0; }}
nav a {{ flex: 1 1 260px; color: var(--soft); font-size: 14px; text-decoration: none; background: white; border: 1px solid var(--line);
  border-left: 4px solid var(--high); border-radius: 8px; padding: 12px 16px; }}
nav a:hover {{ border-color: var(--high); }}
nav b {{ display: block; color: var(--ink); font-size: 16px; }}
section.model {{ margin-top: 56px; padding-top: 32px; border-top: 2px solid var(--line); }}
.card {{ background: white; border: 1px solid var(--line); border-radius: 10px; padding: 20px 24px; margin-top: 20px; }}
.pair {{ display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 440px), 1fr)); gap: 20px; }}
.pair > .card {{ min-width: 0; }}
.pair .card + .card {{ margin-top: 20px; }}
.scroll {{ overflow-x: auto; overflow-y: hidden; }}
.wide {{ min-width: {NARROWEST_PX}px; }}
.curves {{ display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 380px), 1fr)); gap: 12px 24px; }}
.curves > div {{ min-width: 0; }}
table {{ border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }}
th, td {{ padding: 7px 12px; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap; }}
th:first-child, td:first-child {{ text-align: left; padding-left: 0; }}
th:last-child, td:last-child {{ padding-right: 0; }}
tr:last-child td {{ border-bottom: 0; }}
thead th {{ font-size: 14px; vertical-align: bottom; line-height: 1.3; }}
th.own, td.own {{ background: #F0F6FA; }}
td small {{ display: block; color: var(--soft); font-size: 12px; line-height: 1.2; }}
td.best {{ font-weight: 700; }}
dl {{ display: grid; grid-template-columns: repeat(auto-fill, minmax(190px, 1fr)); gap: 2px 32px; margin: 8px 0 0; }}
dl div {{ display: flex; justify-content: space-between; gap: 12px; border-bottom: 1px solid var(--line);
  padding: 5px 0; font-size: 14px; }}
dt {{ color: var(--soft); overflow-wrap: anywhere; }}
dd {{ margin: 0; text-align: right; font-variant-numeric: tabular-nums; overflow-wrap: anywhere; }}
h4 .soft {{ font-weight: 400; font-size: 13px; }}
.ends {{ display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 220px), 1fr)); gap: 8px 28px; margin-top: 12px; }}
.end {{ min-width: 0; }}
.end h4 {{ color: var(--high); }}
.end.low h4 {{ color: var(--low); }}
.end .mostly {{ font-size: 13px; color: var(--soft); min-height: 1.5em; }}
.end ol {{ list-style: none; margin: 6px 0 0; padding: 0; }}
.end li {{ padding: 5px 0 6px; border-top: 1px solid var(--line); line-height: 1.3; font-size: 14px; overflow-wrap: anywhere; }}
.end li small {{ display: block; color: var(--soft); font-size: 12px; }}
.end li small span {{ white-space: nowrap; }}
.end li .value {{ float: right; margin-left: 12px; font-variant-numeric: tabular-nums; font-weight: 600; }}
.bar {{ display: block; height: 4px; border-radius: 2px; background: #EFEFEB; margin-top: 4px; overflow: hidden; }}
.bar i {{ display: block; height: 100%; border-radius: 2px; background: var(--high); }}
.low .bar i {{ background: var(--low); }}
.notice {{ border-left: 4px solid {GREY}; padding: 8px 14px; background: #FAFAF8; color: var(--soft); margin: 12px 0 0; }}
footer {{ margin-top: 48px; color: var(--soft); font-size: 13px; }}
@media print {{ body {{ background: white; }} .card {{ break-inside: avoid; }} nav {{ display: none; }} }}
"""  # noqa: E501


def page(title: str, body: str) -> str:
    """A whole document: plotly.js once, the style, and a policy under which a browser fetches nothing."""
    policy = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:"
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{text(title)}</title>
<link rel="icon" href="data:,">
<style>{_STYLE}</style>
<script>{get_plotlyjs()}</script>
</head>
<body>
<main>
{body}
</main>
</body>
</html>
"""


def figure_html(figure: go.Figure, div_id: str) -> str:
    """A figure as a piece of a page that holds plotly.js already. The same figure gives the same bytes."""
    config = {
        "displaylogo": False,
        "responsive": True,
        "modeBarButtonsToRemove": ["select2d", "lasso2d", "autoScale2d", "zoomIn2d", "zoomOut2d"],
        "toImageButtonOptions": {"filename": div_id, "scale": 2},
    }
    piece: str = to_html(
        figure,
        config=config,
        include_plotlyjs=False,
        full_html=False,
        div_id=div_id,
        default_height=f"{figure.layout.height}px",
    )
    return piece


def text(value: object) -> str:
    """Anything as text inside HTML, in attributes too."""
    return html.escape(str(value), quote=True)


def notice(sentence: str) -> str:
    """What stands where a figure cannot."""
    return f"<p class='notice'>{text(sentence)}</p>"


def write(path: Path, document: str) -> None:
    """Write a page, whole or not at all; its folder is made if need be.

    Raises:
        InputError: it cannot be written there.
    """
    part = path.with_name(f".{path.name}.{secrets.token_hex(6)}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with part.open("x", encoding="utf-8") as file:
                file.write(document)
                file.flush()
                os.fsync(file.fileno())
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
    except OSError as error:
        raise InputError(
            f"{path} cannot be written ({error.strerror}); name a place that can be, with --out"
        ) from error
