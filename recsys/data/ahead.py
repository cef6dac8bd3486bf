"""What is read next is read while the last is worked on."""

from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")

_END = object()


def ahead(items: Iterator[Item]) -> Generator[Item, None, None]:
    """Yield some items; the next one is made in another thread meanwhile.

    Raises:
        Exception: whatever the iterator raises, after the items before it.
    """
    with ThreadPoolExecutor(1, "recsys-reader") as thread:
        coming = thread.submit(next, items, _END)
        while (item := coming.result()) is not _END:
            coming = thread.submit(next, items, _END)
            yield item  # type: ignore[misc]
