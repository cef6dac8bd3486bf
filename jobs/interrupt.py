"""What a job says when a person or a service manager stops it."""

import logging
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn


class Interrupted(KeyboardInterrupt):
    """A job was stopped; the message says what was kept and what to do next."""


class Terminated(KeyboardInterrupt):
    """SIGTERM arrived: a service manager or a container stops the process."""


@contextmanager
def explain_interrupt(explain: Callable[[], str]) -> Iterator[None]:
    """Raise an interruption of the block again, with a message.

    Args:
        explain: returns the message, called when the interruption arrives. An inner block's message is kept.

    Raises:
        Interrupted: the block was interrupted.
    """
    try:
        yield
    except Interrupted:
        raise
    except KeyboardInterrupt as error:
        raise Interrupted(explain()) from error


@contextmanager
def sigterm_interrupts() -> Iterator[None]:
    """Let SIGTERM end the block as Ctrl-C does, so that it releases its lease and records its end.

    Raises:
        Terminated: SIGTERM arrived.
    """

    def stop(_signal: int, _frame: FrameType | None) -> NoReturn:
        raise Terminated

    # A connection that is interrupted while the pool takes it back is closed, and the pool logs a traceback of that.
    pool = logging.getLogger("sqlalchemy.pool")
    level, before = pool.level, signal.signal(signal.SIGTERM, stop)
    pool.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        pool.setLevel(level)
        signal.signal(signal.SIGTERM, before)
