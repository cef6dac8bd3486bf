"""The checks of the soak: it finds what it must find, and passes a service that is right."""

from pathlib import Path

import pytest

from benchmarks.serving_data import Size, build
from benchmarks.soak import soak
from benchmarks.soak_clients import OTHER_SECONDS, Oracle, Write


def test_a_list_is_checked_against_what_was_acknowledged() -> None:
    oracle = Oracle(["a", "b", "c"], {"u": {"a": Write(100.0, 1)}}, hidden={"b": Write(100.0, 1)})
    oracle.check_list(["c"], "u", 1, 100.1, "right")
    oracle.check_list(["a", "b"], "u", 2, 100.1, "of another process, too early to say")
    assert (oracle.faults, oracle.late) == ([], 0)
    oracle.check_list(["a"], "u", 2, 102.0, "of another process, late")
    assert (oracle.faults, oracle.late) == ([], 1)
    oracle.check_list(["a"], "u", 1, 100.1, "the same connection")
    oracle.check_list(["b"], None, 2, 100.1 + OTHER_SECONDS, "hidden")
    oracle.check_list(["c", "c"], "other", 2, 0.0, "twice")
    assert [fault.partition(":")[0] for fault in oracle.faults] == ["the same connection", "hidden", "twice"]


@pytest.mark.long
def test_a_short_soak_finds_nothing_but_that_memory_still_grows(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'soak.db'}"
    build(url, Size("tiny", 200, 300, 4_000))
    figures = soak(url, tmp_path / "serve.log", seconds=20, n_requests=4_000)
    assert [problem for problem in figures["problems"] if "memory" not in problem] == []
    assert figures["kills"] > 1
    assert figures["swaps"] > 1
    assert figures["rotations"] > 0
    assert set(figures["statuses"]) <= {"200", "204", "401", "403", "404", "lost"}
