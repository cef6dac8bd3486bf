"""Process-wide settings of a server: only its start-up applies them, the library never does."""

import asyncio
import ctypes
import gc
import logging
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SWITCH_SECONDS = 0.0005
"""Longest time that one thread holds the interpreter while another waits (Python's default is 5 ms). SQLite releases
the interpreter at every row, so a thread that reads a user waits once a row while the event loop is busy."""


def share_interpreter() -> None:
    """Let threads wait for the interpreter for `SWITCH_SECONDS` at most."""
    sys.setswitchinterval(SWITCH_SECONDS)


def write_lean_records() -> None:
    """Leave out of log records what no line has: the place in the code and the names of thread and process.

    Finding them takes longer than all the rest of a line, and each write has one.
    """
    if threading.current_thread() is not threading.main_thread():
        return  # a server among other things, as in a test
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    logging._srcfile = None  # as the documentation of `logging` advises


@contextmanager
def paused_collection() -> Iterator[None]:
    """Pause garbage collection during start-up, where it takes a fifth of the time and finds nothing to free."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def keep_loaded_objects() -> None:
    """Exclude all present objects from garbage collection, and return free memory to the system.

    A snapshot of 62,000 items stays for hours; without this every full collection walks it again.
    """
    if gc.isenabled():  # else this is start-up: see `paused_collection`
        gc.collect()
    gc.freeze()
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc has it, musl does not
        if trim is not None:
            trim(0)


def note_termination(draining: threading.Event, notice_seconds: float) -> None:
    """On SIGTERM set `draining`, and call the server's own handler `notice_seconds` later."""
    if threading.current_thread() is not threading.main_thread():
        return  # Python allows signal handlers in the main thread only
    loop = asyncio.get_running_loop()
    stop = signal.getsignal(signal.SIGTERM)

    def on_signal(number: int, frame: FrameType | None) -> None:
        draining.set()
        if callable(stop):
            if notice_seconds > 0:
                loop.call_soon_threadsafe(loop.call_later, notice_seconds, stop, number, None)
            else:
                stop(number, frame)

    signal.signal(signal.SIGTERM, on_signal)


def end_with_parent() -> None:
    """End this worker, as on SIGTERM, when the process that started it ends: killed, it leaves the port to the next."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def wait() -> None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, name="parent", daemon=True).start()
