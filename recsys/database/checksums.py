"""Checksums of stored versions: one for the item side and the weights, and one for each user's row."""

from hashlib import sha256
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from recsys.factors import Factors, Side


def version_checksum(factors: Factors, weights: bytes | None) -> str:
    """Return the SHA-256 of the item side, all weights and the numbers of a version, in hexadecimal."""
    digest = sha256()
    numbers = [factors.global_bias, *(factors.rating_range or ())]
    digest.update(f"{factors.objective} {factors.n_items} {factors.n_factors} {numbers!r}".encode())
    items = factors.items
    for array, dtype in ((items.keys, "<i8"), (items.bias, "<f4"), (items.factors, "<f4"), (items.implicit, "<f4")):
        if array is not None:
            digest.update(np.ascontiguousarray(array, dtype).tobytes())
    digest.update(weights or b"")
    if (between := factors.weights) is not None:
        for part, kind in ((between.starts, "<i8"), (between.item_idx, "<i4"), (between.values, "<f4")):
            digest.update(np.ascontiguousarray(part, kind).tobytes())
    return digest.hexdigest()


def row_checksum(key: int, bias: float, vector: bytes) -> int:
    """Return the CRC-32 of one row: key as int64, bias and vector as float32, little-endian."""
    return crc32(vector, crc32(np.float32(bias).tobytes(), crc32(key.to_bytes(8, "little"))))


def row_checksums(side: Side, rows: slice) -> list[int]:
    """Return `row_checksum` of some rows of a side."""
    keys = np.ascontiguousarray(side.keys[rows], "<i8")
    bias = np.ascontiguousarray(side.bias[rows], "<f4")
    vectors: NDArray[np.float32] = np.ascontiguousarray(side.factors[rows], "<f4")
    packed = np.concatenate(
        [keys.view(np.uint8).reshape(len(keys), 8), bias.view(np.uint8).reshape(len(keys), 4), as_bytes(vectors)], 1
    )
    return [crc32(row.tobytes()) for row in packed]


def as_bytes(matrix: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Return the rows of a matrix as bytes: (n, width) → (n, 4 · width)."""
    return np.frombuffer(matrix.tobytes(), np.uint8).reshape(len(matrix), 4 * matrix.shape[1])
