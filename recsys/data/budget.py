"""A limit on the memory that the rows of one load take."""

from recsys.data.limits import BASE_MEMORY_BYTES, load_memory_bytes
from recsys.errors import InputError


class MemoryBudget:
    """Counts the estimated memory of ratings, items and users, and refuses more than the limit.

    Args:
        n_file_bytes: size of the files on disk.
    """

    def __init__(self, n_file_bytes: int) -> None:
        self.load_bytes = load_memory_bytes(n_file_bytes)
        self._remaining = self.load_bytes - BASE_MEMORY_BYTES

    def take(self, n_bytes: int, name: str) -> None:
        """Count memory.

        Args:
            n_bytes: estimated size of some rows.
            name: the file the rows are from.

        Raises:
            InputError: all rows together need more than the limit.
        """
        self._remaining -= n_bytes
        if self._remaining < 0:
            raise self.exceeded(name)

    def exceeded(self, name: str) -> InputError:
        """Return the error of a file whose rows need too much memory."""
        return InputError(
            f"{name} holds more rows than a load can keep in memory: expected rows that need at most "
            f"{self.load_bytes >> 20:,} MiB; split the file and load the parts one after the other"
        )
