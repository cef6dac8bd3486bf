"""Array lookups by integer key, and hashes of external ids."""

from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray


def hash_ids(ids: list[str]) -> NDArray[np.uint64]:
    """Return a 64-bit BLAKE2b hash of each external id: equal on every machine and in every run."""
    digests = b"".join(blake2b(text.encode(), digest_size=8).digest() for text in ids)
    return np.frombuffer(digests, "<u8").astype(np.uint64)


def positions(keys: NDArray[np.int64], wanted: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the position of each wanted key in the ascending `keys`; −1 if it is missing."""
    if len(keys) == 0:
        return np.full(len(wanted), -1, np.int64)
    position = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    found: NDArray[np.int64] = np.where(keys[position] == wanted, position, -1)
    return found


def evenly(n_all: int, n: int) -> NDArray[np.int64]:
    """Return at most n of the positions 0 … `n_all` − 1, evenly spaced, ascending."""
    return np.unique(np.linspace(0, n_all - 1, min(n, n_all)).astype(np.int64))


def dense_positions(
    keys: NDArray[np.int32] | NDArray[np.int64], size: int
) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Return the dense position of each key, and the distinct keys in ascending order, in O(n + size).

    Args:
        keys: (n,) integers from 0 to `size` − 1.
    """
    present = np.zeros(size, bool)
    present[keys] = True
    distinct = np.flatnonzero(present).astype(np.int64)
    position = np.cumsum(present, dtype=np.int32) - np.int32(1)
    return position[keys], distinct


def mix(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Return the splitmix64 finaliser of each value: every input bit affects every output bit."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
