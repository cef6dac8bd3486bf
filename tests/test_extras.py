"""The optional dependencies: what each extra installs, what is imported without them, and what an error says."""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from sqlalchemy import Engine

from recsys.errors import MissingExtraError
from recsys.extras import EXTRAS, missing_extra, require_extra
from tests.conftest import add_known_model, add_known_rows, publish

PYPROJECT = Path(__file__).parents[1] / "pyproject.toml"

# Makes modules look as if they were not installed, in a process of its own.
BLOCK = """
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in BLOCKED:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Blocked())
"""


def run_python(code: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env={**os.environ, "PYTHONPATH": str(PYPROJECT.parent), **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )


def run_without(modules: tuple[str, ...], *command: str, database_url: str) -> subprocess.CompletedProcess[str]:
    """Run a `recsys` command in a process that cannot import the modules."""
    code = f"BLOCKED = {modules!r}\n{BLOCK}\nfrom jobs.cli.main import main\nmain()"
    return run_python(code, *command, RECSYS_DATABASE_URL=database_url)


class TestExtras:
    def test_modules_are_those_that_pyproject_installs(self) -> None:
        declared = tomllib.loads(PYPROJECT.read_text())["project"]["optional-dependencies"]
        for extra, modules in EXTRAS.items():
            names = [re.split(r"[<>=!~;\[ ]", line)[0].replace("-", "_") for line in declared[extra]]
            assert [name for name in names if name != "recsys"] == [module.replace(".", "_") for module in modules]

    def test_dev_installs_every_extra_that_the_code_uses(self) -> None:
        declared = tomllib.loads(PYPROJECT.read_text())["project"]["optional-dependencies"]
        assert f"recsys[{','.join(sorted(EXTRAS))}]" in declared["dev"]

    def test_the_error_names_module_and_extra(self) -> None:
        error = missing_extra(ModuleNotFoundError("No module named 'plotly.io'", name="plotly.io"))
        assert str(error) == "plotly is not installed: install recsys[report] (pip install 'recsys[report]')"

    @pytest.mark.parametrize("name", ["opentelemetry.sdk", "opentelemetry.exporter", "opentelemetry.sdk.trace"])
    def test_a_part_of_a_shared_package_belongs_to_the_extra(self, name: str) -> None:
        error = missing_extra(ModuleNotFoundError(f"No module named '{name}'", name=name))
        assert "install recsys[traces]" in str(error)

    def test_other_modules_belong_to_no_extra(self) -> None:
        assert missing_extra(ModuleNotFoundError("No module named 'x'", name="x")) is None
        assert missing_extra(ModuleNotFoundError("no name")) is None

    def test_a_required_extra_that_is_not_installed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        require_extra("report")
        monkeypatch.setattr("recsys.extras.find_spec", lambda module: None if module == "plotly" else object())
        with pytest.raises(MissingExtraError, match=r"plotly is not installed: install recsys\[report\]"):
            require_extra("report")


class TestCommandWithoutExtras:
    @pytest.mark.parametrize(
        ("command", "extra"),
        [
            (["report"], "report"),
            (["train"], "train"),
            (["serve"], "serve"),
            (["lr-find", "--out", "page.html"], "train"),
        ],
    )
    def test_names_the_extra_to_install(self, sqlite_engine: Engine, command: list[str], extra: str) -> None:
        url = sqlite_engine.url.render_as_string()
        ended = run_without(EXTRAS[extra], *command, database_url=url)
        assert ended.returncode == 1
        assert f"install recsys[{extra}]" in ended.stderr
        assert "Traceback" not in ended.stderr

    def test_works_with_the_core_alone(self, sqlite_engine: Engine) -> None:
        modules = tuple(module for extra in EXTRAS.values() for module in extra)
        url = sqlite_engine.url.render_as_string()
        code = f"BLOCKED = {modules!r}\n{BLOCK}\nfrom jobs.cli.main import app\n" + (
            "for command in (['init'], ['models', 'list'], ['keys', 'list'], ['load', '--help']):\n"
            "    assert not app(command, standalone_mode=False)"
        )
        ended = run_python(code, RECSYS_DATABASE_URL=url)
        assert ended.returncode == 0, ended.stderr


class TestImports:
    def imported(self, code: str, **environment: str) -> set[str]:
        """Return the top-level modules that a new process has imported after running some code."""
        ended = run_python(f"{code}\nimport sys\nsys.stdout.write(' '.join(sys.modules))", **environment)
        assert ended.returncode == 0, ended.stderr
        return {name.partition(".")[0] for name in ended.stdout.split()}

    def test_the_library_imports_no_torch_no_database_and_no_pandas(self) -> None:
        modules = self.imported("import recsys")
        assert "recsys" in modules
        assert not modules & {"torch", "sqlalchemy", "pandas", "numpy", "pyarrow", "plotly", "jinja2"}

    def test_a_started_service_imports_no_torch_plotly_pandas_alembic_or_optuna(self, sqlite_engine: Engine) -> None:
        add_known_rows(sqlite_engine)
        for objective in ("ranking", "rating"):
            publish(sqlite_engine, add_known_model(sqlite_engine, objective), "known")
        start = """
import asyncio
import json
from api.app import create_app

async def start():
    app = create_app()
    async with app.router.lifespan_context(app):
        assert app.recsys.live.loaded

asyncio.run(start())
"""
        modules = self.imported(start, RECSYS_DATABASE_URL=sqlite_engine.url.render_as_string())
        assert {"fastapi", "sqlalchemy", "numpy"} <= modules
        assert not modules & {"torch", "plotly", "pandas", "jinja2", "alembic", "optuna"}
