"""The programs of docs/examples.md and docs/coming-from.md run as they stand there."""

import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sqlalchemy import Engine

from tests.api.conftest import serving, url_of
from tests.jobs.cli.test_main import Recsys

DOCS = Path(__file__).parents[1] / "docs"
TEXT = (DOCS / "examples.md").read_text(encoding="utf-8")
BESIDE = re.findall(r"```python\n(.*?)```", (DOCS / "coming-from.md").read_text(encoding="utf-8"), re.DOTALL)
SCROLL, SESSION, EXPORT = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
(COMMAND,) = re.findall(r"```sh\n(.*?)```", TEXT, re.DOTALL)


def run(program: str, folder: Path) -> list[str]:
    done = subprocess.run([sys.executable, "-c", program], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.parametrize("engine", ["sqlite"], indirect=True)
def test_the_examples_run(known_engine: Engine, tmp_path: Path) -> None:
    with serving(url_of(known_engine)) as client:
        base = str(client.base_url).rstrip("/")
        pages = run(SCROLL.replace("http://127.0.0.1:8000", base), tmp_path)
        assert pages == [
            "[('Brazil (1985)', 1985), ('Casablanca (1942)', 1942)]",
            "[(None, None), ('Délicatessen (1991)', 1991)]",
        ]
        session = run(SESSION.replace("http://127.0.0.1:8000", base), tmp_path)
        assert session == ["fold_in ['b']", "fold_in ['b', 'd/ä']"]
    program, *arguments = shlex.split(COMMAND)
    assert program == "recsys"
    Recsys(tmp_path, url_of(known_engine))(*arguments)
    assert run(EXPORT, tmp_path) == ["['b', 'c', 'e']"]


@pytest.mark.parametrize("program", BESIDE, ids=["implicit", "Surprise"])
def test_the_same_calls_as_other_libraries(program: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(0)
    pairs = random.permutation(400)[:240]
    columns = ("userID", "itemID") if "userID" in program else ("user_id", "item_id")
    frame = pd.DataFrame(
        {
            columns[0]: [f"u{pair // 20}" for pair in pairs],
            columns[1]: [f"i{pair % 20}" for pair in pairs],
            "rating": random.integers(1, 6, len(pairs)),
        }
    )
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"frame": frame}
    exec(program, names)
    learner = names["learner"]
    assert len(learner.recommend("u1", n=5)) == 5
    assert learner.factors.n_factors == 16
