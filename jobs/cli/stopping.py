"""One sentence and an exit code for a command that is stopped."""

from collections.abc import Iterator
from contextlib import contextmanager

import typer

from jobs.interrupt import Interrupted, Terminated, sigterm_interrupts


@contextmanager
def stoppable(kept: str) -> Iterator[None]:
    """Print what was kept and exit with 130 if Ctrl-C stops the block, with 143 if SIGTERM does.

    Args:
        kept: what was kept and what to do next, unless the job itself says so.
    """
    try:
        with sigterm_interrupts():
            yield
    except KeyboardInterrupt as error:
        message = str(error) if isinstance(error, Interrupted) else kept
        typer.echo(f"recsys: interrupted: {message}", err=True)
        terminated = isinstance(error, Terminated) or isinstance(error.__cause__, Terminated)
        raise typer.Exit(143 if terminated else 130) from error
