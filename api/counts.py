"""Counts of requests that all server processes of a machine share, in a file that each of them maps into its memory."""

import fcntl
import mmap
import os
import secrets
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from hashlib import blake2b

from limits.storage import Storage

SECRET_BYTES = 16
N_SETS, SET_SIZE = 8192, 8
SLOT = struct.Struct("<Qdq")  # hash of the key, when its window ends in Unix seconds, count
SET = struct.Struct("<" + "Qdq" * SET_SIZE)
SET_BYTES = SET.size
FILE_BYTES = SECRET_BYTES + N_SETS * SET_BYTES
LOCK_SECONDS = 0.005
"""Longest time that a count waits for another process, which may have been stopped while it counts. Then it counts
without the lock: two counts at that very moment may become one."""


def open_counts(path: str) -> int:
    """Open a file of counts for this process; create it first, without counts, if there is none.

    It begins with the secret of the hashes, so that no client can choose whom it shares a set with.
    """
    if not os.path.exists(path):
        os.makedirs(os.path.dirname(path), exist_ok=True)  # it may have been removed as an old temporary folder
        whole = f"{path}.{os.getpid()}"
        with open(os.open(whole, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600), "wb") as file:
            file.write(secrets.token_bytes(SECRET_BYTES) + bytes(FILE_BYTES - SECRET_BYTES))
        with suppress(FileExistsError):  # another process was first
            os.link(whole, path)
        os.unlink(whole)
    return os.open(path, os.O_RDWR)


class SharedCounts(Storage):
    """A storage of the library `limits`: counts by key, each in a window that begins with the first count.

    It holds 65,536 counts in 1.5 MiB, in sets of eight. Where all eight of a set are in use, the smallest one makes
    room, so that memory is bounded and the count of who sends much stays.

    Args:
        path: of the file; `None`: this process counts for itself.
    """

    STORAGE_SCHEME = None

    def __init__(self, path: str | None = None) -> None:
        super().__init__()
        self._file: int | None = None
        if path is None:
            self._bytes = mmap.mmap(-1, FILE_BYTES)
            self._secret = secrets.token_bytes(SECRET_BYTES)
            return
        self._file = open_counts(path)
        self._bytes = mmap.mmap(self._file, FILE_BYTES)
        self._secret = self._bytes[:SECRET_BYTES]

    @property
    def base_exceptions(self) -> type[Exception]:
        return OSError

    def incr(self, key: str, expiry: int, amount: int = 1) -> int:
        """Add to the count of a key, and return it.

        Args:
            expiry: length of its window, in seconds.
        """
        return self.add(key, expiry, amount)[0]

    def add(self, key: str, seconds: float, amount: int = 1) -> tuple[int, float]:
        """Add to the count of a key; return it, and when its window ends in Unix seconds."""
        hashed, start = self._place(key)
        with self._locked(start):
            now = time.time()
            values = SET.unpack_from(self._bytes, start)
            hashes, ends, counts = values[::3], values[1::3], values[2::3]
            if hashed in hashes:
                found = hashes.index(hashed)
            else:
                found = min(range(SET_SIZE), key=lambda n: counts[n] if ends[n] > now else -1)
            if hashes[found] == hashed and now < ends[found] <= now + seconds:
                ends_at, count = ends[found], counts[found]
            else:
                ends_at, count = now + seconds, 0
            SLOT.pack_into(self._bytes, start + found * SLOT.size, hashed, ends_at, count + amount)
        return count + amount, ends_at

    def get(self, key: str) -> int:
        """Return the count of a key."""
        slot = self._find(key)
        return slot[1] if slot is not None else 0

    def get_expiry(self, key: str) -> float:
        """Return when the window of a key ends, in Unix seconds; now, if it has none."""
        slot = self._find(key)
        return slot[0] if slot is not None else time.time()

    def check(self) -> bool:
        """Return that the storage is healthy."""
        return True

    def reset(self) -> None:
        """Set all counts to zero."""
        self._bytes[SECRET_BYTES:] = bytes(FILE_BYTES - SECRET_BYTES)

    def clear(self, key: str) -> None:
        """Set the count of a key to zero."""
        self.add(key, 0.0, -self.get(key))

    def _place(self, key: str) -> tuple[int, int]:
        """Return the hash of a key, and where its set begins."""
        hashed = int.from_bytes(blake2b(key.encode(errors="replace"), digest_size=8, key=self._secret).digest()) | 1
        return hashed, SECRET_BYTES + (hashed >> 16) % N_SETS * SET_BYTES

    def _find(self, key: str) -> tuple[float, int] | None:
        hashed, start = self._place(key)
        for other, ends_at, count in SLOT.iter_unpack(self._bytes[start : start + SET_BYTES]):
            if other == hashed and ends_at > time.time():
                return ends_at, count
        return None

    @contextmanager
    def _locked(self, start: int) -> Iterator[None]:
        """Lock a set. The lock of a process that is killed ends with it."""
        if self._file is None:
            yield
            return
        is_locked, deadline = False, time.monotonic() + LOCK_SECONDS
        while not is_locked:
            try:
                fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB, SET_BYTES, start)
                is_locked = True
            except OSError:
                if time.monotonic() > deadline:
                    break
                os.sched_yield()
        try:
            yield
        finally:
            if is_locked:
                fcntl.lockf(self._file, fcntl.LOCK_UN, SET_BYTES, start)
