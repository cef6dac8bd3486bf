"""Memory of the service under input of clients without a key. `make bench-hostile` gives each kind a minute."""

from pathlib import Path

import pytest

from benchmarks.hostile import KINDS, MAX_MIB, run


@pytest.mark.long
def test_memory_stays_bounded_whatever_is_sent_without_a_key(tmp_path: Path) -> None:
    outcomes = run(tmp_path, list(KINDS), seconds=2.0)
    assert len(outcomes) >= 20
    assert {one.kind: one.grown for one in outcomes if one.grown > MAX_MIB} == {}
    assert {one.kind for one in outcomes if not one.n_sent} == set()
