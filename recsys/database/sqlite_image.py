"""Rows of a table of numbers, decoded from the pages of an SQLite database.

Python's driver makes objects of every value and takes 1 to 2 µs a row. The pages, which the same connection hands out
within its transaction (`sqlite3.Connection.serialize`), take a tenth of that.

Source: https://www.sqlite.org/fileformat2.html, sections 1.6 (b-tree pages) and 2.1 (record format).
"""

import sqlite3
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recsys.errors import DatabaseError

MAX_BYTES = 512 << 20
"""Size of a database up to which it is read as pages: while they are copied they are in memory twice."""
PAGES_AT_ONCE = 200
_INTERIOR, _LEAF = 2, 10
_N_BYTES = np.array([0, 1, 2, 3, 4, 6, 8, 8, 0, 0], np.int64)
"""Bytes of a value by its serial type: null, five sizes of integers and the largest, a float, zero and one."""
_N_UNUSED_BITS = 64 - 8 * np.maximum(_N_BYTES, 1)
"""Bits of eight bytes before those of a value."""
_NULL, _FLOAT, _ZERO, _ONE = 0, 7, 8, 9


def damaged(what: str) -> DatabaseError:
    """Return the error of pages that cannot be decoded."""
    return DatabaseError(
        f"the table of ratings cannot be read ({what}): check the file with sqlite3 FILE 'PRAGMA integrity_check', and "
        "restore the last backup if it is damaged",
        public="the database is damaged",
    )


def read_image(connection: sqlite3.Connection) -> NDArray[np.uint8] | None:
    """Return all pages as the transaction of a connection sees them; `None` if there are more than `MAX_BYTES`."""
    n_pages, page_bytes = (connection.execute(f"PRAGMA page_{name}").fetchone()[0] for name in ("count", "size"))
    if n_pages * page_bytes > MAX_BYTES or not hasattr(connection, "serialize"):
        return None
    return np.frombuffer(connection.serialize(), np.uint8)


def decode_table(
    image: NDArray[np.uint8], root: int, dtypes: Sequence[type[np.generic]], null: int
) -> Iterator[list[NDArray[Any]]]:
    """Yield the columns of a table without row ids, in the order of its key: those of the key first, then the others.

    Args:
        image: (n_bytes,) the pages.
        root: number of the table's root page.
        dtypes: of each column: `int64` or `float64`.
        null: what stands for NULL.

    Raises:
        DatabaseError: there are values of other types, rows of another number of columns, or pages of another kind.
    """
    page_bytes = int.from_bytes(image[16:18].tobytes(), "big")
    page_bytes = 65536 if page_bytes == 1 else page_bytes
    words = np.ndarray(len(image) - 1, ">u2", image.data, strides=(1,))  # of two bytes at any position
    longs = np.ndarray(len(image) - 7, ">i8", image.data, strides=(1,))
    leaves, separators = find_leaves(image, root, page_bytes)
    for first in range(0, len(leaves), PAGES_AT_ONCE):
        starts = leaves[first : first + PAGES_AT_ONCE]
        between = separators[first : first + PAGES_AT_ONCE]
        try:
            cells = find_cells(words, starts, between)
            columns = decode_records(image, longs, cells, dtypes, null) if len(cells) else []
        except IndexError:
            raise damaged("a row lies outside of its page") from None
        if columns:
            yield columns


