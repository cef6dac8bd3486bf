"""What a worker process does about its memory."""

import gc
import weakref

from api.process import keep_loaded_objects


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
