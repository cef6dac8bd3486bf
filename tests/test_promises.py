"""Promises of the whole house. The others are tested where they live: look for `promise_` in the names of tests."""

import ast
import pickletools
import warnings
import zipfile
from pathlib import Path

import pytest
import torch
from sqlalchemy import Engine

from jobs.backup import backup
from jobs.export import export
from recsys.training.checkpoint import load, save

ROOT = Path(__file__).parents[1]
SOURCES = [path for folder in ("recsys", "api", "jobs") for path in sorted((ROOT / folder).rglob("*.py"))]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_promise_7_nothing_that_is_loaded_can_run_code(path: Path) -> None:
    """No module unpickles, evaluates or loads by torch what came from outside."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names] + [getattr(node, "module", None) or ""]
            assert not {name.split(".")[0] for name in names} & {"pickle", "marshal", "shelve", "dill", "joblib"}
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            assert called not in ("eval", "exec", "torch.load", "np.load", "yaml.load"), f"line {node.lineno}"


def is_pickle(data: bytes) -> bool:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of escapes in what looks like text to it
        try:
            return any(opcode.name == "STOP" for opcode, _, _ in pickletools.genops(data))
        except (ValueError, KeyError, IndexError):
            return False


@pytest.mark.parametrize("engine", ["sqlite"], indirect=True)
def test_promise_7_no_file_that_is_written_is_a_pickle(known_engine: Engine, tmp_path: Path) -> None:
    torch.save({"x": 1}, tmp_path / "pickled")
    with zipfile.ZipFile(tmp_path / "pickled") as file:
        assert any(is_pickle(file.read(name)) for name in file.namelist())
    (tmp_path / "pickled").unlink()
    backup(known_engine, tmp_path / "backup.zip")
    export(known_engine, tmp_path / "export", ["ratings", "users", "items", "factors", "lists"])
    save(tmp_path / "checkpoint", {"of": "a test"}, {"step": 3, "model": {"rows": torch.ones(2)}})
    assert load(tmp_path / "checkpoint", {"of": "a test"}) is not None
    contents = {path.name: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with zipfile.ZipFile(tmp_path / "backup.zip") as file:
        contents |= {name: file.read(name) for name in file.namelist()}
    assert len(contents) > 20
    assert [name for name, data in contents.items() if is_pickle(data)] == []
