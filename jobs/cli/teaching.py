"""Help texts with examples that stay as they are written."""

from collections.abc import Callable
from functools import wraps
from inspect import cleandoc
from typing import Any

import typer
from typer.core import TyperCommand


def add_command(group: typer.Typer, name: str, command: Callable[..., None]) -> None:
    """Add a command to a group, with its docstring as the help text."""
    group.command(name, help=as_markdown(command.__doc__ or ""), cls=Command)(interruptible(command))


class Command(TyperCommand):
    """A command whose error about an unknown option says how to write an id that begins with a dash."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the arguments; see the class."""
        try:
            return super().parse_args(ctx, args)
        except Exception as error:
            # Typer carries its own copy of Click's errors, whose names it does not export.
            if type(error).__name__ == "NoSuchOption" and any(
                each.param_type_name == "argument" for each in self.params
            ):
                hint = "An id that begins with a dash goes after two dashes: -- ID"
                error.message = f"{error.message} {hint}"  # type: ignore[attr-defined]
            raise


def interruptible(command: Callable[..., None]) -> Callable[..., None]:
    """Return the command; Ctrl-C ends it with one line and the exit code 130, if it does not say more itself."""

    @wraps(command)
    def run(*arguments: object, **options: object) -> None:
        try:
            command(*arguments, **options)
        except KeyboardInterrupt as error:
            typer.echo("recsys: interrupted", err=True)
            raise typer.Exit(130) from error

    return run


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
