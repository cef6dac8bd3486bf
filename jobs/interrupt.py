"""What a job says when a person or a service manager stops it."""

import logging
import signal
import sys
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

    Python drops an exception that a signal raises while the garbage collector calls a finaliser; such an interruption
    of the block, by SIGTERM or Ctrl-C, is raised again shortly after.

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
        with dropped_interrupts_again():
            yield
    finally:
        pool.setLevel(level)
        signal.signal(signal.SIGTERM, before)


@contextmanager
def dropped_interrupts_again(after_s: float = 0.05) -> Iterator[None]:
    """Raise an interruption again that Python dropped, as it does in finalisers and other callbacks.

    Args:
        after_s: how long the callback has to end before the interruption is raised again (seconds).
    """
    report, alarm = sys.unraisablehook, signal.getsignal(signal.SIGALRM)
    is_armed = False

    def arm(unraisable: "sys.UnraisableHookArgs") -> None:
        nonlocal is_armed
        if not issubclass(unraisable.exc_type, KeyboardInterrupt):
            report(unraisable)
            return

        def interrupt(
            _signal: int, _frame: FrameType | None, kind: type[BaseException] = unraisable.exc_type
        ) -> NoReturn:
            raise kind

        # A timer of the system, not a thread: the callback may have stopped a thread that holds threading's own lock.
        is_armed = True
        signal.signal(signal.SIGALRM, interrupt)
        signal.setitimer(signal.ITIMER_REAL, after_s)

    sys.unraisablehook = arm
    try:
        yield
    finally:
        sys.unraisablehook = report
        if is_armed:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, alarm)
