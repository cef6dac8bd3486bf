"""Arrays looked up by key, and hashes of external ids."""

from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray


def hash_ids(ids: list[str]) -> NDArray[np.uint64]:
    """A 64-bit BLAKE2b hash of each external id: the same on every machine and in every run."""
    digests = b"".join(blake2b(text.encode(), digest_size=8).digest() for text in ids)
    return np.frombuffer(digests, "<u8").astype(np.uint64)


def positions(keys: NDArray[np.int64], wanted: NDArray[np.int64]) -> NDArray[np.int64]:
    """Where each wanted key stands in the ascending `keys`; −1 where it does not."""
    if len(keys) == 0:
        return np.full(len(wanted), -1, np.int64)
    place = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    found: NDArray[np.int64] = np.where(keys[place] == wanted, place, -1)
    return found


def mix(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finaliser of splitmix64: every input bit reaches every output bit."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
