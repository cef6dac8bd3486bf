"""What a worker process does about its memory."""

import gc
import logging
import threading
import weakref

import pytest

from api.process import keep_loaded_objects, write_lean_records


class Node:
    """An object that refers to itself, so that only a collection frees it."""

    def __init__(self) -> None:
        self.me = self


def test_what_was_excluded_from_collection_is_collected_once_it_is_garbage() -> None:
    try:
        node = Node()
        dropped = weakref.ref(node)
        keep_loaded_objects()  # as while a request was in flight
        del node
        gc.collect()
        assert dropped() is not None
        keep_loaded_objects()
        assert dropped() is None
    finally:
        gc.unfreeze()


def test_records_of_a_server_process_name_no_place_in_the_code(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_srcfile", "logThreads", "logProcesses", "logMultiprocessing"):
        monkeypatch.setattr(logging, name, getattr(logging, name))
    records: list[logging.LogRecord] = []
    log = logging.getLogger("recsys.lean")
    monkeypatch.setattr(log, "handle", records.append)
    write_lean_records()
    log.error("said", extra={"n": 1})
    assert [(record.getMessage(), record.lineno, record.thread) for record in records] == [("said", 0, None)]


def test_a_server_in_a_thread_leaves_records_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging, "logThreads", True)
    thread = threading.Thread(target=write_lean_records)
    thread.start()
    thread.join()
    assert logging.logThreads
