"""Help texts with examples that stay as they are written."""

from collections.abc import Callable
from inspect import cleandoc

import typer


def add_command(group: typer.Typer, name: str, command: Callable[..., None]) -> None:
    """Add a command to a group, with its docstring as the help text."""
    group.command(name, help=as_markdown(command.__doc__ or ""))(command)


def as_markdown(docstring: str) -> str:
    """Return a docstring as Markdown, with each indented block of examples between code fences.

    Typer takes common indentation away from paragraphs, and then joins the lines of what was an example.
    """
    lines: list[str] = []
    in_example = False
    for line in cleandoc(docstring).splitlines():
        if line.strip() and line.startswith("    ") != in_example:
            lines.append("```")
            in_example = not in_example
        lines.append(line.removeprefix("    ") if in_example else line)
    return "\n".join([*lines, "```"] if in_example else lines)
