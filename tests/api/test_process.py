"""What a worker process does about itself."""

import logging
import threading

import pytest

from api.process import write_lean_records


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
