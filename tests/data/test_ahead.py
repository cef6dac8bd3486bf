"""Reading ahead: the same items, the same errors, and no thread that is left."""

import threading
from collections.abc import Iterator

import pytest

from recsys.data.ahead import ahead


def reader_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("recsys-reader")]


def test_the_next_item_is_made_meanwhile() -> None:
    made = [threading.Event() for _ in range(4)]

    def items() -> Iterator[int]:
        for number in range(4):
            made[number].set()
            yield number

    for number in ahead(items()):
        assert number == 3 or made[number + 1].wait(10)
    assert reader_threads() == []


def test_an_error_comes_after_the_items_before_it() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise OSError("gone")

    got = []
    with pytest.raises(OSError, match="gone"):
        for number in ahead(items()):
            got.append(number)
    assert got == [1]
    assert reader_threads() == []


def test_who_stops_early_leaves_no_thread() -> None:
    reading = ahead(iter(range(10)))
    assert next(reading) == 0
    reading.close()
    assert reader_threads() == []
