"""Progress for people: on stderr, and only on a terminal."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

stderr = Console(stderr=True)


class RowsColumn(ProgressColumn):
    """Rows so far, and rows a second."""

    def render(self, task: Task) -> Text:
        n_rows = int(task.fields["rows"])
        rate = n_rows / task.elapsed if task.elapsed else 0.0
        return Text(f"{n_rows:,} rows, {rate:,.0f}/s" if n_rows else "")


class Advance(Protocol):
    """Moves a progress bar on."""

    def __call__(self, amount: float, n_rows: int = 0) -> None:
        """Count what was just done, in the unit of the total, and its rows."""


@contextmanager
def progress(description: str, total: float | None) -> Iterator[Advance]:
    """Show a progress bar with rows a second and the time left; yield a function to call with the amount just done."""
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), RowsColumn(), TimeRemainingColumn())
    with Progress(*columns, console=stderr, disable=not stderr.is_terminal, transient=True) as bar:
        task = bar.add_task(description, total=total, rows=0)
        n_all = 0

        def advance(amount: float, n_rows: int = 0) -> None:
            nonlocal n_all
            n_all += n_rows
            bar.update(task, advance=amount, rows=n_all)

        yield advance


def say(message: str) -> None:
    """Print one line on stderr, if it is a terminal."""
    if stderr.is_terminal:
        stderr.print(message, highlight=False, markup=False)
