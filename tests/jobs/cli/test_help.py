"""What `--help` prints, for every command: examples on lines of their own, options explained, and a quick start."""

import re
import subprocess
import sys
from collections.abc import Iterator
from inspect import cleandoc
from typing import get_args

import pytest
import typer
from typer.testing import CliRunner

from jobs.cli import options
from jobs.cli.main import app
from recsys import __version__, results
from recsys.evaluation.splits import Split

ANSI = re.compile(r"\x1b\[[0-9;]*m")
AT_START = ("alembic", "numpy", "optuna", "pyarrow", "pydantic", "sqlalchemy", "torch", "uvicorn")
"""Packages that `recsys --help` must not import: each of them takes longer than the help itself."""


def commands(group: typer.Typer = app, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Yield the path of every command: ("load",), ("models", "list"), …"""
    for command in group.registered_commands:
        yield (*path, command.name or "")
    for nested in group.registered_groups:
        assert nested.typer_instance is not None
        yield from commands(nested.typer_instance, (*path, nested.name or ""))


def help_on_terminal(monkeypatch: pytest.MonkeyPatch, path: tuple[str, ...]) -> list[str]:
    """Return the lines of the help of a command on a terminal 100 columns wide, without colours and frames."""
    monkeypatch.setattr("typer.rich_utils.FORCE_TERMINAL", True)
    monkeypatch.setattr("typer.rich_utils.MAX_WIDTH", 100)
    shown = CliRunner().invoke(app, [*path, "--help"], color=True)
    assert shown.exit_code == 0, shown.output
    assert "\x1b[" in shown.output
    return [ANSI.sub("", line).strip(" │") for line in shown.output.splitlines()]


def docstring(path: tuple[str, ...]) -> str:
    group = app
    for name in path[:-1]:
        nested = next(each.typer_instance for each in group.registered_groups if each.name == name)
        assert nested is not None
        group = nested
    callback = next(each.callback for each in group.registered_commands if each.name == path[-1])
    assert callback is not None
    assert callback.__doc__ is not None
    return cleandoc(callback.__doc__)


def test_every_command_is_found() -> None:
    assert {("load",), ("nightly",), ("models", "prune"), ("keys", "create")} <= set(commands())


@pytest.mark.parametrize("path", sorted(commands()), ids=" ".join)
def test_each_example_stands_on_a_line_of_its_own(monkeypatch: pytest.MonkeyPatch, path: tuple[str, ...]) -> None:
    examples = [line.strip() for line in docstring(path).splitlines() if line.startswith("    ")]
    assert any(example.startswith(f"recsys {' '.join(path)}") for example in examples)
    assert not set(examples) - set(help_on_terminal(monkeypatch, path))


@pytest.mark.parametrize("path", sorted(commands()), ids=" ".join)
def test_every_option_is_explained(path: tuple[str, ...]) -> None:
    command = typer.main.get_command(app)
    for name in path:
        command = command.commands[name]  # type: ignore[attr-defined]
    for parameter in command.params:
        text = getattr(parameter, "help", None)
        assert text, f"{parameter.name} has no help"
        assert text.endswith("."), text


def test_every_command_but_the_server_prints_json() -> None:
    for path in commands():
        command = typer.main.get_command(app)
        for name in path:
            command = command.commands[name]  # type: ignore[attr-defined]
        options_of = {option for parameter in command.params for option in parameter.opts}
        assert ("--json" in options_of) == (path != ("serve",)), path


@pytest.mark.parametrize("path", [(), ("models",), ("keys",)], ids=["recsys", "models", "keys"])
def test_a_group_shows_its_examples(monkeypatch: pytest.MonkeyPatch, path: tuple[str, ...]) -> None:
    lines = help_on_terminal(monkeypatch, path)
    assert sum(line.startswith(f"recsys {' '.join(path)}".strip()) for line in lines) >= 1


def test_the_version_is_printed() -> None:
    assert CliRunner().invoke(app, ["--version"]).output == f"recsys {__version__}\n"


def test_help_imports_no_slow_package() -> None:
    script = (
        "import sys; sys.argv = ['recsys', '--help']\n"
        "from jobs.cli.main import main\n"
        "try: main()\n"
        f"finally: print([name for name in {AT_START!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("\n[]\n")


def test_the_choices_of_options_are_those_of_the_library() -> None:
    assert get_args(options.ObjectiveName) == get_args(results.Objective)
    assert get_args(options.ArchitectureName) == get_args(results.Architecture)
    assert get_args(options.SplitName) == get_args(Split)
    assert get_args(options.PopularByName) == get_args(results.PopularBy)
    assert get_args(options.OrderName) == get_args(results.Order)
