"""A file that is replaced whole or stays as it was."""

from pathlib import Path

import pytest

from recsys.data.whole_file import whole_file


def test_takes_the_place_when_the_block_ends(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    with whole_file(path) as beside:
        beside.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_stays_when_the_block_raises_or_makes_no_file(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(ValueError, match="full"), whole_file(path) as beside:
        beside.write_text("ne")
        raise ValueError("full")
    with whole_file(path):
        pass
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_two_writers_do_not_mix(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    with whole_file(path) as first, whole_file(path) as second:
        first.write_text("one")
        second.write_text("two")
    assert path.read_text() == "one"  # the outer block ended last
    assert list(tmp_path.iterdir()) == [path]
