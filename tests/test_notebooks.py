"""The notebooks of the documentation run, on a small set of ratings, and hold outputs."""

import json
from pathlib import Path

import pytest

from benchmarks.notebooks import FOLDER, run_notebook
from recsys.data import sample

NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))


@pytest.mark.parametrize(
    "path",
    [pytest.param(path, marks=pytest.mark.long) if path.stem.startswith("01-") else path for path in NOTEBOOKS],
    ids=[path.stem for path in NOTEBOOKS],
)
def test_runs_and_holds_outputs(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sample.write(tmp_path / "ratings", sample.generate(n_users=150, n_items=80, n_ratings=4000))
    monkeypatch.setenv("RECSYS_NOTEBOOK_DATA", str(tmp_path / "ratings"))
    for cell in run_notebook(path)["cells"]:
        assert cell["cell_type"] == "markdown" or cell["source"]
    stored = json.loads(path.read_text(encoding="utf-8"))
    codes = [cell for cell in stored["cells"] if cell["cell_type"] == "code"]
    assert all(cell["outputs"] for cell in codes), f"run `python -m benchmarks.notebooks` for {path.name}"
