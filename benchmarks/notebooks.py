"""Run the notebooks of docs/notebooks and write their outputs into them: `python -m benchmarks.notebooks`.

A notebook is JSON (nbformat 4.5). Cells run in this process, in their order. The last expression of a cell
is its output, as text and, for a data frame, as HTML; figures are kept as PNG images.
"""

import ast
import base64
import contextlib
import io
import json
import os
import sys
from pathlib import Path
from typing import Any

from plotly.graph_objects import Figure

from benchmarks.data import SHARED_DATA
from recsys.training.threads import limit_spinning

FOLDER = Path(__file__).parents[1] / "docs" / "notebooks"


def run_notebook(path: Path, images: bool = False) -> dict[str, Any]:
    """Run a notebook and return it with its outputs.

    Args:
        images: draw the figures, which takes a browser and seconds; else they are a line of text.

    Raises:
        Exception: whatever a cell raises.
    """
    notebook: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    names: dict[str, Any] = {"__name__": "__main__"}
    count = 0
    for cell in notebook["cells"]:
        if cell["cell_type"] != "code":
            continue
        count += 1
        cell["execution_count"], cell["outputs"] = count, run_cell("".join(cell["source"]), names, count, images)
    return notebook


def run_cell(source: str, names: dict[str, Any], count: int, images: bool) -> list[dict[str, Any]]:
    """Run the source of a cell in a namespace, and return its outputs."""
    tree = ast.parse(source)
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    printed, value = io.StringIO(), None
    with contextlib.redirect_stdout(printed):
        exec(compile(tree, f"<cell {count}>", "exec"), names)
        if isinstance(last, ast.Expr):
            value = eval(compile(ast.Expression(last.value), f"<cell {count}>", "eval"), names)  # noqa: S307
    outputs: list[dict[str, Any]] = []
    if printed.getvalue():
        lines = printed.getvalue().splitlines(keepends=True)
        outputs.append({"output_type": "stream", "name": "stdout", "text": lines})
    if value is not None:
        outputs.append(
            {"output_type": "execute_result", "execution_count": count, "metadata": {}, "data": shown(value, images)}
        )
    return outputs


def shown(value: object, images: bool) -> dict[str, list[str] | str]:
    """Return a value as a notebook shows it."""
    if isinstance(value, Figure):
        drawn: dict[str, list[str] | str] = {"text/plain": [f"A figure of {len(value.data)} traces"]}
        if images:
            png = value.to_image("png", width=820, height=value.layout.height or 420)
            drawn["image/png"] = base64.b64encode(png).decode()
        return drawn
    data: dict[str, list[str] | str] = {"text/plain": repr(value).splitlines(keepends=True)}
    as_html = getattr(value, "_repr_html_", None)
    if as_html is not None:
        data["text/html"] = str(as_html()).splitlines(keepends=True)
    return data


def main() -> None:
    """Run all notebooks, and write them where they were."""
    limit_spinning()
    os.environ.setdefault("RECSYS_NOTEBOOK_DATA", str(SHARED_DATA / "ml-100k.zip"))
    for path in sorted(FOLDER.glob("*.ipynb")):
        notebook = run_notebook(path, images=True)
        path.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        sys.stderr.write(f"{path.name}\n")


if __name__ == "__main__":
    main()