def find_cells(words: NDArray[Any], starts: NDArray[np.int64], between: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return where the rows of some leaves begin, with the row after each leaf.

    Args:
        words: (n_bytes − 1,) the two bytes from each position on, as a number.
        starts: where the leaves begin.
        between: where the row after each begins; the last leaf of the table has none.
    """
    n_cells = words[starts + 3].astype(np.int64)
    # Where all leaves have the same depth, one row of an inner page lies between each leaf and the next one.
    ends = np.cumsum(n_cells) + np.arange(len(starts))
    cells = np.empty(int(n_cells.sum()) + len(between), np.int64)
    is_leaf = np.ones(len(cells), bool)
    is_leaf[ends[: len(between)]] = False
    number = np.arange(int(n_cells.sum())) - np.repeat(np.cumsum(n_cells) - n_cells, n_cells)
    at = np.repeat(starts, n_cells)
    cells[is_leaf] = at + words[at + 8 + 2 * number]
    cells[~is_leaf] = between
    return cells


def find_leaves(image: NDArray[np.uint8], root: int, page_bytes: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return where the leaves of an index b-tree begin, in the order of the keys, and the row after each but the last.

    Raises:
        DatabaseError: the pages are of another kind.
    """
    leaves: list[int] = []
    separators: list[int] = []
    n_left = len(image) // page_bytes
    open_pages: list[tuple[bool, int]] = [(True, root)]  # a page to go through, or a row; the next one last
    while open_pages:
        is_page, where = open_pages.pop()
        if not is_page:
            separators.append(where)
            continue
        n_left -= 1
        if n_left < 0:
            raise damaged("its pages lead back to themselves")
        if not 1 <= where <= len(image) // page_bytes:
            raise damaged(f"there is no page {where}")
        start = (where - 1) * page_bytes
        kind = int(image[start])
        if kind == _LEAF:
            leaves.append(start)
        elif kind == _INTERIOR:
            n_cells = int.from_bytes(image[start + 3 : start + 5].tobytes(), "big")
            pointers = image[start + 12 : start + 12 + 2 * n_cells].tobytes()
            open_pages.append((True, int.from_bytes(image[start + 8 : start + 12].tobytes(), "big")))
            for i in reversed(range(n_cells)):
                cell = start + int.from_bytes(pointers[2 * i : 2 * i + 2], "big")
                open_pages.append((False, cell + 4))
                open_pages.append((True, int.from_bytes(image[cell : cell + 4].tobytes(), "big")))
        else:
            raise damaged(f"page {where} is of kind {kind}")
    if len(separators) != len(leaves) - 1:
        raise damaged("the leaves are not of the same depth")
    return np.array(leaves, np.int64), np.array(separators, np.int64)


def decode_records(
    image: NDArray[np.uint8],
    longs: NDArray[Any],
    cells: NDArray[np.int64],
    dtypes: Sequence[type[np.generic]],
    null: int,
) -> list[NDArray[Any]]:
    """Return the columns of the records at some positions.

    Args:
        longs: (n_bytes − 7,) the eight bytes from each position on, as a number.
        cells: (n,) where the records begin: one byte of their size, one of the size of their header, and its types.

    Raises:
        DatabaseError: as `decode_table`.
    """
    n_columns = len(dtypes)
    if not ((image[cells] < 128) & (image[cells + 1] == n_columns + 1)).all():
        raise damaged("a row is long, or has another number of columns")
    end = cells + n_columns + 2
    found: list[NDArray[Any]] = []
    for column, dtype in enumerate(dtypes):
        type_ = image[cells + 2 + column]
        if (type_ > _ONE).any():
            raise damaged("a value is no number")
        n_bytes = _N_BYTES[type_]
        end = end + n_bytes
        # The eight bytes up to the value's last one; those before the value are shifted out, and its sign is kept.
        raw = longs[end - 8].astype(np.int64)
        unused = _N_UNUSED_BITS[type_]
        value = (raw << unused) >> unused
        has = np.bincount(type_, minlength=len(_N_BYTES)) > 0
        for without_bytes, constant in ((_NULL, null), (_ZERO, 0), (_ONE, 1)):
            if has[without_bytes]:
                value[type_ == without_bytes] = constant
        if np.dtype(dtype).kind == "f":
            value = np.where(type_ == _FLOAT, raw.view(np.float64), value)
        elif has[_FLOAT]:
            raise damaged("an integer is a fraction")
        found.append(value)
    return found
