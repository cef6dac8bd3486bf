"""Collections that grow, so that a new item does not copy what belongs to all others."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from threading import Lock
from typing import TypeVar, overload

import numpy as np
from numpy.typing import NDArray

_T = TypeVar("_T")


class GrowingRows:
    """Rows (n, width) of float32, and room for more behind them.

    Views of the first n rows never change when rows are appended, so snapshots of different length share the memory.
    """

    def __init__(self, n: int, width: int, *, by_column: bool) -> None:
        """Create rows of zeros.

        Args:
            by_column: whether each column lies in one piece of memory.
        """
        self._buffer = np.zeros((n + n // 32 + 256, width), np.float32, order="F" if by_column else "C")
        self._n = n
        self._lock = Lock()

    def first(self, n: int) -> NDArray[np.float32]:
        """Return a view of the first `n` rows, (n, width)."""
        return self._buffer[:n]

    def append(self, n: int, rows: NDArray[np.float32]) -> "GrowingRows":
        """Return rows that begin with the first `n` of these and go on with `rows`.

        These rows themselves if there is room and no other rows were appended to the first `n`; otherwise a copy.
        """
        with self._lock:
            if self._n == n and n + len(rows) <= len(self._buffer):
                self._buffer[n : n + len(rows)] = rows
                self._n += len(rows)
                return self
        return self.copy(n, rows)

    def copy(self, n: int, more: NDArray[np.float32] | None = None) -> "GrowingRows":
        """Return a copy of the first `n` rows, with `more` rows behind them."""
        n_more = 0 if more is None else len(more)
        copied = GrowingRows(n + n_more, self._buffer.shape[1], by_column=self._buffer.flags.f_contiguous)
        copied._buffer[:n] = self._buffer[:n]
        if more is not None:
            copied._buffer[n : n + n_more] = more
        return copied


class GrowingList(Sequence[_T]):
    """Values in order. Never changes; one with a few more values shares the memory of the others."""

    def __init__(self, values: list[_T]) -> None:
        """Create a list that owns `values` from now on."""
        self._values, self._n = values, len(values)

    def with_more(self, more: Sequence[_T]) -> "GrowingList[_T]":
        """Return these values, and `more` behind them. They are copied if others were added to these before."""
        with _appending:
            shared = self._values if len(self._values) == self._n else self._values[: self._n]
            shared.extend(more)
            return GrowingList(shared)

    def with_changes(self, changes: Mapping[int, _T]) -> "GrowingList[_T]":
        """Return a copy in which the values at some positions are others."""
        values = list(self)
        for position, value in changes.items():
            values[position] = value
        return GrowingList(values)

    @overload
    def __getitem__(self, position: int) -> _T: ...
    @overload
    def __getitem__(self, position: slice) -> list[_T]: ...
    def __getitem__(self, position: int | slice) -> _T | list[_T]:
        if isinstance(position, slice):
            return [self._values[at] for at in range(*position.indices(self._n))]
        if not -self._n <= position < self._n:
            raise IndexError(position)
        return self._values[position if position >= 0 else self._n + position]

    def __iter__(self) -> Iterator[_T]:
        return islice(self._values, self._n)

    def __len__(self) -> int:
        return self._n


_appending = Lock()


class GrowingIds(Mapping[str, int]):
    """Positions by id. Never changes; with a few more ids it shares the memory of the others."""

    MAX_MORE = 1000
    """Largest number of ids beside the others; more of them are merged, which copies all."""

    def __init__(self, first: dict[str, int], more: dict[str, int] | None = None) -> None:
        self._first, self._more = first, {} if more is None else more

    def with_more(self, more: dict[str, int]) -> "GrowingIds":
        """Return these ids and `more` of them, which are all new."""
        merged = self._more | more
        return GrowingIds(self._first, merged) if len(merged) <= self.MAX_MORE else GrowingIds(self._first | merged)

    def __getitem__(self, item_id: str) -> int:
        position = self._first.get(item_id)
        return self._more[item_id] if position is None else position

    def __iter__(self) -> Iterator[str]:
        yield from self._first
        yield from self._more

    def __len__(self) -> int:
        return len(self._first) + len(self._more)
